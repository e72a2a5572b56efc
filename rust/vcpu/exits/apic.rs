// SPDX-License-Identifier: GPL-2.0

//! Accesses to the APIC-access page (SDM, "Exit Qualification for APIC-Access VM Exits").

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    irq::lapic::{
        apic_base,
        Reg, //
    },
    vmx::{
        exit::{
            qualification::{
                ApicAccess,
                ApicAccessType, //
            },
            ExitReason, //
        },
        fields::*,
        Vmcs, //
    },
};

use super::fast::Fast;
use crate::{
    sys::params,
    vcpu::{
        emulation::Operand,
        run::Flow,
        Running, //
    },
};

impl Running<'_> {
    /// A register that the instruction at RIP moves to or from. Of the end of an interrupt it does not count what is
    /// written, so the instruction need not be decoded.
    pub(super) fn fast_apic_access(&mut self) -> Fast {
        let access = ApicAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        let write = access.kind == ApicAccessType::Write;
        if write && access.offset == Reg::EOI.offset() && params::fasteoi() {
            self.end_interrupt();
            self.instruction_retires();
            return Fast::Handled;
        }
        if !write && access.kind != ApicAccessType::Read {
            return Fast::Leave;
        }
        self.fast_move(register(access), None)
    }

    /// Any other access is the emulator's, which needs no page walk to know where it goes.
    pub(super) fn exit_apic_access(&mut self, reason: ExitReason) -> Result<Flow> {
        let access = ApicAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        match access.kind {
            ApicAccessType::Read | ApicAccessType::Write => {
                self.emulate(Operand::Device(register(access)))
            }
            // A stack or a descriptor table in the APIC.
            ApicAccessType::Event | ApicAccessType::PhysicalEvent => {
                Ok(self.delivery_failed(reason, None))
            }
            ApicAccessType::Fetch
            | ApicAccessType::PhysicalInstruction
            | ApicAccessType::PhysicalOther
            | ApicAccessType::Other => self.emulate(Operand::Unknown),
        }
    }
}

/// Where the register is that was accessed.
fn register(access: ApicAccess) -> Gpa {
    Gpa(apic_base::DEFAULT | u64::from(access.offset))
}
