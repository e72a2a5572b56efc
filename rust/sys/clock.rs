// SPDX-License-Identifier: GPL-2.0

//! The host's clocks, in nanoseconds.
//!
//! C header: `include/linux/timekeeping.h`.

use super::bindings;
use kernel::bindings as kb;

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

/// Whether the host's own clock counts the TSC.
#[inline]
pub(crate) fn counts_tsc() -> bool {
    tsc_and_realtime_ns().is_some()
}
