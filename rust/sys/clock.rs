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

/// Whether the host's own clock counts the TSC, so that times of it and of guests go together.
pub(crate) fn counts_tsc() -> bool {
    let mut snapshot = kb::system_time_snapshot::default();
    // SAFETY: The function fills the structure, which is ours.
    unsafe { kb::ktime_get_snapshot_id(kb::CLOCK_BOOTTIME as kb::clockid_t, &mut snapshot) };
    snapshot.valid != 0 && snapshot.cs_id == kb::clocksource_ids_CSID_X86_TSC
}
