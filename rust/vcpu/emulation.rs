// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator and this vCPU: when it runs, and what becomes of how it ends.
//!
//! The emulator itself is `rkvm_core::emulate`; [`view`] is how it sees the vCPU. Between an exit to user space and the
//! next KVM_RUN it keeps what it needs itself: nothing is borrowed across the exit, and the instruction is not fetched
//! again.

mod features;
mod view;

use kernel::prelude::*;
use rkvm_core::{
    addr::Gva,
    emulate::{
        ar,
        Cause,
        Completed,
        Emulator,
        Mode,
        Outcome,
        Regs,
        Shadow,
        SoftInterrupt,
        SoftKind,
        TaskSwitch,
        UserExit as Request, //
    },
    exception::{
        Exception,
        Vector, //
    },
    mmu::walk::{
        AccessKind,
        GuestAccess,
        Privilege, //
    },
    regs::{
        cr0,
        dr,
        rflags,
        SegReg, //
    },
    vmx::{
        event::{
            interruptibility,
            EventInfo,
            EventType, //
        },
        fields::*,
        segment,
        Vmcs, //
    },
};

use super::{
    events::Injected,
    exits::registers::set_gpr,
    requests,
    run::{
        Completion,
        Flow, //
    },
    run_page::UserExit,
    Running, //
};
pub(crate) use view::Operand;
use view::View;

impl Running<'_> {
    /// The linear address of the next instruction.
    pub(crate) fn linear_rip(&self) -> Gva {
        self.linear_code(self.code_mode(), self.hw.read(GUEST_RIP))
    }

    /// The linear address of code at `rip`.
    #[inline]
    pub(crate) fn linear_code(&self, mode: Mode, rip: u64) -> Gva {
        if mode == Mode::Long64 {
            Gva(rip)
        } else {
            Gva(segment::base(&self.hw, SegReg::Cs).wrapping_add(rip) & 0xffff_ffff)
        }
    }

    /// How the code at CS:RIP is decoded.
    #[inline]
    pub(crate) fn code_mode(&self) -> Mode {
        if self.arch.cr0 & cr0::PE == 0 {
            return Mode::Real;
        }
        let access = self.hw.read(GUEST_CS_AR_BYTES);
        let long = self.long_mode();
        if long && access & ar::L != 0 {
            return Mode::Long64;
        }
        if !long && self.hw.read(GUEST_RFLAGS) & rflags::VM != 0 {
            return Mode::Vm86;
        }
        if access & ar::DB != 0 {
            Mode::Prot32
        } else {
            Mode::Prot16
        }
    }

    /// The fetch of an instruction, as the guest's page tables judge it.
    #[inline]
    pub(crate) fn fetch_access(&self) -> GuestAccess {
        GuestAccess {
            kind: AccessKind::Fetch,
            privilege: if self.cpl() == 3 {
                Privilege::User
            } else {
                Privilege::Supervisor
            },
        }
    }

    /// Fetches instruction bytes up to the end of the page; returns how many.
    pub(crate) fn fetch(&mut self, at: Gva, to: &mut [u8]) -> Result<usize, Exception> {
        view::fetch(self, at, to)
    }

    /// Emulates the next instruction.
    pub(crate) fn emulate(&mut self, operand: Operand) -> Result<Flow> {
        self.with_emulator(operand, |emulator, regs, view| {
            emulator.start(regs, view, Cause::Exit)
        })
    }

    /// Emulates the instruction after a forced-emulation prefix; RIP is at it.
    pub(crate) fn emulate_forced(&mut self) -> Result<Flow> {
        self.emulate(Operand::Unknown)
    }

    /// Emulates an instruction that the processor does not have, or raises #UD.
    pub(crate) fn emulate_undefined(&mut self) -> Result<Flow> {
        self.with_emulator(Operand::Unknown, |emulator, regs, view| {
            emulator.start(regs, view, Cause::UndefinedOpcode)
        })
    }

    /// Switches to the task of `selector`, as `cause` does it; see [`Emulator::task_switch`].
    pub(crate) fn switch_task(
        &mut self,
        selector: u16,
        cause: TaskSwitch,
        error_code: Option<u32>,
        length: u8,
    ) -> Result<Flow> {
        self.with_emulator(Operand::Unknown, |emulator, regs, view| {
            emulator.task_switch(regs, view, selector, cause, error_code, length)
        })
    }

    /// Delivers an interrupt or exception through the guest's vector table; `length` is that of the instruction, if one
    /// caused it. Whether that went through: it may not if the table or the stack is in no memory.
    pub(crate) fn emulate_real_interrupt(&mut self, vector: u8, length: u8) -> bool {
        let Some(mut emulator) = self.arch.emulator.take() else {
            return false;
        };
        let mut regs = self.emulator_regs();
        let mut view = View::new(self, Operand::Unknown);
        let outcome = emulator.real_interrupt(&mut regs, &mut view, vector, length);
        // The stack is pushed to at once or not at all: there is nothing to go on with.
        emulator.cancel();
        self.arch.emulator = Some(emulator);
        let Outcome::Completed(c) = outcome else {
            return false;
        };
        self.commit(&regs, &c);
        true
    }

    /// Goes on with an instruction that waited for user space.
    pub(crate) fn resume_emulation(&mut self) -> Result<Flow> {
        self.with_emulator(Operand::Unknown, |emulator, regs, view| {
            view.take_answer(emulator);
            emulator.resume(regs, view)
        })
    }

    /// Runs `f` with the emulator taken out of the vCPU, and acts on how it ends.
    fn with_emulator(
        &mut self,
        operand: Operand,
        f: impl FnOnce(&mut Emulator, &mut Regs, &mut View<'_, '_>) -> Outcome,
    ) -> Result<Flow> {
        let Some(mut emulator) = self.arch.emulator.take() else {
            return Err(EIO);
        };
        self.vcpu.stats.insn_emulation.inc();
        let mut regs = self.emulator_regs();
        let mut view = View::new(self, operand);
        let outcome = f(&mut emulator, &mut regs, &mut view);
        let halt_exit = view.halt_exit();
        let msr_reason = view.msr_reason();
        let flow = self.finish_emulation(outcome, &regs, &mut emulator, msr_reason);
        self.arch.emulator = Some(emulator);
        if halt_exit && matches!(flow, Ok(Flow::Resume)) {
            self.vcpu.run.set_reason(UserExit::Hlt);
            return Ok(Flow::ToUser);
        }
        flow
    }

    fn emulator_regs(&self) -> Regs {
        let mut regs = Regs {
            gpr: self.hw.gprs(),
            rip: self.hw.read(GUEST_RIP),
            rflags: self.guest_rflags(),
        };
        regs.set(rkvm_core::regs::Gpr::Rsp, self.hw.read(GUEST_RSP));
        regs
    }

    fn finish_emulation(
        &mut self,
        outcome: Outcome,
        regs: &Regs,
        emulator: &mut Emulator,
        msr_reason: u32,
    ) -> Result<Flow> {
        match outcome {
            Outcome::Completed(c) => {
                self.commit(regs, &c);
                Ok(Flow::Resume)
            }
            Outcome::Exit(exit, completed) => {
                if let Some(c) = completed {
                    self.commit(regs, &c);
                }
                Ok(self.exit_for_emulator(exit, emulator, msr_reason))
            }
            Outcome::Inject(e, completed) => {
                if let Some(c) = completed {
                    self.commit(regs, &c);
                }
                if let Some(flow) = self.debugger_takes(&e) {
                    return Ok(flow);
                }
                if e.vector == Vector::Pf {
                    self.vcpu.stats.pf_guest.inc();
                }
                self.queue_exception(e);
                Ok(Flow::Resume)
            }
            Outcome::Soft(interrupt) => {
                self.inject_soft(interrupt);
                Ok(Flow::Resume)
            }
            Outcome::Drained | Outcome::Retry => Ok(Flow::Resume),
            Outcome::Shutdown => {
                self.vcpu.requests.set_own(requests::Request::TripleFault);
                Ok(Flow::Resume)
            }
            Outcome::Unhandled(bytes) => {
                self.vcpu.stats.insn_emulation_fail.inc();
                if !self.vm.caps.exit_on_emulation_failure() {
                    // Programs in the guest shall not be able to end it.
                    self.queue_exception(Exception::UD);
                    if self.cpl() != 0 {
                        return Ok(Flow::Resume);
                    }
                }
                let fetched = bytes.bytes.get(..usize::from(bytes.len)).unwrap_or(&[]);
                Ok(self.emulation_failed(fetched))
            }
        }
    }

    /// KVM_INTERNAL_ERROR_EMULATION: flags, the instruction if it could be fetched, and what the last exit told.
    pub(crate) fn emulation_failed(&mut self, instruction: &[u8]) -> Flow {
        let interruption = self.exit_interruption();
        let error_code = if interruption.valid() && interruption.has_error_code() {
            self.hw.read(VM_EXIT_INTR_ERROR_CODE)
        } else {
            0
        };
        let exit = [
            self.hw.read(VM_EXIT_REASON).into(),
            self.hw.read(EXIT_QUALIFICATION),
            self.hw.read(IDT_VECTORING_INFO_FIELD).into(),
            interruption.0.into(),
            error_code.into(),
        ];
        let run = &self.vcpu.run;
        run.set_emulation_failure(instruction, &exit);
        Flow::ToUser
    }

    /// Takes the registers over, and what else an instruction leaves behind.
    fn commit(&mut self, regs: &Regs, c: &Completed) {
        let mut changed = c.gprs;
        while changed != 0 {
            let n = changed.trailing_zeros() as u8;
            changed &= changed.wrapping_sub(1);
            set_gpr(&self.hw, n, regs.read(n));
        }
        self.hw.write(GUEST_RIP, regs.rip);
        if c.rflags {
            let old = self.hw.read(GUEST_RFLAGS);
            self.set_guest_rflags(regs.rflags);
            if regs.rflags & !old & rflags::IF != 0 {
                // Interrupts that waited may come now.
                self.vcpu.requests.set_own(requests::Request::Event);
            }
        }
        let old = self.hw.read(GUEST_INTERRUPTIBILITY_INFO);
        let shadow = match c.shadow {
            Shadow::None => 0,
            Shadow::Sti => interruptibility::STI,
            Shadow::MovSs => interruptibility::MOV_SS,
        };
        let new = (old & !(interruptibility::STI | interruptibility::MOV_SS)) | shadow;
        if new != old {
            self.hw.write(GUEST_INTERRUPTIBILITY_INFO, new);
        }
        let mut trap = c.trap;
        if trap & dr::DR6_BS != 0 && self.arch.guest_debug.takes_debug_exceptions() {
            self.trap_after_instruction();
            trap &= !dr::DR6_BS;
        }
        if trap != 0 {
            self.queue_exception(Exception::db(trap));
        }
    }

    fn inject_soft(&mut self, s: SoftInterrupt) {
        let kind = match s.kind {
            SoftKind::Int => EventType::SoftwareInterrupt,
            SoftKind::Exception => EventType::SoftwareException,
            SoftKind::Privileged => EventType::PrivilegedSoftwareException,
        };
        self.arch.events.injected = Some(Injected {
            info: EventInfo::new(s.vector, kind),
            error_code: 0,
            length: s.length.into(),
        });
        self.vcpu.requests.set_own(requests::Request::Event);
    }

    /// Fills `kvm_run` for what only user space can do.
    fn exit_for_emulator(&mut self, exit: Request, emulator: &Emulator, msr_reason: u32) -> Flow {
        self.arch.completion = Completion::Emulator;
        let run = &self.vcpu.run;
        match exit {
            Request::MmioRead { gpa, len } => {
                self.vcpu.stats.mmio_exits.inc();
                run.set_mmio(gpa, 0, len.into(), false);
            }
            Request::MmioWrite { gpa, len, data } => {
                self.vcpu.stats.mmio_exits.inc();
                run.set_mmio(gpa, u64::from_le_bytes(data), len.into(), true);
            }
            Request::PioIn { port, size, count } => run.set_io(false, size, port, count),
            Request::PioOut { port, size, count } => {
                // The buffer of the emulator is no larger than the page.
                let _ = run.pio().copy_to(0, emulator.data());
                run.set_io(true, size, port, count);
            }
            Request::ReadMsr { index } => run.set_msr(false, msr_reason, index, 0),
            Request::WriteMsr { index, value } => run.set_msr(true, msr_reason, index, value),
        }
        self.arch.emulator_exit = Some(exit);
        Flow::ToUser
    }
}
