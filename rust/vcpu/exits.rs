// SPDX-License-Identifier: GPL-2.0

//! Every exit that leaves the innermost loop: one match over the SDM's basic exit reasons.
//!
//! Those that [`fast`] handles come here as well when they were not simple. What nobody has an answer for goes to user
//! space as KVM_EXIT_INTERNAL_ERROR with the reason, never back into the guest unhandled.

mod apic;
mod debug;
mod exception;
pub(crate) mod fast;
mod hypercall;
pub(crate) mod io;
mod memory;
pub(crate) mod mmio;
pub(crate) mod msr;
pub(crate) mod registers;
mod state;
mod task_switch;

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    cpuid::features,
    exception::Exception,
    vmx::{
        controls::Primary,
        event::EventInfo,
        exit::{
            entry_failure,
            qualification::EptViolation,
            BasicExitReason as Reason,
            ExitReason, //
        },
        fields::*,
        Vmcs, //
    },
};

use super::{
    emulation::Operand,
    requests::Request,
    run::Flow,
    run_page::{
        InternalError,
        UserExit, //
    },
    Running, //
};

/// The address that KVM_INTERNAL_ERROR_DELIVERY_EV tells where none was accessed.
const NO_ADDRESS: u64 = u64::MAX;

impl Running<'_> {
    /// Handles an exit with interrupts and preemption on.
    pub(crate) fn handle_exit(&mut self, reason: ExitReason) -> Result<Flow> {
        if reason.entry_failed() {
            self.take_event_back();
            return Ok(self.entry_failed(reason));
        }
        self.complete_injection();
        let Some(basic) = reason.basic() else {
            return Ok(self.unexpected(reason));
        };
        if self.vectoring_forbids(basic) {
            return Ok(self.delivery_failed(reason, None));
        }
        match basic {
            // Their handlers ran before interrupts came back on.
            Reason::ExternalInterrupt => {
                self.vcpu.stats.irq_exits.inc();
                Ok(Flow::Resume)
            }
            Reason::ExceptionNmi => self.exit_exception(),
            Reason::MceDuringVmentry => Ok(Flow::Resume),

            Reason::PreemptionTimer => {
                self.timer_may_be_due();
                Ok(Flow::Resume)
            }
            Reason::InterruptWindow => {
                self.set_primary(Primary::INTR_WINDOW_EXITING, false);
                self.vcpu.stats.irq_window_exits.inc();
                self.vcpu.requests.set_own(Request::Event);
                Ok(Flow::Resume)
            }
            Reason::NmiWindow => {
                self.set_primary(Primary::NMI_WINDOW_EXITING, false);
                self.vcpu.stats.nmi_window_exits.inc();
                self.vcpu.requests.set_own(Request::Event);
                Ok(Flow::Resume)
            }
            Reason::TprBelowThreshold => {
                self.vcpu.requests.set_own(Request::Event);
                Ok(Flow::Resume)
            }
            Reason::TripleFault => {
                self.vcpu.run.set_reason(UserExit::Shutdown);
                Ok(Flow::ToUser)
            }

            Reason::EptViolation => self.exit_ept_violation(reason),
            Reason::EptMisconfig => self.exit_ept_misconfiguration(reason),

            Reason::PmlFull => {
                // The log was emptied when the guest was left.
                self.keep_nmi_blocked_by(EptViolation(self.hw.read(EXIT_QUALIFICATION)));
                Ok(Flow::Resume)
            }
            Reason::ApicAccess => self.exit_apic_access(reason),

            Reason::IoInstruction => self.exit_io(),
            Reason::MsrRead => self.exit_rdmsr(),
            Reason::MsrWrite => self.exit_wrmsr(),
            Reason::Vmcall => self.exit_vmcall(),
            Reason::Hlt => self.exit_hlt(),
            Reason::Cpuid => {
                self.fast_cpuid();
                Ok(Flow::Resume)
            }

            Reason::CrAccess => self.exit_cr_access(),
            Reason::DrAccess => self.exit_dr_access(),
            Reason::Xsetbv => self.exit_xsetbv(),
            Reason::Wbinvd | Reason::Invd => {
                // Guest memory is coherent, and rkvm assigns no device that is not.
                self.skip_instruction();
                Ok(Flow::Resume)
            }
            Reason::Pause => {
                self.exit_pause();
                Ok(Flow::Resume)
            }
            // MONITOR sees no write and MWAIT does not wait: both are hints.
            Reason::Monitor | Reason::Mwait => {
                if !self.vm.caps.mwait_never_faults() && !self.arch.caps.has(features::MWAIT) {
                    return self.inject_or_resume(Err(Exception::UD));
                }
                self.skip_instruction();
                Ok(Flow::Resume)
            }
            Reason::Invlpg => {
                self.vcpu.requests.set_own(Request::TlbFlush);
                self.skip_instruction();
                Ok(Flow::Resume)
            }
            Reason::TaskSwitch => self.exit_task_switch(),
            Reason::GdtrIdtr | Reason::LdtrTr => self.emulate(Operand::Unknown),
            Reason::Rdpmc => self.inject_or_resume(Err(Exception::GP0)),

            // Instructions that this guest's CPUID does not have.
            Reason::Vmclear
            | Reason::Vmlaunch
            | Reason::Vmptrld
            | Reason::Vmptrst
            | Reason::Vmread
            | Reason::Vmresume
            | Reason::Vmwrite
            | Reason::Vmxoff
            | Reason::Vmxon
            | Reason::Invept
            | Reason::Invvpid
            | Reason::Vmfunc
            | Reason::Encls
            | Reason::Enclv
            | Reason::Rdrand
            | Reason::Rdseed
            | Reason::Rdtscp
            | Reason::Invpcid
            | Reason::Umwait
            | Reason::Tpause
            | Reason::Pconfig
            | Reason::Loadiwkey
            | Reason::EnqcmdPasid
            | Reason::EnqcmdsPasid
            | Reason::Seamcall
            | Reason::Tdcall
            | Reason::Rdmsrlist
            | Reason::Wrmsrlist
            | Reason::Urdmsr
            | Reason::Uwrmsr
            | Reason::MsrReadImm
            | Reason::MsrWriteImm
            | Reason::Xsaves
            | Reason::Xrstors
            | Reason::Getsec => self.inject_or_resume(Err(Exception::UD)),

            // Exits that no control of ours asks for.
            Reason::InitSignal
            | Reason::SipiSignal
            | Reason::IoSmi
            | Reason::OtherSmi
            | Reason::Rdtsc
            | Reason::Rsm
            | Reason::InvalidState
            | Reason::MsrLoadFail
            | Reason::MonitorTrapFlag
            | Reason::EoiInduced
            | Reason::ApicWrite
            | Reason::SppEvent
            | Reason::BusLock
            | Reason::Notify => Ok(self.unexpected(reason)),
        }
    }

    /// Goes on in the guest, with the exception if there is one.
    pub(crate) fn inject_or_resume(&mut self, result: Result<(), Exception>) -> Result<Flow> {
        if let Err(e) = result {
            self.queue_exception(e);
        }
        Ok(Flow::Resume)
    }

    /// An event was on its way into the guest, and the exit is not one that its delivery explains.
    fn vectoring_forbids(&self, basic: Reason) -> bool {
        self.arch.events.injected.is_some()
            && !matches!(
                basic,
                Reason::ExceptionNmi
                    | Reason::EptViolation
                    | Reason::EptMisconfig
                    | Reason::TaskSwitch
                    | Reason::ApicAccess
                    | Reason::PmlFull
                    | Reason::ExternalInterrupt
                    | Reason::TripleFault
                    | Reason::Notify
            )
    }

    /// The VM entry failed while it loaded guest state.
    fn entry_failed(&self, reason: ExitReason) -> Flow {
        let qualification = self.hw.read(EXIT_QUALIFICATION);
        if let Some(basic) = reason.basic() {
            kernel::pr_err_once!(
                "VM entry failed: {} (exit reason {:#x}, qualification {:#x})\n",
                entry_failure(basic, qualification),
                reason.0,
                qualification
            );
        }
        self.vcpu.run.set_fail_entry(reason.0, self.arch.last_cpu);
        Flow::ToUser
    }

    /// KVM_INTERNAL_ERROR_DELIVERY_EV: an event can't be delivered because its delivery exits in a way that repeats.
    fn delivery_failed(&self, reason: ExitReason, gpa: Option<Gpa>) -> Flow {
        let data = [
            self.hw.read(IDT_VECTORING_INFO_FIELD).into(),
            reason.0.into(),
            self.hw.read(EXIT_QUALIFICATION),
            gpa.map_or(NO_ADDRESS, |gpa| gpa.0),
            self.arch.last_cpu.into(),
        ];
        self.vcpu
            .run
            .set_internal_error(InternalError::DeliveryEv, &data);
        Flow::ToUser
    }

    /// KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON.
    fn unexpected(&self, reason: ExitReason) -> Flow {
        kernel::pr_err_once!("unexpected VM exit, reason {:#x}\n", reason.0);
        let data = [reason.0.into(), self.arch.last_cpu.into()];
        self.vcpu
            .run
            .set_internal_error(InternalError::UnexpectedExitReason, &data);
        Flow::ToUser
    }

    /// The event information of an exception exit.
    pub(crate) fn exit_interruption(&self) -> EventInfo {
        EventInfo(self.hw.read(VM_EXIT_INTR_INFO))
    }
}
