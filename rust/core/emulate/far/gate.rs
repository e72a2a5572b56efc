// SPDX-License-Identifier: GPL-2.0

//! Far JMP and CALL in protected and long mode: code segments, call gates, task gates, TSSs.
//!
//! SDM volume 2, "JMP" and "CALL"; volume 3, "Call Gates".

use crate::exception::{Exception, Vector};
use crate::regs::{Gpr, SegReg};

use super::super::exec::{Exec, Flow};
use super::super::ops::{Access, Reply};
use super::super::segment::{is_null, selector_fault, Descriptor};
use super::super::state::{ar, Width};
use super::task::TaskSwitch;

/// Types of system descriptors (SDM, "System Descriptor Types").
mod kind {
    pub(super) const TSS_16: u32 = 1;
    pub(super) const CALL_GATE_16: u32 = 4;
    pub(super) const TASK_GATE: u32 = 5;
    pub(super) const TSS_32: u32 = 9;
    pub(super) const CALL_GATE_32: u32 = 12;
}

/// A call gate.
struct Gate {
    selector: u16,
    offset: u64,
    /// Words or double words that are copied to an inner stack.
    parameters: u8,
    width: Width,
}

impl Exec<'_> {
    /// Far JMP or CALL.
    pub(super) fn far_jump(&mut self, call: bool) -> Reply<Flow> {
        let (offset, selector) = self.far_target()?;
        if is_null(selector) {
            return Err(Exception::GP0.into());
        }
        let d = self.descriptor(selector, Vector::Gp)?;
        let cpl = self.ops.cpl();
        let rpl = (selector & 3) as u8;
        if d.has(ar::S) {
            return self
                .direct_jump(d, selector, offset, call)
                .map(|()| Flow::Done);
        }
        let fault = selector_fault(Vector::Gp, selector);
        let long = self.long_mode();
        let type_ = d.access() & ar::TYPE;
        let right = match type_ {
            kind::CALL_GATE_32 => true,
            kind::CALL_GATE_16 | kind::TASK_GATE | kind::TSS_16 | kind::TSS_32 => !long,
            _ => false,
        };
        if !right || d.dpl() < cpl.max(rpl) {
            return Err(fault);
        }
        let reason = if call {
            TaskSwitch::Call
        } else {
            TaskSwitch::Jump
        };
        match type_ {
            kind::TSS_16 | kind::TSS_32 => self.switch_task(selector, reason, None),
            kind::TASK_GATE => {
                if !d.has(ar::P) {
                    return Err(selector_fault(Vector::Np, selector));
                }
                self.switch_task((d.raw >> 16) as u16, reason, None)
            }
            _ => {
                if !d.has(ar::P) {
                    return Err(selector_fault(Vector::Np, selector));
                }
                let gate = self.call_gate(&d, selector)?;
                self.through_gate(&gate, cpl, call).map(|()| Flow::Done)
            }
        }
    }

    /// A far JMP or CALL to a code segment: the privilege level stays.
    fn direct_jump(&mut self, mut d: Descriptor, selector: u16, offset: u64, call: bool) -> Reply {
        let cpl = self.ops.cpl();
        let rpl = (selector & 3) as u8;
        let right = if d.has(ar::DC) {
            d.dpl() <= cpl
        } else {
            rpl <= cpl && d.dpl() == cpl
        };
        if !d.has(ar::CODE) || !right {
            return Err(selector_fault(Vector::Gp, selector));
        }
        self.check_code(&d, selector, Vector::Gp)?;
        let offset = if self.is_64_bit(&d) {
            offset
        } else {
            offset & 0xffff_ffff
        };
        if call {
            let width = self.insn.width;
            let old = self.ops.segment(SegReg::Cs).selector;
            let next = self.next_rip();
            self.push(width, u64::from(old))?;
            self.push(width, next)?;
        }
        self.check_target(&d, offset)?;
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        self.enter_code(&d, selector, cpl, offset);
        Ok(())
    }

    /// Reads a call gate; in long mode it has 16 bytes.
    fn call_gate(&mut self, d: &Descriptor, selector: u16) -> Reply<Gate> {
        let mut offset = (d.raw & 0xffff) | (d.raw >> 48) << 16;
        let long = self.long_mode();
        if long {
            offset |= self.descriptor_high(d, selector, Vector::Gp)? << 32;
        }
        let narrow = d.access() & ar::TYPE == kind::CALL_GATE_16;
        Ok(Gate {
            selector: (d.raw >> 16) as u16,
            offset: if narrow { offset & 0xffff } else { offset },
            parameters: if long { 0 } else { (d.raw >> 32 & 31) as u8 },
            width: match (long, narrow) {
                (true, _) => Width::B8,
                (false, true) => Width::B2,
                (false, false) => Width::B4,
            },
        })
    }

    /// JMP or CALL through a call gate.
    fn through_gate(&mut self, gate: &Gate, cpl: u8, call: bool) -> Reply {
        let mut d = self.code_descriptor(gate.selector, Vector::Gp)?;
        let fault = selector_fault(Vector::Gp, gate.selector);
        if d.dpl() > cpl || (self.long_mode() && !d.has(ar::L)) {
            return Err(fault);
        }
        let conforming = d.has(ar::DC);
        if !call && !conforming && d.dpl() != cpl {
            return Err(fault);
        }
        self.check_code(&d, gate.selector, Vector::Gp)?;
        if call && !conforming && d.dpl() < cpl {
            return self.call_inner_level(gate, d);
        }
        if call {
            let old = self.ops.segment(SegReg::Cs).selector;
            let next = self.next_rip();
            self.push(gate.width, u64::from(old))?;
            self.push(gate.width, next)?;
        }
        self.check_target(&d, gate.offset)?;
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        self.enter_code(&d, gate.selector, cpl, gate.offset);
        Ok(())
    }

    /// A CALL that raises the privilege: a new stack with the old one's address, parameters and the return address.
    fn call_inner_level(&mut self, gate: &Gate, mut d: Descriptor) -> Reply {
        let cpl = d.dpl();
        let width = gate.width;
        let mut stack = self.inner_stack(cpl)?;
        let old_ss = self.ops.segment(SegReg::Ss).selector;
        let old_cs = self.ops.segment(SegReg::Cs).selector;
        let sw = self.stack_width();
        let old_sp = self.named(Gpr::Rsp, sw);
        self.push_on(&mut stack, width, u64::from(old_ss))?;
        self.push_on(&mut stack, width, self.gpr(Gpr::Rsp as u8))?;
        let size = u64::from(width.bytes());
        for n in (0..u64::from(gate.parameters)).rev() {
            let at = old_sp.wrapping_add(n.wrapping_mul(size)) & sw.mask();
            let value = self.load(SegReg::Ss, at, width, Access::READ)?;
            self.push_on(&mut stack, width, value)?;
        }
        self.push_on(&mut stack, width, u64::from(old_cs))?;
        self.push_on(&mut stack, width, self.next_rip())?;
        self.check_target(&d, gate.offset)?;
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        self.enter_stack(&stack);
        self.enter_code(&d, gate.selector, cpl, gate.offset);
        Ok(())
    }
}
