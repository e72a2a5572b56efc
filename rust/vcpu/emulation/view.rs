// SPDX-License-Identifier: GPL-2.0

//! The vCPU as the emulator sees it: where its memory operands are, and what user space has answered.

mod ops;

use rkvm_core::{
    addr::{
        Gpa,
        Gva, //
    },
    emulate::{
        Access,
        AccessKind as Kind,
        Emulator,
        Reply,
        Stop,
        UserExit as Request, //
    },
    exception::Exception,
    mmu::walk::{
        AccessKind,
        GuestAccess,
        Privilege,
        WalkError, //
    },
    msr::MsrError,
};

use super::features;
use crate::{
    sys::trace::{
        self,
        MmioKind, //
    },
    vcpu::Running,
};

/// What an exit has told about the memory operand of its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Nothing.
    Unknown,
    /// Its guest physical address.
    At(Gpa),
    /// Its guest physical address, at which there is no memory.
    Device(Gpa),
}

/// A vCPU during one emulation.
pub(super) struct View<'v, 'a> {
    r: &'v mut Running<'a>,
    /// The guest physical address that an EPT exit gave for the instruction's memory operand.
    hint: Option<Gpa>,
    /// That address is known to be no memory.
    device: bool,
    /// The instruction was a HLT that user space has to wait for: there is no APIC in the kernel.
    halt_exit: bool,
    /// Why user space is asked for an MSR, as KVM_EXIT_X86_RDMSR and _WRMSR tell it.
    msr_reason: u32,
}

impl<'v, 'a> View<'v, 'a> {
    pub(super) fn new(r: &'v mut Running<'a>, operand: Operand) -> Self {
        let (hint, device) = match operand {
            Operand::Unknown => (None, false),
            Operand::At(gpa) => (Some(gpa), false),
            Operand::Device(gpa) => (Some(gpa), true),
        };
        Self {
            r,
            hint,
            device,
            halt_exit: false,
            msr_reason: 0,
        }
    }

    /// Whether KVM_EXIT_HLT has to follow the instruction.
    pub(super) fn halt_exit(&self) -> bool {
        self.halt_exit
    }

    /// Why user space is asked for an MSR, if it is.
    pub(super) fn msr_reason(&self) -> u32 {
        self.msr_reason
    }

    /// The device register that the exit was for, if `at` is the operand it was for.
    #[inline]
    fn known_device(&self, at: Gva) -> Option<Gpa> {
        self.hint
            .filter(|gpa| self.device && gpa.page_offset() == at.page_offset())
    }

    /// Copies what user space answered to the last exit into the emulator's buffer.
    pub(super) fn take_answer(&mut self, emulator: &mut Emulator) {
        let Some(exit) = self.r.arch.emulator_exit.take() else {
            return;
        };
        let run = &self.r.vcpu.run;
        match exit {
            Request::MmioRead { gpa, len } => {
                let value = run.mmio_data();
                trace::mmio(MmioKind::Read, len.into(), gpa, || value);
                let bytes = value.to_le_bytes();
                for (to, from) in emulator.data_mut().iter_mut().zip(bytes) {
                    *to = from;
                }
            }
            Request::PioIn { port, size, count } => {
                let first = || run.pio_value(size);
                trace::pio(false, port, size.into(), count, first);
                let _ = run.pio().copy_from(0, emulator.data_mut());
            }
            Request::ReadMsr { .. } | Request::WriteMsr { .. } => {
                let (error, value) = run.msr_answer();
                if error {
                    emulator.cancel();
                    self.r.queue_exception(Exception::GP0);
                }
                for (to, from) in emulator.data_mut().iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            Request::MmioWrite { .. } | Request::PioOut { .. } => {}
        }
    }

    fn privilege(&mut self, implicit: bool) -> Privilege {
        if implicit {
            Privilege::ImplicitSupervisor
        } else if self.r.cpl() == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        }
    }

    /// Guest physical address of a linear one, by the guest's page tables.
    fn translate(&mut self, at: Gva, access: Access) -> Reply<Gpa> {
        if access.shadow_stack {
            // The walk does not know what makes a page one of a shadow stack.
            return Err(Stop::Unhandled);
        }
        if let Some(hint) = self.hint {
            // The instruction has one memory operand, and the exit has said where that is.
            if hint.page_offset() == at.page_offset() {
                return Ok(hint);
            }
        }
        let kind = match access.kind {
            Kind::Read => AccessKind::Read,
            Kind::Write | Kind::Modify => AccessKind::Write,
        };
        let privilege = self.privilege(access.implicit_supervisor);
        match self.r.translate(at, GuestAccess { kind, privilege }) {
            Ok(t) => Ok(t.gpa),
            Err(WalkError::Fault(e)) => Err(Stop::Fault(e)),
            Err(_) => Err(Stop::Retry),
        }
    }

    fn msr_stop(&mut self, error: MsrError) -> Stop {
        let reason = error.exit_reason();
        if self.r.vm.caps.user_space_msrs() & reason != 0 {
            self.msr_reason = reason;
            Stop::User
        } else {
            Stop::Fault(Exception::GP0)
        }
    }
}

/// Fetches instruction bytes up to the end of the page.
pub(super) fn fetch(r: &mut Running<'_>, at: Gva, to: &mut [u8]) -> Result<usize, Exception> {
    let access = r.fetch_access();
    match r.fetch_code(at, access, to) {
        Ok(n) => Ok(n),
        Err(WalkError::Fault(e)) => Err(e),
        Err(_) => Ok(0),
    }
}
