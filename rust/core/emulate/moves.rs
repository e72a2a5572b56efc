// SPDX-License-Identifier: GPL-2.0

//! MOV, MOVZX and MOVSX between memory and a general register or an immediate, apart from their execution.
//!
//! Nearly all accesses to device registers are of these. The glue does them itself, without the general path of the
//! emulator: [`Insn::as_move()`] says what moves, [`Insn::is_at()`] that the memory operand is where an exit said. What is
//! here makes no check that the processor has made before it came to the access.

use crate::addr::{Gpa, Gva};
use crate::regs::SegReg;

use super::insn::{Insn, Rm};
use super::state::{Mode, Width};
use super::table::{Loc, Op};

/// What one of these instructions does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Writes the value, zero-extended, of this width.
    Store(Width, u64),
    /// Reads.
    Load(Load),
}

impl Move {
    /// The width of the memory operand.
    #[inline]
    pub const fn width(self) -> Width {
        match self {
            Self::Store(width, _) => width,
            Self::Load(load) => load.from,
        }
    }
}

/// A read of memory into a general register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The register, in [`crate::regs::Gpr`] order.
    pub register: u8,
    /// The width of the memory operand.
    pub from: Width,
    /// How much of the register is replaced.
    to: Width,
    /// Sign-extends from one width to the other; else zero-extends.
    signed: bool,
    /// Bits 15:8 of the register are replaced.
    high: bool,
}

impl Load {
    /// What the register, which holds `old`, holds afterwards. Bits of `value` beyond the width that is read don't
    /// matter.
    #[inline]
    pub const fn merge(self, old: u64, value: u64) -> u64 {
        let value = if self.signed {
            self.from.sign_extend(value)
        } else {
            value & self.from.mask()
        };
        if self.high {
            return (old & !0xff00) | value << 8;
        }
        self.to.merge(old, value)
    }
}

impl Insn {
    /// What the instruction moves between memory and registers, if that is all it does. `gpr` gives the registers.
    #[inline]
    pub fn as_move(&self, gpr: impl Fn(u8) -> u64) -> Option<Move> {
        if self.rm != Rm::Mem {
            return None;
        }
        let width = self.width;
        match (self.entry.op, self.entry.dst, self.entry.src) {
            (Op::Mov, Loc::Rm, Loc::Imm) => Some(Move::Store(width, self.imm & width.mask())),
            (Op::Mov, Loc::Rm, Loc::Acc) => Some(Move::Store(width, gpr(0) & width.mask())),
            (Op::Mov, Loc::Rm, Loc::Reg) => {
                let value = if width == Width::B1 && self.high_byte(self.reg) {
                    gpr(self.reg & 3) >> 8
                } else {
                    gpr(self.reg)
                };
                Some(Move::Store(width, value & width.mask()))
            }
            (Op::Mov, Loc::Acc, Loc::Rm) => Some(self.load(0, width, false)),
            (Op::Mov, Loc::Reg, Loc::Rm) => Some(self.load(self.reg, width, false)),
            (op @ (Op::Movzx | Op::Movsx), Loc::Reg, from) => {
                let from = match from {
                    Loc::Rm8 => Width::B1,
                    Loc::Rm16 => Width::B2,
                    Loc::Rm32 => Width::B4,
                    _ => return None,
                };
                Some(self.load(self.reg, from, op == Op::Movsx))
            }
            _ => None,
        }
    }

    #[inline]
    fn load(&self, register: u8, from: Width, signed: bool) -> Move {
        let named = self.entry.dst == Loc::Reg;
        let high = named && self.width == Width::B1 && self.high_byte(register);
        Move::Load(Load {
            register: if high { register & 3 } else { register },
            from,
            to: self.width,
            signed,
            high,
        })
    }

    /// Whether the memory operand, `width` wide, lies inside the page of `gpa` and begins there, as far as offsets in a
    /// page can tell. `base` gives the bases of segments; `rip` is that of the instruction.
    #[inline]
    pub fn is_at(
        &self,
        gpa: Gpa,
        width: Width,
        mode: Mode,
        rip: u64,
        gpr: impl Fn(u8) -> u64,
        base: impl Fn(SegReg) -> u64,
    ) -> bool {
        let flat = mode.is_long64() && !matches!(self.segment, SegReg::Fs | SegReg::Gs);
        let base = if flat { 0 } else { base(self.segment) };
        let at = Gva(base.wrapping_add(self.effective_address(rip, gpr)));
        at.page_offset() == gpa.page_offset() && gpa.bytes_to_page_end() >= u64::from(width.bytes())
    }
}
