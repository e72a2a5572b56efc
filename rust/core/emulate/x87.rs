// SPDX-License-Identifier: GPL-2.0

//! The few x87 instructions that C KVM emulates too: FNINIT, FNSTCW, FNSTSW, FXSAVE, FXRSTOR.

use crate::exception::Exception;
use crate::regs::{cr0, cr4, Gpr};

use super::exec::Exec;
use super::insn::Rm;
use super::ops::{Access, AccessKind, Backing, Feature, Reply, Stop, X87};
use super::state::{Cr, Mode, Width};
use super::table::Op;

/// Bytes of an FXSAVE image.
const IMAGE: usize = 512;
/// Bytes that are moved at a time; both lengths of an image are multiples.
const PART: usize = 32;
/// Bytes before the XMM registers in it.
const WITHOUT_XMM: usize = 160;

impl Exec<'_> {
    /// All of them.
    pub(super) fn x87(&mut self, op: Op) -> Reply {
        if self.cr(Cr::Cr0) & (cr0::EM | cr0::TS) != 0 {
            // EM gives it for x87 instructions, TS for all.
            return Err(Exception::NM.into());
        }
        match op {
            Op::Fninit => self.ops.x87(X87::Init).map(|_| ()),
            Op::Fxsave => self.fxsave(),
            Op::Fxrstor => self.fxrstor(),
            _ => {
                let what = if op == Op::Fnstcw {
                    X87::ControlWord
                } else {
                    X87::StatusWord
                };
                let word = u64::from(self.ops.x87(what)?);
                match self.insn.rm {
                    Rm::Mem => self.set_rm(Width::B2, word),
                    Rm::Reg(_) => {
                        self.set_named(Gpr::Rax, Width::B2, word);
                        Ok(())
                    }
                }
            }
        }
    }

    /// How much of the image FXSAVE and FXRSTOR touch: XMM only with CR4.OSFXSR, XMM8 to 15 only in 64-bit mode.
    fn image_bytes(&mut self) -> usize {
        let registers: usize = if self.cr(Cr::Cr4) & cr4::OSFXSR == 0 {
            0
        } else if self.mode == Mode::Long64 {
            16
        } else {
            8
        };
        WITHOUT_XMM.wrapping_add(registers.wrapping_mul(16))
    }

    /// The linear address of the image, which must be aligned to 16 bytes.
    fn image_at(&mut self, kind: AccessKind) -> Reply<crate::addr::Gva> {
        self.need(Feature::Fxsr)?;
        let offset = self.effective_address();
        let at = self.linear(self.insn.segment, offset, IMAGE as u64, kind)?;
        if at.0 & 15 != 0 {
            return Err(Exception::GP0.into());
        }
        Ok(at)
    }

    /// Both ends of the image must be there, and be memory: a device would see some sixty accesses.
    fn image_is_memory(&mut self, at: crate::addr::Gva, bytes: usize, access: Access) -> Reply {
        let last = self.after(at, (bytes as u64).wrapping_sub(1));
        for end in [at, last] {
            if self.ops.probe(end, access)? != Backing::Ram {
                return Err(Stop::Unhandled);
            }
        }
        Ok(())
    }

    /// The buffer of the emulator as an image.
    fn image(&mut self) -> Reply<&mut [u8]> {
        self.work.data.get_mut(..IMAGE).ok_or(Stop::Unhandled)
    }

    /// Has the vCPU write the guest's state into the buffer.
    fn fill_image(&mut self) -> Reply {
        let wide = self.insn.wide();
        match self.work.data.get_mut(..IMAGE) {
            Some(image) => self.ops.fxsave(image, wide),
            None => Err(Stop::Unhandled),
        }
    }

    fn fxsave(&mut self) -> Reply {
        let at = self.image_at(AccessKind::Write)?;
        let bytes = self.image_bytes();
        self.fill_image()?;
        self.image_is_memory(at, bytes, Access::WRITE)?;
        for offset in (0..bytes).step_by(PART) {
            let mut part = [0u8; PART];
            if let Some(from) = self.image()?.get(offset..offset.wrapping_add(PART)) {
                part.copy_from_slice(from);
            }
            let to = self.after(at, offset as u64);
            self.write_bytes(to, &part, Access::WRITE)?;
        }
        Ok(())
    }

    fn fxrstor(&mut self) -> Reply {
        let at = self.image_at(AccessKind::Read)?;
        let bytes = self.image_bytes();
        // What is not loaded stays.
        self.fill_image()?;
        self.image_is_memory(at, bytes, Access::READ)?;
        for offset in (0..bytes).step_by(PART) {
            let mut part = [0u8; PART];
            let from = self.after(at, offset as u64);
            self.read_bytes(from, &mut part, Access::READ)?;
            if let Some(to) = self.image()?.get_mut(offset..offset.wrapping_add(PART)) {
                to.copy_from_slice(&part);
            }
        }
        let wide = self.insn.wide();
        match self.work.data.get(..IMAGE) {
            Some(image) => self.ops.fxrstor(image, wide),
            None => Err(Stop::Unhandled),
        }
    }
}
