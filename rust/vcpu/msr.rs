// SPDX-License-Identifier: GPL-2.0

//! MSRs: from a number to whoever answers for it. The rules are in `rkvm_core::msr`.

use rkvm_core::{
    cpuid::features,
    msr::{
        self as core_msr,
        bitmap::{
            self,
            Direction, //
        },
        list,
        number::*,
        rules,
        store::{
            Context,
            Effect, //
        },
        Handler,
        MsrError,
        Origin, //
    },
    regs::{
        cr0,
        efer, //
    },
    vmx::{
        fields::*,
        Vmcs, //
    },
};

use super::{
    requests::Request,
    Running, //
};
use crate::{
    host::host,
    sys::{
        msr as host_msr,
        params,
        vmx::UserReturnMsr, //
    },
};

impl Running<'_> {
    /// Circumstances of an access by `origin`.
    #[inline]
    pub(crate) fn msr_context(&self, origin: Origin) -> Context<'_> {
        Context {
            origin,
            caps: &self.arch.caps,
            platform_info_readable: self.vm.caps.platform_info_readable(),
            misc_enable_no_mwait: self.vm.caps.misc_enable_no_mwait(),
            has_run: self.arch.has_run,
        }
    }

    /// Reads an MSR for the guest or for user space.
    pub(crate) fn get_msr(&mut self, msr: u32, origin: Origin) -> Result<u64, MsrError> {
        self.check_filter(msr, Direction::Read, origin)?;
        self.get_known_msr(msr, origin)
            .or_else(|e| self.unsupported(e, msr, origin, None))
    }

    /// The guest reaches only what user space's filter lets through.
    fn check_filter(&self, msr: u32, direction: Direction, origin: Origin) -> Result<(), MsrError> {
        match &self.arch.msr_filter {
            Some(filter) if origin == Origin::Guest && !filter.allows(msr, direction) => {
                Err(MsrError::Filtered)
            }
            _ => Ok(()),
        }
    }

    /// [`super::requests::Request::RecalcIntercepts`]: the filter has changed.
    pub(crate) fn recalculate_intercepts(&mut self) {
        self.arch.msr_filter = self.vm.msr_filter();
        self.update_msr_bitmap();
    }

    /// As [`Self::get_msr`], past the filter.
    pub(super) fn get_known_msr(&mut self, msr: u32, origin: Origin) -> Result<u64, MsrError> {
        Ok(match core_msr::handler(msr) {
            Handler::Store if msr == SPEC_CTRL => {
                self.arch.msrs.get(msr, &self.msr_context(origin))?;
                self.hw.spec_ctrl()
            }
            Handler::Store => self.arch.msrs.get(msr, &self.msr_context(origin))?,
            Handler::FsBase => self.hw.read(GUEST_FS_BASE),
            Handler::GsBase => self.hw.read(GUEST_GS_BASE),
            Handler::KernelGsBase => self.hw.kernel_gs_base(),
            Handler::SysenterCs => self.hw.read(GUEST_SYSENTER_CS).into(),
            Handler::SysenterEsp => self.hw.read(GUEST_SYSENTER_ESP),
            Handler::SysenterEip => self.hw.read(GUEST_SYSENTER_EIP),
            Handler::Debugctl => self.hw.read(GUEST_IA32_DEBUGCTL),
            Handler::Efer => self.arch.efer,
            Handler::PredCmd | Handler::FlushCmd | Handler::Unknown => {
                return Err(MsrError::Unsupported)
            }
            other => return self.get_platform_msr(other, origin),
        })
    }

    /// Writes an MSR for the guest or for user space.
    pub(crate) fn set_msr(&mut self, msr: u32, value: u64, origin: Origin) -> Result<(), MsrError> {
        self.check_filter(msr, Direction::Write, origin)?;
        self.set_known_msr(msr, value, origin)
            .or_else(|e| self.unsupported(e, msr, origin, Some(value)).map(|_| ()))
    }

    /// As [`Self::set_msr`], past the filter.
    pub(super) fn set_known_msr(
        &mut self,
        msr: u32,
        value: u64,
        origin: Origin,
    ) -> Result<(), MsrError> {
        match core_msr::handler(msr) {
            Handler::Store => {
                let context = Context {
                    origin,
                    caps: &self.arch.caps,
                    platform_info_readable: self.vm.caps.platform_info_readable(),
                    misc_enable_no_mwait: self.vm.caps.misc_enable_no_mwait(),
                    has_run: self.arch.has_run,
                };
                let effect = self.arch.msrs.set(msr, value, &context)?;
                self.apply(effect, msr);
            }
            Handler::FsBase => self.hw.write(GUEST_FS_BASE, self.linear(value)?),
            Handler::GsBase => self.hw.write(GUEST_GS_BASE, self.linear(value)?),
            Handler::KernelGsBase => self.hw.set_kernel_gs_base(self.linear(value)?),
            Handler::SysenterCs => self.hw.write(GUEST_SYSENTER_CS, value as u32),
            Handler::SysenterEsp => {
                let address = rules::sysenter_address(value, &self.arch.caps, origin)?;
                self.hw.write(GUEST_SYSENTER_ESP, address);
            }
            Handler::SysenterEip => {
                let address = rules::sysenter_address(value, &self.arch.caps, origin)?;
                self.hw.write(GUEST_SYSENTER_EIP, address);
            }
            Handler::Debugctl => {
                let value = rules::debugctl(value, &self.arch.caps, origin)?;
                self.hw.write(GUEST_IA32_DEBUGCTL, value);
            }
            Handler::Efer => match origin {
                Origin::Guest => self.guest_sets_efer(value).map_err(|_| MsrError::Invalid)?,
                Origin::User => self.user_sets_efer(value)?,
            },
            Handler::PredCmd => {
                let (feature, caps) = (features::SPEC_CTRL, &self.arch.caps);
                if rules::command(value, rules::PRED_CMD_IBPB, feature, caps, origin)? {
                    host_msr::indirect_branch_barrier();
                }
            }
            Handler::FlushCmd => {
                let (feature, caps) = (features::FLUSH_L1D, &self.arch.caps);
                if rules::command(value, rules::FLUSH_CMD_L1D, feature, caps, origin)? {
                    host_msr::flush_l1d();
                }
            }
            Handler::Unknown => return Err(MsrError::Unsupported),
            other => return self.set_platform_msr(other, value, origin),
        }
        Ok(())
    }

    fn linear(&self, value: u64) -> Result<u64, MsrError> {
        rules::linear_address(value, &self.arch.caps)
    }

    /// What a stored MSR needs besides being stored.
    fn apply(&mut self, effect: Effect, msr: u32) {
        match effect {
            Effect::None => {}
            Effect::WritePat => self.hw.write(GUEST_IA32_PAT, self.arch.msrs.pat),
            Effect::UpdateCpuid => {
                self.update_xstate();
                self.update_dynamic_cpuid();
            }
            Effect::Load => self.load_msr(msr),
        }
    }

    /// The registers that live in the processor while the vCPU is loaded get what is stored, which the processor takes.
    fn load_msr(&mut self, msr: u32) {
        let msrs = &self.arch.msrs;
        let (which, value) = match msr {
            STAR => (UserReturnMsr::Star, msrs.star),
            LSTAR => (UserReturnMsr::Lstar, msrs.lstar),
            SYSCALL_MASK => (UserReturnMsr::Fmask, msrs.syscall_mask),
            TSC_AUX => (UserReturnMsr::TscAux, msrs.tsc_aux),
            SPEC_CTRL => return self.load_spec_ctrl(),
            XSS => return self.update_xstate(),
            _ => return,
        };
        self.hw.set_user_return_msr(which, value);
    }

    /// From the first use on the guest has the register to itself: entry and exit switch it. A 0 is no use: firmware and
    /// user space write that to have it off.
    fn load_spec_ctrl(&mut self) {
        let value = self.arch.msrs.spec_ctrl;
        let first = value != 0 && !self.arch.spec_ctrl_used;
        self.arch.spec_ctrl_used |= first;
        self.hw.set_spec_ctrl(value, self.arch.spec_ctrl_used);
        if first {
            self.update_msr_bitmap();
        }
    }

    /// KVM_SET_MSRS of EFER, which may come before CPUID and before CR0.
    fn user_sets_efer(&mut self, value: u64) -> Result<(), MsrError> {
        let paging = self.arch.cr0 & cr0::PG != 0;
        let old = self.arch.efer;
        let new = rules::efer_write(old, value, paging, &self.arch.caps, Origin::User)?;
        if (old ^ new) & efer::NX != 0 {
            self.vcpu.requests.set_own(Request::TlbFlush);
        }
        self.set_efer(new);
        Ok(())
    }

    /// Unknown MSRs: what the lists named reads as zero to user space; `ignore_msrs` decides for the rest.
    fn unsupported(
        &self,
        error: MsrError,
        msr: u32,
        origin: Origin,
        value: Option<u64>,
    ) -> Result<u64, MsrError> {
        if error != MsrError::Unsupported {
            return Err(error);
        }
        let advertised = list::advertised(msr, host().implemented, false);
        let ignore = params::ignore_msrs();
        if ignore && params::report_ignored_msrs() && !advertised {
            kernel::pr_info_once!("ignored an access to MSR {:#x}\n", msr);
        }
        core_msr::unsupported(origin, value, advertised, ignore)
    }

    /// Computes the bitmap of MSRs that the guest reaches without an exit.
    pub(crate) fn update_msr_bitmap(&mut self) {
        let shape = bitmap::Shape {
            x2apic: self.has_x2apic_shadow(),
            apicv: false,
            spec_ctrl_used: self.arch.spec_ctrl_used,
        };
        let page = &self.arch.msr_bitmap;
        page.fill(0xff);
        let filter = self.arch.msr_filter.as_deref();
        bitmap::passed_through(&self.arch.caps, &shape, |msr, direction: Direction| {
            if filter.is_some_and(|f| !f.allows(msr, direction)) {
                return;
            }
            if let Some(bit) = bitmap::bit(msr, direction) {
                if let Some(word) = page.word(bit.word) {
                    word.fetch_and(!bit.mask, core::sync::atomic::Ordering::Relaxed);
                }
            }
        });
    }

    /// MSRs after reset. INIT keeps them, but for the guest's control of speculation.
    pub(crate) fn reset_msrs(&mut self, init: bool) {
        self.arch.msrs.spec_ctrl = 0;
        self.hw.set_spec_ctrl(0, self.arch.spec_ctrl_used);
        if init {
            return;
        }
        self.hw.write(GUEST_SYSENTER_CS, 0);
        self.hw.write(GUEST_SYSENTER_ESP, 0);
        self.hw.write(GUEST_SYSENTER_EIP, 0);
        self.hw.write(GUEST_IA32_DEBUGCTL, 0);
        self.hw.write(GUEST_IA32_PAT, self.arch.msrs.pat);
        self.update_msr_bitmap();
    }
}
