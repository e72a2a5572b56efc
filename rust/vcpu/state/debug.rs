// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS (api.rst).

use kernel::prelude::*;

use crate::{
    sys::uabi::{
        kvm_debugregs,
        Abi, //
    },
    vcpu::Running,
};

impl Running<'_> {
    /// KVM_GET_DEBUGREGS.
    pub(crate) fn debugregs(&mut self) -> kvm_debugregs {
        self.deliver_payload_early();
        kvm_debugregs {
            db: self.arch.debug.db,
            dr6: self.arch.debug.dr6,
            dr7: self.arch.debug.dr7,
            ..kvm_debugregs::zeroed()
        }
    }

    /// KVM_SET_DEBUGREGS. EINVAL for flags, and for the upper halves of DR6 and DR7.
    pub(crate) fn set_debugregs(&mut self, regs: &kvm_debugregs) -> Result {
        if regs.flags != 0 || regs.dr6 >> 32 != 0 || regs.dr7 >> 32 != 0 {
            return Err(EINVAL);
        }
        self.arch.debug.db = regs.db;
        self.arch.debug.dr6 = regs.dr6;
        self.arch.debug.dr7 = regs.dr7;
        self.write_dr7();
        Ok(())
    }
}
