// SPDX-License-Identifier: GPL-2.0

//! What the host does to the VM owner's memory map, as callbacks; and the reference to that map.
//!
//! C header: `include/linux/mmu_notifier.h`. The host calls before it changes or frees pages, and after; in between no
//! guest mapping of the range may be installed (`rkvm_core::mmu::invalidate`).

use super::addr::Hva;
use super::bindings;
use core::marker::PhantomPinned;
use core::mem::offset_of;
use core::ptr::{addr_of, NonNull};
use kernel::bindings as kb;
use kernel::error::to_result;
use kernel::ffi;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// A reference to the memory map of the process that made the VM. It keeps the structure, not its pages, alive.
///
/// # Invariants
///
/// The pointer is valid, by a reference (`mmgrab`) that this value owns.
pub(crate) struct MmRef(NonNull<kb::mm_struct>);

// SAFETY: The reference count is atomic and the structure belongs to no thread.
unsafe impl Send for MmRef {}
// SAFETY: Through a shared reference only the address is compared and the count taken.
unsafe impl Sync for MmRef {}

impl MmRef {
    /// The memory map of the calling thread; `None` in a kernel thread.
    pub(crate) fn of_current() -> Option<Self> {
        // SAFETY: No requirements.
        let mm = NonNull::new(unsafe { bindings::rkvm_current_mm() })?;
        // SAFETY: The map of the current thread is alive.
        unsafe { bindings::rkvm_mmgrab(mm.as_ptr()) };
        // INVARIANT: The reference was just taken.
        Some(Self(mm))
    }

    /// Whether the calling thread has this memory map. An ioctl on a VM from another process is refused with `EIO`.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        // SAFETY: No requirements.
        self.0.as_ptr() == unsafe { bindings::rkvm_current_mm() }
    }
}

impl Clone for MmRef {
    fn clone(&self) -> Self {
        // SAFETY: Alive by the type invariant.
        unsafe { bindings::rkvm_mmgrab(self.0.as_ptr()) };
        // INVARIANT: The reference was just taken.
        Self(self.0)
    }
}

impl Drop for MmRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { bindings::rkvm_mmdrop(self.0.as_ptr()) };
    }
}

/// A range of the owner's addresses, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HvaRange {
    /// First byte.
    pub(crate) start: Hva,
    /// One past the last byte.
    pub(crate) end: Hva,
}

/// The host would have to wait, and was told that it may not.
pub(crate) struct WouldBlock;

/// What a VM does when its owner's memory changes. Called on any thread, several at once.
pub(crate) trait NotifierOps: Send + Sync + 'static {
    /// The pages of `range` are about to change: no guest mapping of them may be left on return, nor come back before
    /// [`Self::invalidate_end`]. Without `may_block` it must not sleep or wait for who does; if that can't be, nothing is done
    /// and [`WouldBlock`] is the answer, and `invalidate_end` is not called for it.
    fn invalidate_start(&self, range: HvaRange, may_block: bool) -> Result<(), WouldBlock>;

    /// The change that [`Self::invalidate_start`] announced is done.
    fn invalidate_end(&self, range: HvaRange);

    /// Whether the guest used the range since the last call; forgets that it did, and makes that take effect in TLBs.
    fn clear_flush_young(&self, range: HvaRange) -> bool;

    /// As [`Self::clear_flush_young`], without a TLB flush.
    fn clear_young(&self, range: HvaRange) -> bool;

    /// Whether the guest used the page at `hva`.
    fn test_young(&self, hva: Hva) -> bool;

    /// The memory map goes away (the process exits): no guest mapping at all may be left on return.
    fn release(&self);
}

impl<T: NotifierOps> NotifierOps for Arc<T> {
    #[inline]
    fn invalidate_start(&self, range: HvaRange, may_block: bool) -> Result<(), WouldBlock> {
        (**self).invalidate_start(range, may_block)
    }

    #[inline]
    fn invalidate_end(&self, range: HvaRange) {
        (**self).invalidate_end(range);
    }

    #[inline]
    fn clear_flush_young(&self, range: HvaRange) -> bool {
        (**self).clear_flush_young(range)
    }

    #[inline]
    fn clear_young(&self, range: HvaRange) -> bool {
        (**self).clear_young(range)
    }

    #[inline]
    fn test_young(&self, hva: Hva) -> bool {
        (**self).test_young(hva)
    }

    #[inline]
    fn release(&self) {
        (**self).release();
    }
}

/// `T` registered for the changes of one memory map. Dropping it ends the registration first: after that no callback
/// runs or begins. That sleeps and waits for running callbacks, so not under a lock that they take.
///
/// `T` must not own this value, or neither is ever dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct MmuNotifier<T: NotifierOps> {
    ops: T,
    mm: MmRef,
    #[pin]
    subscription: Opaque<kb::mmu_notifier>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The kernel's list is locked by the kernel; `T` is `Send` by its trait.
unsafe impl<T: NotifierOps> Send for MmuNotifier<T> {}
// SAFETY: `T` is `Sync` by its trait, and the rest is not reachable through a shared reference.
unsafe impl<T: NotifierOps> Sync for MmuNotifier<T> {}

impl<T: NotifierOps> MmuNotifier<T> {
    const OPS: kb::mmu_notifier_ops = kb::mmu_notifier_ops {
        release: Some(Self::release),
        clear_flush_young: Some(Self::clear_flush_young),
        clear_young: Some(Self::clear_young),
        test_young: Some(Self::test_young),
        invalidate_range_start: Some(Self::invalidate_start),
        invalidate_range_end: Some(Self::invalidate_end),
        arch_invalidate_secondary_tlbs: None,
        alloc_notifier: None,
        free_notifier: None,
    };

    /// Registers `ops` with `mm`, which must be the calling thread's: `EIO` otherwise; `ENOMEM`; `EINTR`. Callbacks may
    /// come before this returns.
    pub(crate) fn register(ops: T, mm: MmRef) -> impl PinInit<Self, Error> {
        let map = mm.0.as_ptr();
        try_pin_init!(Self {
            ops,
            mm,
            subscription <- Opaque::try_ffi_init(move |slot: *mut kb::mmu_notifier| {
                // SAFETY: No requirements.
                if map != unsafe { bindings::rkvm_current_mm() } {
                    return Err(EIO);
                }
                let subscription = kb::mmu_notifier { ops: &Self::OPS, ..Default::default() };
                // SAFETY: `slot` is memory for the structure, which stays where it is.
                unsafe { slot.write(subscription) };
                // SAFETY: The current thread's map has users; `ops` is initialised, so callbacks may come.
                to_result(unsafe { kb::mmu_notifier_register(slot, map) })
            }),
            _pin: PhantomPinned,
        })
    }

    /// The memory map.
    #[inline]
    pub(crate) fn mm(&self) -> &MmRef {
        &self.mm
    }

    /// The registered `T` of a callback.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of that name of a `Self` whose registration has not ended.
    #[inline]
    unsafe fn ops_of<'a>(subscription: *mut kb::mmu_notifier) -> &'a T {
        let this = subscription
            .cast::<u8>()
            .wrapping_sub(offset_of!(Self, subscription))
            .cast::<Self>();
        // SAFETY: In bounds of the allocation of `Self`, by the contract.
        let ops = unsafe { addr_of!((*this).ops) };
        // SAFETY: `ops` was initialised before the registration and is dropped after its end.
        unsafe { &*ops }
    }

    /// The address space ends.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn release(subscription: *mut kb::mmu_notifier, _mm: *mut kb::mm_struct) {
        // SAFETY: The kernel passes what was registered.
        unsafe { Self::ops_of(subscription) }.release();
    }

    /// Have pages been used? Marks them old and flushes.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn clear_flush_young(
        subscription: *mut kb::mmu_notifier,
        _mm: *mut kb::mm_struct,
        start: ffi::c_ulong,
        end: ffi::c_ulong,
    ) -> bool {
        // SAFETY: The kernel passes what was registered.
        unsafe { Self::ops_of(subscription) }.clear_flush_young(hva_range(start, end))
    }

    /// Have pages been used? Marks them old.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn clear_young(
        subscription: *mut kb::mmu_notifier,
        _mm: *mut kb::mm_struct,
        start: ffi::c_ulong,
        end: ffi::c_ulong,
    ) -> bool {
        // SAFETY: The kernel passes what was registered.
        unsafe { Self::ops_of(subscription) }.clear_young(hva_range(start, end))
    }

    /// Has a page been used?
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn test_young(
        subscription: *mut kb::mmu_notifier,
        _mm: *mut kb::mm_struct,
        address: ffi::c_ulong,
    ) -> bool {
        // SAFETY: The kernel passes what was registered.
        unsafe { Self::ops_of(subscription) }.test_young(Hva(address as u64))
    }

    /// Pages are about to change.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn invalidate_start(
        subscription: *mut kb::mmu_notifier,
        range: *const kb::mmu_notifier_range,
    ) -> ffi::c_int {
        // SAFETY: The kernel passes a range that lives during the call.
        let range = unsafe { &*range };
        let may_block = range.flags & kb::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
        // SAFETY: The kernel passes what was registered.
        let ops = unsafe { Self::ops_of(subscription) };
        match ops.invalidate_start(hva_range(range.start, range.end), may_block) {
            Ok(()) => 0,
            Err(WouldBlock) => EAGAIN.to_errno(),
        }
    }

    /// Pages have changed.
    ///
    /// # Safety
    ///
    /// `subscription` is the field of a `Self` whose registration has not ended.
    unsafe extern "C" fn invalidate_end(
        subscription: *mut kb::mmu_notifier,
        range: *const kb::mmu_notifier_range,
    ) {
        // SAFETY: The kernel passes a range that lives during the call.
        let range = unsafe { &*range };
        // SAFETY: The kernel passes what was registered.
        unsafe { Self::ops_of(subscription) }.invalidate_end(hva_range(range.start, range.end));
    }
}

/// The kernel's two numbers as a range.
#[inline]
fn hva_range(start: ffi::c_ulong, end: ffi::c_ulong) -> HvaRange {
    HvaRange {
        start: Hva(start as u64),
        end: Hva(end as u64),
    }
}

#[pinned_drop]
impl<T: NotifierOps> PinnedDrop for MmuNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: A value exists only if the registration succeeded, and `mm` is held.
        unsafe { kb::mmu_notifier_unregister(self.subscription.get(), self.mm.0.as_ptr()) };
    }
}
