// SPDX-License-Identifier: GPL-2.0

//! Far RET and IRET in protected and long mode.
//!
//! SDM volume 2, "RET" and "IRET/IRETD/IRETQ".

use crate::exception::{Exception, Vector};
use crate::regs::{rflags, Gpr, SegReg};

use super::super::exec::{Exec, Flow};
use super::super::ops::{Access, Effect, Reply};
use super::super::segment::{is_null, selector_fault, Descriptor};
use super::super::state::{ar, Mode, Segment, Width};
use super::code::Stack;
use super::task::TaskSwitch;

/// The flags that IRET changes at any privilege, besides IOPL, IF, VM, VIF and VIP.
const RETURNED: u64 = rflags::CF
    | rflags::PF
    | rflags::AF
    | rflags::ZF
    | rflags::SF
    | rflags::TF
    | rflags::DF
    | rflags::OF
    | rflags::NT
    | rflags::RF
    | rflags::AC
    | rflags::ID;

impl Exec<'_> {
    /// Far RET.
    pub(super) fn far_return(&mut self) -> Reply {
        let width = self.insn.width;
        let cpl = self.ops.cpl();
        let release = self.insn.imm;
        let offset = self.pop(width)?;
        let selector = self.pop(width)? as u16;
        let d = self.return_segment(selector, cpl)?;
        let rpl = (selector & 3) as u8;
        self.check_target(&d, offset)?;
        self.add_to_stack_pointer(release);
        if rpl == cpl {
            return self.leave_to(d, selector, rpl, offset, None);
        }
        let pointer = self.pop(width)?;
        let ss = self.pop(width)? as u16;
        let mut stack = self.outer_stack(&d, ss, pointer, rpl, width)?;
        let mask = stack.width().mask();
        stack.pointer = (stack.pointer & !mask) | (stack.pointer.wrapping_add(release) & mask);
        self.leave_to(d, selector, rpl, offset, Some(stack))
    }

    /// The code segment that a return goes to, checked against the current level.
    fn return_segment(&mut self, selector: u16, cpl: u8) -> Reply<Descriptor> {
        let d = self.code_descriptor(selector, Vector::Gp)?;
        let rpl = (selector & 3) as u8;
        let right = if d.has(ar::DC) {
            d.dpl() <= rpl
        } else {
            d.dpl() == rpl
        };
        if rpl < cpl || !right {
            return Err(selector_fault(Vector::Gp, selector));
        }
        self.check_code(&d, selector, Vector::Gp)?;
        Ok(d)
    }

    /// The stack that a return goes to: of the level `cpl`, of code segment `d`.
    fn outer_stack(
        &mut self,
        d: &Descriptor,
        selector: u16,
        pointer: u64,
        cpl: u8,
        width: Width,
    ) -> Reply<Stack> {
        let to_64_bit = self.is_64_bit(d);
        let segment = if is_null(selector) {
            // Only 64-bit code below level 3 runs on a null SS.
            if !to_64_bit || cpl == 3 || (selector & 3) as u8 != cpl {
                return Err(Exception::GP0.into());
            }
            Segment {
                access: ar::UNUSABLE | u32::from(cpl) << 5,
                ..Segment::unusable(selector)
            }
        } else {
            self.data_segment(SegReg::Ss, selector, cpl, Vector::Gp)?
        };
        let stack = Stack {
            segment,
            pointer,
            long: to_64_bit,
        };
        if stack.width() == Width::B2 && width != Width::B2 {
            // The upper half of ESP comes along, though the stack does not use it.
            self.set_gpr(Gpr::Rsp as u8, pointer & 0xffff_ffff);
        }
        Ok(stack)
    }

    /// The end of a return: nothing can fault any more.
    fn leave_to(
        &mut self,
        mut d: Descriptor,
        selector: u16,
        cpl: u8,
        offset: u64,
        stack: Option<Stack>,
    ) -> Reply {
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        let old = self.ops.cpl();
        if let Some(stack) = stack {
            self.enter_stack(&stack);
        }
        self.enter_code(&d, selector, cpl, offset);
        if cpl > old {
            self.drop_inner_segments(cpl);
        }
        Ok(())
    }

    /// IRET.
    pub(super) fn interrupt_return(&mut self) -> Reply<Flow> {
        if self.regs.rflags & rflags::NT != 0 {
            if self.long_mode() {
                return Err(Exception::GP0.into());
            }
            return self.return_to_task();
        }
        let width = self.insn.width;
        let cpl = self.ops.cpl();
        let offset = self.pop(width)?;
        let selector = self.pop(width)? as u16;
        let flags = self.pop(width)?;
        let to_vm86 = flags & rflags::VM != 0 && cpl == 0 && width != Width::B2;
        if to_vm86 && !self.long_mode() {
            self.return_to_vm86(offset, selector, flags)?;
        } else {
            self.return_to_protected(offset, selector, flags)?;
        }
        self.ops.effect(Effect::UnblockNmi)?;
        Ok(Flow::Done)
    }

    fn return_to_protected(&mut self, offset: u64, selector: u16, flags: u64) -> Reply {
        let width = self.insn.width;
        let cpl = self.ops.cpl();
        let d = self.return_segment(selector, cpl)?;
        let rpl = (selector & 3) as u8;
        // In 64-bit mode the stack is popped whatever the level.
        let stack = if rpl != cpl || self.mode == Mode::Long64 {
            let pointer = self.pop(width)?;
            let ss = self.pop(width)? as u16;
            Some(self.outer_stack(&d, ss, pointer, rpl, width)?)
        } else {
            None
        };
        self.check_target(&d, offset)?;
        let mut change = RETURNED;
        if cpl == 0 {
            change |= rflags::IOPL | rflags::VIF | rflags::VIP;
        }
        if cpl <= self.iopl() {
            change |= rflags::IF;
        }
        if width == Width::B2 {
            change &= 0xffff;
        }
        self.leave_to(d, selector, rpl, offset, stack)?;
        self.rflags = (self.rflags & !change) | (flags & change);
        Ok(())
    }

    /// IRET at level 0 to virtual-8086 mode.
    fn return_to_vm86(&mut self, offset: u64, cs: u16, flags: u64) -> Reply {
        if offset > 0xffff {
            return Err(Exception::GP0.into());
        }
        let pointer = self.pop(Width::B4)?;
        let mut selectors = [0u16; 5];
        for s in &mut selectors {
            *s = self.pop(Width::B4)? as u16;
        }
        let segment = |selector: u16| Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            access: 0xf3,
        };
        let order = [SegReg::Ss, SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs];
        for (which, selector) in order.into_iter().zip(selectors) {
            self.ops.set_segment(which, &segment(selector));
        }
        self.ops.set_segment(SegReg::Cs, &segment(cs));
        self.set_gpr(Gpr::Rsp as u8, pointer);
        self.rip = offset;
        let all = RETURNED | rflags::IF | rflags::IOPL | rflags::VM | rflags::VIF | rflags::VIP;
        self.rflags = (self.rflags & !all) | (flags & all);
        Ok(())
    }

    /// IRET of a nested task: back to the task that the TSS links to.
    fn return_to_task(&mut self) -> Reply<Flow> {
        let tss = self.ops.segment(SegReg::Tr);
        let link = crate::addr::Gva(tss.base);
        let selector = self.read_linear(link, Width::B2, Access::SYSTEM_READ)? as u16;
        self.switch_task(selector, TaskSwitch::Return, None)
    }
}
