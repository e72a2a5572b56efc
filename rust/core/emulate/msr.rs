// SPDX-License-Identifier: GPL-2.0

//! What goes by EDX:EAX or is about one register of the machine: CPUID, MSRs, counters, XCR0, the bases of FS and GS.

use crate::exception::Exception;
use crate::regs::{cr4, Gpr, SegReg};

use super::exec::Exec;
use super::ops::{Feature, Reply, Stop};
use super::state::{Cr, Width};
use super::table::Op;
use super::work::{Answer, Wanted};

impl Exec<'_> {
    /// CPUID.
    pub(super) fn cpuid(&mut self) -> Reply {
        if self.ops.cpuid_faulting() && self.ops.cpl() != 0 {
            return Err(Exception::GP0.into());
        }
        let leaf = self.gpr(Gpr::Rax as u8) as u32;
        let subleaf = self.gpr(Gpr::Rcx as u8) as u32;
        let [a, b, c, d] = self.ops.cpuid(leaf, subleaf);
        self.set_gpr(Gpr::Rax as u8, u64::from(a));
        self.set_gpr(Gpr::Rbx as u8, u64::from(b));
        self.set_gpr(Gpr::Rcx as u8, u64::from(c));
        self.set_gpr(Gpr::Rdx as u8, u64::from(d));
        Ok(())
    }

    /// Stages EDX:EAX.
    fn set_pair(&mut self, value: u64) {
        self.set_gpr(Gpr::Rax as u8, value & 0xffff_ffff);
        self.set_gpr(Gpr::Rdx as u8, value >> 32);
    }

    /// EDX:EAX.
    fn pair(&self) -> u64 {
        self.named(Gpr::Rax, Width::B4) | self.named(Gpr::Rdx, Width::B4) << 32
    }

    /// RDMSR and WRMSR.
    pub(super) fn msr(&mut self, op: Op) -> Reply {
        let index = self.gpr(Gpr::Rcx as u8) as u32;
        if op == Op::Rdmsr {
            let value = match self.work.answer {
                Answer::ReadMsr(i, value) if i == index => value,
                _ => match self.ops.read_msr(index) {
                    Err(Stop::User) => {
                        self.work.wanted = Wanted::ReadMsr(index);
                        return Err(Stop::User);
                    }
                    other => other?,
                },
            };
            self.set_pair(value);
            return Ok(());
        }
        if self.work.answer == Answer::WriteMsr(index) {
            return Ok(());
        }
        let value = self.pair();
        match self.ops.write_msr(index, value) {
            Err(Stop::User) => {
                self.work.wanted = Wanted::WriteMsr(index, value);
                Err(Stop::User)
            }
            other => other,
        }
    }

    /// RDTSC, RDTSCP, RDPMC, RDPID.
    pub(super) fn counter(&mut self, op: Op) -> Reply {
        /// IA32_TSC_AUX.
        const TSC_AUX: u32 = 0xc000_0103;
        let user = self.ops.cpl() != 0;
        match op {
            Op::Rdpid => {
                self.need(Feature::Rdpid)?;
                let value = self.ops.implied_msr(TSC_AUX)?;
                let r = self.rm_register();
                self.set_gpr(r, value & 0xffff_ffff);
                return Ok(());
            }
            Op::Rdpmc => {
                if user && self.cr(Cr::Cr4) & cr4::PCE == 0 {
                    return Err(Exception::GP0.into());
                }
                let index = self.gpr(Gpr::Rcx as u8) as u32;
                let value = self.ops.read_pmc(index)?;
                self.set_pair(value);
                return Ok(());
            }
            Op::Rdtscp => self.need(Feature::Rdtscp)?,
            _ => {}
        }
        if user && self.cr(Cr::Cr4) & cr4::TSD != 0 {
            return Err(Exception::GP0.into());
        }
        if op == Op::Rdtscp {
            let aux = self.ops.implied_msr(TSC_AUX)?;
            self.set_gpr(Gpr::Rcx as u8, aux & 0xffff_ffff);
        }
        let value = self.ops.tsc();
        self.set_pair(value);
        Ok(())
    }

    /// XGETBV and XSETBV.
    pub(super) fn xcr(&mut self, op: Op) -> Reply {
        if self.cr(Cr::Cr4) & cr4::OSXSAVE == 0 {
            return Err(Exception::UD.into());
        }
        let index = self.gpr(Gpr::Rcx as u8) as u32;
        if op == Op::Xsetbv {
            let value = self.pair();
            return self.ops.set_xcr(index, value);
        }
        if index != 0 {
            return Err(Exception::GP0.into());
        }
        let value = self.ops.xcr0();
        self.set_pair(value);
        Ok(())
    }

    /// SWAPGS.
    pub(super) fn swapgs(&mut self) -> Reply {
        /// IA32_KERNEL_GS_BASE.
        const KERNEL_GS_BASE: u32 = 0xc000_0102;
        let kernel = self.ops.implied_msr(KERNEL_GS_BASE)?;
        let mut gs = self.ops.segment(SegReg::Gs);
        self.ops.set_implied_msr(KERNEL_GS_BASE, gs.base)?;
        gs.base = kernel;
        self.ops.set_segment(SegReg::Gs, &gs);
        Ok(())
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    pub(super) fn fsgsbase(&mut self) -> Reply {
        self.need(Feature::Fsgsbase)?;
        if self.cr(Cr::Cr4) & cr4::FSGSBASE == 0 {
            return Err(Exception::UD.into());
        }
        let which = if self.insn.reg & 1 == 0 {
            SegReg::Fs
        } else {
            SegReg::Gs
        };
        let width = self.insn.width;
        let r = self.rm_register();
        let mut segment = self.ops.segment(which);
        if self.insn.reg & 2 == 0 {
            self.set_reg(r, width, segment.base);
            return Ok(());
        }
        segment.base = self.reg(r, width);
        if !self.canonical(segment.base) {
            return Err(Exception::GP0.into());
        }
        self.ops.set_segment(which, &segment);
        Ok(())
    }
}
