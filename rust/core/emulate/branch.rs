// SPDX-License-Identifier: GPL-2.0

//! Near branches, conditional and counted, and BOUND.

use crate::exception::Exception;
use crate::regs::{cr4, rflags, Gpr, SegReg};

use super::alu;
use super::exec::Exec;
use super::ops::{Access, Reply, Stop};
use super::state::{Cr, Mode, Width};
use super::table::{Loc, Op};

impl Exec<'_> {
    /// The address after this instruction, in the width of the mode.
    #[inline]
    pub(super) fn next_rip(&self) -> u64 {
        self.rip
    }

    /// Sets RIP for a near branch whose operand width is `width`; faults leave it.
    pub(super) fn branch_to(&mut self, target: u64, width: Width) -> Reply {
        let target = target & width.mask();
        if self.mode == Mode::Long64 {
            if !self.canonical(target) {
                return Err(Exception::GP0.into());
            }
        } else if target > u64::from(self.ops.segment(SegReg::Cs).limit) {
            return Err(Exception::GP0.into());
        }
        self.rip = target;
        Ok(())
    }

    /// Control-flow enforcement tracks indirect branches and return addresses in state that is not emulated.
    fn refuse_if_tracked(&mut self) -> Reply {
        if self.cr(Cr::Cr4) & cr4::CET != 0 {
            return Err(Stop::Unhandled);
        }
        Ok(())
    }

    /// Jcc, JMP, CALL, RET.
    pub(super) fn near_branch(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        if op == Op::Jcc {
            if alu::condition(self.insn.opcode & 15, self.rflags) {
                let target = self.next_rip().wrapping_add(self.insn.imm);
                return self.branch_to(target, width);
            }
            return Ok(());
        }
        let indirect = self.insn.entry.src == Loc::Rm;
        if op != Op::Jmp || indirect {
            self.refuse_if_tracked()?;
        }
        if op == Op::Ret {
            let target = self.pop(width)?;
            let extra = self.insn.imm;
            self.add_to_stack_pointer(extra);
            return self.branch_to(target, width);
        }
        let next = self.next_rip();
        let target = if indirect {
            self.rm(width)?
        } else {
            next.wrapping_add(self.insn.imm)
        };
        if op == Op::Call {
            // The return address is written before the target is checked.
            self.push(width, next)?;
        }
        self.branch_to(target, width)
    }

    /// LOOP, LOOPE, LOOPNE, JCXZ: the counter has address width.
    pub(super) fn count_branch(&mut self, op: Op) -> Reply {
        let counter = self.insn.address;
        let mut n = self.named(Gpr::Rcx, counter);
        let zero_flag = self.rflags & rflags::ZF != 0;
        let taken = match op {
            Op::Jcxz => n == 0,
            _ => {
                n = n.wrapping_sub(1) & counter.mask();
                n != 0
                    && match op {
                        Op::Loope => zero_flag,
                        Op::Loopne => !zero_flag,
                        _ => true,
                    }
            }
        };
        if taken {
            let target = self.next_rip().wrapping_add(self.insn.imm);
            self.branch_to(target, self.insn.width)?;
        }
        if op != Op::Jcxz {
            self.set_named(Gpr::Rcx, counter, n);
        }
        Ok(())
    }

    /// BOUND: #BR if the signed index is outside the pair in memory.
    pub(super) fn bound(&mut self) -> Reply {
        let width = self.insn.width;
        let offset = self.effective_address();
        let lower = self.load(self.insn.segment, offset, width, Access::READ)?;
        let second = offset.wrapping_add(u64::from(width.bytes())) & self.insn.address.mask();
        let upper = self.load(self.insn.segment, second, width, Access::READ)?;
        let index = width.sign_extend(self.reg(self.insn.reg, width)) as i64;
        let inside =
            index >= width.sign_extend(lower) as i64 && index <= width.sign_extend(upper) as i64;
        if inside {
            Ok(())
        } else {
            Err(Exception::BR.into())
        }
    }
}
