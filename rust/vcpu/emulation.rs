// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator and this vCPU.

use kernel::prelude::*;
use rkvm_core::{
    addr::{
        Gpa,
        Gva, //
    },
    exception::Exception,
    regs::SegReg,
    vmx::{
        fields::*,
        segment,
        Vmcs, //
    },
};

use super::{
    run::Flow,
    Running, //
};

impl Running<'_> {
    /// The linear address of the next instruction.
    pub(crate) fn linear_rip(&self) -> Gva {
        let rip = self.hw.read(GUEST_RIP);
        if self.in_64bit_code() {
            Gva(rip)
        } else {
            Gva(segment::base(self.hw, SegReg::Cs).wrapping_add(rip) & 0xffff_ffff)
        }
    }

    /// Fetches instruction bytes; returns how many.
    pub(crate) fn fetch(&mut self, _at: Gva, _to: &mut [u8]) -> Result<usize, Exception> {
        Ok(0)
    }

    /// Emulates the next instruction.
    pub(crate) fn emulate(&mut self, _gpa: Option<Gpa>) -> Result<Flow> {
        Err(EIO)
    }

    /// Emulates the instruction after a forced-emulation prefix.
    pub(crate) fn emulate_forced(&mut self) -> Result<Flow> {
        Err(EIO)
    }

    /// Emulates an instruction that the processor does not have, or raises #UD.
    pub(crate) fn emulate_undefined(&mut self) -> Result<Flow> {
        self.inject_or_resume(Err(Exception::UD))
    }

    /// Goes on with an instruction that waited for user space.
    pub(crate) fn resume_emulation(&mut self) -> Result<Flow> {
        Err(EIO)
    }
}
