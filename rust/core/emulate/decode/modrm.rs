// SPDX-License-Identifier: GPL-2.0

//! ModRM, SIB and displacement (SDM, "Addressing-Mode Encoding of ModR/M and SIB Bytes").

use crate::regs::{Gpr, SegReg};

use super::super::insn::{Base, Encoding, Rm};
use super::super::ops::Reply;
use super::super::state::Width;
use super::super::table::{self, Entry};
use super::Cursor;

const RBX: u8 = Gpr::Rbx as u8;
const RSP: u8 = Gpr::Rsp as u8;
const RBP: u8 = Gpr::Rbp as u8;
const RSI: u8 = Gpr::Rsi as u8;
const RDI: u8 = Gpr::Rdi as u8;

impl Cursor<'_> {
    /// Interprets the ModRM byte that was read, and reads SIB and displacement.
    pub(super) fn modrm(&mut self, entry: &Entry, segment: Option<SegReg>) -> Reply {
        let modrm = self.insn.modrm;
        let rex = self.insn.rex;
        self.insn.reg = (modrm >> 3 & 7) | (rex & 4) << 1;
        if modrm >= 0xc0 || entry.any(table::NOMOD) {
            self.insn.rm = Rm::Reg((modrm & 7) | (rex & 1) << 3);
            return Ok(());
        }
        self.insn.rm = Rm::Mem;
        self.insn.scale = 0;
        let stack = if self.insn.address == Width::B2 {
            self.address_16()?
        } else {
            self.address_32()?
        };
        if stack && segment.is_none() {
            self.insn.segment = SegReg::Ss;
        }
        Ok(())
    }

    /// 16-bit addressing; whether SS is the default segment.
    fn address_16(&mut self) -> Reply<bool> {
        let modrm = self.insn.modrm;
        let (base, index) = match modrm & 7 {
            0 => (RBX, Some(RSI)),
            1 => (RBX, Some(RDI)),
            2 => (RBP, Some(RSI)),
            3 => (RBP, Some(RDI)),
            4 => (RSI, None),
            5 => (RDI, None),
            6 => (RBP, None),
            _ => (RBX, None),
        };
        self.insn.base = Base::Reg(base);
        self.insn.index = index;
        self.insn.disp = match modrm >> 6 {
            0 if modrm & 7 == 6 => {
                self.insn.base = Base::None;
                self.signed(Width::B2)?
            }
            0 => 0,
            1 => self.displacement_8()?,
            _ => self.signed(Width::B2)?,
        };
        Ok(self.insn.base == Base::Reg(RBP))
    }

    /// 32- and 64-bit addressing; whether SS is the default segment.
    pub(super) fn address_32(&mut self) -> Reply<bool> {
        let modrm = self.insn.modrm;
        let rex = self.insn.rex;
        let mode = modrm >> 6;
        let mut base = modrm & 7;
        self.insn.index = None;
        if base == 4 {
            let sib = self.byte()?;
            base = sib & 7;
            let index = (sib >> 3 & 7) | (rex & 2) << 2;
            if index != RSP {
                self.insn.index = Some(index);
                self.insn.scale = sib >> 6;
            }
            if mode == 0 && base == RBP {
                self.insn.base = Base::None;
                self.insn.disp = self.signed(Width::B4)?;
                return Ok(false);
            }
        } else if mode == 0 && base == RBP {
            self.insn.base = if self.mode.is_long64() {
                Base::Rip
            } else {
                Base::None
            };
            self.insn.disp = self.signed(Width::B4)?;
            return Ok(false);
        }
        let base = base | (rex & 1) << 3;
        self.insn.base = Base::Reg(base);
        self.insn.disp = match mode {
            0 => 0,
            1 => self.displacement_8()?,
            _ => self.signed(Width::B4)?,
        };
        Ok(base == RSP || base == RBP)
    }

    /// A displacement byte; EVEX multiplies it by the size of the memory operand.
    #[inline]
    fn displacement_8(&mut self) -> Reply<u64> {
        let disp = self.signed(Width::B1)?;
        if self.insn.encoding == Encoding::Evex {
            return Ok(disp.wrapping_mul(u64::from(self.evex_operand_size())));
        }
        Ok(disp)
    }
}
