// SPDX-License-Identifier: GPL-2.0

//! A spin lock that turns interrupts off: for chips, which timer callbacks and eventfd wake-ups reach from interrupt
//! context.
//!
//! C header: `include/linux/spinlock.h`. A raw lock, so that callbacks of hard hrtimers may take it on every kernel.

use super::bindings;
use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::ops::{Deref, DerefMut};
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::{NotThreadSafe, Opaque};

/// `T` behind a `raw_spinlock_t` that is only ever taken with interrupts off.
#[pin_data]
pub(crate) struct SpinLockIrq<T> {
    #[pin]
    lock: Opaque<kernel::bindings::raw_spinlock_t>,
    #[pin]
    _pin: PhantomPinned,
    data: UnsafeCell<T>,
}

// SAFETY: The lock may be handed to another thread if what it protects may be.
unsafe impl<T: Send> Send for SpinLockIrq<T> {}
// SAFETY: Holders on several threads take turns.
unsafe impl<T: Send> Sync for SpinLockIrq<T> {}

impl<T> SpinLockIrq<T> {
    /// A new lock. `key` tells lockdep which locks are of one kind.
    pub(crate) fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for the lock, which stays where it is.
                unsafe { bindings::rkvm_raw_spin_lock_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            _pin: PhantomPinned,
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock; interrupts are off until the guard goes. Guards of several locks go in the reverse order of
    /// their making.
    #[inline]
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        // SAFETY: The lock was initialised.
        let flags = unsafe { bindings::rkvm_raw_spin_lock_irqsave(self.lock.get()) };
        IrqGuard {
            lock: self,
            flags,
            _not_send: NotThreadSafe,
        }
    }
}

/// Evidence that the lock is held and interrupts are off.
#[must_use = "the lock is released at once"]
pub(crate) struct IrqGuard<'a, T> {
    lock: &'a SpinLockIrq<T>,
    flags: usize,
    _not_send: NotThreadSafe,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This thread holds the lock, and `flags` is what taking it returned.
        unsafe { bindings::rkvm_raw_spin_unlock_irqrestore(self.lock.lock.get(), self.flags) };
    }
}
