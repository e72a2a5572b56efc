// SPDX-License-Identifier: GPL-2.0

//! The fast path of decode: MOV between a register or immediate and memory in 64-bit mode, with at most one of
//! 66, FS and GS, and REX before it. That is nearly all MMIO of 64-bit guests. The result is what the general path gives; a test compares.

use super::super::insn::{Base, Insn, Rm};
use super::super::ops::Reply;
use super::super::state::Width;
use super::super::table::{self, Entry, Imm};
use super::{one_byte, Cursor};
use crate::regs::SegReg;

impl Cursor<'_> {
    /// Decodes the instruction if it is one of those; else leaves the position at 0.
    #[inline(always)]
    pub(super) fn quick(&mut self) -> Reply<bool> {
        self.ensure(2)?;
        let [b0, b1, ..] = self.insn.bytes;
        let mut opcode = b0;
        let mut modrm = b1;
        let mut used = 2;
        let narrow = b0 == 0x66;
        let thread = match b0 {
            0x64 => Some(SegReg::Fs),
            0x65 => Some(SegReg::Gs),
            _ => None,
        };
        let prefixed = narrow || thread.is_some();
        if prefixed {
            self.ensure(3)?;
            opcode = b1;
            [_, _, modrm, ..] = self.insn.bytes;
            used = 3;
        }
        let mut rex = 0;
        if opcode & 0xf0 == 0x40 {
            rex = opcode;
            opcode = modrm;
            used = if prefixed { 4 } else { 3 };
            self.ensure(used)?;
            // Only now it is there, if the instruction crosses a page.
            let [_, _, b2, b3, ..] = self.insn.bytes;
            modrm = if prefixed { b3 } else { b2 };
        }
        let entry = match opcode {
            0x88..=0x8b => one_byte(opcode),
            0xc6 | 0xc7 if modrm & 0x38 == 0 => {
                let bytes = if opcode == 0xc6 { table::BYTE } else { 0 };
                Entry {
                    flags: table::MODRM | bytes,
                    ..table::MOV_IMM
                }
            }
            _ => return Ok(false),
        };
        if modrm >= 0xc0 {
            return Ok(false);
        }
        self.position = used;
        let insn = &mut *self.insn;
        insn.opsize_prefix = narrow;
        insn.rex = rex;
        insn.opcode = opcode;
        insn.modrm = modrm;
        insn.entry = entry;
        insn.address = Width::B8;
        insn.width = if opcode & 1 == 0 {
            Width::B1
        } else if rex & 8 != 0 {
            Width::B8
        } else if narrow {
            Width::B2
        } else {
            Width::B4
        };
        insn.segment = SegReg::Ds;
        insn.reg = (modrm >> 3 & 7) | (rex & 4) << 1;
        insn.rm = Rm::Mem;
        insn.scale = 0;
        if modrm & 7 == 4 || modrm & 0xc7 == 5 {
            if self.address_32()? {
                self.insn.segment = SegReg::Ss;
            }
        } else {
            self.plain_base()?;
        }
        if let Some(segment) = thread {
            self.insn.segment = segment;
        }
        if entry.imm == Imm::Z {
            let width = self.insn.width.min(Width::B4);
            self.insn.imm = self.signed(width)?;
        }
        self.insn.length = self.position;
        Ok(true)
    }

    /// A base register with a displacement: no SIB, not relative to RIP.
    #[inline(always)]
    fn plain_base(&mut self) -> Reply {
        let modrm = self.insn.modrm;
        let base = (modrm & 7) | (self.insn.rex & 1) << 3;
        self.insn.base = Base::Reg(base);
        self.insn.index = None;
        if base == 5 {
            self.insn.segment = SegReg::Ss;
        }
        self.insn.disp = match modrm >> 6 {
            0 => 0,
            1 => self.byte()? as i8 as u64,
            _ => self.signed(Width::B4)?,
        };
        Ok(())
    }
}

/// Forgets what an earlier instruction has left, as far as decode does not always set it.
#[inline(always)]
pub(super) fn reset(insn: &mut Insn) {
    insn.fetched = 0;
    insn.lock = false;
    insn.rep = super::super::insn::Rep::None;
    insn.opsize_prefix = false;
    insn.rex = 0;
    insn.encoding = super::super::insn::Encoding::Legacy;
    insn.modrm = 0;
    insn.imm = 0;
}
