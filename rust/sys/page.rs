// SPDX-License-Identifier: GPL-2.0

//! Pages of the host that hardware or user space share with us: never behind a Rust reference.
//!
//! [`TablePage`] owns zeroed pages for what the CPU reads by physical address (VMCS, bitmaps, APIC pages). A page that
//! becomes part of a page table is handed over with [`TablePage::into_table`] and is from then on known by its [`Hpa`]
//! only, as the entries that point to it know it; [`TableWalk`] reaches the entries. [`SharedPage`] is a page that
//! user space maps (`kvm_run`, the PIO page, the coalesced ring).

use super::addr::{Hpa, Pfn, PAGE_SIZE};
use super::bindings;
use super::uabi::Abi;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// Entries in a page table, and 64-bit words in a page.
pub(crate) const WORDS: usize = 512;

/// What `page->private` says while a page is part of a page table: the witness that a walk may read it.
const TABLE: usize = 0x726b_766d_7461_626c;

/// The address of physical memory in the kernel's direct map. Only of memory that is RAM does it mean anything.
#[inline]
fn direct_map(hpa: Hpa) -> *mut u8 {
    // SAFETY: The kernel writes this variable during boot only.
    let base = unsafe { kernel::bindings::page_offset_base };
    hpa.0.wrapping_add(base as u64) as *mut u8
}

/// The physical address of a pointer into the direct map.
#[inline]
fn physical(address: *const u8) -> Hpa {
    // SAFETY: The kernel writes this variable during boot only.
    let base = unsafe { kernel::bindings::page_offset_base };
    Hpa((address as u64).wrapping_sub(base as u64))
}

/// Where the `struct page` of a frame is, if the frame has one.
#[inline]
pub(super) fn struct_page(pfn: Pfn) -> *mut kernel::bindings::page {
    // SAFETY: The kernel writes this variable during boot only.
    let base = unsafe { kernel::bindings::vmemmap_base };
    let offset = pfn
        .0
        .wrapping_mul(u64::from(bindings::RKVM_STRUCT_PAGE_SIZE));
    (base as u64).wrapping_add(offset) as *mut kernel::bindings::page
}

/// The frame that a `struct page` stands for.
#[inline]
pub(super) fn page_frame(page: *const kernel::bindings::page) -> Pfn {
    // SAFETY: The kernel writes this variable during boot only.
    let base = unsafe { kernel::bindings::vmemmap_base };
    Pfn((page as u64).wrapping_sub(base as u64) / u64::from(bindings::RKVM_STRUCT_PAGE_SIZE))
}

/// Zeroed pages of the kernel, 2^order of them in a row, accounted to the cgroup of the caller.
///
/// # Invariants
///
/// `address` is what the page allocator returned for `order`, and this value owns it.
pub(crate) struct TablePage {
    address: NonNull<u8>,
    order: u32,
}

// SAFETY: The pages belong to no thread, and all access is by atomics.
unsafe impl Send for TablePage {}
// SAFETY: All access through a shared reference is by atomics.
unsafe impl Sync for TablePage {}

impl TablePage {
    /// One zeroed page. `ENOMEM`. Sleeps.
    pub(crate) fn new() -> Result<Self> {
        Self::with_order(0)
    }

    /// 2^`order` zeroed pages, physically contiguous. `ENOMEM`. Sleeps.
    pub(crate) fn with_order(order: u32) -> Result<Self> {
        // SAFETY: No requirement but process context.
        let address = unsafe { bindings::rkvm_alloc_zeroed_pages(order) };
        let address = NonNull::new(address as *mut u8).ok_or(ENOMEM)?;
        // INVARIANT: Fresh from the allocator.
        Ok(Self { address, order })
    }

    /// Host physical address of the first byte.
    #[inline]
    pub(crate) fn hpa(&self) -> Hpa {
        physical(self.address.as_ptr())
    }

    /// Bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (PAGE_SIZE as usize).wrapping_shl(self.order)
    }

    /// The 64-bit word with this index, shared with whoever else uses the page; `None` past its end.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.len() / 8 {
            return None;
        }
        // SAFETY: In bounds by the check above.
        let word = unsafe { self.address.as_ptr().cast::<u64>().add(index) };
        // SAFETY: Aligned, live as long as `self` is, and nobody in the kernel accesses it other than by atomics.
        Some(unsafe { AtomicU64::from_ptr(word) })
    }

    /// Sets one 32-bit word, by byte offset; answers whether offset is aligned and inside.
    #[inline]
    #[must_use]
    pub(crate) fn write_u32(&self, offset: usize, value: u32) -> bool {
        if offset % 4 != 0 || offset >= self.len() {
            return false;
        }
        // SAFETY: In bounds by the check above.
        let word = unsafe { self.address.as_ptr().add(offset) };
        // SAFETY: Aligned and owned; volatile because the CPU may read it at any time.
        unsafe { word.cast::<u32>().write_volatile(value) };
        true
    }

    /// Sets every byte.
    pub(crate) fn fill(&self, byte: u8) {
        let value = u64::from_ne_bytes([byte; 8]);
        for index in 0..self.len() / 8 {
            if let Some(word) = self.word(index) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Where the page is, for the instructions and kernel functions that `sys` wraps.
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Makes the page (order 0; `None` otherwise) a part of a page table. Whoever takes it out again calls
    /// [`free_table`].
    pub(crate) fn into_table(self) -> Option<Hpa> {
        if self.order != 0 {
            return None;
        }
        let hpa = self.hpa();
        owner_word(hpa).store(TABLE, Ordering::Release);
        core::mem::forget(self);
        Some(hpa)
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant we own these pages, and this is the last use.
        unsafe { kernel::bindings::free_pages(self.address.as_ptr() as usize, self.order) };
    }
}

/// `page->private` of the page at `hpa`.
///
/// An `hpa` that is not memory has no `struct page`: the access then takes a page fault in the kernel, as a wild
/// physical address would anywhere in it. It does not corrupt anything.
#[inline]
fn owner_word(hpa: Hpa) -> &'static AtomicUsize {
    let field = (struct_page(hpa.frame()) as usize)
        .wrapping_add(bindings::RKVM_STRUCT_PAGE_PRIVATE as usize);
    // SAFETY: The array of `struct page` lives forever and `private` is an aligned word, written by the page's owner.
    unsafe { AtomicUsize::from_ptr(field as *mut usize) }
}

/// Evidence that no page-table page goes away: an RCU read-side section, in which tables are walked by [`Hpa`].
///
/// A page is freed a grace period after [`free_table`], so a walker that met its address in an entry may still read it.
/// Does not sleep.
pub(crate) struct TableWalk {
    _rcu: kernel::sync::rcu::Guard,
    _not_send: NotThreadSafe,
}

impl TableWalk {
    /// Begins a walk.
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            _rcu: kernel::sync::rcu::read_lock(),
            _not_send: NotThreadSafe,
        }
    }

    /// Entry `index` (0 to 511, taken modulo 512) of the table at `table`; `None` if the page at this address is not
    /// one that [`TablePage::into_table`] made a table, or was freed.
    #[inline]
    pub(crate) fn entry(&self, table: Hpa, index: usize) -> Option<&AtomicU64> {
        if owner_word(table).load(Ordering::Relaxed) != TABLE {
            return None;
        }
        let entry = table.page_base().wrapping_add((index % WORDS) as u64 * 8);
        // SAFETY: The page is a table of ours, accessed by atomics only, and by the RCU section it is not given back
        // to the allocator while `self` lives.
        Some(unsafe { AtomicU64::from_ptr(direct_map(entry).cast()) })
    }
}

/// Gives up the table page at `table` after everybody has flushed what they cached of it; the memory is reused when all
/// walks that might see it have ended. Answers whether it was a table: a page can be freed once only.
pub(crate) fn free_table(table: Hpa) -> bool {
    let owner = owner_word(table);
    if owner
        .compare_exchange(TABLE, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_err()
    {
        return false;
    }
    let head =
        (struct_page(table.frame()) as usize).wrapping_add(bindings::RKVM_STRUCT_PAGE_RCU as usize);
    // SAFETY: The exchange above made us the only owner of the page, whose `rcu_head` is ours to use.
    unsafe { kernel::bindings::call_rcu(head as *mut _, Some(free_table_rcu)) };
    true
}

/// Adds `change` to the page tables of guests that the host counts (`SecPageTables` in `/proc/meminfo`, `sec_pagetables` in
/// `memory.stat` of the cgroup to which the page is accounted). `table` is a table, before [`free_table`].
#[inline]
pub(crate) fn count_table(table: Hpa, change: i32) {
    // SAFETY: A page of RAM has a `struct page`; the function only looks at whom that is accounted to.
    unsafe { bindings::rkvm_count_secondary_page_tables(struct_page(table.frame()), change) };
}

/// Ends the life of a table page.
///
/// # Safety
///
/// `head` is the `rcu_head` of a page that nobody uses any more.
unsafe extern "C" fn free_table_rcu(head: *mut kernel::bindings::callback_head) {
    let page = (head as usize).wrapping_sub(bindings::RKVM_STRUCT_PAGE_RCU as usize);
    let hpa = page_frame(page as *const kernel::bindings::page).base();
    // SAFETY: By the contract of this function.
    unsafe { kernel::bindings::free_pages(direct_map(hpa) as usize, 0) };
}

/// Waits until every page given to [`free_table`] is free. Before the module goes away; sleeps.
pub(crate) fn wait_for_freed_tables() {
    // SAFETY: Process context.
    unsafe { kernel::bindings::rcu_barrier() };
}

/// A zeroed page that user space maps, and may change at any time: each access is volatile, and what was read is to be
/// checked after, not before. It stays allocated until the last mapping is gone, too.
///
/// # Invariants
///
/// `address` is the direct map of a page on which this value holds a reference.
pub(crate) struct SharedPage {
    address: NonNull<u8>,
}

// SAFETY: The page belongs to no thread, and all access is volatile through raw pointers.
unsafe impl Send for SharedPage {}
// SAFETY: As above; races with user space are part of the type's meaning.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Bytes in the page.
    pub(crate) const SIZE: usize = PAGE_SIZE as usize;

    /// One zeroed page. `ENOMEM`. Sleeps.
    pub(crate) fn new() -> Result<Self> {
        let page = TablePage::new()?;
        let address = page.address;
        core::mem::forget(page);
        // INVARIANT: The allocator's reference is ours now.
        Ok(Self { address })
    }

    /// A copy of the integer or structure at `OFFSET`, which is checked when this is compiled.
    #[inline]
    pub(crate) fn read<T: Abi, const OFFSET: usize>(&self) -> T {
        const { assert!(OFFSET % align_of::<T>() == 0 && OFFSET + size_of::<T>() <= Self::SIZE) };
        // SAFETY: In bounds by the assertion.
        let field = unsafe { self.address.as_ptr().add(OFFSET) };
        // SAFETY: Aligned by the assertion; the page lives by the type invariant.
        unsafe { field.cast::<T>().read_volatile() }
    }

    /// Sets the integer or structure at `OFFSET`, which is checked when this is compiled.
    #[inline]
    pub(crate) fn write<T: Abi, const OFFSET: usize>(&self, value: T) {
        const { assert!(OFFSET % align_of::<T>() == 0 && OFFSET + size_of::<T>() <= Self::SIZE) };
        // SAFETY: In bounds by the assertion.
        let field = unsafe { self.address.as_ptr().add(OFFSET) };
        // SAFETY: Aligned by the assertion; the page lives by the type invariant.
        unsafe { field.cast::<T>().write_volatile(value) };
    }

    /// Copies out of the page; `None` if that would leave it.
    #[inline]
    pub(crate) fn copy_from(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        if offset.checked_add(to.len())? > Self::SIZE {
            return None;
        }
        for (i, byte) in to.iter_mut().enumerate() {
            // SAFETY: In bounds by the check above.
            let from = unsafe { self.address.as_ptr().add(offset.wrapping_add(i)) };
            // SAFETY: The page lives by the type invariant.
            *byte = unsafe { from.read_volatile() };
        }
        Some(())
    }

    /// Copies into the page; `None` if that would leave it.
    #[inline]
    pub(crate) fn copy_to(&self, offset: usize, from: &[u8]) -> Option<()> {
        if offset.checked_add(from.len())? > Self::SIZE {
            return None;
        }
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: In bounds by the check above.
            let to = unsafe { self.address.as_ptr().add(offset.wrapping_add(i)) };
            // SAFETY: The page lives by the type invariant.
            unsafe { to.write_volatile(*byte) };
        }
        Some(())
    }

    /// The `struct page` with a reference of its own, for a mapping of the file that shows it.
    pub(super) fn reference(&self) -> *mut kernel::bindings::page {
        let page = self.page();
        // SAFETY: The page lives by the type invariant.
        unsafe { bindings::rkvm_get_page(page) };
        page
    }

    #[inline]
    fn page(&self) -> *mut kernel::bindings::page {
        struct_page(physical(self.address.as_ptr()).frame())
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant. Mappings hold their own.
        unsafe { bindings::rkvm_put_page(self.page()) };
    }
}
