// SPDX-License-Identifier: GPL-2.0

//! What the emulator needs of devices, until they are there: replace, then delete this file.

use rkvm_core::addr::Gpa;

use crate::vcpu::Running;

impl Running<'_> {
    /// Whether the kernel itself answers for this address although memory may lie there (the APIC page).
    pub(crate) fn is_device(&self, _gpa: Gpa) -> bool {
        false
    }
}
