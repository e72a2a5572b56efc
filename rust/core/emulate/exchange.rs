// SPDX-License-Identifier: GPL-2.0

//! Exchanges: XCHG, XADD, CMPXCHG and its kin, in one locked access where they ask for that.

use crate::addr::Gva;
use crate::exception::Exception;
use crate::regs::{rflags, Gpr};

use super::alu;
use super::exec::Exec;
use super::insn::Rm;
use super::memory::splits_line;
use super::ops::{Access, AccessKind, Feature, Reply, Stop, Swap};
use super::state::Width;
use super::table::Loc;

impl Exec<'_> {
    /// XCHG: with memory always locked.
    pub(super) fn xchg(&mut self) -> Reply {
        let width = self.insn.width;
        let entry = self.insn.entry;
        let b = self.source(entry.src, width)?;
        let a = if self.insn.rm == Rm::Mem && entry.dst == Loc::Rm {
            self.exchange(width, &mut |_| b)?
        } else {
            let a = self.source(entry.dst, width)?;
            self.target(entry.dst, width, b)?;
            a
        };
        self.target(entry.src, width, a)
    }

    /// XADD.
    pub(super) fn xadd(&mut self) -> Reply {
        let width = self.insn.width;
        let b = self.reg(self.insn.reg, width);
        let a = if self.locked() {
            self.exchange(width, &mut |a| a.wrapping_add(b))?
        } else {
            self.rm_for(width, Access::MODIFY)?
        };
        let (r, flags) = alu::add(a, b, false, width);
        if !self.locked() {
            if self.insn.rm == Rm::Mem {
                self.set_rm(width, r)?;
                self.set_reg(self.insn.reg, width, a);
            } else {
                // The sum wins when both operands are one register.
                self.set_reg(self.insn.reg, width, a);
                self.set_rm(width, r)?;
            }
        } else {
            self.set_reg(self.insn.reg, width, a);
        }
        self.set_status(flags);
        Ok(())
    }

    /// CMPXCHG.
    pub(super) fn cmpxchg(&mut self) -> Reply {
        let width = self.insn.width;
        let expected = self.named(Gpr::Rax, width);
        let new = self.reg(self.insn.reg, width);
        let old = if self.locked() {
            self.exchange(width, &mut |a| if a == expected { new } else { a })?
        } else {
            self.rm_for(width, Access::MODIFY)?
        };
        let (_, flags) = alu::sub(expected, old, false, width);
        let equal = old == expected;
        if !self.locked() {
            // The destination is written either way (SDM): this keeps a 32-bit register zero-extended too, unless
            // the comparison fails on a register.
            if equal || self.insn.rm == Rm::Mem {
                self.set_rm(width, if equal { new } else { old })?;
            }
        }
        if !equal {
            self.set_named(Gpr::Rax, width, old);
        }
        self.set_status(flags);
        Ok(())
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(super) fn cmpxchg8b(&mut self) -> Reply {
        let half = if self.insn.width == Width::B8 {
            Width::B8
        } else {
            Width::B4
        };
        let feature = if half == Width::B8 {
            Feature::Cx16
        } else {
            Feature::Cx8
        };
        if !self.ops.has(feature) {
            return Err(Exception::UD.into());
        }
        let bytes = half.bytes().wrapping_mul(2);
        let offset = self.effective_address();
        if half == Width::B8 {
            // Checked before the address is found not to be canonical.
            let at = self.base_of(self.insn.segment).wrapping_add(offset);
            self.check_pair_alignment(Gva(at), half)?;
        }
        let at = self.linear(
            self.insn.segment,
            offset,
            u64::from(bytes),
            AccessKind::Modify,
        )?;
        self.check_pair_alignment(at, half)?;
        let shift = half.bits();
        let join = |low: u64, high: u64| u128::from(low) | u128::from(high).wrapping_shl(shift);
        let expected = join(self.named(Gpr::Rax, half), self.named(Gpr::Rdx, half));
        let new = join(self.named(Gpr::Rbx, half), self.named(Gpr::Rcx, half));
        let mut raw = [0u8; 16];
        let Some(buf) = raw.get_mut(..usize::from(bytes)) else {
            return Err(Stop::Unhandled);
        };
        self.read_bytes(at, buf, Access::MODIFY)?;
        let old = u128::from_le_bytes(raw);
        let value = if old == expected { new } else { old };
        let data = value.to_le_bytes();
        let Some(data) = data.get(..usize::from(bytes)) else {
            return Err(Stop::Unhandled);
        };
        if self.locked() && !splits_line(at, bytes.into()) {
            match self.ops.cmpxchg(at, bytes, old, value, Access::MODIFY)? {
                Swap::Done => {}
                Swap::Changed => return Err(Stop::Retry),
                Swap::Mmio(gpa) => self.write_device(gpa, data)?,
            }
        } else {
            self.write_bytes(at, data, Access::WRITE)?;
        }
        if old == expected {
            self.rflags |= rflags::ZF;
        } else {
            self.rflags &= !rflags::ZF;
            self.set_named(Gpr::Rax, half, old as u64);
            self.set_named(Gpr::Rdx, half, old.wrapping_shr(shift) as u64);
        }
        Ok(())
    }

    /// CMPXCHG16B wants 16 bytes alignment always, CMPXCHG8B eight with alignment checks on.
    fn check_pair_alignment(&mut self, at: Gva, half: Width) -> Reply {
        if half != Width::B8 {
            return self.check_alignment(at, 8);
        }
        if at.0 & 15 != 0 {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }
}
