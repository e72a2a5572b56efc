// SPDX-License-Identifier: GPL-2.0

//! What perf wants of the host's performance counters while a guest runs.
//!
//! C header: `arch/x86/include/asm/perf_event.h`.

use rkvm_core::vmx::counters::Switch;

use super::{
    bindings,
    restricted::restricted, //
};

/// Asks perf. Interrupts are off.
#[inline]
pub(super) fn around_guest() -> Switch {
    let mut n = 0;
    // SAFETY: Interrupts are off; both arguments are of the types that the function takes.
    let msrs = unsafe { (restricted().perf_guest_get_msrs)(&mut n, bindings::rkvm_no_pmu()) };
    if msrs.is_null() {
        return Switch::default();
    }
    Switch::of((0..usize::try_from(n).unwrap_or(0)).map(|i| {
        // SAFETY: There are `n` of them.
        let msr = unsafe { msrs.add(i) };
        // SAFETY: The array is this CPU's and written by the call above only.
        let msr = unsafe { &*msr };
        (msr.msr, msr.host, msr.guest)
    }))
}
