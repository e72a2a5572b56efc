// SPDX-License-Identifier: GPL-2.0

//! Near branches, conditional and counted, and BOUND.

use crate::exception::{cpec, Exception};
use crate::regs::{rflags, Gpr, SegReg};

use super::alu;
use super::cet::Cet;
use super::exec::Exec;
use super::ops::{Access, Reply};
use super::state::{Mode, Width};
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
        let next = self.next_rip();
        if op == Op::Jmp && !indirect {
            return self.branch_to(next.wrapping_add(self.insn.imm), width);
        }
        let cet = self.cet()?;
        if op == Op::Ret {
            return self.near_return(width, cet);
        }
        let target = if indirect {
            self.rm(width)?
        } else {
            next.wrapping_add(self.insn.imm)
        };
        if op == Op::Call {
            // The return address is written before the target is checked.
            self.push(width, next)?;
        }
        let Some(mut cet) = cet else {
            return self.branch_to(target, width);
        };
        // CALL to the next instruction only reads RIP: there is no RET to it.
        if op == Op::Call && (indirect || self.insn.imm != 0) && cet.has_shadow_stack() {
            let slot = self.shadow_push_slot(&mut cet, width)?;
            self.branch_to(target, width)?;
            self.write_shadow(slot, width, next)?;
        } else {
            self.branch_to(target, width)?;
        }
        if indirect {
            cet.track(self.insn.no_track());
        }
        self.cet = Some(cet);
        Ok(())
    }

    /// RET.
    fn near_return(&mut self, width: Width, cet: Option<Cet>) -> Reply {
        let target = self.pop(width)?;
        if let Some(mut cet) = cet.filter(Cet::has_shadow_stack) {
            if width == Width::B2 {
                // Only for 16 bits does the limit come before the shadow stack.
                self.branch_to(target, width)?;
            }
            if self.shadow_pop(&mut cet, width)? != target {
                return Err(Exception::cp(cpec::NEAR_RET).into());
            }
            self.cet = Some(cet);
        }
        let extra = self.insn.imm;
        self.add_to_stack_pointer(extra);
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
