// SPDX-License-Identifier: GPL-2.0

//! EPT violations and misconfigurations (SDM, "Exit Qualification for EPT Violations").

use kernel::prelude::*;
use rkvm_core::{
    addr::{
        Gpa,
        Gva, //
    },
    mmu::entry::Access,
    vmx::{
        event::{
            interruptibility,
            EventInfo, //
        },
        exit::{
            qualification::EptViolation,
            ExitReason, //
        },
        fields::*,
        Vmcs, //
    },
};

use super::fast::Fast;
use crate::{
    host::host,
    memory::{
        Fault,
        Misconfigured, //
    },
    sys::trace,
    vcpu::{
        emulation::Operand,
        run::Flow,
        Running, //
    },
};

impl Running<'_> {
    pub(super) fn exit_ept_violation(&mut self, reason: ExitReason) -> Result<Flow> {
        let qualification = EptViolation(self.hw.read(EXIT_QUALIFICATION));
        self.keep_nmi_blocked_by(qualification);
        let gpa = Gpa(self.hw.read(GUEST_PHYSICAL_ADDRESS));
        trace::page_fault(|| trace::PageFault {
            vcpu: self.vcpu.id,
            rip: Gva(self.hw.read(GUEST_RIP)),
            address: gpa.0,
            error_code: qualification.0,
        });
        // The walk of the guest's tables makes accesses, too, which are not those of the instruction.
        let operand = if qualification.translated() {
            Operand::At(gpa)
        } else {
            Operand::Unknown
        };
        self.memory_fault(reason, gpa, Access::from_bits(qualification.0), operand)
    }

    /// An IRET that unblocked NMIs has exited before it was done: NMIs are still blocked.
    pub(super) fn keep_nmi_blocked_by(&self, qualification: EptViolation) {
        if qualification.nmi_unblocked_by_iret() && self.arch.events.injected.is_none() {
            let state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO);
            self.hw
                .write(GUEST_INTERRUPTIBILITY_INFO, state | interruptibility::NMI);
        }
    }

    /// Maps the frame, or emulates the instruction that accesses it.
    fn memory_fault(
        &mut self,
        reason: ExitReason,
        gpa: Gpa,
        need: Access,
        operand: Operand,
    ) -> Result<Flow> {
        let stats = &self.vcpu.stats;
        stats.pf_taken.inc();
        match self.vm.memory.fault(&mut self.arch.mmu, stats, gpa, need)? {
            Fault::Resume => Ok(Flow::Resume),
            Fault::Emulate => {
                stats.pf_emulate.inc();
                self.emulate_access(reason, gpa, operand)
            }
        }
    }

    /// Emulates the instruction that made an access. If the delivery of an event made it, there is none, and the event
    /// can't be delivered.
    fn emulate_access(&mut self, reason: ExitReason, gpa: Gpa, operand: Operand) -> Result<Flow> {
        if self.arch.events.injected.is_some() {
            return Ok(self.delivery_failed(reason, Some(gpa)));
        }
        self.emulate(operand)
    }

    /// An access to a device by an instruction that does nothing else. An ioeventfd that takes accesses of any length
    /// needs nothing decoded.
    ///
    /// The SDM does not say that the length of the instruction is there after this exit. On processors it is; where it
    /// is not, or an event was being delivered, the emulator rings the same bell.
    pub(super) fn fast_ept_misconfiguration(&mut self) -> Fast {
        let gpa = Gpa(self.hw.read(GUEST_PHYSICAL_ADDRESS));
        if EventInfo(self.hw.read(IDT_VECTORING_INFO_FIELD)).valid() {
            // It was the delivery of an event that made the access.
            return Fast::Leave;
        }
        let has_length = !host().virtual_cpu && self.hw.read(VM_EXIT_INSTRUCTION_LEN) != 0;
        if has_length && self.fast_mmio_write(gpa) {
            self.instruction_retires();
            return Fast::Handled;
        }
        let Some(slots) = self.arch.mmu.seen_mmio(gpa) else {
            return Fast::Leave;
        };
        let done = self.fast_move(gpa, Some(slots));
        if done != Fast::Leave {
            self.vcpu.stats.pf_emulate.inc();
        }
        done
    }

    pub(super) fn exit_ept_misconfiguration(&mut self, reason: ExitReason) -> Result<Flow> {
        let gpa = Gpa(self.hw.read(GUEST_PHYSICAL_ADDRESS));
        match self.vm.memory.misconfigured(&mut self.arch.mmu, gpa) {
            Misconfigured::Mmio => {
                self.vcpu.stats.pf_emulate.inc();
                self.emulate_access(reason, gpa, Operand::Device(gpa))
            }
            Misconfigured::Refault => self.memory_fault(reason, gpa, Access::R, Operand::At(gpa)),
            Misconfigured::Bug => {
                kernel::pr_err_once!("the EPT entry for {:#x} is misconfigured\n", gpa.0);
                Err(EIO)
            }
        }
    }
}
