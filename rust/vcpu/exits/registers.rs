// SPDX-License-Identifier: GPL-2.0

//! Exits for control registers and XCR0 (SDM, "Exit Qualification for Control-Register Accesses", "XSETBV").

use kernel::prelude::*;
use rkvm_core::{
    cpuid::xstate,
    exception::Exception,
    regs::{
        cr0,
        cr4,
        Gpr, //
    },
    vmx::{
        exit::qualification::CrAccess,
        fields::*,
        Vmcs, //
    },
};

use crate::{
    host::host,
    sys::vmx::Loaded,
    vcpu::{
        run::Flow,
        run_page::UserExit,
        Running, //
    },
};

/// The general-purpose register with this number, RSP included.
#[inline]
pub(crate) fn gpr(hw: &Loaded<'_>, n: u8) -> u64 {
    if n == Gpr::Rsp as u8 {
        hw.read(GUEST_RSP)
    } else {
        hw.gpr(n.into())
    }
}

/// Sets it.
#[inline]
pub(crate) fn set_gpr(hw: &Loaded<'_>, n: u8, value: u64) {
    if n == Gpr::Rsp as u8 {
        hw.write(GUEST_RSP, value);
    } else {
        hw.set_gpr(n.into(), value);
    }
}

impl Running<'_> {
    /// A general-purpose register, RSP included.
    #[inline]
    pub(crate) fn gpr(&self, r: Gpr) -> u64 {
        gpr(&self.hw, r as u8)
    }

    /// Sets a general-purpose register, RSP included.
    #[inline]
    pub(crate) fn set_gpr(&mut self, r: Gpr, value: u64) {
        set_gpr(&self.hw, r as u8, value);
    }

    /// A register operand: 64 bits in 64-bit code, else 32.
    fn operand(&self, r: Gpr) -> u64 {
        let value = self.gpr(r);
        if self.in_64bit_code() {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    pub(super) fn exit_cr_access(&mut self) -> Result<Flow> {
        let result = match CrAccess::decode(self.hw.read(EXIT_QUALIFICATION)) {
            CrAccess::MovTo { cr, gpr } => {
                let value = self.operand(gpr);
                match cr {
                    0 => self.guest_sets_cr0(value),
                    3 => self.guest_sets_cr3(value),
                    4 => self.guest_sets_cr4(value),
                    8 => return self.mov_to_cr8(value),
                    _ => Err(Exception::UD),
                }
            }
            CrAccess::MovFrom { cr, gpr } => {
                let value = match cr {
                    3 => self.cr3(),
                    8 => self.cr8(),
                    _ => return self.inject_or_resume(Err(Exception::UD)),
                };
                self.set_gpr(gpr, value);
                Ok(())
            }
            CrAccess::Clts => {
                let value = self.read_cr0() & !cr0::TS;
                self.set_cr0(value);
                Ok(())
            }
            CrAccess::Lmsw(value) => {
                // LMSW can set PE, not clear it.
                let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
                let old = self.read_cr0();
                let new = (old & !(low & !cr0::PE)) | (u64::from(value) & low);
                self.guest_sets_cr0(new)
            }
        };
        self.retire(result)
    }

    /// The instruction is done, or faults.
    pub(crate) fn retire(&mut self, result: Result<(), Exception>) -> Result<Flow> {
        match result {
            Ok(()) => self.skip_instruction(),
            Err(e) => self.queue_exception(e),
        }
        Ok(Flow::Resume)
    }

    /// MOV to CR8: without an APIC in the kernel, user space hears when the priority falls.
    fn mov_to_cr8(&mut self, value: u64) -> Result<Flow> {
        let old = self.cr8();
        if let Err(e) = self.set_cr8(value) {
            return self.inject_or_resume(Err(e));
        }
        self.skip_instruction();
        if self.has_kernel_apic() || old <= value {
            return Ok(Flow::Resume);
        }
        self.vcpu.run.set_reason(UserExit::SetTpr);
        Ok(Flow::ToUser)
    }

    pub(super) fn exit_xsetbv(&mut self) -> Result<Flow> {
        let value = (self.hw.gpr(2) << 32) | (self.hw.gpr(0) & 0xffff_ffff);
        let index = self.hw.gpr(1) as u32;
        let result = if self.cpl() != 0 || index != 0 || !self.xcr0_valid(value) {
            Err(Exception::GP0)
        } else {
            self.set_xcr0(value);
            Ok(())
        };
        self.retire(result)
    }

    /// Whether XSETBV takes this value for XCR0 (SDM, "XSETBV").
    pub(crate) fn xcr0_valid(&self, value: u64) -> bool {
        // x87 state is there whatever CPUID says.
        xstate::xcr0_valid(value, self.arch.caps.xcr0_allowed | xstate::FP)
    }

    /// Sets XCR0, and what CPUID says about it.
    pub(crate) fn set_xcr0(&mut self, value: u64) {
        self.arch.xcr0 = value;
        self.update_xstate();
        self.update_dynamic_cpuid();
    }

    /// XCR0 and XSS for the next entry: the guest's once it uses XSAVE.
    pub(crate) fn update_xstate(&mut self) {
        let mut x = host().xstate;
        let uses = self.arch.cr4 & cr4::OSXSAVE != 0;
        if uses {
            x.xcr0 = self.arch.xcr0;
        }
        if uses && host().vmcs.features.xsaves {
            x.xss = self.arch.msrs.xss;
        }
        x.switch_pkru = host().implemented.pku
            && (self.arch.cr4 & cr4::PKE != 0 || (uses && self.arch.xcr0 & xstate::PKRU != 0));
        self.arch.xstate = x.if_different();
    }
}
