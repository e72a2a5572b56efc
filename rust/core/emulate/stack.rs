// SPDX-License-Identifier: GPL-2.0

//! Push, pop and stack frames.

use crate::exception::Exception;
use crate::regs::{cr0, cr4, rflags, Gpr, SegReg};

use super::exec::Exec;
use super::ops::{Access, Reply};
use super::state::{ar, Cr, Mode, Width};
use super::table::{Loc, Op};

/// The flags that POPF and IRET of 32 or 64 bits change at CPL 0, besides IOPL.
const POPPED: u64 = rflags::CF
    | rflags::PF
    | rflags::AF
    | rflags::ZF
    | rflags::SF
    | rflags::TF
    | rflags::DF
    | rflags::OF
    | rflags::NT
    | rflags::AC
    | rflags::ID;

impl Exec<'_> {
    /// The width of the stack pointer.
    #[inline]
    pub(super) fn stack_width(&mut self) -> Width {
        if self.mode == Mode::Long64 {
            return Width::B8;
        }
        if self.ops.segment(SegReg::Ss).has(ar::DB) {
            Width::B4
        } else {
            Width::B2
        }
    }

    /// Pushes an integer.
    pub(super) fn push(&mut self, width: Width, value: u64) -> Reply {
        let sw = self.stack_width();
        let sp = self
            .named(Gpr::Rsp, sw)
            .wrapping_sub(u64::from(width.bytes()))
            & sw.mask();
        self.store(SegReg::Ss, sp, width, value)?;
        self.set_named(Gpr::Rsp, sw, sp);
        Ok(())
    }

    /// Pushes a selector: 32-bit pushes leave the upper half of the slot alone, as recent processors do.
    pub(super) fn push_selector(&mut self, width: Width, selector: u16) -> Reply {
        if width != Width::B4 {
            return self.push(width, u64::from(selector));
        }
        let sw = self.stack_width();
        let sp = self.named(Gpr::Rsp, sw).wrapping_sub(4) & sw.mask();
        self.store(SegReg::Ss, sp, Width::B2, u64::from(selector))?;
        self.set_named(Gpr::Rsp, sw, sp);
        Ok(())
    }

    /// Pops an integer.
    pub(super) fn pop(&mut self, width: Width) -> Reply<u64> {
        let sw = self.stack_width();
        let sp = self.named(Gpr::Rsp, sw);
        let value = self.load(SegReg::Ss, sp, width, Access::READ)?;
        let sp = sp.wrapping_add(u64::from(width.bytes())) & sw.mask();
        self.set_named(Gpr::Rsp, sw, sp);
        Ok(value)
    }

    /// Releases bytes from the stack.
    pub(super) fn add_to_stack_pointer(&mut self, bytes: u64) {
        if bytes != 0 {
            let sw = self.stack_width();
            let sp = self.named(Gpr::Rsp, sw).wrapping_add(bytes) & sw.mask();
            self.set_named(Gpr::Rsp, sw, sp);
        }
    }

    /// PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.
    pub(super) fn stack(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        match op {
            Op::Push => {
                let value = match self.insn.entry.src {
                    Loc::Imm => self.insn.imm,
                    src => self.source(src, width)?,
                };
                self.push(width, value)
            }
            Op::Pop => self.pop_operand(width),
            Op::Pusha => self.push_all(width),
            Op::Popa => self.pop_all(width),
            Op::Pushf => self.push_flags(width),
            Op::Popf => {
                self.check_vm86_flags(width)?;
                let value = self.pop(width)?;
                self.load_flags(value, width)
            }
            Op::Enter => self.enter(width),
            _ => {
                let sw = self.stack_width();
                let frame = self.named(Gpr::Rbp, sw);
                let value = self.load(SegReg::Ss, frame, width, Access::READ)?;
                let sp = frame.wrapping_add(u64::from(width.bytes())) & sw.mask();
                self.set_named(Gpr::Rsp, sw, sp);
                self.set_named(Gpr::Rbp, width, value);
                Ok(())
            }
        }
    }

    /// POP to a register or to memory whose address is computed with the stack pointer already moved.
    fn pop_operand(&mut self, width: Width) -> Reply {
        let value = self.pop(width)?;
        // Every use of RSP in the address sees the new value, which is staged.
        self.target(self.insn.entry.dst, width, value)
    }

    fn push_all(&mut self, width: Width) -> Reply {
        let sp = self.named(Gpr::Rsp, width);
        for r in 0..8u8 {
            let value = if r == Gpr::Rsp as u8 {
                sp
            } else {
                self.gpr(r) & width.mask()
            };
            self.push(width, value)?;
        }
        Ok(())
    }

    fn pop_all(&mut self, width: Width) -> Reply {
        for r in (0..8u8).rev() {
            let value = self.pop(width)?;
            if r != Gpr::Rsp as u8 {
                self.set_reg(r, width, value);
            }
        }
        Ok(())
    }

    /// Virtual-8086 mode below IOPL 3: #GP(0), unless CR4.VME virtualises IF for 16-bit operands.
    fn check_vm86_flags(&mut self, width: Width) -> Reply {
        if self.mode == Mode::Vm86
            && self.iopl() < 3
            && (width != Width::B2 || self.cr(Cr::Cr4) & cr4::VME == 0)
        {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }

    fn push_flags(&mut self, width: Width) -> Reply {
        self.check_vm86_flags(width)?;
        let flags = if self.mode == Mode::Vm86 && self.iopl() < 3 {
            self.virtual_flags()
        } else {
            self.rflags
        };
        self.push(width, flags & !(rflags::RF | rflags::VM))
    }

    /// The flags as an 8086 program with virtual interrupts sees them: VIF in the place of IF, and IOPL 3.
    pub(super) fn virtual_flags(&self) -> u64 {
        let virtual_if = if self.rflags & rflags::VIF != 0 {
            rflags::IF
        } else {
            0
        };
        (self.rflags & !rflags::IF) | virtual_if | rflags::IOPL
    }

    /// Replaces RFLAGS by a popped image, with the rules for the privilege of the code that popped it (POPF).
    fn load_flags(&mut self, value: u64, width: Width) -> Reply {
        let mode_16 = width == Width::B2;
        let limit = if mode_16 { 0xffff } else { u64::MAX };
        let mut change = POPPED & limit;
        let cpl = if self.cr(Cr::Cr0) & cr0::PE == 0 {
            0
        } else {
            self.ops.cpl()
        };
        if self.mode == Mode::Vm86 && self.iopl() < 3 {
            // Virtual interrupts (CR4.VME): IF goes to VIF.
            if value & rflags::TF != 0
                || (value & rflags::IF != 0 && self.rflags & rflags::VIP != 0)
            {
                return Err(Exception::GP0.into());
            }
            let vif = if value & rflags::IF != 0 {
                rflags::VIF
            } else {
                0
            };
            self.rflags = (self.rflags & !(change | rflags::VIF)) | (value & change) | vif;
            return Ok(());
        }
        if cpl == 0 {
            change |= rflags::IOPL;
        }
        if cpl <= self.iopl() {
            change |= rflags::IF;
        }
        self.rflags = (self.rflags & !change) | (value & change);
        Ok(())
    }

    /// ENTER.
    fn enter(&mut self, width: Width) -> Reply {
        let level = self.insn.imm2 & 31;
        let sw = self.stack_width();
        let size = u64::from(width.bytes());
        self.push(width, self.named(Gpr::Rbp, width))?;
        let frame = self.named(Gpr::Rsp, sw);
        let mut from = self.named(Gpr::Rbp, sw);
        for n in 0..level {
            let value = if n.wrapping_add(1) == level {
                frame
            } else {
                from = from.wrapping_sub(size) & sw.mask();
                self.load(SegReg::Ss, from, width, Access::READ)?
            };
            self.push(width, value)?;
        }
        self.set_named(Gpr::Rbp, width, frame);
        let sp = self.named(Gpr::Rsp, sw).wrapping_sub(self.insn.imm) & sw.mask();
        // The last word of the frame must be writable, though nothing is stored there.
        let at = self.linear(SegReg::Ss, sp, size, super::ops::AccessKind::Write)?;
        self.check_alignment(at, size)?;
        self.ops.probe(at, Access::WRITE)?;
        self.set_named(Gpr::Rsp, sw, sp);
        Ok(())
    }
}
