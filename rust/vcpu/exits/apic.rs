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
    /// The end of an interrupt. What is written there does not count, so the instruction need not be decoded.
    pub(super) fn fast_apic_access(&mut self) -> Fast {
        let access = ApicAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        if access.kind != ApicAccessType::Write
            || access.offset != Reg::EOI.offset()
            || !params::fasteoi()
        {
            return Fast::Leave;
        }
        self.end_interrupt();
        self.instruction_retires();
        Fast::Handled
    }

    /// Any other access is the emulator's, which needs no page walk to know where it goes.
    pub(super) fn exit_apic_access(&mut self, reason: ExitReason) -> Result<Flow> {
        let access = ApicAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        match access.kind {
            ApicAccessType::Read | ApicAccessType::Write => {
                let register = Gpa(apic_base::DEFAULT | u64::from(access.offset));
                self.emulate(Operand::Device(register))
            }
            // A stack or a descriptor table in the APIC.
            ApicAccessType::Event | ApicAccessType::PhysicalEvent => {
                Ok(self.delivery_failed(reason))
            }
            ApicAccessType::Fetch
            | ApicAccessType::PhysicalInstruction
            | ApicAccessType::PhysicalOther
            | ApicAccessType::Other => self.emulate(Operand::Unknown),
        }
    }
}
