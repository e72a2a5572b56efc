// SPDX-License-Identifier: GPL-2.0

//! From a host virtual address of the VM's owner to the page behind it, for mapping it into the guest, by a reference to
//! the page: what [`super::host_tables`] does not find comes this way.
//!
//! Sample the invalidation sequence, [`host_page`] (which may sleep), take the MMU lock, check the sequence, install,
//! [`HostPage::release`]. The page is held no longer than that: from then on the mmu_notifier says when the mapping must
//! go. C KVM's counterpart is `hva_to_pfn()`.

use super::addr::{Hva, Pfn, PAGE_SIZE};
use super::bindings;
use super::page::page_frame;
use super::restricted::restricted;
use core::ptr::NonNull;
use kernel::bindings as kb;
use kernel::ffi;

/// The way a page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// The guest writes now: a copy-on-write page must be broken out.
    pub(crate) write: bool,
    /// The guest reads, but a writable page saves it the next fault: take it if it costs nothing.
    pub(crate) map_writable: bool,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Nothing mapped there, or not with this access: `EFAULT`.
    Fault,
    /// Device memory that the VMM may only read, and the guest writes: an access that the VMM has to answer.
    ReadOnly,
    /// The memory is broken: the process gets SIGBUS, `EHWPOISON`.
    HwPoison,
    /// A signal came first: `EINTR`.
    Interrupted,
}

/// Brings a page that is not there yet in, as the VMM's own write would, and up to `pages` in all along with it, as far as
/// they are new ones of anonymous memory. Whether that served is for the caller to find out, and why not for [`host_page`].
/// May sleep, and takes no lock of ours.
#[inline]
pub(crate) fn fault_in(hva: Hva, pages: u32) -> bool {
    // SAFETY: The function checks the address; no lock is held.
    unsafe { bindings::rkvm_fault_in_for_write(hva.0 as usize, pages) }
}

/// A page of the VM's owner, held so that it is not reused for something else.
///
/// # Invariants
///
/// `page`, if there is one, has a reference that this value owns. Device memory (VM_PFNMAP, VM_IO) has none, and none
/// is ever given back for it.
#[must_use = "the page is given back at once"]
pub(crate) struct HostPage {
    pfn: Pfn,
    writable: bool,
    page: Option<NonNull<kb::page>>,
    device: bool,
}

impl HostPage {
    /// The frame to map.
    #[inline]
    pub(crate) fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Whether the guest may be given write access.
    #[inline]
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Whether this is memory of a device, which must not be cached.
    #[inline]
    pub(crate) fn is_device(&self) -> bool {
        self.device
    }

    /// Whether the host may map more than this page at once: ordinary memory, in one piece with its neighbours.
    #[inline]
    pub(crate) fn may_be_huge(&self) -> bool {
        self.page.is_some_and(|page| {
            // SAFETY: The reference is ours by the type invariant.
            unsafe { bindings::rkvm_page_is_compound(page.as_ptr()) }
        })
    }

    /// Gives the page back after it was installed (or used): `dirty` if the guest can write it from now on. Under the
    /// MMU lock, because after an invalidation it may be too late to mark a page.
    #[inline]
    pub(crate) fn release(self, dirty: bool) {
        if let Some(page) = self.page {
            core::mem::forget(self);
            // SAFETY: The reference is ours by the type invariant, and is given up here.
            unsafe { bindings::rkvm_release_user_page(page.as_ptr(), true, dirty) };
        }
    }

    /// A page on which the caller has taken a reference.
    #[inline]
    fn counted(page: NonNull<kb::page>, writable: bool) -> Self {
        Self {
            pfn: page_frame(page.as_ptr()),
            writable,
            page: Some(page),
            device: false,
        }
    }
}

impl Drop for HostPage {
    #[inline]
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: The reference is ours by the type invariant.
            unsafe { bindings::rkvm_put_page(page.as_ptr()) };
        }
    }
}

/// The page at `hva` in the memory map of the calling thread. May sleep, and takes no lock of ours.
#[inline]
pub(crate) fn host_page(hva: Hva, want: Want) -> Result<HostPage, Unavailable> {
    // A page for reading only is not looked up without locks: copy-on-write may be replacing it this very moment.
    if want.write || want.map_writable {
        if let Some(page) = fast(hva) {
            return Ok(HostPage::counted(page, true));
        }
    }
    slow(hva, want)
}

/// A page that is mapped writable now, found without locks.
#[inline]
fn fast(hva: Hva) -> Option<NonNull<kb::page>> {
    let mut page = core::ptr::null_mut();
    // SAFETY: `page` has room for one page; the function checks the address.
    let pages =
        unsafe { kb::get_user_pages_fast_only(hva.0 as usize, 1, kb::FOLL_WRITE, &mut page) };
    if pages == 1 {
        NonNull::new(page)
    } else {
        None
    }
}

/// Brings the page in if need be.
fn slow(hva: Hva, want: Want) -> Result<HostPage, Unavailable> {
    let mut flags = kb::FOLL_HWPOISON | kb::FOLL_HONOR_NUMA_FAULT | kb::FOLL_INTERRUPTIBLE;
    if want.write {
        flags |= kb::FOLL_WRITE;
    }
    let mut page = core::ptr::null_mut();
    // SAFETY: `page` has room for one page, the function checks the address, and no lock is held.
    let pages = unsafe { kb::get_user_pages_unlocked(hva.0 as usize, 1, &mut page, flags) };
    match (pages, NonNull::new(page)) {
        (1, Some(page)) => {
            let held = HostPage::counted(page, want.write);
            if !want.write && want.map_writable {
                if let Some(page) = fast(hva) {
                    return Ok(HostPage::counted(page, true));
                }
            }
            Ok(held)
        }
        (error, _) => without_page(hva, want, error as i32),
    }
}

/// What it means that there is no `struct page` to be had.
#[cold]
fn without_page(hva: Hva, want: Want, error: i32) -> Result<HostPage, Unavailable> {
    if error == -(kb::EINTR as i32) || error == -(kb::EAGAIN as i32) {
        return Err(Unavailable::Interrupted);
    }
    if error == -(kb::EHWPOISON as i32) {
        return Err(Unavailable::HwPoison);
    }
    let mm = MmapRead::of_current().ok_or(Unavailable::Fault)?;
    loop {
        // SAFETY: The map is locked.
        let vma = unsafe { bindings::rkvm_vma_lookup(mm.0.as_ptr(), hva.0 as usize) };
        let vma = NonNull::new(vma).ok_or(Unavailable::Fault)?;
        // SAFETY: The area is there while the map is locked.
        if !unsafe { bindings::rkvm_vma_is_pfnmap(vma.as_ptr()) } {
            return Err(Unavailable::Fault);
        }
        match mm.device_page(vma, hva, want.write) {
            Remapped::Page(page) => return Ok(page),
            Remapped::Unlocked => (),
            Remapped::ReadOnly => return Err(Unavailable::ReadOnly),
            Remapped::Fault => return Err(Unavailable::Fault),
        }
    }
}

/// The outcome of looking up device memory.
enum Remapped {
    /// The frame, without a reference.
    Page(HostPage),
    /// The fault handler let go of the map: the area must be looked up again.
    Unlocked,
    /// There, but not to be written.
    ReadOnly,
    /// No access.
    Fault,
}

/// The current thread's memory map, locked for reading.
///
/// # Invariants
///
/// The pointer is `current->mm`, and this thread holds its mmap lock for reading.
struct MmapRead(NonNull<kb::mm_struct>);

impl MmapRead {
    /// Locks; `None` in a kernel thread.
    fn of_current() -> Option<Self> {
        // SAFETY: No requirements.
        let mm = NonNull::new(unsafe { bindings::rkvm_current_mm() })?;
        // SAFETY: The map of the current thread lives; no lock is held here.
        unsafe { bindings::rkvm_mmap_read_lock(mm.as_ptr()) };
        Some(Self(mm))
    }

    /// The frame that an area of device memory maps at `hva`.
    fn device_page(&self, vma: NonNull<kb::vm_area_struct>, hva: Hva, write: bool) -> Remapped {
        if let Some(found) = follow(vma, hva, write) {
            return found;
        }
        let mut unlocked = false;
        let flags: ffi::c_uint = if write {
            kb::fault_flag_FAULT_FLAG_WRITE
        } else {
            0
        };
        // SAFETY: The map is locked for reading, as the function wants it. It returns with it locked.
        let error =
            unsafe { kb::fixup_user_fault(self.0.as_ptr(), hva.0 as usize, flags, &mut unlocked) };
        if unlocked {
            return Remapped::Unlocked;
        }
        if error != 0 {
            return Remapped::Fault;
        }
        follow(vma, hva, write).unwrap_or(Remapped::Fault)
    }
}

impl Drop for MmapRead {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::rkvm_mmap_read_unlock(self.0.as_ptr()) };
    }
}

/// Reads the host's page table in an area of device memory; `None` if nothing is mapped yet.
fn follow(vma: NonNull<kb::vm_area_struct>, hva: Hva, write: bool) -> Option<Remapped> {
    let mut args = kb::follow_pfnmap_args {
        vma: vma.as_ptr(),
        address: hva.0 as usize,
        ..Default::default()
    };
    // SAFETY: The caller holds the mmap lock under which it found `vma`.
    if unsafe { kb::follow_pfnmap_start(&mut args) } != 0 {
        return None;
    }
    let found = if write && !args.writable {
        Remapped::ReadOnly
    } else {
        let pfn = Pfn(args.pfn as u64);
        Remapped::Page(HostPage {
            pfn,
            writable: args.writable,
            page: None,
            device: is_device(pfn),
        })
    };
    // SAFETY: Ends what the successful start above began.
    unsafe { kb::follow_pfnmap_end(&mut args) };
    Some(found)
}

/// Whether a frame that an area maps without counting it is a device's. It may be memory, too: that of a driver, or some
/// that the kernel was told to leave alone. C KVM's counterpart is `kvm_is_mmio_pfn()`.
fn is_device(pfn: Pfn) -> bool {
    // SAFETY: Any number will do.
    match unsafe { bindings::rkvm_frame_kind(pfn.0) } {
        bindings::RKVM_FRAME_MEMORY => false,
        // SAFETY: No requirements. Without PAT there are no tables to ask, and what is reserved is taken for a device.
        bindings::RKVM_FRAME_RESERVED if unsafe { !bindings::pat_enabled() } => true,
        bindings::RKVM_FRAME_RESERVED => {
            // SAFETY: Looks the frame up; any number will do.
            unsafe { (restricted().pat_pfn_immune_to_uc_mtrr)(pfn.0 as ffi::c_ulong) }
        }
        _ => {
            let (first, last) = (pfn.base().0, pfn.base().0.wrapping_add(PAGE_SIZE - 1));
            let ram = bindings::e820_type_E820_TYPE_RAM;
            // SAFETY: Reads a table that does not change after boot.
            !unsafe { (restricted().e820__mapped_raw_any)(first, last, ram) }
        }
    }
}

/// Tells the calling thread by SIGBUS that it, or its guest, used the page at `hva`, whose memory is broken.
#[cold]
pub(crate) fn report_poison(hva: Hva) {
    // SAFETY: Process context; the address is only passed on.
    unsafe { bindings::rkvm_report_poison(hva.0 as usize) };
}
