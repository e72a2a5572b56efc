// SPDX-License-Identifier: GPL-2.0

//! MSRs that are storage with rules.
//!
//! Some of them also have to reach the processor: the [`Effect`] of a write says what the glue does next.

use super::constant::{constant, write_ignored};
use super::list::is_fixed_by_run;
use super::mce::{Mce, MCG_LMCE_P};
use super::mtrr::Mtrrs;
use super::number::*;
use super::{rules, MsrError, Origin};
use crate::cpuid::features;
use crate::cpuid::guest::GuestCaps;
use crate::cpuid::kvm_feature;

/// What a write needs besides being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The register lives in the processor while the vCPU is loaded: load it before the next entry.
    Load,
    /// GUEST_IA32_PAT has to be written.
    WritePat,
    /// CPUID bits follow from it: [`crate::cpuid::guest::update_runtime`].
    UpdateCpuid,
}

/// Circumstances of an access.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Who makes it.
    pub origin: Origin,
    /// What the guest has.
    pub caps: &'a GuestCaps,
    /// KVM_CAP_MSR_PLATFORM_INFO lets the guest read PLATFORM_INFO.
    pub platform_info_readable: bool,
    /// KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT is on: CPUID does not follow MISC_ENABLE.
    pub misc_enable_no_mwait: bool,
    /// The vCPU has run: what it is does not change any more (KVM_SET_MSRS).
    pub has_run: bool,
}

/// IA32_MISC_ENABLE: PEBS and BTS are unavailable.
const MISC_ENABLE_RESET: u64 = 1 << 12 | 1 << 11;
const MISC_ENABLE_EMON: u64 = 1 << 7;
const MISC_ENABLE_MWAIT: u64 = 1 << 18;
/// MSR_PLATFORM_INFO bit 31, MISC_FEATURES_ENABLES bit 0: CPUID faulting.
const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;
const CPUID_FAULT: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: until reset the guest can't write it again.
const FEAT_CTL_LOCKED: u64 = 1 << 0;
/// Local machine checks are delivered.
const FEAT_CTL_LMCE_ON: u64 = 1 << 20;
/// What user space may restore: also VMX in and outside SMX, SGX launch control, SGX.
const FEAT_CTL_SUPPORTED: u64 =
    FEAT_CTL_LOCKED | 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | FEAT_CTL_LMCE_ON;
/// HWCR: McStatusWrEn and TscFreqSel. Linux asks AMD processors for the latter.
const HWCR_KEPT: u64 = 1 << 18 | 1 << 24;
/// HWCR: switches of caches that a guest does not have. Writing them does nothing.
const HWCR_DROPPED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
/// The PAT after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// The stored MSRs of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub struct GuestMsrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub syscall_mask: u64,
    pub tsc_aux: u64,
    pub spec_ctrl: u64,
    pub pat: u64,
    pub xss: u64,
    pub umwait_control: u64,
    pub misc_enable: u64,
    pub misc_features_enables: u64,
    pub platform_info: u64,
    pub arch_capabilities: u64,
    pub ucode_rev: u64,
    pub power_ctl: u64,
    pub smbase: u64,
    pub smi_count: u64,
    pub feat_ctl: u64,
    pub poll_control: u64,
    pub hwcr: u64,
    pub mtrrs: Mtrrs,
    pub mce: Mce,
}

impl GuestMsrs {
    /// The state of a new vCPU; `arch_capabilities` as [`rules::arch_capabilities`] offers it.
    pub fn new(arch_capabilities: u64) -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            syscall_mask: 0,
            tsc_aux: 0,
            spec_ctrl: 0,
            pat: PAT_RESET,
            xss: 0,
            umwait_control: 0,
            misc_enable: MISC_ENABLE_RESET,
            misc_features_enables: 0,
            platform_info: PLATFORM_INFO_CPUID_FAULT,
            arch_capabilities,
            // What Linux takes for "microcode new enough".
            ucode_rev: 0x1_0000_0000,
            power_ctl: 0,
            smbase: 0x3_0000,
            smi_count: 0,
            feat_ctl: 0,
            poll_control: 1,
            hwcr: 0,
            mtrrs: Mtrrs::default(),
            mce: Mce::default(),
        }
    }

    /// CPUID in user mode faults (MISC_FEATURES_ENABLES).
    #[inline]
    pub const fn cpuid_faults(&self) -> bool {
        self.misc_features_enables & CPUID_FAULT != 0
    }

    /// IA32_MISC_ENABLE lets CPUID show MONITOR.
    #[inline]
    pub const fn mwait_enabled(&self) -> bool {
        self.misc_enable & MISC_ENABLE_MWAIT != 0
    }

    /// Whether `msr` is stored here (or a constant that only reads).
    pub const fn holds(msr: u32) -> bool {
        Mtrrs::holds(msr)
            || Mce::holds(msr)
            || constant(msr).is_some()
            || write_ignored(msr, 0)
            || matches!(
                msr,
                STAR | LSTAR
                    | CSTAR
                    | SYSCALL_MASK
                    | TSC_AUX
                    | SPEC_CTRL
                    | PAT
                    | XSS
                    | UMWAIT_CONTROL
                    | MISC_ENABLE
                    | MISC_FEATURES_ENABLES
                    | PLATFORM_INFO
                    | ARCH_CAPABILITIES
                    | PERF_CAPABILITIES
                    | UCODE_REV
                    | POWER_CTL
                    | SMBASE
                    | SMI_COUNT
                    | FEAT_CTL
                    | KVM_POLL_CONTROL
                    | HWCR
            )
    }

    /// Reads a stored MSR.
    ///
    /// # Errors
    ///
    /// [`MsrError`] if this guest has none, or may not read it.
    pub fn get(&self, msr: u32, ctx: &Context<'_>) -> Result<u64, MsrError> {
        let user = ctx.origin == Origin::User;
        let value = match msr {
            STAR => self.star,
            LSTAR => self.lstar,
            CSTAR => self.cstar,
            SYSCALL_MASK => self.syscall_mask,
            TSC_AUX => self.tsc_aux,
            SPEC_CTRL => self.spec_ctrl,
            PAT => self.pat,
            XSS if user => return Ok(self.xss),
            XSS if !ctx.caps.has(features::XSAVES) => return Err(MsrError::Invalid),
            XSS => self.xss,
            UMWAIT_CONTROL => self.umwait_control,
            MISC_ENABLE => self.misc_enable,
            MISC_FEATURES_ENABLES => self.misc_features_enables,
            PLATFORM_INFO if user || ctx.platform_info_readable => self.platform_info,
            PLATFORM_INFO => return Err(MsrError::Invalid),
            ARCH_CAPABILITIES => self.arch_capabilities,
            // There is no PMU, so nothing to tell of it.
            PERF_CAPABILITIES => 0,
            UCODE_REV => self.ucode_rev,
            POWER_CTL => self.power_ctl,
            SMBASE if user => self.smbase,
            SMBASE => return Err(MsrError::Invalid),
            SMI_COUNT => self.smi_count,
            FEAT_CTL => self.feat_ctl,
            KVM_POLL_CONTROL => self.poll_control,
            HWCR => self.hwcr,
            _ => return self.get_of_range(msr, ctx),
        };
        present(msr, ctx)?;
        Ok(value)
    }

    /// The MSRs that come in ranges or say the same to all, which guests seldom read.
    #[inline(never)]
    fn get_of_range(&self, msr: u32, ctx: &Context<'_>) -> Result<u64, MsrError> {
        if Mtrrs::holds(msr) {
            return self.mtrrs.get(msr);
        }
        if Mce::holds(msr) {
            self.reaches_mce(msr, ctx)?;
            return self.mce.get(msr, ctx.origin);
        }
        constant(msr).ok_or(MsrError::Unsupported)
    }

    /// The firmware switches local machine checks on in IA32_FEATURE_CONTROL: before that there is no MCG_EXT_CTL (SDM,
    /// "Enabling Local Machine Check").
    fn reaches_mce(&self, msr: u32, ctx: &Context<'_>) -> Result<(), MsrError> {
        let off = self.feat_ctl & FEAT_CTL_LMCE_ON == 0;
        if msr == MCG_EXT_CTL && off && ctx.origin == Origin::Guest {
            return Err(MsrError::Invalid);
        }
        Ok(())
    }

    /// Writes a stored MSR.
    ///
    /// # Errors
    ///
    /// [`MsrError`] if this guest has none, may not write it, or the value can't be. Nothing is changed then.
    pub fn set(&mut self, msr: u32, value: u64, ctx: &Context<'_>) -> Result<Effect, MsrError> {
        if Mtrrs::holds(msr) {
            self.mtrrs.set(msr, value, ctx.caps.reserved_gpa_bits())?;
            return Ok(Effect::None);
        }
        if Mce::holds(msr) {
            self.reaches_mce(msr, ctx)?;
            self.mce.set(msr, value, ctx.origin)?;
            return Ok(Effect::None);
        }
        if write_ignored(msr, value) {
            return Ok(Effect::None);
        }
        present(msr, ctx)?;
        if msr == PERF_CAPABILITIES {
            return match ctx.origin {
                Origin::Guest => Err(MsrError::Unsupported),
                Origin::User if value == 0 => Ok(Effect::None),
                Origin::User => Err(MsrError::Invalid),
            };
        }
        let (slot, value, effect) = self.checked(msr, value, ctx)?;
        *slot = value;
        Ok(effect)
    }

    /// The slot to write, the value to write there, and what follows.
    fn checked(
        &mut self,
        msr: u32,
        value: u64,
        ctx: &Context<'_>,
    ) -> Result<(&mut u64, u64, Effect), MsrError> {
        let user = ctx.origin == Origin::User;
        if ctx.has_run && user && is_fixed_by_run(msr) && self.get(msr, ctx)? != value {
            return Err(MsrError::Invalid);
        }
        let only = |valid: bool| {
            if valid {
                Ok(value)
            } else {
                Err(MsrError::Invalid)
            }
        };
        Ok(match msr {
            STAR => (&mut self.star, value, Effect::Load),
            LSTAR => (
                &mut self.lstar,
                rules::linear_address(value, ctx.caps)?,
                Effect::Load,
            ),
            CSTAR => (
                &mut self.cstar,
                rules::linear_address(value, ctx.caps)?,
                Effect::None,
            ),
            SYSCALL_MASK => (
                &mut self.syscall_mask,
                only(value >> 32 == 0)?,
                Effect::Load,
            ),
            // What would be the upper half does not count on processors of AMD's.
            TSC_AUX if ctx.caps.amd_compatible => {
                (&mut self.tsc_aux, value & 0xffff_ffff, Effect::Load)
            }
            TSC_AUX => (&mut self.tsc_aux, only(value >> 32 == 0)?, Effect::Load),
            SPEC_CTRL => {
                let allowed = if user {
                    rules::restorable_spec_ctrl_bits(ctx.caps)
                } else {
                    rules::spec_ctrl_bits(ctx.caps)
                };
                (
                    &mut self.spec_ctrl,
                    only(value & !allowed == 0)?,
                    Effect::Load,
                )
            }
            PAT => (
                &mut self.pat,
                only(rules::pat_valid(value))?,
                Effect::WritePat,
            ),
            XSS => {
                let valid = value & !ctx.caps.xss_allowed == 0;
                (&mut self.xss, only(valid)?, Effect::UpdateCpuid)
            }
            UMWAIT_CONTROL => {
                // Bit 1 is reserved, and there are 32 bits.
                let valid = value >> 32 == 0 && value & 2 == 0;
                (&mut self.umwait_control, only(valid)?, Effect::Load)
            }
            MISC_ENABLE => return self.checked_misc_enable(value, ctx),
            MISC_FEATURES_ENABLES => {
                let allowed = match self.platform_info & PLATFORM_INFO_CPUID_FAULT {
                    0 => 0,
                    _ => CPUID_FAULT,
                };
                (
                    &mut self.misc_features_enables,
                    only(value & !allowed == 0)?,
                    Effect::None,
                )
            }
            PLATFORM_INFO => (&mut self.platform_info, only(user)?, Effect::None),
            ARCH_CAPABILITIES if user => (&mut self.arch_capabilities, value, Effect::None),
            // Not there for WRMSR.
            ARCH_CAPABILITIES => return Err(MsrError::Unsupported),
            // The guest's attempt to load microcode goes nowhere.
            UCODE_REV if user => (&mut self.ucode_rev, value, Effect::None),
            UCODE_REV => {
                let old = self.ucode_rev;
                (&mut self.ucode_rev, old, Effect::None)
            }
            POWER_CTL => (&mut self.power_ctl, value, Effect::None),
            SMBASE => (&mut self.smbase, only(user)?, Effect::None),
            SMI_COUNT => (&mut self.smi_count, only(user)?, Effect::None),
            FEAT_CTL => {
                let locked = self.feat_ctl & FEAT_CTL_LOCKED != 0;
                let allowed = match user {
                    true => FEAT_CTL_SUPPORTED,
                    false if locked => return Err(MsrError::Invalid),
                    false if self.mce.cap() & MCG_LMCE_P != 0 => FEAT_CTL_LOCKED | FEAT_CTL_LMCE_ON,
                    false => FEAT_CTL_LOCKED,
                };
                (
                    &mut self.feat_ctl,
                    only(value & !allowed == 0)?,
                    Effect::None,
                )
            }
            KVM_POLL_CONTROL => (&mut self.poll_control, only(value & !1 == 0)?, Effect::None),
            HWCR => {
                only(value & !(HWCR_KEPT | HWCR_DROPPED) == 0)?;
                (&mut self.hwcr, value & HWCR_KEPT, Effect::None)
            }
            FAM10H_MMIO_CONF_BASE => return Err(MsrError::Invalid),
            _ => return Err(MsrError::Unsupported),
        })
    }

    fn checked_misc_enable(
        &mut self,
        value: u64,
        ctx: &Context<'_>,
    ) -> Result<(&mut u64, u64, Effect), MsrError> {
        let old = self.misc_enable;
        let mut value = value;
        if ctx.origin == Origin::Guest {
            if (old ^ value) & MISC_ENABLE_RESET != 0 {
                return Err(MsrError::Invalid);
            }
            value = (value & !MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
        }
        let mwait_changes = !ctx.misc_enable_no_mwait && (old ^ value) & MISC_ENABLE_MWAIT != 0;
        if mwait_changes && !ctx.caps.has(features::XMM3) {
            return Err(MsrError::Invalid);
        }
        let effect = if mwait_changes {
            Effect::UpdateCpuid
        } else {
            Effect::None
        };
        Ok((&mut self.misc_enable, value, effect))
    }
}

/// Whether this guest has the MSR at all. User space may restore what only CPUID hides.
fn present(msr: u32, ctx: &Context<'_>) -> Result<(), MsrError> {
    let caps = ctx.caps;
    let guest = ctx.origin == Origin::Guest;
    let unsupported = match msr {
        XSS => !caps.has(features::XSAVES),
        ARCH_CAPABILITIES => !caps.has(features::ARCH_CAPABILITIES),
        PERF_CAPABILITIES => !caps.has(features::PDCM),
        UMWAIT_CONTROL => guest && !caps.has(features::WAITPKG),
        KVM_POLL_CONTROL => caps.kvm_features & kvm_feature::POLL_CONTROL == 0,
        _ => false,
    };
    let invalid = guest
        && match msr {
            TSC_AUX => !caps.has(features::RDTSCP) && !caps.has(features::RDPID),
            SPEC_CTRL => rules::spec_ctrl_bits(caps) == 0,
            _ => false,
        };
    if unsupported {
        Err(MsrError::Unsupported)
    } else if invalid {
        Err(MsrError::Invalid)
    } else {
        Ok(())
    }
}
