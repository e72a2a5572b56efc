// SPDX-License-Identifier: GPL-2.0

//! A spinning reader/writer lock, for what many vCPUs read and few change: the MMU's structures.
//!
//! C header: `include/linux/rwlock.h`. Queued and fair; holders do not sleep, and preemption is off. Not for interrupt
//! handlers.

use super::bindings;
use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::ops::{Deref, DerefMut};
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::{NotThreadSafe, Opaque};

/// `T` behind a `rwlock_t`.
#[pin_data]
pub(crate) struct RwLock<T> {
    #[pin]
    lock: Opaque<kernel::bindings::rwlock_t>,
    #[pin]
    _pin: PhantomPinned,
    data: UnsafeCell<T>,
}

// SAFETY: The lock may be handed to another thread if what it protects may be.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: Writers on several threads take turns with `&mut T`; readers on several threads share `&T`.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// A new lock. `key` tells lockdep which locks are of one kind.
    pub(crate) fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for the lock, which stays where it is.
                unsafe { bindings::rkvm_rwlock_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            _pin: PhantomPinned,
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock together with other readers.
    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The lock was initialised.
        unsafe { bindings::rkvm_read_lock(self.lock.get()) };
        ReadGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the lock alone.
    #[inline]
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The lock was initialised.
        unsafe { bindings::rkvm_write_lock(self.lock.get()) };
        WriteGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// Evidence that the lock is held for reading.
#[must_use = "the lock is released at once"]
pub(crate) struct ReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: NotThreadSafe,
}

impl<T> ReadGuard<'_, T> {
    /// Whether somebody waits for this CPU or for the lock.
    #[inline]
    pub(crate) fn need_break(&self) -> bool {
        // SAFETY: The lock was initialised and is held.
        unsafe { bindings::rkvm_read_needbreak(self.lock.lock.get()) }
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for reading: no writer.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This thread holds the lock for reading.
        unsafe { bindings::rkvm_read_unlock(self.lock.lock.get()) };
    }
}

/// Evidence that the lock is held alone.
#[must_use = "the lock is released at once"]
pub(crate) struct WriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    _not_send: NotThreadSafe,
}

impl<T> WriteGuard<'_, T> {
    /// Lets others run if they wait; answers whether the lock was released meanwhile, so that whatever was found under
    /// it must be looked up again.
    #[inline]
    pub(crate) fn cond_resched(&mut self) -> bool {
        // SAFETY: The lock is held alone, and no reference into the data lives across `&mut self`.
        unsafe { bindings::rkvm_cond_resched_write(self.lock.lock.get()) != 0 }
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held alone.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held alone, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This thread holds the lock alone.
        unsafe { bindings::rkvm_write_unlock(self.lock.lock.get()) };
    }
}
