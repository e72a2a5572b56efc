// SPDX-License-Identifier: GPL-2.0

//! SRCU: data that is read without a lock, by readers that may sleep, and replaced as a whole by writers that wait.
//!
//! Memory slots, I/O buses and interrupt routing are read this way. C header: `include/linux/srcu.h`.

use super::bindings;
use core::marker::PhantomPinned;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::error::to_result;
use kernel::ffi;
use kernel::prelude::*;
use kernel::sync::{Arc, LockClassKey};
use kernel::types::{ForeignOwnable, NotThreadSafe, Opaque};

/// A domain of readers and writers.
#[pin_data(PinnedDrop)]
pub(crate) struct Srcu {
    #[pin]
    inner: Opaque<kernel::bindings::srcu_struct>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: SRCU is made to be used from several threads; the memory is owned.
unsafe impl Send for Srcu {}
// SAFETY: All operations through a shared reference are thread safe.
unsafe impl Sync for Srcu {}

impl Srcu {
    /// A new domain. `ENOMEM`. `key` tells lockdep which domains are of one kind.
    pub(crate) fn new(
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot| {
                // SAFETY: `slot` is memory for the structure, which stays where it is.
                to_result(unsafe { bindings::rkvm_srcu_init(slot, name.as_char_ptr(), key.as_ptr()) })
            }),
            _pin: PhantomPinned,
        })
    }

    /// Begins a read-side section.
    #[inline]
    pub(crate) fn read(&self) -> SrcuGuard<'_> {
        // SAFETY: The structure was initialised and lives as long as `self`.
        #[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
        let index = unsafe { kernel::bindings::__srcu_read_lock(self.inner.get()) };
        // SAFETY: As above.
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        let index = unsafe { bindings::rkvm_srcu_read_lock(self.inner.get()) };
        SrcuGuard {
            srcu: self,
            index,
            _not_send: NotThreadSafe,
        }
    }

    /// Waits until all readers that run now have ended, expedited: costs more CPU time and less of the caller's. Sleeps;
    /// not from inside a read-side section of this domain.
    pub(crate) fn synchronize_expedited(&self) {
        // SAFETY: The structure was initialised and lives as long as `self`.
        unsafe { kernel::bindings::synchronize_srcu_expedited(self.inner.get()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Srcu {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Guards and cells borrow or count the domain, so there is no reader left.
        unsafe { kernel::bindings::cleanup_srcu_struct(self.inner.get()) };
    }
}

/// Evidence of a read-side section of one [`Srcu`]. May sleep, does not move to another thread.
pub(crate) struct SrcuGuard<'a> {
    srcu: &'a Srcu,
    index: ffi::c_int,
    _not_send: NotThreadSafe,
}

impl SrcuGuard<'_> {
    /// Whether the section is one of this domain.
    #[inline]
    pub(crate) fn is_of(&self, srcu: &Srcu) -> bool {
        core::ptr::eq(self.srcu, srcu)
    }
}

impl Drop for SrcuGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let srcu = self.srcu.inner.get();
        // SAFETY: `index` is what the matching lock returned, on this thread.
        #[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
        unsafe {
            kernel::bindings::__srcu_read_unlock(srcu, self.index)
        };
        // SAFETY: As above.
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        unsafe {
            bindings::rkvm_srcu_read_unlock(srcu, self.index)
        };
    }
}

/// A pointer (a `KBox` or an `Arc`) to something that readers of one [`Srcu`] see, and that is replaced, never changed.
///
/// # Invariants
///
/// `current` came from `P::into_foreign` and is owned by the cell. What it held before is dropped only after a grace
/// period of `srcu`.
pub(crate) struct SrcuPtr<P: ForeignOwnable> {
    srcu: Arc<Srcu>,
    current: AtomicPtr<ffi::c_void>,
    _owns: core::marker::PhantomData<P>,
}

// SAFETY: The cell owns a `P` and hands it to the thread that drops or replaces it.
unsafe impl<P: ForeignOwnable + Send> Send for SrcuPtr<P> {}
// SAFETY: Readers on several threads share what `P` points to, and writers take it out on another thread.
unsafe impl<P: ForeignOwnable + Send + Sync> Sync for SrcuPtr<P> {}

impl<P: ForeignOwnable> SrcuPtr<P> {
    /// A cell that shows `value`.
    pub(crate) fn new(srcu: Arc<Srcu>, value: P) -> Self {
        Self {
            srcu,
            current: AtomicPtr::new(value.into_foreign()),
            _owns: core::marker::PhantomData,
        }
    }

    /// What is current now; it stays valid to the end of the section, though it may be replaced meanwhile.
    ///
    /// A guard of another domain would protect nothing: that is a bug of the caller, and stops the thread.
    #[inline]
    pub(crate) fn read<'g>(&'g self, guard: &'g SrcuGuard<'_>) -> P::Borrowed<'g> {
        if !guard.is_of(&self.srcu) {
            wrong_domain();
        }
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: By the type invariant the pointer is a `P` in foreign form, which is dropped only after the section of
        // `guard` has ended; nobody borrows it mutably.
        unsafe { P::borrow(current) }
    }

    /// Shows `value` from now on. The old one is still visible to running readers until [`Retired::wait`].
    #[must_use = "the old value is dropped after a grace period, at which the drop waits"]
    pub(crate) fn publish(&self, value: P) -> Retired<'_, P> {
        let old = self.current.swap(value.into_foreign(), Ordering::AcqRel);
        Retired {
            srcu: &self.srcu,
            old,
            _owns: core::marker::PhantomData,
        }
    }

    /// Shows `value`, waits for the readers of the old one (expedited) and returns it. Sleeps; not from inside a
    /// read-side section of the domain.
    pub(crate) fn replace(&self, value: P) -> P {
        self.publish(value).wait()
    }

    /// The domain that readers need a section of.
    #[inline]
    pub(crate) fn srcu(&self) -> &Srcu {
        &self.srcu
    }
}

/// The one message for a guard that does not fit, out of the way of the read side.
#[cold]
#[inline(never)]
fn wrong_domain() -> ! {
    panic!("SRCU guard of another domain");
}

impl<P: ForeignOwnable> Drop for SrcuPtr<P> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; readers borrow the cell, so there are none.
        drop(unsafe { P::from_foreign(*self.current.get_mut()) });
    }
}

/// What a [`SrcuPtr`] showed before, and running readers may still see.
///
/// # Invariants
///
/// `old` is a `P` in foreign form which the cell no longer shows, and which this value owns.
pub(crate) struct Retired<'a, P: ForeignOwnable> {
    srcu: &'a Srcu,
    old: *mut ffi::c_void,
    _owns: core::marker::PhantomData<P>,
}

impl<P: ForeignOwnable> Retired<'_, P> {
    /// Waits for the readers (expedited) and gives the old value to its only owner.
    pub(crate) fn wait(self) -> P {
        self.srcu.synchronize_expedited();
        let old = self.old;
        core::mem::forget(self);
        // SAFETY: By the type invariant, and no reader that began before the replacement is left.
        unsafe { P::from_foreign(old) }
    }
}

impl<P: ForeignOwnable> Drop for Retired<'_, P> {
    fn drop(&mut self) {
        self.srcu.synchronize_expedited();
        // SAFETY: By the type invariant, and no reader that began before the replacement is left.
        drop(unsafe { P::from_foreign(self.old) });
    }
}
