// SPDX-License-Identifier: GPL-2.0

//! Control and debug registers, descriptor tables and what looks into them, the interrupt flag, hints.

use crate::addr::Gva;
use crate::exception::{Exception, Vector};
use crate::regs::{cr0, cr4, dr, rflags, SegReg};

use super::exec::Exec;
use super::insn::Rm;
use super::ops::{Access, AccessKind, Effect, Feature, Reply, Stop, X87};
use super::outcome::Shadow;
use super::segment::{is_null, Descriptor};
use super::state::{ar, Cr, Mode, TableKind, TableReg, Width};
use super::table::Op;

impl Exec<'_> {
    /// All that is dispatched here.
    pub(super) fn system(&mut self, op: Op) -> Reply {
        match op {
            Op::MovFromCr | Op::MovToCr | Op::Clts | Op::Lmsw | Op::Smsw => self.control(op),
            Op::MovFromDr | Op::MovToDr => self.debug(op),
            Op::Lgdt | Op::Lidt | Op::Sgdt | Op::Sidt => self.table_register(op),
            Op::Sldt | Op::Str => self.store_system_selector(op),
            Op::Lldt => self.load_system_segment(SegReg::Ldtr),
            Op::Ltr => self.load_system_segment(SegReg::Tr),
            Op::Lar | Op::Lsl | Op::Verr | Op::Verw => self.inspect(op),
            Op::Arpl => self.arpl(),
            Op::Invlpg => self.invlpg(),
            Op::Invpcid => self.invpcid(),
            Op::Invd | Op::Wbinvd => self.ops.effect(Effect::FlushCaches),
            Op::Hlt => self.ops.effect(Effect::Halt),
            Op::Cpuid => self.cpuid(),
            Op::Rdmsr | Op::Wrmsr => self.msr(op),
            Op::Rdtsc | Op::Rdtscp | Op::Rdpmc | Op::Rdpid => self.counter(op),
            Op::Xgetbv | Op::Xsetbv => self.xcr(op),
            Op::Swapgs => self.swapgs(),
            Op::Fsgsbase => self.fsgsbase(),
            Op::Syscall | Op::Sysret | Op::Sysenter | Op::Sysexit => self.fast_call(op),
            Op::Rsm => self.ops.effect(Effect::LeaveSmm),
            Op::Vmcall => self.ops.effect(Effect::Hypercall),
            Op::Serialize => self.need(Feature::Serialize),
            _ => Err(Stop::Unhandled),
        }
    }

    /// #GP(0) for the instructions that CR4.UMIP takes from user mode.
    fn check_umip(&mut self) -> Reply {
        if self.ops.cpl() != 0 && self.cr(Cr::Cr4) & cr4::UMIP != 0 {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }

    /// MOV from and to control registers, CLTS, LMSW, SMSW.
    fn control(&mut self, op: Op) -> Reply {
        match op {
            Op::MovFromCr | Op::MovToCr => {
                let Some(which) = Cr::from_number(self.insn.reg) else {
                    return Err(Exception::UD.into());
                };
                let r = self.rm_register();
                if op == Op::MovFromCr {
                    let value = self.cr(which);
                    self.set_reg(r, self.insn.width, value);
                    return Ok(());
                }
                let value = self.reg(r, self.insn.width);
                self.ops.set_cr(which, value)
            }
            Op::Clts => {
                let value = self.cr(Cr::Cr0) & !cr0::TS;
                self.ops.set_cr(Cr::Cr0, value)
            }
            Op::Lmsw => {
                let word = self.rm(Width::B2)?;
                let old = self.cr(Cr::Cr0);
                let change = cr0::MP | cr0::EM | cr0::TS;
                // PE can be set, never cleared.
                let value = (old & !change) | (word & (change | cr0::PE));
                self.ops.set_cr(Cr::Cr0, value)
            }
            _ => {
                self.check_umip()?;
                let value = self.cr(Cr::Cr0);
                let width = match self.insn.rm {
                    Rm::Mem => Width::B2,
                    Rm::Reg(_) => self.insn.width,
                };
                self.set_rm(width, value)
            }
        }
    }

    /// MOV from and to debug registers.
    fn debug(&mut self, op: Op) -> Reply {
        let mut number = self.insn.reg;
        if number == 4 || number == 5 {
            if self.cr(Cr::Cr4) & cr4::DE != 0 {
                return Err(Exception::UD.into());
            }
            number = number.wrapping_add(2);
        }
        if self.ops.general_detect() {
            return Err(Exception::db(dr::DR6_BD).into());
        }
        let r = self.rm_register();
        if op == Op::MovFromDr {
            let value = self.ops.dr(number);
            self.set_reg(r, self.insn.width, value);
            return Ok(());
        }
        let value = self.reg(r, self.insn.width);
        if number >= 6 && value >> 32 != 0 {
            return Err(Exception::GP0.into());
        }
        self.ops.set_dr(number, value)
    }

    /// LGDT, LIDT, SGDT, SIDT: a 16-bit limit, then a base of 24, 32 or 64 bits.
    fn table_register(&mut self, op: Op) -> Reply {
        let which = match op {
            Op::Lgdt | Op::Sgdt => TableKind::Gdt,
            _ => TableKind::Idt,
        };
        let width = self.insn.width;
        let narrow =
            self.mode != Mode::Long64 && (self.mode == Mode::Prot32) == self.insn.opsize_prefix;
        let mask = if narrow { 0xff_ffff } else { width.mask() };
        let offset = self.effective_address();
        let second = offset.wrapping_add(2) & self.insn.address.mask();
        let segment = self.insn.segment;
        if op == Op::Lgdt || op == Op::Lidt {
            let limit = self.load(segment, offset, Width::B2, Access::READ)? as u16;
            let base = self.load(segment, second, width, Access::READ)? & mask;
            if self.mode == Mode::Long64 && !self.canonical(base) {
                return Err(Exception::GP0.into());
            }
            self.ops.set_table(which, TableReg { base, limit });
            return Ok(());
        }
        self.check_umip()?;
        let t = self.ops.table(which);
        self.store(segment, offset, Width::B2, u64::from(t.limit))?;
        self.store(segment, second, width, t.base & mask)
    }

    /// SLDT and STR.
    fn store_system_selector(&mut self, op: Op) -> Reply {
        self.check_umip()?;
        let which = if op == Op::Str {
            SegReg::Tr
        } else {
            SegReg::Ldtr
        };
        let selector = u64::from(self.ops.segment(which).selector);
        let width = match self.insn.rm {
            Rm::Mem => Width::B2,
            Rm::Reg(_) => self.insn.width,
        };
        self.set_rm(width, selector)
    }

    /// LAR, LSL, VERR, VERW: ZF tells whether the selector is visible; no fault comes from the descriptor.
    fn inspect(&mut self, op: Op) -> Reply {
        let selector = self.rm(Width::B2)? as u16;
        let found = match self.visible_descriptor(op, selector) {
            Ok(found) => found,
            // Outside its table: not visible.
            Err(Stop::Fault(e)) if e.vector == Vector::Gp => None,
            Err(stop) => return Err(stop),
        };
        self.rflags &= !rflags::ZF;
        if let Some(d) = found {
            self.rflags |= rflags::ZF;
            let value = match op {
                Op::Lar => d.raw >> 32 & 0x00ff_ff00,
                Op::Lsl => u64::from(d.limit()),
                _ => return Ok(()),
            };
            self.set_reg(self.insn.reg, self.insn.width, value);
        }
        Ok(())
    }

    /// The descriptor if LAR, LSL, VERR or VERW may see it.
    fn visible_descriptor(&mut self, op: Op, selector: u16) -> Reply<Option<Descriptor>> {
        if is_null(selector) {
            return Ok(None);
        }
        let d = self.descriptor(selector, Vector::Gp)?;
        let kind = d.access() & ar::TYPE;
        let code = d.has(ar::S | ar::CODE);
        let conforming = code && d.has(ar::DC);
        let rpl = (selector & 3) as u8;
        let privileged = conforming || d.dpl() >= self.ops.cpl().max(rpl);
        let long = self.long_mode();
        let right_kind = if d.has(ar::S) {
            match op {
                Op::Verr => !code || d.has(ar::RW),
                Op::Verw => !code && d.has(ar::RW),
                _ => true,
            }
        } else {
            match (op, kind) {
                (Op::Lar | Op::Lsl, 2 | 9 | 11) => true,
                (Op::Lar | Op::Lsl, 1 | 3) => !long,
                (Op::Lar, 12) => true,
                (Op::Lar, 4 | 5) => !long,
                _ => false,
            }
        };
        Ok((privileged && right_kind).then_some(d))
    }

    /// ARPL.
    fn arpl(&mut self) -> Reply {
        // Written, and checked for writing, only if it changes.
        let a = self.rm(Width::B2)?;
        let b = self.reg(self.insn.reg, Width::B2);
        if a & 3 < b & 3 {
            self.set_rm(Width::B2, (a & !3) | (b & 3))?;
            self.rflags |= rflags::ZF;
        } else {
            self.rflags &= !rflags::ZF;
        }
        Ok(())
    }

    /// INVLPG: a non-canonical address, or one outside its segment, is ignored.
    fn invlpg(&mut self) -> Reply {
        let offset = self.effective_address();
        match self.linear(self.insn.segment, offset, 1, AccessKind::Read) {
            Ok(at) => self.ops.effect(Effect::Invlpg(at)),
            Err(Stop::Fault(_)) => Ok(()),
            Err(stop) => Err(stop),
        }
    }

    /// INVPCID.
    fn invpcid(&mut self) -> Reply {
        self.need(Feature::Invpcid)?;
        let offset = self.effective_address();
        let at = self.linear(self.insn.segment, offset, 16, AccessKind::Read)?;
        let mut raw = [0u8; 16];
        self.read_bytes(at, &mut raw, Access::READ)?;
        let descriptor = u128::from_le_bytes(raw);
        let pcid = descriptor as u64;
        let address = Gva(descriptor.wrapping_shr(64) as u64);
        let kind = self.reg(self.insn.reg, self.insn.width);
        let one_pcid = kind < 2;
        let without = one_pcid && pcid != 0 && self.cr(Cr::Cr4) & cr4::PCIDE == 0;
        let bad_address = kind == 0 && !self.canonical(address.0);
        if kind > 3 || pcid >> 12 != 0 || without || bad_address {
            return Err(Exception::GP0.into());
        }
        self.ops.effect(Effect::Invpcid {
            kind,
            pcid,
            address,
        })
    }

    /// CLI and STI, with IOPL and the virtual interrupt flag of CR4.VME and CR4.PVI.
    pub(super) fn interrupt_flag(&mut self, op: Op) -> Reply {
        let set = op == Op::Sti;
        let allowed = match self.mode {
            Mode::Real => true,
            Mode::Vm86 => self.iopl() == 3,
            _ => self.ops.cpl() <= self.iopl(),
        };
        if allowed {
            if set {
                if self.rflags & rflags::IF == 0 {
                    self.shadow = Shadow::Sti;
                }
                self.rflags |= rflags::IF;
            } else {
                self.rflags &= !rflags::IF;
            }
            return Ok(());
        }
        let virtual_bit = if self.mode == Mode::Vm86 {
            cr4::VME
        } else {
            cr4::PVI
        };
        if self.ops.cpl() != 3 || self.cr(Cr::Cr4) & virtual_bit == 0 {
            return Err(Exception::GP0.into());
        }
        if set {
            if self.rflags & rflags::VIP != 0 {
                return Err(Exception::GP0.into());
            }
            self.rflags |= rflags::VIF;
        } else {
            self.rflags &= !rflags::VIF;
        }
        Ok(())
    }

    /// NOP, PAUSE, fences; FWAIT; MONITOR and MWAIT, which are NOPs as in C KVM.
    pub(super) fn idle(&mut self, op: Op) -> Reply {
        if op == Op::Fwait {
            let both = cr0::MP | cr0::TS;
            if self.cr(Cr::Cr0) & both == both {
                return Err(Exception::NM.into());
            }
            // The summary of the unmasked exceptions.
            if self.ops.x87(X87::StatusWord)? & 1 << 7 != 0 {
                return Err(Exception::MF.into());
            }
        }
        Ok(())
    }

    /// Prefetches and cache-line flushes: hints do not fault, flushes do.
    pub(super) fn touch(&mut self) -> Reply {
        if self.insn.opcode == 0x18 {
            return Ok(());
        }
        let feature = match (self.insn.modrm >> 3 & 7, self.insn.opsize_prefix) {
            (6, _) => Some(Feature::Clwb),
            (_, true) => Some(Feature::Clflushopt),
            _ => None,
        };
        if let Some(feature) = feature {
            self.need(feature)?;
        }
        let offset = self.effective_address();
        let at = self.linear(self.insn.segment, offset, 1, AccessKind::Read)?;
        self.ops.probe(at, Access::READ).map(|_| ())
    }
}
