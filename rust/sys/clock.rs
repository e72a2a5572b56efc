// SPDX-License-Identifier: GPL-2.0

//! The host's clocks, in nanoseconds.
//!
//! C headers: `include/linux/timekeeping.h`, `include/linux/pvclock_gtod.h`.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    }, //
};

use kernel::{
    bindings as kb,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*, //
};

use super::bindings;

/// CLOCK_MONOTONIC: what [`super::hrtimer::Timer`] counts in. Stands still in suspend. Any context but NMI.
#[inline]
pub(crate) fn monotonic_ns() -> i64 {
    // SAFETY: No requirements.
    unsafe { kb::ktime_get() }
}

/// CLOCK_BOOTTIME: as monotonic, and goes on in suspend. kvmclock's time base.
#[inline]
pub(crate) fn boottime_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::rkvm_ktime_get_boottime_ns() }
}

/// CLOCK_REALTIME: time of day since 1970, which may jump.
#[inline]
pub(crate) fn realtime_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::rkvm_ktime_get_real_ns() }
}

/// The host's TSC and the CLOCK_REALTIME of one moment. `None` if the host's own clock does not count the TSC, because it
/// does not trust it: then times of it and of guests do not go together.
pub(crate) fn tsc_and_realtime_ns() -> Option<(u64, u64)> {
    let mut snapshot = kb::system_time_snapshot::default();
    // SAFETY: The function fills the structure, which is ours.
    unsafe { kb::ktime_get_snapshot_id(kb::CLOCK_REALTIME as kb::clockid_t, &mut snapshot) };
    (snapshot.valid != 0 && snapshot.cs_id == kb::clocksource_ids_CSID_X86_TSC)
        .then_some((snapshot.cycles, snapshot.systime as u64))
}

/// How often the host's own clock has begun to count the TSC or ended it. Odd: it does.
static TURNS: AtomicU32 = AtomicU32::new(0);

/// A number that is another one after the host's own clock has begun to count its TSC, or ended that because it does not
/// trust it any more.
#[inline]
pub(crate) fn turns() -> u32 {
    TURNS.load(Ordering::Relaxed)
}

/// Whether the host's own clock counts the TSC.
#[inline]
pub(crate) fn counts_tsc() -> bool {
    turns() % 2 != 0
}

/// While there is one, [`turns`] follows the host's clock.
pub(crate) struct Watch(());

impl Watch {
    /// Looks at the clock, and has the kernel tell of changes.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The block is static; `drop` unregisters it.
        let ret = unsafe { bindings::pvclock_gtod_register_notifier(NOTIFIER.0.get()) };
        kernel::error::to_result(ret)?;
        Ok(Self(()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`. Behind this nobody calls the function any more.
        unsafe { bindings::pvclock_gtod_unregister_notifier(NOTIFIER.0.get()) };
    }
}

/// The kernel has updated its time.
///
/// # Safety
///
/// Called by the kernel with its clock locked and interrupts off; `timekeeper` is the `struct timekeeper`.
unsafe extern "C" fn updated(
    _block: *mut kb::notifier_block,
    _was_set: c_ulong,
    timekeeper: *mut c_void,
) -> c_int {
    // SAFETY: By the contract of this function.
    let counts = unsafe { bindings::rkvm_timekeeper_counts_tsc(timekeeper) };
    if counts != counts_tsc() {
        TURNS.fetch_add(1, Ordering::Relaxed);
    }
    0
}

struct Notifier(UnsafeCell<kb::notifier_block>);
// SAFETY: Only the kernel's chain writes to it, under the lock of its clock.
unsafe impl Sync for Notifier {}

static NOTIFIER: Notifier = Notifier(UnsafeCell::new(kb::notifier_block {
    notifier_call: Some(updated),
    next: core::ptr::null_mut(),
    priority: 0,
}));
