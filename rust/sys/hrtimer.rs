// SPDX-License-Identifier: GPL-2.0

//! High-resolution timers for the LAPIC and the PIT: on CLOCK_MONOTONIC, on the CPU that started them, in hard interrupt
//! context.
//!
//! C header: `include/linux/hrtimer.h`. The kernel crate's timer is consumed by starting it and cancelled by dropping a
//! handle; a chip's timer is started, moved and stopped for as long as the chip lives.

use core::marker::PhantomPinned;
use core::mem::offset_of;
use kernel::bindings as kb;
use kernel::prelude::*;
use kernel::types::Opaque;

/// Whom a [`Timer`] calls.
pub(crate) trait TimerCallback: Send + Sync + Sized + 'static {
    /// The time has come. Hard interrupt context, interrupts off. It may start `timer` again, for a time that lies in the
    /// future often enough that the CPU gets to something else.
    fn expired(&self, timer: &Timer<Self>);
}

/// A timer. Dropping it cancels it and waits for a running callback: not from the callback, and not under a lock that
/// the callback takes.
///
/// `C` must not own this value, or neither is ever dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct Timer<C: TimerCallback> {
    #[pin]
    timer: Opaque<kb::hrtimer>,
    callback: C,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The timer is locked by the kernel; `C` is `Send` by its trait.
unsafe impl<C: TimerCallback> Send for Timer<C> {}
// SAFETY: Every operation through a shared reference takes the kernel's lock or reads; `C` is `Sync` by its trait.
unsafe impl<C: TimerCallback> Sync for Timer<C> {}

impl<C: TimerCallback> Timer<C> {
    const MODE: kb::hrtimer_mode = kb::hrtimer_mode_HRTIMER_MODE_ABS_PINNED_HARD;

    /// A timer that does not run.
    pub(crate) fn new(callback: C) -> impl PinInit<Self> {
        pin_init!(Self {
            timer <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for the timer, which stays where it is.
                unsafe {
                    kb::hrtimer_setup(
                        slot,
                        Some(Self::expired),
                        kb::CLOCK_MONOTONIC as kb::clockid_t,
                        Self::MODE,
                    )
                }
            }),
            callback,
            _pin: PhantomPinned,
        })
    }

    /// Starts the timer on this CPU, or moves it: it expires at `ns` of CLOCK_MONOTONIC. Any context.
    #[inline]
    pub(crate) fn start(&self, ns: i64) {
        // SAFETY: The timer was set up; the function takes the lock of its base.
        unsafe { kb::hrtimer_start_range_ns(self.timer.get(), ns, 0, Self::MODE) };
    }

    /// Stops the timer and waits for a running callback; answers whether it was to expire. Not from the callback, and
    /// not under a lock that the callback takes.
    #[inline]
    pub(crate) fn cancel(&self) -> bool {
        // SAFETY: The timer was set up.
        unsafe { kb::hrtimer_cancel(self.timer.get()) != 0 }
    }

    /// Stops the timer without waiting: `None` if the callback runs right now. Any context.
    #[inline]
    pub(crate) fn try_cancel(&self) -> Option<bool> {
        // SAFETY: The timer was set up.
        match unsafe { kb::hrtimer_try_to_cancel(self.timer.get()) } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The kernel's callback.
    ///
    /// # Safety
    ///
    /// `timer` is the field of a live `Self`.
    unsafe extern "C" fn expired(timer: *mut kb::hrtimer) -> kb::hrtimer_restart {
        let this = timer
            .cast::<u8>()
            .wrapping_sub(offset_of!(Self, timer))
            .cast::<Self>();
        // SAFETY: `timer` is in a `Self`, which is not dropped before the timer is cancelled.
        let this = unsafe { &*this };
        this.callback.expired(this);
        // Not by HRTIMER_RESTART with a changed expiry: somebody may have started the timer meanwhile, and the expiry of a
        // queued timer is not to be touched.
        kb::hrtimer_restart_HRTIMER_NORESTART
    }
}

#[pinned_drop]
impl<C: TimerCallback> PinnedDrop for Timer<C> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
