// SPDX-License-Identifier: GPL-2.0

//! Arithmetic and data movement on general registers and memory.

use crate::exception::Exception;
use crate::regs::{rflags, Gpr, SegReg};

use super::alu::{self, flag_if, STATUS};
use super::exec::Exec;
use super::muldiv;
use super::ops::{Access, AccessKind, Feature, Reply};
use super::state::Width;
use super::table::Op;

/// A two-operand operation on values: result and status flags.
#[inline]
fn compute(op: Op, a: u64, b: u64, carry: bool, width: Width) -> (u64, u64) {
    match op {
        Op::Add => alu::add(a, b, false, width),
        Op::Adc => alu::add(a, b, carry, width),
        Op::Sub | Op::Cmp => alu::sub(a, b, false, width),
        Op::Sbb => alu::sub(a, b, carry, width),
        Op::And | Op::Test => alu::logic(a & b, width),
        Op::Or => alu::logic(a | b, width),
        _ => alu::logic(a ^ b, width),
    }
}

/// A one-operand operation on values: result and the flags that replace `old`.
fn compute_unary(op: Op, a: u64, old: u64, width: Width) -> (u64, u64) {
    match op {
        Op::Inc | Op::Dec => {
            let (r, f) = if op == Op::Inc {
                alu::add(a, 1, false, width)
            } else {
                alu::sub(a, 1, false, width)
            };
            (r, (f & !rflags::CF) | (old & rflags::CF))
        }
        Op::Neg => alu::sub(0, a, false, width),
        _ => (!a & width.mask(), old),
    }
}

impl Exec<'_> {
    /// Whether the destination is memory that has to be changed atomically.
    #[inline]
    pub(super) fn locked(&self) -> bool {
        self.insn.lock
    }

    /// ADD, OR, ADC, SBB, AND, SUB, XOR.
    pub(super) fn binary(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let entry = self.insn.entry;
        let carry = self.carry();
        if self.locked() {
            let b = self.source(entry.src, width)?;
            let old = self.exchange(width, &mut |a| compute(op, a, b, carry, width).0)?;
            self.set_status(compute(op, old, b, carry, width).1);
            return Ok(());
        }
        let (a, b) = match entry.dst {
            super::table::Loc::Rm => {
                let b = self.source(entry.src, width)?;
                (self.rm_for(width, Access::MODIFY)?, b)
            }
            dst => (self.source(dst, width)?, self.source(entry.src, width)?),
        };
        let (r, flags) = compute(op, a, b, carry, width);
        self.target(entry.dst, width, r)?;
        self.set_status(flags);
        Ok(())
    }

    /// CMP, TEST.
    pub(super) fn compare(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let entry = self.insn.entry;
        let a = self.source(entry.dst, width)?;
        let b = self.source(entry.src, width)?;
        self.set_status(compute(op, a, b, false, width).1);
        Ok(())
    }

    /// INC, DEC, NOT, NEG.
    pub(super) fn unary(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let dst = self.insn.entry.dst;
        let old_flags = self.rflags;
        let a = if self.locked() {
            self.exchange(width, &mut |a| compute_unary(op, a, old_flags, width).0)?
        } else {
            let a = match dst {
                super::table::Loc::Rm => self.rm_for(width, Access::MODIFY)?,
                _ => self.source(dst, width)?,
            };
            let (r, _) = compute_unary(op, a, old_flags, width);
            self.target(dst, width, r)?;
            a
        };
        let (_, flags) = compute_unary(op, a, old_flags, width);
        self.set_status(flags);
        Ok(())
    }

    /// MOVZX.
    pub(super) fn movzx(&mut self) -> Reply {
        let value = self.source(self.insn.entry.src, self.insn.width)?;
        self.set_reg(self.insn.reg, self.insn.width, value);
        Ok(())
    }

    /// MOVSX and MOVSXD.
    pub(super) fn movsx(&mut self) -> Reply {
        let src = self.insn.entry.src;
        let value = self.source(src, self.insn.width)?;
        let from = match src {
            super::table::Loc::Rm8 => Width::B1,
            super::table::Loc::Rm16 => Width::B2,
            _ => Width::B4,
        };
        self.set_reg(self.insn.reg, self.insn.width, from.sign_extend(value));
        Ok(())
    }

    /// LEA.
    pub(super) fn lea(&mut self) -> Reply {
        let value = self.effective_address();
        self.set_reg(self.insn.reg, self.insn.width, value);
        Ok(())
    }

    /// MOVNTI and MOVDIRI: a plain store for one vCPU.
    pub(super) fn mov_direct(&mut self, op: Op) -> Reply {
        if op == Op::Movdiri && !self.ops.has(Feature::Movdiri) {
            return Err(Exception::UD.into());
        }
        let width = self.insn.width;
        let value = self.reg(self.insn.reg, width);
        self.set_rm(width, value)
    }

    /// MOVDIR64B: 64 bytes from memory to ES:reg, which must be 64-byte aligned.
    pub(super) fn movdir64b(&mut self) -> Reply {
        if !self.ops.has(Feature::Movdir64b) {
            return Err(Exception::UD.into());
        }
        let to = self.gpr(self.insn.reg) & self.insn.address.mask();
        let from = self.effective_address();
        let from = self.linear(self.insn.segment, from, 64, AccessKind::Read)?;
        let mut line = [0u8; 64];
        self.read_bytes(from, &mut line, Access::READ)?;
        let to = self.linear(SegReg::Es, to, 64, AccessKind::Write)?;
        if to.0 & 63 != 0 {
            return Err(Exception::GP0.into());
        }
        self.write_bytes(to, &line, Access::WRITE)
    }

    /// MOVBE.
    pub(super) fn movbe(&mut self) -> Reply {
        if !self.ops.has(Feature::Movbe) {
            return Err(Exception::UD.into());
        }
        let width = self.insn.width;
        let entry = self.insn.entry;
        let value = self.source(entry.src, width)?;
        let swapped = value
            .swap_bytes()
            .wrapping_shr(64u32.wrapping_sub(width.bits()));
        self.target(entry.dst, width, swapped)
    }

    /// MUL, IMUL, DIV, IDIV with the accumulator pair.
    pub(super) fn wide_arithmetic(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let b = self.rm(width)?;
        let low = self.named(Gpr::Rax, width);
        let high = if width == Width::B1 {
            self.named(Gpr::Rax, Width::B2) >> 8
        } else {
            self.named(Gpr::Rdx, width)
        };
        let (low, high) = match op {
            Op::Mul | Op::Imul => {
                let (l, h, flags) = if op == Op::Mul {
                    muldiv::mul(low, b, width)
                } else {
                    muldiv::imul(low, b, width)
                };
                self.set_status(flags);
                (l, h)
            }
            Op::Div => muldiv::div(high, low, b, width).ok_or(Exception::DE)?,
            _ => muldiv::idiv(high, low, b, width).ok_or(Exception::DE)?,
        };
        if width == Width::B1 {
            self.set_named(Gpr::Rax, Width::B2, (low & 0xff) | (high & 0xff) << 8);
        } else {
            self.set_named(Gpr::Rax, width, low);
            self.set_named(Gpr::Rdx, width, high);
        }
        Ok(())
    }

    /// IMUL with two and three operands.
    pub(super) fn imul(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let a = self.rm(width)?;
        let b = if op == Op::Imul3 {
            self.insn.imm
        } else {
            self.reg(self.insn.reg, width)
        };
        let (low, _, flags) = muldiv::imul(a, b, width);
        self.set_reg(self.insn.reg, width, low);
        self.set_status(flags);
        Ok(())
    }

    /// CBW family and CWD family.
    pub(super) fn widen(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let half = match width {
            Width::B8 => Width::B4,
            Width::B4 => Width::B2,
            _ => Width::B1,
        };
        let a = self.gpr(Gpr::Rax as u8);
        if op == Op::Cbw {
            self.set_named(Gpr::Rax, width, half.sign_extend(a));
        } else {
            let fill = if a & width.sign() != 0 { u64::MAX } else { 0 };
            self.set_named(Gpr::Rdx, width, fill);
        }
        Ok(())
    }

    /// SETcc and CMOVcc.
    pub(super) fn conditional(&mut self, op: Op) -> Reply {
        let holds = alu::condition(self.insn.opcode & 15, self.rflags);
        if op == Op::Setcc {
            return self.set_rm(Width::B1, u64::from(holds));
        }
        let width = self.insn.width;
        // The source is read, and may fault, whether or not it is taken; 32-bit moves clear the upper half anyway.
        let b = self.rm(width)?;
        let a = self.reg(self.insn.reg, width);
        self.set_reg(self.insn.reg, width, if holds { b } else { a });
        Ok(())
    }

    /// CLC, STC, CMC, CLD, STD, CLAC, STAC.
    pub(super) fn set_flag(&mut self, op: Op) -> Reply {
        match op {
            Op::Clc => self.rflags &= !rflags::CF,
            Op::Stc => self.rflags |= rflags::CF,
            Op::Cmc => self.rflags ^= rflags::CF,
            Op::Cld => self.rflags &= !rflags::DF,
            Op::Std => self.rflags |= rflags::DF,
            _ => {
                if !self.ops.has(Feature::Smap) || self.ops.cpl() != 0 {
                    return Err(Exception::UD.into());
                }
                self.rflags &= !rflags::AC;
                self.rflags |= flag_if(op == Op::Stac, rflags::AC);
            }
        }
        Ok(())
    }

    /// SALC, LAHF, SAHF, XLAT.
    pub(super) fn accumulator(&mut self, op: Op) -> Reply {
        match op {
            Op::Salc => {
                let value = if self.carry() { 0xff } else { 0 };
                self.set_named(Gpr::Rax, Width::B1, value);
            }
            Op::Lahf => {
                let flags = (self.rflags & 0xd5) | rflags::FIXED;
                let ax = (self.named(Gpr::Rax, Width::B2) & 0xff) | flags << 8;
                self.set_named(Gpr::Rax, Width::B2, ax);
            }
            Op::Sahf => {
                let ah = self.named(Gpr::Rax, Width::B2) >> 8;
                let low = STATUS & !rflags::OF;
                self.rflags = (self.rflags & !low) | (ah & low);
            }
            _ => {
                let offset = self
                    .gpr(Gpr::Rbx as u8)
                    .wrapping_add(self.named(Gpr::Rax, Width::B1))
                    & self.insn.address.mask();
                let value = self.load(self.insn.segment, offset, Width::B1, Access::READ)?;
                self.set_named(Gpr::Rax, Width::B1, value);
            }
        }
        Ok(())
    }
}
