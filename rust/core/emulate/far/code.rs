// SPDX-License-Identifier: GPL-2.0

//! Code segments as targets, and stacks of other privilege levels.
//!
//! SDM volume 3, "Privilege Checking When Transferring Program Control Between Code Segments" and "Stack Switching".

use crate::addr::Gva;
use crate::exception::{Exception, Vector};
use crate::regs::{Gpr, SegReg};

use super::super::exec::Exec;
use super::super::memory::inside_limit;
use super::super::ops::{Access, Reply};
use super::super::segment::{is_null, selector_fault, Descriptor};
use super::super::state::{ar, Segment, Width};

/// A stack that is not (yet) the current one.
pub(super) struct Stack {
    pub(super) segment: Segment,
    pub(super) pointer: u64,
    /// The address is 64 bits wide and segmentation is off.
    pub(super) long: bool,
}

impl Stack {
    /// The width of its stack pointer.
    pub(super) fn width(&self) -> Width {
        if self.long {
            Width::B8
        } else if self.segment.has(ar::DB) {
            Width::B4
        } else {
            Width::B2
        }
    }
}

impl Exec<'_> {
    /// Pushes on a stack that is not current yet; it belongs to a supervisor.
    pub(super) fn push_on(&mut self, stack: &mut Stack, width: Width, value: u64) -> Reply {
        let mask = stack.width().mask();
        let size = u64::from(width.bytes());
        let pointer = (stack.pointer & !mask) | (stack.pointer.wrapping_sub(size) & mask);
        let offset = pointer & mask;
        let fault = Exception::ss(stack.segment.selector & 0xfffc);
        let at = if stack.long {
            if !self.canonical(offset) {
                return Err(fault.into());
            }
            Gva(offset)
        } else {
            if !inside_limit(&stack.segment, offset, size) {
                return Err(fault.into());
            }
            Gva(stack.segment.base.wrapping_add(offset) & 0xffff_ffff)
        };
        let data = value.to_le_bytes();
        let data = data.get(..width.size()).unwrap_or_default();
        self.write_bytes(at, data, Access::SYSTEM_WRITE)?;
        stack.pointer = pointer;
        Ok(())
    }

    /// Makes a stack the current one.
    pub(super) fn enter_stack(&mut self, stack: &Stack) {
        self.ops.set_segment(SegReg::Ss, &stack.segment);
        let width = stack.width();
        if width == Width::B2 {
            self.set_named(Gpr::Rsp, width, stack.pointer);
        } else {
            self.set_gpr(Gpr::Rsp as u8, stack.pointer & width.mask());
        }
    }

    /// The descriptor of a code segment that a selector names: present, of a kind that long mode accepts.
    pub(super) fn code_descriptor(&mut self, selector: u16, vector: Vector) -> Reply<Descriptor> {
        if is_null(selector) {
            return Err(selector_fault(vector, 0));
        }
        let d = self.descriptor(selector, vector)?;
        if !d.has(ar::S | ar::CODE) {
            return Err(selector_fault(vector, selector));
        }
        Ok(d)
    }

    /// #GP or #NP for what is checked of a code segment after its privilege.
    pub(super) fn check_code(&mut self, d: &Descriptor, selector: u16, vector: Vector) -> Reply {
        if self.long_mode() && d.has(ar::L | ar::DB) {
            return Err(selector_fault(vector, selector));
        }
        if !d.has(ar::P) {
            return Err(selector_fault(Vector::Np, selector));
        }
        Ok(())
    }

    /// Whether a code segment is one of 64-bit code.
    pub(super) fn is_64_bit(&mut self, d: &Descriptor) -> bool {
        d.has(ar::L) && self.long_mode()
    }

    /// #GP(0) unless `offset` can be executed in a code segment.
    pub(super) fn check_target(&mut self, d: &Descriptor, offset: u64) -> Reply {
        let good = if self.is_64_bit(d) {
            self.canonical(offset)
        } else {
            offset <= u64::from(d.limit())
        };
        if good {
            Ok(())
        } else {
            Err(Exception::GP0.into())
        }
    }

    /// Loads CS and RIP: nothing can fault any more.
    pub(super) fn enter_code(&mut self, d: &Descriptor, selector: u16, cpl: u8, offset: u64) {
        let selector = (selector & 0xfffc) | u16::from(cpl & 3);
        self.ops.set_segment(SegReg::Cs, &d.segment(selector));
        self.rip = offset;
    }

    /// The stack of an inner level, from the TSS.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Reply<Stack> {
        let tss = self.ops.segment(SegReg::Tr);
        let fault = selector_fault(Vector::Ts, tss.selector);
        let level = u64::from(cpl & 3);
        let long = self.long_mode();
        let wide = long || tss.access & ar::TYPE & 8 != 0;
        let (offset, size) = if wide {
            (level.wrapping_mul(8).wrapping_add(4), 8)
        } else {
            (level.wrapping_mul(4).wrapping_add(2), 4)
        };
        if offset.wrapping_add(size).wrapping_sub(1) > u64::from(tss.limit) {
            return Err(fault);
        }
        let at = Gva(tss.base.wrapping_add(offset));
        if long {
            let pointer = self.read_linear(at, Width::B8, Access::SYSTEM_READ)?;
            // SS becomes null with the new level as its RPL.
            let segment = Segment {
                access: ar::UNUSABLE | u32::from(cpl & 3) << 5,
                ..Segment::unusable(u16::from(cpl & 3))
            };
            return Ok(Stack {
                segment,
                pointer,
                long,
            });
        }
        let width = if wide { Width::B4 } else { Width::B2 };
        let pointer = self.read_linear(at, width, Access::SYSTEM_READ)?;
        let next = at.wrapping_add(u64::from(width.bytes()));
        let selector = self.read_linear(next, Width::B2, Access::SYSTEM_READ)? as u16;
        if is_null(selector) {
            return Err(selector_fault(Vector::Ts, 0));
        }
        let segment = self.data_segment(SegReg::Ss, selector, cpl, Vector::Ts)?;
        Ok(Stack {
            segment,
            pointer,
            long,
        })
    }

    /// Makes the data segments null that code of an outer level may not keep.
    pub(super) fn drop_inner_segments(&mut self, cpl: u8) {
        for which in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            let s = self.ops.segment(which);
            let conforming = s.has(ar::S | ar::CODE | ar::DC);
            if !s.has(ar::UNUSABLE) && !conforming && s.dpl() < cpl {
                self.ops.set_segment(which, &Segment::unusable(0));
            }
        }
    }
}
