// SPDX-License-Identifier: GPL-2.0

//! A sleeping lock whose waiters can be killed, for what may be held as long as a guest runs.
//!
//! C header: `include/linux/mutex.h`. The `kernel` crate's `Mutex` waits uninterruptibly.

use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    ops::{
        Deref,
        DerefMut, //
    },
};

use kernel::{
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

use super::bindings;

/// `T` behind a `struct mutex`.
#[pin_data]
pub(crate) struct KillableMutex<T> {
    #[pin]
    lock: Opaque<kernel::bindings::mutex>,
    #[pin]
    _pin: PhantomPinned,
    data: UnsafeCell<T>,
}

// SAFETY: The lock may be handed to another thread if what it protects may be.
unsafe impl<T: Send> Send for KillableMutex<T> {}
// SAFETY: Threads take turns with `&mut T`.
unsafe impl<T: Send> Sync for KillableMutex<T> {}

impl<T> KillableMutex<T> {
    /// A new lock. `key` tells lockdep which locks are of one kind.
    pub(crate) fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for the lock, which stays where it is.
                unsafe { bindings::rkvm_mutex_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            _pin: PhantomPinned,
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock. EINTR if this thread is killed while it waits.
    #[inline]
    pub(crate) fn lock(&self) -> Result<Guard<'_, T>> {
        // SAFETY: The lock was initialised.
        if unsafe { bindings::rkvm_mutex_lock_killable(self.lock.get()) } != 0 {
            return Err(EINTR);
        }
        Ok(Guard {
            lock: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// Evidence that the lock is held.
#[must_use = "the lock is released at once"]
pub(crate) struct Guard<'a, T> {
    lock: &'a KillableMutex<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: This thread holds the lock.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: This thread holds the lock.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This thread holds the lock.
        unsafe { bindings::rkvm_mutex_unlock(self.lock.lock.get()) };
    }
}
