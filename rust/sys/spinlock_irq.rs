// SPDX-License-Identifier: GPL-2.0

//! A spin lock that turns interrupts off: for chips, which timer callbacks and eventfd wake-ups reach from interrupt
//! context.
//!
//! C header: `include/linux/spinlock.h`. A raw lock, so that callbacks of hard hrtimers may take it on every kernel.

use kernel::{
    bindings as kb, ffi,
    sync::lock::{
        Backend,
        Lock, //
    },
};

use super::bindings;

/// `T` behind a `raw_spinlock_t` that is only ever taken with interrupts off, until the guard goes. Guards of several
/// locks go in the reverse order of their making.
pub(crate) type SpinLockIrq<T> = Lock<T, RawSpinLockIrq>;

/// How the `kernel` crate's [`Lock`] takes it.
pub(crate) struct RawSpinLockIrq;

// SAFETY: A raw spin lock has one holder at a time, and is taken in one way only.
unsafe impl Backend for RawSpinLockIrq {
    type State = kb::raw_spinlock_t;
    /// The interrupt flag from before.
    type GuardState = usize;

    unsafe fn init(ptr: *mut Self::State, name: *const ffi::c_char, key: *mut kb::lock_class_key) {
        // SAFETY: By the caller's promise.
        unsafe { bindings::rkvm_raw_spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> usize {
        // SAFETY: By the caller's promise the lock was initialised.
        unsafe { bindings::rkvm_raw_spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<usize> {
        let mut flags = 0;
        // SAFETY: As above.
        unsafe { bindings::rkvm_raw_spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &usize) {
        // SAFETY: By the caller's promise it holds the lock, and `flags` is what taking it returned.
        unsafe { bindings::rkvm_raw_spin_unlock_irqrestore(ptr, *flags) };
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By the caller's promise the lock was initialised.
        #[cfg(CONFIG_LOCKDEP)]
        unsafe {
            bindings::rkvm_raw_spin_assert_held(ptr)
        };
        #[cfg(not(CONFIG_LOCKDEP))]
        let _ = ptr;
    }
}
