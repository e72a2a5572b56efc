// SPDX-License-Identifier: GPL-2.0

//! The fields of EVEX that a vector move may have (SDM, "Intel AVX-512 Encoding" and the opcode lines of the moves).

use super::super::insn::Rep;
use super::super::table::{Entry, Loc, Op};
use super::super::vector;
use super::Cursor;

/// What a move wants of EVEX.
struct Rules {
    /// W is as it has to be.
    w: bool,
    /// There may be a mask.
    maskable: bool,
    /// EVEX.vvvv is an operand.
    vvvv: bool,
    /// The vector length exists.
    length: bool,
}

impl Cursor<'_> {
    /// Whether the fields of EVEX are as a move wants them.
    pub(super) fn evex_move_is_valid(&self, entry: &Entry) -> bool {
        let i = &self.insn;
        let rules = match entry.op {
            Op::VecScalar | Op::VecHalf => self.scalar_rules(entry.op),
            Op::VecBroadcast | Op::VecExtract | Op::VecInsert => self.part_rules(entry.op),
            // They have no EVEX form.
            Op::MaskMov => return false,
            _ => self.whole_rules(),
        };
        let store = entry.dst == Loc::Rm && i.modrm < 0xc0;
        let masked = i.opmask != 0;
        let bad_mask = (!rules.maskable && masked) || (i.zeroing && (store || !masked));
        // Outside 64-bit mode V' must be as if unused in any case.
        let high_v = i.rex & 0x20 != 0;
        let unused = match rules.vvvv {
            true => self.mode.is_long64() || !high_v,
            false => i.vvvv == 0 && !high_v,
        };
        rules.w && unused && i.rex & 0x40 == 0 && !bad_mask && rules.length
    }

    /// Moves of whole vectors.
    fn whole_rules(&self) -> Rules {
        let i = &self.insn;
        Rules {
            w: match (i.opcode, i.rep) {
                // Single or double precision.
                (0x12 | 0x16, Rep::Rep) => !i.wide(),
                (0x12 | 0x16, Rep::Repne) => i.wide(),
                (0x10 | 0x11 | 0x28 | 0x29 | 0x2b, _) => i.wide() == i.opsize_prefix,
                // Elements of other sizes.
                (0x6f | 0x7f, _) => true,
                // LDDQU has no EVEX form.
                (0xf0, _) => false,
                _ => !i.wide(),
            },
            maskable: !matches!(i.opcode, 0x2a | 0x2b | 0xe7),
            vvvv: false,
            length: i.vector_len != 0,
        }
    }

    /// Moves of one element.
    fn scalar_rules(&self, op: Op) -> Rules {
        let i = &self.insn;
        let single = matches!(i.opcode, 0x10 | 0x11);
        let half = op == Op::VecHalf;
        Rules {
            w: match (i.opcode, i.rep) {
                (0x10 | 0x11, Rep::Rep) => !i.wide(),
                (0x10..=0x17, _) => i.wide() == (i.opsize_prefix || i.rep == Rep::Repne),
                // MOVD and MOVQ; VMOVW.
                (0x6e, _) | (0x7e, Rep::None) => true,
                _ => i.wide() && !half,
            },
            maskable: single,
            vvvv: matches!(i.opcode, 0x12 | 0x16) || (single && i.modrm >= 0xc0),
            length: if single {
                i.vector_len != 0
            } else {
                i.vector_len == 16
            },
        }
    }

    /// Broadcasts, inserts and extracts.
    fn part_rules(&self, op: Op) -> Rules {
        let i = &self.insn;
        let size = vector::part_size_of(op, i);
        let small = size <= 8;
        Rules {
            w: op != Op::VecBroadcast
                || !matches!(i.opcode, 0x18 | 0x58 | 0x78 | 0x79)
                || !i.wide(),
            maskable: op == Op::VecBroadcast || !small,
            vvvv: op == Op::VecInsert,
            length: match (op, i.opcode) {
                (Op::VecBroadcast, 0x19) => i.vector_len > 16,
                (Op::VecBroadcast, _) if small => i.vector_len != 0,
                _ if small => i.vector_len == 16,
                _ => i.vector_len > size,
            },
        }
    }

    /// The number of bytes that an EVEX displacement byte counts in.
    pub(super) fn evex_operand_size(&self) -> u8 {
        let i = &self.insn;
        match i.entry.op {
            Op::VecScalar | Op::VecHalf => vector::scalar_size(i),
            Op::VecDup => vector::dup_size(i, i.vector_len),
            op @ (Op::VecBroadcast | Op::VecExtract | Op::VecInsert) => vector::part_size_of(op, i),
            _ => i.vector_len,
        }
    }
}
