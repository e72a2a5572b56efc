// SPDX-License-Identifier: GPL-2.0

//! A sleeping lock whose waiters can be killed, for what may be held as long as a guest runs.
//!
//! The `kernel` crate's `Mutex`, which by itself waits uninterruptibly. C header: `include/linux/mutex.h`.

use core::ptr;

use kernel::{
    prelude::*,
    sync::{
        lock::Guard,
        LockClassKey,
        Mutex,
        MutexGuard, //
    },
};

use super::bindings;

/// A [`Mutex`] that is only taken killably.
#[pin_data]
pub(crate) struct KillableMutex<T> {
    #[pin]
    lock: Mutex<T>,
}

impl<T> KillableMutex<T> {
    /// A new lock. `key` tells lockdep which locks are of one kind.
    pub(crate) fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Mutex::new(data, name, key),
        })
    }

    /// Takes the lock. EINTR if this thread is killed while it waits.
    #[inline]
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>> {
        let mutex: *const kernel::bindings::mutex = ptr::from_ref(&self.lock).cast();
        // SAFETY: A `Lock` is `repr(C)` and begins with the C lock, which was initialised.
        if unsafe { bindings::rkvm_mutex_lock_killable(mutex.cast_mut()) } != 0 {
            return Err(EINTR);
        }
        // SAFETY: The lock was just taken.
        Ok(unsafe { Guard::new(&self.lock, ()) })
    }
}
