// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR (SDM, "RDMSR", "WRMSR"; api.rst, KVM_CAP_X86_USER_SPACE_MSR).

use kernel::prelude::*;
use rkvm_core::{
    exception::Exception,
    msr::{
        MsrError,
        Origin, //
    },
};

use super::fast::Fast;
use crate::vcpu::{
    run::{
        Completion,
        Flow, //
    },
    Running, //
};

impl Running<'_> {
    fn msr_index(&self) -> u32 {
        self.hw.gpr(1) as u32
    }

    fn msr_operand(&self) -> u64 {
        (self.hw.gpr(2) << 32) | (self.hw.gpr(0) & 0xffff_ffff)
    }

    fn set_msr_result(&mut self, value: u64) {
        self.hw.set_gpr(0, value & 0xffff_ffff);
        self.hw.set_gpr(2, value >> 32);
    }

    /// The writes that a busy guest makes all the time: its APIC timer, its IPIs and EOIs.
    pub(super) fn fast_wrmsr(&mut self) -> Fast {
        let (index, value) = (self.msr_index(), self.msr_operand());
        if self.arch.msr_filter.is_some() {
            return Fast::Leave;
        }
        if self.write_apic_msr_fast(index, value) {
            self.instruction_retires();
            Fast::Handled
        } else {
            Fast::Leave
        }
    }

    /// Reads that are answered from memory.
    pub(super) fn fast_rdmsr(&mut self) -> Fast {
        let index = self.msr_index();
        if self.arch.msr_filter.is_some() {
            return Fast::Leave;
        }
        match self.arch.msrs.get(index, &self.msr_context(Origin::Guest)) {
            Ok(value) => {
                self.set_msr_result(value);
                self.instruction_retires();
                Fast::Handled
            }
            Err(_) => Fast::Leave,
        }
    }

    pub(super) fn exit_rdmsr(&mut self) -> Result<Flow> {
        let index = self.msr_index();
        match self.get_msr(index, Origin::Guest) {
            Ok(value) => {
                self.set_msr_result(value);
                self.skip_instruction();
                Ok(Flow::Resume)
            }
            Err(e) => self.msr_refused(e, index, None),
        }
    }

    pub(super) fn exit_wrmsr(&mut self) -> Result<Flow> {
        let (index, value) = (self.msr_index(), self.msr_operand());
        match self.set_msr(index, value, Origin::Guest) {
            Ok(()) => {
                self.skip_instruction();
                Ok(Flow::Resume)
            }
            Err(e) => self.msr_refused(e, index, Some(value)),
        }
    }

    /// The access is refused: user space decides if it asked to, else the guest gets #GP(0).
    fn msr_refused(&mut self, error: MsrError, index: u32, value: Option<u64>) -> Result<Flow> {
        let reason = error.exit_reason();
        if self.vm.caps.user_space_msrs() & reason == 0 {
            return self.inject_or_resume(Err(Exception::GP0));
        }
        self.vcpu
            .run
            .set_msr(value.is_some(), reason, index, value.unwrap_or(0));
        self.arch.completion = match value {
            Some(_) => Completion::WriteMsr,
            None => Completion::ReadMsr,
        };
        Ok(Flow::ToUser)
    }
}

/// User space has answered KVM_EXIT_X86_RDMSR.
pub(crate) fn finish_read(r: &mut Running<'_>) -> Result<Flow> {
    let (error, value) = r.vcpu.run.msr_answer();
    if error {
        return r.inject_or_resume(Err(Exception::GP0));
    }
    r.set_msr_result(value);
    r.skip_instruction();
    Ok(Flow::Resume)
}

/// User space has answered KVM_EXIT_X86_WRMSR.
pub(crate) fn finish_write(r: &mut Running<'_>) -> Result<Flow> {
    let (error, _) = r.vcpu.run.msr_answer();
    if error {
        return r.inject_or_resume(Err(Exception::GP0));
    }
    r.skip_instruction();
    Ok(Flow::Resume)
}
