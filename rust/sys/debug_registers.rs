// SPDX-License-Identifier: GPL-2.0

//! The host's debug registers while a guest uses them.

use super::{
    bindings,
    restricted::restricted, //
};

/// DR7 with nothing enabled: bit 10 reads as one.
const DR7_OFF: u64 = 1 << 10;

/// Loads DR0 to DR3 for a guest. Interrupts are off and stay off until the host's are back.
///
/// VM entry loads the guest's DR7 and each exit switches breakpoints off, so the addresses mean nothing in between; the
/// host's own breakpoints have to be off before its addresses go.
pub(super) fn load(addresses: &[u64; 4]) {
    if host_active() {
        // SAFETY: Switches all breakpoints off.
        unsafe { bindings::rkvm_set_debugreg(DR7_OFF, 7) };
    }
    for (n, address) in addresses.iter().enumerate() {
        // SAFETY: An address alone does nothing while DR7 enables nothing.
        unsafe { bindings::rkvm_set_debugreg(*address, n as i32) };
    }
}

/// Puts the host's own breakpoints back on this CPU, if it has any.
#[inline]
pub(super) fn restore() {
    if host_active() {
        // SAFETY: Loads what the kernel has recorded for this CPU.
        unsafe { (restricted().hw_breakpoint_restore)() };
    }
}

/// Whether the host itself uses breakpoints on this CPU.
#[inline]
fn host_active() -> bool {
    // SAFETY: Reads a per-CPU variable.
    unsafe { bindings::rkvm_hw_breakpoint_active() }
}
