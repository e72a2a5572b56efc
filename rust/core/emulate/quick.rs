// SPDX-License-Identifier: GPL-2.0

//! The fast path of execution: MOV between a general register or immediate and flat memory in 64-bit mode, inside one
//! page. It does what the general path does with nothing to stage; whatever is out of the ordinary is left to that.

use crate::addr::Gva;
use crate::regs::{is_canonical, rflags, SegReg};

use super::insn::{Base, Insn, Rm};
use super::ops::{Access, Backing, IoReply, Stop, VcpuOps};
use super::outcome::{Completed, Outcome};
use super::state::{Mode, Regs, Width};
use super::table::{Loc, Op};
use super::work::Wanted;
use super::{Emulator, Phase};

/// The linear address of the operand, if it is flat, canonical for every paging mode, and inside a page.
#[inline(always)]
fn operand(insn: &Insn, regs: &Regs) -> Option<Gva> {
    if insn.address != Width::B8 || matches!(insn.segment, SegReg::Fs | SegReg::Gs) {
        return None;
    }
    let base = match insn.base {
        Base::Reg(r) => regs.read(r),
        Base::None => 0,
        Base::Rip => regs.rip.wrapping_add(u64::from(insn.length)),
    };
    let index = match insn.index {
        Some(r) => regs.read(r).wrapping_shl(u32::from(insn.scale)),
        None => 0,
    };
    let at = Gva(base.wrapping_add(index).wrapping_add(insn.disp));
    let inside = at.bytes_to_page_end() >= u64::from(insn.width.bytes());
    (inside && is_canonical(at.0, 48)).then_some(at)
}

impl Emulator {
    /// Executes and commits the decoded instruction if it is one of those.
    #[inline(always)]
    pub(super) fn quick(
        &mut self,
        regs: &mut Regs,
        ops: &mut dyn VcpuOps,
        mode: Mode,
    ) -> Option<Outcome> {
        let insn = &self.insn;
        let unusual = regs.rflags & (rflags::TF | rflags::RF | rflags::AC) != 0;
        if insn.entry.op != Op::Mov || mode != Mode::Long64 || insn.rm != Rm::Mem || unusual {
            return None;
        }
        let high_byte = insn.width == Width::B1 && insn.rex == 0 && insn.reg & 0xc == 4;
        match (insn.entry.dst, insn.entry.src) {
            (Loc::Rm, Loc::Imm) => self.quick_store(regs, ops, self.insn.imm),
            (Loc::Rm, Loc::Reg) if !high_byte => {
                let value = regs.read(insn.reg);
                self.quick_store(regs, ops, value)
            }
            (Loc::Reg, Loc::Rm) if !high_byte => self.quick_load(regs, ops),
            _ => None,
        }
    }

    #[inline(always)]
    fn quick_store(
        &mut self,
        regs: &mut Regs,
        ops: &mut dyn VcpuOps,
        value: u64,
    ) -> Option<Outcome> {
        let at = operand(&self.insn, regs)?;
        let raw = value.to_le_bytes();
        let data = raw.get(..self.insn.width.size())?;
        match ops.write(at, data, Access::WRITE) {
            Ok(Backing::Ram) => {}
            Ok(Backing::Mmio(gpa)) => {
                if ops.mmio_write(gpa, data) == IoReply::User && !self.work.writes.push(gpa, data) {
                    return Some(self.stopped(Stop::Unhandled, None));
                }
            }
            Err(stop) => return Some(self.stopped(stop, None)),
        }
        regs.rip = regs.rip.wrapping_add(u64::from(self.insn.length));
        Some(self.deliver(Completed::default()))
    }

    #[inline(always)]
    fn quick_load(&mut self, regs: &mut Regs, ops: &mut dyn VcpuOps) -> Option<Outcome> {
        let at = operand(&self.insn, regs)?;
        let width = self.insn.width;
        let mut raw = [0u8; 8];
        let buf = raw.get_mut(..width.size())?;
        match ops.read(at, buf, Access::READ) {
            Ok(Backing::Ram) => {}
            Ok(Backing::Mmio(gpa)) => {
                if ops.mmio_read(gpa, buf) == IoReply::User {
                    self.work.wanted = Wanted::Mmio {
                        gpa,
                        len: width.bytes(),
                    };
                    self.phase = Phase::Reading(Mode::Long64);
                    return Some(self.stopped(Stop::User, None));
                }
            }
            Err(stop) => return Some(self.stopped(stop, None)),
        }
        let r = self.insn.reg;
        let value = u64::from_le_bytes(raw);
        let merged = match width {
            Width::B1 | Width::B2 => (regs.read(r) & !width.mask()) | value,
            _ => value,
        };
        regs.write(r, merged);
        regs.rip = regs.rip.wrapping_add(u64::from(self.insn.length));
        Some(Outcome::Completed(Completed {
            gprs: 1u16.wrapping_shl(u32::from(r & 15)),
            ..Completed::default()
        }))
    }
}
