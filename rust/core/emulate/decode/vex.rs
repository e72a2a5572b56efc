// SPDX-License-Identifier: GPL-2.0

//! VEX and EVEX prefixes (SDM, "Intel Advanced Vector Extensions" and "Intel AVX-512 Encoding").

use crate::exception::Exception;

use super::super::insn::{Encoding, Rep};
use super::super::ops::Reply;
use super::super::table::{self, Entry, Loc, Op};
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
            // No registers above 7; W chooses between rows of EVEX only.
            self.insn.rex &= if first == 0x62 { 0x68 } else { 0 };
        }
        let opcode = self.byte()?;
        self.insn.opcode = opcode;

        match map {
            1 => Ok(two_byte(opcode)),
            2 => Ok(table::three_byte_38(opcode, true)),
            3 => Ok(table::three_byte_3a(opcode, true)),
            // Maps 5 and 6 of EVEX: half precision.
            5 | 6 if self.insn.encoding == Encoding::Evex => Ok(table::NOT_EMULATED),
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
            ..entry
        };
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
        if !self.mode.is_long64()
            && matches!(
                (self.insn.opcode, self.insn.rep),
                (0x6e, _) | (0x7e, Rep::None)
            )
        {
            // There is MOVD only.
            self.insn.rex &= !8;
        }
        let good = if evex {
            let good = self.evex_move_is_valid(&entry);
            self.ignore_high_vvvv();
            good
        } else {
            self.ignore_high_vvvv();
            self.vex_move_is_valid(&entry)
        };
        if good {
            Ok(entry)
        } else {
            Err(Exception::UD.into())
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
            (Op::VecScalar, 0x10 | 0x11) => (register, true),
            (Op::VecScalar, 0x12 | 0x16) => (true, false),
            (Op::VecScalar, _) => (false, false),
            _ => (false, true),
        };
        (free_v || i.vvvv == 0) && (free_l || i.vector_len == 16)
    }

    /// Whether the fields of EVEX are as a move wants them.
    fn evex_move_is_valid(&self, entry: &Entry) -> bool {
        let i = &self.insn;
        let register = i.modrm >= 0xc0;
        let scalar = entry.op == Op::VecScalar;
        let single = scalar && matches!(i.opcode, 0x10 | 0x11);
        let half = scalar && matches!(i.opcode, 0x12 | 0x16);
        let right_w = match (i.opcode, i.rep) {
            // Single or double precision.
            (0x10 | 0x11 | 0x12 | 0x16, Rep::Rep) => !i.wide(),
            (0x10 | 0x11 | 0x12 | 0x16, Rep::Repne) => i.wide(),
            (0x10..=0x17 | 0x28 | 0x29 | 0x2b, _) => i.wide() == i.opsize_prefix,
            // W is a part of the opcode: MOVD and MOVQ, elements of other sizes.
            (0x6e, _) | (0x7e, Rep::None) | (0x6f | 0x7f, _) => true,
            (0x7e | 0xd6, _) => i.wide(),
            // LDDQU has no EVEX form.
            (0xf0, _) => false,
            _ => !i.wide(),
        };
        let no_mask = matches!(i.opcode, 0x2a | 0x2b | 0xe7) || (scalar && !single);
        let store = entry.dst == Loc::Rm && !register;
        let masked = i.opmask != 0;
        let bad_mask = (no_mask && masked) || (i.zeroing && (store || !masked));
        let free_v = half || (single && register);
        // Outside 64-bit mode V' must be as if unused in any case.
        let high_v = i.rex & 0x20 != 0;
        let unused = match free_v {
            true => self.mode.is_long64() || !high_v,
            false => i.vvvv == 0 && !high_v,
        };
        let right_length = match entry.op {
            Op::VecScalar if single => i.vector_len != 0,
            Op::VecScalar => i.vector_len == 16,
            _ => i.vector_len != 0,
        };
        right_w && unused && i.rex & 0x40 == 0 && !bad_mask && right_length
    }

    /// The number of bytes that an EVEX displacement byte counts in.
    pub(super) fn evex_operand_size(&self) -> u8 {
        match self.insn.entry.op {
            Op::VecScalar => super::super::vector::scalar_size(self.insn),
            Op::VecDup => super::super::vector::dup_size(self.insn, self.insn.vector_len),
            _ => self.insn.vector_len,
        }
    }
}
