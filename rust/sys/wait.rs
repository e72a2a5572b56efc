// SPDX-License-Identifier: GPL-2.0

//! Blocking a vCPU's thread until there is something to do, waking it, and telling it what.
//!
//! C headers: `include/linux/rcuwait.h`, `include/linux/smp.h`. The order that loses no wake-up: the waker first says
//! what there is to do (a request, a pending interrupt), then wakes; the sleeper first says that it sleeps, then looks.

use super::bindings;
use core::sync::atomic::{fence, Ordering};
use kernel::bindings as kb;
use kernel::types::Opaque;

/// Why [`VcpuWait::block`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// The condition holds.
    Ready,
    /// A signal for the thread is pending.
    Signal,
}

/// Where one thread waits.
pub(crate) struct VcpuWait(Opaque<kb::rcuwait>);

// SAFETY: The structure is one pointer that is accessed under RCU.
unsafe impl Send for VcpuWait {}
// SAFETY: Wakers may be on any thread; see `block` for sleepers.
unsafe impl Sync for VcpuWait {}

impl VcpuWait {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self(Opaque::new(kb::rcuwait::default()))
    }

    /// Sleeps until `condition` holds or a signal is pending. One thread at a time (the one that holds the vCPU's
    /// mutex): of two, one may miss its wake-up.
    ///
    /// `condition` is called after each wake-up, and does not sleep.
    pub(crate) fn block(&self, mut condition: impl FnMut() -> bool) -> Wakeup {
        // SAFETY: `self` lives until the wait is finished below.
        unsafe { bindings::rkvm_rcuwait_prepare(self.0.get()) };
        let wakeup = loop {
            // SAFETY: Process context. Has a full barrier, which pairs with the one in `wake`.
            unsafe { bindings::rkvm_set_current_interruptible() };
            if condition() {
                break Wakeup::Ready;
            }
            // SAFETY: No requirements.
            if unsafe { bindings::rkvm_signal_pending() } {
                break Wakeup::Signal;
            }
            // SAFETY: Process context; the guards of `sys` are not `Send`, and whoever holds one does not block.
            unsafe { kb::schedule() };
        };
        // SAFETY: Ends what was prepared above, and makes the thread running again.
        unsafe { kb::finish_rcuwait(self.0.get()) };
        wakeup
    }

    /// As [`Self::block`] without sleeping: spins as long as nobody else wants the CPU and no signal is pending, at most
    /// until `deadline_ns` of CLOCK_MONOTONIC. Answers whether the condition holds.
    pub(crate) fn poll(&self, deadline_ns: i64, mut condition: impl FnMut() -> bool) -> bool {
        loop {
            if condition() {
                return true;
            }
            // SAFETY: No requirements.
            if !unsafe { bindings::rkvm_may_poll() } || super::clock::monotonic_ns() >= deadline_ns
            {
                return false;
            }
            core::hint::spin_loop();
        }
    }

    /// Wakes the thread, if one waits; answers whether. What it waits for must have been made visible before. Any
    /// context but NMI. A fence and a load if nobody waits.
    #[inline]
    pub(crate) fn wake(&self) -> bool {
        // Pairs with the barrier in `block`: either the sleeper sees the condition, or we see the sleeper.
        fence(Ordering::SeqCst);
        if !self.is_blocked() {
            return false;
        }
        // SAFETY: The structure lives as long as `self`.
        unsafe { kb::rcuwait_wake_up(self.0.get()) != 0 }
    }

    /// Whether a thread waits: a hint.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        let task = self
            .0
            .get()
            .cast::<core::sync::atomic::AtomicPtr<kb::task_struct>>();
        // SAFETY: The first and only field of the structure is this pointer; it is accessed by single loads and stores.
        !unsafe { &*task }.load(Ordering::Relaxed).is_null()
    }
}
