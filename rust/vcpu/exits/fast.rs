// SPDX-License-Identifier: GPL-2.0

//! Exits that are handled with interrupts off, without leaving the innermost loop of KVM_RUN.
//!
//! Nothing here may sleep, touch user memory, or take longer than an interrupt handler would.

use rkvm_core::{
    cpuid::guest::execute,
    exception::{
        Exception,
        Vector, //
    },
    vmx::{
        event::EventInfo,
        exit::{
            BasicExitReason,
            ExitReason, //
        },
    },
};

use crate::{
    sys::vmx::EntryGuard,
    vcpu::Running, //
};

/// Whether the exit is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fast {
    /// Done: the guest may be entered again.
    Handled,
    /// `kvm_run` asks user space for something.
    ToUser,
    /// The full handler has to look at it, with interrupts on.
    Leave,
}

// Of the whole field: an exit that any flag goes with is not a simple one.
const EXCEPTION_NMI: u32 = BasicExitReason::ExceptionNmi as u32;
const EXTERNAL_INTERRUPT: u32 = BasicExitReason::ExternalInterrupt as u32;
const CPUID: u32 = BasicExitReason::Cpuid as u32;
const VMCALL: u32 = BasicExitReason::Vmcall as u32;
const IO_INSTRUCTION: u32 = BasicExitReason::IoInstruction as u32;
const MSR_READ: u32 = BasicExitReason::MsrRead as u32;
const MSR_WRITE: u32 = BasicExitReason::MsrWrite as u32;
const APIC_ACCESS: u32 = BasicExitReason::ApicAccess as u32;
const EPT_MISCONFIGURATION: u32 = BasicExitReason::EptMisconfig as u32;
const PREEMPTION_TIMER: u32 = BasicExitReason::PreemptionTimer as u32;
/// A VM entry that a machine check called off.
const MCE_DURING_VMENTRY: u32 = 1 << 31 | BasicExitReason::MceDuringVmentry as u32;

impl Running<'_> {
    /// Handles the exit if it is one of the simple ones, and hands the host what is its own.
    #[inline]
    pub(crate) fn handle_fast(&mut self, guard: &mut EntryGuard<'_>, reason: ExitReason) -> Fast {
        match reason.0 {
            CPUID => self.fast_cpuid(),
            MSR_WRITE => self.fast_wrmsr(),
            MSR_READ => self.fast_rdmsr(),
            IO_INSTRUCTION => self.fast_io(),
            VMCALL => self.fast_vmcall(),
            PREEMPTION_TIMER => {
                self.complete_injection();
                self.timer_may_be_due();
                Fast::Handled
            }
            APIC_ACCESS => self.fast_apic_access(),
            EPT_MISCONFIGURATION => self.fast_ept_misconfiguration(),
            _ => {
                self.hand_to_host(guard, reason);
                Fast::Leave
            }
        }
    }

    /// Hands the host what is its own of an exit, if that is why the guest was interrupted.
    #[inline]
    pub(crate) fn hand_to_host(&self, guard: &mut EntryGuard<'_>, reason: ExitReason) {
        match reason.0 {
            EXTERNAL_INTERRUPT => {
                let info = EventInfo(guard.interruption_info());
                if info.valid() {
                    guard.forward_irq(u32::from(info.vector()));
                }
            }
            EXCEPTION_NMI => {
                if EventInfo(guard.interruption_info()).is_exception(Vector::Mc) {
                    guard.forward_machine_check();
                }
            }
            MCE_DURING_VMENTRY => guard.forward_machine_check(),
            _ => {}
        }
    }

    /// The event that was injected is delivered: an instruction exited after it.
    #[inline]
    pub(super) fn instruction_retires(&mut self) {
        self.arch.events.injected = None;
        self.skip_instruction();
    }

    /// As [`Self::instruction_retires`], for an exit that does not tell the length of the instruction.
    #[inline]
    pub(super) fn decoded_instruction_retires(&mut self, length: u8) {
        self.arch.events.injected = None;
        self.skip_bytes(length.into());
    }

    /// CPUID needs nothing that would make it wait.
    #[inline(always)]
    pub(super) fn fast_cpuid(&mut self) -> Fast {
        if self.arch.msrs.cpuid_faults() && self.cpl() > 0 {
            self.arch.events.injected = None;
            self.queue_exception(Exception::GP0);
            return Fast::Handled;
        }
        let (leaf, subleaf) = (self.hw.gpr(0) as u32, self.hw.gpr(1) as u32);
        let regs = execute(
            &self.arch.cpuid.entries,
            &self.arch.cpuid.index,
            leaf,
            subleaf,
        );
        self.hw.set_gpr(0, regs.eax.into());
        self.hw.set_gpr(3, regs.ebx.into());
        self.hw.set_gpr(1, regs.ecx.into());
        self.hw.set_gpr(2, regs.edx.into());
        self.instruction_retires();
        Fast::Handled
    }
}
