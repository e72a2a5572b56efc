// SPDX-License-Identifier: GPL-2.0

//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM volume 3, "Fast System Calls in 64-Bit Mode" and "Performing Fast Calls to
//! System Procedures with the SYSENTER and SYSEXIT Instructions").

use crate::exception::Exception;
use crate::regs::{cr0, efer, rflags, Gpr, SegReg};

use super::super::exec::Exec;
use super::super::ops::{Feature, Reply};
use super::super::state::{Cr, Mode, Segment, Width};
use super::super::table::Op;

/// IA32_SYSENTER_CS.
const SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
const SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
const SYSENTER_EIP: u32 = 0x176;
/// IA32_STAR.
const STAR: u32 = 0xc000_0081;
/// IA32_LSTAR.
const LSTAR: u32 = 0xc000_0082;
/// IA32_FMASK.
const FMASK: u32 = 0xc000_0084;

/// A flat code segment: 64-bit, or 32-bit.
const fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
    let kind = if long { 0xa09b } else { 0xc09b };
    flat(selector, kind, dpl)
}

/// A flat stack segment.
const fn flat_stack(selector: u16, dpl: u8) -> Segment {
    flat(selector, 0xc093, dpl)
}

const fn flat(selector: u16, access: u32, dpl: u8) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        access: access | (dpl as u32 & 3) << 5,
    }
}

impl Exec<'_> {
    /// All four.
    pub(in super::super) fn fast_call(&mut self, op: Op) -> Reply {
        self.refuse_if_enforced()?;
        match op {
            Op::Syscall => self.syscall(),
            Op::Sysret => self.sysret(),
            Op::Sysenter => self.sysenter(),
            _ => self.sysexit(),
        }
    }

    fn syscall(&mut self) -> Reply {
        if self.ops.efer() & efer::SCE == 0 {
            return Err(Exception::UD.into());
        }
        let star = self.ops.implied_msr(STAR)?;
        let target = self.ops.implied_msr(LSTAR)?;
        let mask = self.ops.implied_msr(FMASK)?;
        let selector = (star >> 32) as u16 & 0xfffc;
        self.set_gpr(Gpr::Rcx as u8, self.next_rip());
        self.set_gpr(Gpr::R11 as u8, self.rflags);
        self.rflags = (self.rflags & !(mask | rflags::RF)) | rflags::FIXED;
        let ss = flat_stack(selector.wrapping_add(8), 0);
        self.ops
            .set_segment(SegReg::Cs, &flat_code(selector, 0, true));
        self.ops.set_segment(SegReg::Ss, &ss);
        self.rip = target;
        Ok(())
    }

    fn sysret(&mut self) -> Reply {
        if self.ops.efer() & efer::SCE == 0 {
            return Err(Exception::UD.into());
        }
        let long = self.insn.width == Width::B8;
        let target = self.named(Gpr::Rcx, if long { Width::B8 } else { Width::B4 });
        if long && !self.canonical(target) {
            return Err(Exception::GP0.into());
        }
        let star = (self.ops.implied_msr(STAR)? >> 48) as u16;
        let cs = star.wrapping_add(if long { 16 } else { 0 }) | 3;
        let ss = star.wrapping_add(8) | 3;
        // RF, VM and the reserved bits are cleared.
        self.rflags = (self.gpr(Gpr::R11 as u8) & 0x3c_7fd7) | rflags::FIXED;
        self.ops.set_segment(SegReg::Cs, &flat_code(cs, 3, long));
        self.ops.set_segment(SegReg::Ss, &flat_stack(ss, 3));
        self.rip = target;
        Ok(())
    }

    fn sysenter(&mut self) -> Reply {
        self.need(Feature::Sysenter)?;
        if self.cr(Cr::Cr0) & cr0::PE == 0 {
            return Err(Exception::GP0.into());
        }
        let base = self.ops.implied_msr(SYSENTER_CS)? as u16 & 0xfffc;
        if base == 0 {
            return Err(Exception::GP0.into());
        }
        let target = self.ops.implied_msr(SYSENTER_EIP)?;
        let stack = self.ops.implied_msr(SYSENTER_ESP)?;
        let long = self.long_mode();
        let width = if long { Width::B8 } else { Width::B4 };
        self.rflags &= !(rflags::VM | rflags::IF);
        self.ops.set_segment(SegReg::Cs, &flat_code(base, 0, long));
        self.ops
            .set_segment(SegReg::Ss, &flat_stack(base.wrapping_add(8), 0));
        self.rip = target & width.mask();
        self.set_gpr(Gpr::Rsp as u8, stack & width.mask());
        Ok(())
    }

    fn sysexit(&mut self) -> Reply {
        self.need(Feature::Sysenter)?;
        let base = self.ops.implied_msr(SYSENTER_CS)? as u16 & 0xfffc;
        if base == 0 || self.mode == Mode::Real {
            return Err(Exception::GP0.into());
        }
        let long = self.insn.wide();
        let width = if long { Width::B8 } else { Width::B4 };
        let target = self.named(Gpr::Rdx, width);
        let stack = self.named(Gpr::Rcx, width);
        if long && !(self.canonical(target) && self.canonical(stack)) {
            return Err(Exception::GP0.into());
        }
        let cs = base.wrapping_add(if long { 32 } else { 16 }) | 3;
        let ss = base.wrapping_add(if long { 40 } else { 24 }) | 3;
        self.ops.set_segment(SegReg::Cs, &flat_code(cs, 3, long));
        self.ops.set_segment(SegReg::Ss, &flat_stack(ss, 3));
        self.rip = target;
        self.set_gpr(Gpr::Rsp as u8, stack);
        Ok(())
    }
}
