// SPDX-License-Identifier: GPL-2.0

//! VEX and EVEX prefixes (SDM, "Intel Advanced Vector Extensions" and "Intel AVX-512 Encoding").

use crate::exception::Exception;

use super::super::insn::{Encoding, Rep};
use super::super::ops::Reply;
use super::super::table::{self, Entry, Op};
use super::{two_byte, Cursor};

impl Cursor<'_> {
    /// Reads the payload of a VEX or EVEX prefix that starts with `first`, and the opcode after it.
    pub(super) fn vex(&mut self, first: u8) -> Reply<Entry> {
        let legacy = self.insn.rex != 0
            || self.insn.opsize_prefix
            || self.insn.lock
            || self.insn.rep != Rep::None;
        if legacy || self.mode.is_real_like() {
            return Err(Exception::UD.into());
        }
        self.insn.opmask = 0;
        self.insn.zeroing = false;
        let map = match first {
            0xc5 => self.vex2()?,
            0xc4 => self.vex3()?,
            _ => self.evex()?,
        };
        if !self.mode.is_long64() {
            // No registers above 7.
            self.insn.rex &= if first == 0x62 { 0x68 } else { 8 };
        }
        let opcode = self.byte()?;
        self.insn.opcode = opcode;

        match map {
            1 => Ok(two_byte(opcode)),
            2 => Ok(table::three_byte_38(opcode, true)),
            3 => Ok(table::three_byte_3a(opcode, true)),
            // Maps 5 and 6 of EVEX: half precision.
            5 if self.insn.encoding == Encoding::Evex => Ok(table::map_5(opcode)),
            6 if self.insn.encoding == Encoding::Evex => Ok(table::NOT_EMULATED),
            _ => Err(Exception::UD.into()),
        }
    }

    /// The payload of C5; the opcode map.
    fn vex2(&mut self) -> Reply<u8> {
        let p = self.byte()?;
        self.insn.encoding = Encoding::Vex;
        self.insn.rex = (!p & 0x80) >> 5;
        self.vex_common(p);
        Ok(1)
    }

    /// The payload of C4; the opcode map.
    fn vex3(&mut self) -> Reply<u8> {
        let p = self.byte()?;
        let q = self.byte()?;
        self.insn.encoding = Encoding::Vex;
        self.insn.rex = (!p & 0xe0) >> 5 | (q & 0x80) >> 4;
        self.vex_common(q);
        Ok(p & 0x1f)
    }

    /// The last byte of VEX: vvvv, L, pp.
    fn vex_common(&mut self, p: u8) {
        self.insn.vvvv = !p >> 3 & 15;
        self.insn.vector_len = if p & 4 != 0 { 32 } else { 16 };
        self.mandatory(p);
    }

    /// The payload of 62; the opcode map.
    fn evex(&mut self) -> Reply<u8> {
        let p = self.byte()?;
        let q = self.byte()?;
        let r = self.byte()?;
        if p & 8 != 0 || q & 4 == 0 {
            return Err(Exception::UD.into());
        }
        self.insn.encoding = Encoding::Evex;
        // Bit 4 keeps R', bit 5 V' (inverted already), for the register numbers 16 to 31.
        self.insn.rex = (!p & 0xe0) >> 5 | (q & 0x80) >> 4 | (!p & 0x10) | (!r & 8) << 2;
        self.insn.vvvv = !q >> 3 & 15;
        self.insn.vector_len = match r >> 5 & 3 {
            0 => 16,
            1 => 32,
            2 => 64,
            _ => 0,
        };
        self.insn.opmask = r & 7;
        self.insn.zeroing = r & 0x80 != 0;
        if r & 0x10 != 0 {
            // Broadcast or rounding: not for the moves that are emulated.
            self.insn.rex |= 0x40;
        }
        self.mandatory(q);
        Ok(p & 7)
    }

    /// The pp field, as the legacy prefixes that it stands for.
    fn mandatory(&mut self, p: u8) {
        match p & 3 {
            1 => self.insn.opsize_prefix = true,
            2 => self.insn.rep = Rep::Rep,
            3 => self.insn.rep = Rep::Repne,
            _ => {}
        }
    }

    /// Checks a row against what VEX and EVEX demand.
    pub(super) fn vex_row(&mut self, entry: Entry) -> Reply<Entry> {
        let evex = self.insn.encoding == Encoding::Evex;
        let not_emulated = Entry {
            op: Op::NotImplemented,
            flags: entry.flags & table::MODRM,
            ..entry
        };
        if !self.mode.is_long64() && self.ignores_w(&entry) {
            self.insn.rex &= !8;
        }
        if entry.any(table::VEX) {
            if evex {
                return Ok(not_emulated);
            }
            let wrong_l = entry.any(table::L0) && self.insn.vector_len != 16;
            let wrong_v = !entry.any(table::VVVV) && self.insn.vvvv != 0;
            if wrong_l || wrong_v {
                return Err(Exception::UD.into());
            }
            self.ignore_high_vvvv();
            // The operand width is VEX.W alone.
            return Ok(Entry {
                flags: entry.flags | table::NO16,
                ..entry
            });
        }
        if entry.any(table::EVEX) && !evex {
            return Err(Exception::UD.into());
        }
        if !entry.any(table::VEX_OK) {
            return Ok(not_emulated);
        }
        if entry.op == Op::VecMaskMov && evex {
            return Ok(not_emulated);
        }
        let good = match evex {
            true => self.evex_move_is_valid(&entry),
            false => self.vex_move_is_valid(&entry),
        };
        // Only where it is used: unused, all of its bits count.
        self.ignore_high_vvvv();
        if good {
            Ok(entry)
        } else {
            Err(Exception::UD.into())
        }
    }

    /// Whether W is of no interest outside 64-bit mode.
    fn ignores_w(&self, entry: &Entry) -> bool {
        let i = &self.insn;
        match (entry.op, i.opcode) {
            // There is MOVD only, PEXTRD only, PINSRD only.
            (Op::VecScalar, 0x6e) => true,
            (Op::VecScalar, 0x7e) if i.rep == Rep::None => true,
            (Op::VecExtract, 0x16) | (Op::VecInsert, 0x22) => true,
            (Op::VecExtract | Op::VecInsert | Op::VecBroadcast | Op::VecMaskMov, _) => false,
            _ => i.encoding == Encoding::Vex,
        }
    }

    /// There are no registers above 7 outside 64-bit mode.
    fn ignore_high_vvvv(&mut self) {
        if !self.mode.is_long64() {
            self.insn.vvvv &= 7;
        }
    }

    /// Whether VEX.vvvv and VEX.L are as a vector move wants them.
    fn vex_move_is_valid(&self, entry: &Entry) -> bool {
        let i = &self.insn;
        let register = i.modrm >= 0xc0;
        let (free_v, free_l) = match (entry.op, i.opcode) {
            (Op::VecBroadcast, 0x19 | 0x1a | 0x5a)
            | (Op::VecExtract, 0x19 | 0x39)
            | (Op::VecInsert, 0x18 | 0x38) => {
                let v = entry.op == Op::VecInsert || i.vvvv == 0;
                return v && i.vector_len == 32 && !i.wide();
            }
            (Op::VecBroadcast, _) if i.wide() => return false,
            (Op::VecMaskMov, 0x2c..=0x2f) if i.wide() => return false,
            (Op::VecMaskMov, _) => (true, true),
            (Op::VecInsert, _) => (true, false),
            (Op::VecExtract | Op::MaskMov, _) => (false, false),
            (Op::VecScalar, 0x10 | 0x11) => (register, true),
            (Op::VecScalar, 0x12 | 0x16) => (true, false),
            (Op::VecScalar, _) => (false, false),
            _ => (false, true),
        };
        (free_v || i.vvvv == 0) && (free_l || i.vector_len == 16)
    }
}
