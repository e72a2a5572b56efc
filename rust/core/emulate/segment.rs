// SPDX-License-Identifier: GPL-2.0

//! Segment registers and descriptors: loads with all their checks, and the moves that cause them.
//!
//! SDM volume 3, "Segment Descriptors", "Privilege Checking When Accessing Data Segments", "Stack Switching" for the
//! rules; volume 2, "MOV", "POP", "LDS/LES/LFS/LGS/LSS", "LLDT", "LTR".

use crate::addr::Gva;
use crate::exception::{Exception, Vector};
use crate::regs::SegReg;

use super::exec::Exec;
use super::insn::Rm;
use super::ops::{Access, Reply, Stop, Swap};
use super::outcome::Shadow;
use super::state::{ar, Mode, Segment, TableKind, Width};
use super::table::Op;

/// A descriptor with the place that it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) raw: u64,
    pub(super) at: Gva,
}

impl Descriptor {
    /// The bits that the VMCS keeps of a descriptor, without the unusable bit.
    pub(super) const fn access(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    /// Base, without the upper half of 16-byte descriptors.
    pub(super) const fn base(&self) -> u64 {
        (self.raw >> 16 & 0xff_ffff) | (self.raw >> 56 & 0xff) << 24
    }

    /// Limit in bytes.
    pub(super) const fn limit(&self) -> u32 {
        let raw = (self.raw as u32 & 0xffff) | (self.raw >> 32) as u32 & 0xf_0000;
        if self.access() & ar::G != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }

    /// Descriptor privilege level.
    pub(super) const fn dpl(&self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }

    /// Whether all the given bits of [`ar`] are set.
    pub(super) const fn has(&self, bits: u32) -> bool {
        self.access() & bits == bits
    }

    /// The segment register that a load of this descriptor gives.
    pub(super) const fn segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            access: self.access(),
        }
    }
}

/// A fault that carries a selector; RPL does not count.
pub(super) fn selector_fault(vector: Vector, selector: u16) -> Stop {
    Exception::with_code(vector, u32::from(selector & 0xfffc)).into()
}

/// Whether a selector names nothing.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

impl Exec<'_> {
    /// Reads the descriptor of a selector; `vector` if it lies outside its table.
    pub(super) fn descriptor(&mut self, selector: u16, vector: Vector) -> Reply<Descriptor> {
        let offset = u64::from(selector & 0xfff8);
        let (base, limit) = if selector & 4 != 0 {
            let ldt = self.ops.segment(SegReg::Ldtr);
            if ldt.has(ar::UNUSABLE) {
                return Err(selector_fault(vector, selector));
            }
            (ldt.base, u64::from(ldt.limit))
        } else {
            let gdt = self.ops.table(TableKind::Gdt);
            (gdt.base, u64::from(gdt.limit))
        };
        if offset.wrapping_add(7) > limit {
            return Err(selector_fault(vector, selector));
        }
        let at = Gva(base.wrapping_add(offset));
        let raw = self.read_linear(at, Width::B8, Access::SYSTEM_READ)?;
        Ok(Descriptor { raw, at })
    }

    /// Bits 63:32 of the base of a 16-byte descriptor in long mode; `vector` if the upper half is not as it must be.
    pub(super) fn descriptor_high(
        &mut self,
        d: &Descriptor,
        selector: u16,
        vector: Vector,
    ) -> Reply<u64> {
        let gdt = self.ops.table(TableKind::Gdt);
        let last = u64::from(selector & 0xfff8).wrapping_add(15);
        if selector & 4 == 0 && last > u64::from(gdt.limit) {
            return Err(selector_fault(vector, selector));
        }
        let high = self.read_linear(d.at.wrapping_add(8), Width::B8, Access::SYSTEM_READ)?;
        if high >> 40 & 0x1f != 0 {
            return Err(selector_fault(vector, selector));
        }
        Ok(high & 0xffff_ffff)
    }

    /// Sets bits of the type field in memory: accessed, or busy.
    pub(super) fn mark_descriptor(&mut self, d: &mut Descriptor, bits: u8) -> Reply {
        let old = (d.raw >> 40) as u8;
        if old & bits == bits {
            return Ok(());
        }
        let new = old | bits;
        self.change_type_byte(d.at, old, new)?;
        d.raw |= u64::from(bits) << 40;
        Ok(())
    }

    /// Replaces the byte of a descriptor that holds type, S, DPL and P.
    pub(super) fn change_type_byte(&mut self, descriptor: Gva, old: u8, new: u8) -> Reply {
        let at = descriptor.wrapping_add(5);
        match self.ops.cmpxchg(
            at,
            1,
            u128::from(old),
            u128::from(new),
            Access::SYSTEM_WRITE,
        )? {
            Swap::Done => Ok(()),
            Swap::Changed => Err(Stop::Retry),
            Swap::Mmio(_) => Err(Stop::Unhandled),
        }
    }

    /// What a selector gives in real and virtual-8086 mode.
    pub(super) fn real_segment(&mut self, which: SegReg, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        if self.mode == Mode::Vm86 {
            return Segment {
                selector,
                base,
                limit: 0xffff,
                access: 0xf3,
            };
        }
        // Limit and rights stay as they are: "unreal mode" depends on it.
        let old = self.ops.segment(which);
        let access = if old.has(ar::UNUSABLE) {
            0x93
        } else {
            old.access
        };
        Segment {
            selector,
            base,
            limit: if old.has(ar::UNUSABLE) {
                0xffff
            } else {
                old.limit
            },
            access,
        }
    }

    /// The data or stack segment that a selector gives, with all checks; nothing is loaded yet.
    pub(super) fn data_segment(
        &mut self,
        which: SegReg,
        selector: u16,
        cpl: u8,
        vector: Vector,
    ) -> Reply<Segment> {
        if self.mode.is_real_like() {
            return Ok(self.real_segment(which, selector));
        }
        let rpl = (selector & 3) as u8;
        if is_null(selector) {
            return self.null_segment(which, selector, cpl, vector);
        }
        let mut d = self.descriptor(selector, vector)?;
        let fault = selector_fault(vector, selector);
        if !d.has(ar::S) {
            return Err(fault);
        }
        let code = d.has(ar::CODE);
        if which == SegReg::Ss {
            if rpl != cpl || d.dpl() != cpl || code || !d.has(ar::RW) {
                return Err(fault);
            }
            if !d.has(ar::P) {
                return Err(selector_fault(Vector::Ss, selector));
            }
        } else {
            let conforming = code && d.has(ar::DC);
            let readable = !code || d.has(ar::RW);
            if !readable || (!conforming && d.dpl() < cpl.max(rpl)) {
                return Err(fault);
            }
            if !d.has(ar::P) {
                return Err(selector_fault(Vector::Np, selector));
            }
        }
        self.mark_descriptor(&mut d, ar::ACCESSED as u8)?;
        Ok(d.segment(selector))
    }

    fn null_segment(
        &mut self,
        which: SegReg,
        selector: u16,
        cpl: u8,
        vector: Vector,
    ) -> Reply<Segment> {
        if which != SegReg::Ss {
            return Ok(Segment::unusable(selector));
        }
        let rpl = (selector & 3) as u8;
        if self.mode != Mode::Long64 || cpl == 3 || rpl != cpl {
            return Err(selector_fault(vector, 0));
        }
        // A null SS in 64-bit mode keeps the privilege level in its hidden part.
        Ok(Segment {
            access: ar::UNUSABLE | u32::from(cpl) << 5,
            ..Segment::unusable(selector)
        })
    }

    /// The selector in a segment register.
    fn selector(&mut self, which: SegReg) -> u16 {
        self.ops.segment(which).selector
    }

    /// PUSH and POP of a segment register, MOV from and to one, LDS and its family.
    pub(super) fn segment_move(&mut self, op: Op) -> Reply {
        match op {
            Op::PushSeg => {
                let which = opcode_segment(self.insn.opcode);
                let selector = self.selector(which);
                self.push_selector(self.insn.width, selector)
            }
            Op::PopSeg => self.pop_segment(),
            Op::MovFromSeg => {
                let Some(which) = modrm_segment(self.insn.reg) else {
                    return Err(Exception::UD.into());
                };
                let selector = u64::from(self.selector(which));
                // Memory gets 16 bits whatever the operand size.
                let width = match self.insn.rm {
                    Rm::Mem => Width::B2,
                    Rm::Reg(_) => self.insn.width,
                };
                self.set_rm(width, selector)
            }
            Op::MovToSeg => {
                let which = match modrm_segment(self.insn.reg) {
                    Some(which) if which != SegReg::Cs => which,
                    _ => return Err(Exception::UD.into()),
                };
                let selector = self.rm(Width::B2)? as u16;
                self.load_data_segment(which, selector)?;
                if which == SegReg::Ss {
                    self.shadow = Shadow::MovSs;
                }
                Ok(())
            }
            _ => self.load_far_pointer(),
        }
    }

    /// Loads DS, ES, FS, GS or SS from a program.
    fn load_data_segment(&mut self, which: SegReg, selector: u16) -> Reply {
        let cpl = self.ops.cpl();
        let segment = self.data_segment(which, selector, cpl, Vector::Gp)?;
        self.ops.set_segment(which, &segment);
        Ok(())
    }

    fn pop_segment(&mut self) -> Reply {
        let which = opcode_segment(self.insn.opcode);
        let width = self.insn.width;
        let sw = self.stack_width();
        // Only the selector is read, but the whole slot is released.
        let sp = self.named(crate::regs::Gpr::Rsp, sw);
        let selector = self.load(SegReg::Ss, sp, Width::B2, Access::READ)? as u16;
        self.add_to_stack_pointer(u64::from(width.bytes()));
        self.load_data_segment(which, selector)?;
        if which == SegReg::Ss {
            self.shadow = Shadow::MovSs;
        }
        Ok(())
    }

    /// LES, LDS, LSS, LFS, LGS.
    fn load_far_pointer(&mut self) -> Reply {
        let width = self.insn.width;
        let which = match self.insn.opcode {
            0xc4 => SegReg::Es,
            0xc5 => SegReg::Ds,
            0xb2 => SegReg::Ss,
            0xb4 => SegReg::Fs,
            _ => SegReg::Gs,
        };
        let (offset, selector) = self.far_pointer(width)?;
        self.load_data_segment(which, selector)?;
        self.set_reg(self.insn.reg, width, offset);
        Ok(())
    }

    /// The far pointer in memory: offset of `width`, then the selector.
    pub(super) fn far_pointer(&mut self, width: Width) -> Reply<(u64, u16)> {
        let at = self.effective_address();
        let offset = self.load(self.insn.segment, at, width, Access::READ)?;
        let next = at.wrapping_add(u64::from(width.bytes())) & self.insn.address.mask();
        let selector = self.load(self.insn.segment, next, Width::B2, Access::READ)?;
        Ok((offset, selector as u16))
    }

    /// LLDT and LTR.
    pub(super) fn load_system_segment(&mut self, which: SegReg) -> Reply {
        let selector = self.rm(Width::B2)? as u16;
        if is_null(selector) {
            if which == SegReg::Tr {
                return Err(Exception::GP0.into());
            }
            self.ops.set_segment(which, &Segment::unusable(selector));
            return Ok(());
        }
        let fault = selector_fault(Vector::Gp, selector);
        if selector & 4 != 0 {
            return Err(fault);
        }
        let mut d = self.descriptor(selector, Vector::Gp)?;
        let kind = d.access() & (ar::TYPE | ar::S);
        let right = match which {
            SegReg::Ldtr => kind == 2,
            _ => kind == 9 || (kind == 1 && !self.long_mode()),
        };
        if !right {
            return Err(fault);
        }
        if !d.has(ar::P) {
            return Err(selector_fault(Vector::Np, selector));
        }
        let mut segment = d.segment(selector);
        if self.long_mode() {
            let high = self.descriptor_high(&d, selector, Vector::Gp)?;
            segment.base |= high << 32;
            if !self.canonical(segment.base) {
                return Err(fault);
            }
        }
        if which == SegReg::Tr {
            self.mark_descriptor(&mut d, 2)?;
            segment.access |= 2;
        }
        self.ops.set_segment(which, &segment);
        Ok(())
    }

    /// EFER.LMA: descriptors of system segments are 16 bytes long, gates too.
    pub(super) fn long_mode(&mut self) -> bool {
        self.mode == Mode::Long64 || self.ops.efer() & crate::regs::efer::LMA != 0
    }
}

/// The segment register of a PUSH or POP opcode.
fn opcode_segment(opcode: u8) -> SegReg {
    match opcode {
        0x06 | 0x07 => SegReg::Es,
        0x0e => SegReg::Cs,
        0x16 | 0x17 => SegReg::Ss,
        0x1e | 0x1f => SegReg::Ds,
        0xa0 | 0xa1 => SegReg::Fs,
        _ => SegReg::Gs,
    }
}

/// The segment register in ModRM.reg.
fn modrm_segment(reg: u8) -> Option<SegReg> {
    match reg & 7 {
        0 => Some(SegReg::Es),
        1 => Some(SegReg::Cs),
        2 => Some(SegReg::Ss),
        3 => Some(SegReg::Ds),
        4 => Some(SegReg::Fs),
        5 => Some(SegReg::Gs),
        _ => None,
    }
}
