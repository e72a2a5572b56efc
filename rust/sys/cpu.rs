// SPDX-License-Identifier: GPL-2.0

//! Facts about the host's CPUs that decide on mitigations.

use super::bindings;

/// Whether leaving L1 data behind for a guest would leak it (L1TF), and the CPU can flush it by command.
pub(crate) fn needs_l1d_flush() -> bool {
    // SAFETY: Reads the boot CPU's feature bits.
    unsafe { bindings::rkvm_needs_l1d_flush() }
}

/// Whether switching between guests has to fence indirect branch prediction.
pub(crate) fn needs_ibpb() -> bool {
    // SAFETY: As above.
    unsafe { bindings::rkvm_needs_ibpb() }
}
