// SPDX-License-Identifier: GPL-2.0

//! The host's debug registers while a guest uses them.

use super::bindings;

/// Loads DR0 to DR3 for a guest. DR7 is off until VM entry loads the guest's, and off again after each exit; what the
/// host had in them is put back with its own breakpoints by [`restore`].
pub(crate) fn load(addresses: &[u64; 4]) {
    for (n, address) in addresses.iter().enumerate() {
        // SAFETY: An address alone does nothing while DR7 enables nothing; a host breakpoint makes the entry path
        // restore all registers after the exit.
        unsafe { bindings::rkvm_set_debugreg(*address, n as i32) };
    }
}

/// Whether the host itself uses breakpoints on this CPU.
#[inline]
pub(super) fn host_active() -> bool {
    // SAFETY: Reads a per-CPU variable.
    unsafe { bindings::rkvm_hw_breakpoint_active() }
}
