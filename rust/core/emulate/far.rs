// SPDX-License-Identifier: GPL-2.0

//! Far control transfers: the dispatch, and all of real and virtual-8086 mode.

mod code;
mod fast;
mod gate;
mod ret;
mod task;

pub use task::TaskSwitch;

use crate::addr::Gva;
use crate::exception::Exception;
use crate::regs::{rflags, SegReg};

use super::exec::{Exec, Flow};
use super::ops::{Access, Effect, Reply};
use super::portio;
use super::state::{Mode, TableKind, Width};
use super::table::{Loc, Op};

impl Exec<'_> {
    /// JMP far, CALL far, RET far, IRET.
    pub(super) fn far_branch(&mut self, op: Op) -> Reply<Flow> {
        if !self.mode.is_real_like() {
            self.refuse_if_enforced()?;
        }
        match (op, self.mode.is_real_like()) {
            (Op::RetFar | Op::Iret, true) => self.real_return(op).map(|()| Flow::Done),
            (_, true) => self.real_far(op).map(|()| Flow::Done),
            (Op::RetFar, false) => self.far_return().map(|()| Flow::Done),
            (Op::Iret, false) => self.interrupt_return(),
            (_, false) => self.far_jump(op == Op::CallFar),
        }
    }

    /// The target of a far JMP or CALL: offset and selector.
    pub(super) fn far_target(&mut self) -> Reply<(u64, u16)> {
        if self.insn.entry.src == Loc::Imm {
            return Ok((self.insn.imm, self.insn.imm2));
        }
        self.far_pointer(self.insn.width)
    }

    /// Far JMP and CALL in real and virtual-8086 mode.
    fn real_far(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let (offset, selector) = self.far_target()?;
        let cs = self.real_segment(SegReg::Cs, selector);
        if offset > u64::from(cs.limit) {
            return Err(Exception::GP0.into());
        }
        if op == Op::CallFar {
            let old = self.ops.segment(SegReg::Cs).selector;
            let next = self.next_rip();
            self.push(width, u64::from(old))?;
            self.push(width, next)?;
        }
        self.ops.set_segment(SegReg::Cs, &cs);
        self.rip = offset;
        Ok(())
    }

    /// Far RET and IRET in real and virtual-8086 mode.
    fn real_return(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        if op == Op::Iret && self.mode == Mode::Vm86 && self.iopl() < 3 {
            return Err(Exception::GP0.into());
        }
        let offset = self.pop(width)?;
        let selector = self.pop(width)? as u16;
        let flags = if op == Op::Iret {
            Some(self.pop(width)?)
        } else {
            self.add_to_stack_pointer(self.insn.imm);
            None
        };
        let cs = self.real_segment(SegReg::Cs, selector);
        if offset > u64::from(cs.limit) {
            return Err(Exception::GP0.into());
        }
        if let Some(flags) = flags {
            let all = rflags::CF
                | rflags::PF
                | rflags::AF
                | rflags::ZF
                | rflags::SF
                | rflags::TF
                | rflags::IF
                | rflags::DF
                | rflags::OF
                | rflags::IOPL
                | rflags::NT
                | rflags::RF
                | rflags::AC
                | rflags::ID;
            let mut change = if width == Width::B2 {
                all & 0xffff
            } else {
                all
            };
            if self.mode == Mode::Vm86 {
                change &= !rflags::IOPL;
            }
            self.rflags = (self.rflags & !change) | (flags & change);
            self.ops.effect(Effect::UnblockNmi)?;
        }
        self.ops.set_segment(SegReg::Cs, &cs);
        self.rip = offset;
        Ok(())
    }

    /// Delivers an interrupt through the real-mode vector table (SDM, "Interrupt and Exception Handling" in
    /// "8086 Emulation").
    pub(super) fn real_interrupt(&mut self, vector: u8) -> Reply {
        let table = self.ops.table(TableKind::Idt);
        let entry = u64::from(vector) << 2;
        if entry.wrapping_add(3) > u64::from(table.limit) {
            return Err(Exception::gp(u16::from(vector) << 3 | 2).into());
        }
        let at = Gva(table.base.wrapping_add(entry) & 0xffff_ffff);
        let pointer = self.read_linear(at, Width::B4, Access::SYSTEM_READ)?;
        self.enter_real_handler(pointer, self.rflags)?;
        self.rflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        Ok(())
    }

    /// Pushes a frame with these flags and goes to a handler of 8086 code, given as its far pointer.
    fn enter_real_handler(&mut self, pointer: u64, flags: u64) -> Reply {
        let cs = self.real_segment(SegReg::Cs, (pointer >> 16) as u16);
        let old = self.ops.segment(SegReg::Cs).selector;
        let next = self.next_rip();
        self.push(Width::B2, flags)?;
        self.push(Width::B2, u64::from(old))?;
        self.push(Width::B2, next)?;
        self.ops.set_segment(SegReg::Cs, &cs);
        self.rip = pointer & 0xffff;
        Ok(())
    }

    /// Whether the interrupt redirection bitmap of the TSS, which ends where the I/O bitmap begins, gives INT n to the
    /// 8086 program itself (SDM, "Software Interrupt Handling Methods While in Virtual-8086 Mode").
    pub(super) fn is_redirected(&mut self, vector: u8) -> Reply<bool> {
        let tss = self.ops.segment(SegReg::Tr);
        let (base, limit) = (tss.base, u64::from(tss.limit));
        if limit < 103 {
            return Err(Exception::GP0.into());
        }
        let map = Gva(base.wrapping_add(portio::IO_MAP_BASE));
        let map = self.read_linear(map, Width::B2, Access::SYSTEM_READ)?;
        let at = map.wrapping_sub(32).wrapping_add(u64::from(vector >> 3));
        if at > limit {
            return Err(Exception::GP0.into());
        }
        let at = Gva(base.wrapping_add(at));
        let byte = self.read_linear(at, Width::B1, Access::SYSTEM_READ)?;
        Ok(byte >> (vector & 7) & 1 == 0)
    }

    /// Delivers INT n of virtual-8086 mode to the 8086 program, with virtual interrupts below IOPL 3.
    pub(super) fn redirected_interrupt(&mut self, vector: u8) -> Reply {
        let entry = Gva(u64::from(vector) << 2);
        let pointer = self.read_linear(entry, Width::B4, Access::READ)?;
        let (image, interrupts) = if self.iopl() < 3 {
            (self.virtual_flags(), rflags::VIF)
        } else {
            (self.rflags, rflags::IF)
        };
        self.enter_real_handler(pointer, image)?;
        self.rflags &= !(interrupts | rflags::TF | rflags::RF);
        Ok(())
    }
}
