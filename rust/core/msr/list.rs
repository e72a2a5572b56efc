// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST.

use super::number::*;
use crate::cpuid::features::Implemented;
use crate::cpuid::{kvm_feature, HostCpuid};

/// When an MSR is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    Rdtscp,
    SpecCtrl,
    Waitpkg,
    Xsaves,
    Smm,
    Kvm(u32),
}

/// The list: state that a VMM saves and restores.
const SAVED: &[(u32, When)] = &[
    (SYSENTER_CS, When::Always),
    (SYSENTER_ESP, When::Always),
    (SYSENTER_EIP, When::Always),
    (STAR, When::Always),
    (CSTAR, When::Always),
    (KERNEL_GS_BASE, When::Always),
    (SYSCALL_MASK, When::Always),
    (LSTAR, When::Always),
    (TSC, When::Always),
    (PAT, When::Always),
    (FEAT_CTL, When::Always),
    (TSC_AUX, When::Rdtscp),
    (SPEC_CTRL, When::SpecCtrl),
    (UMWAIT_CONTROL, When::Waitpkg),
    (XSS, When::Xsaves),
    (DEBUGCTL, When::Always),
    (LAST_BRANCH_FROM_IP, When::Always),
    (LAST_BRANCH_TO_IP, When::Always),
    (LAST_INT_FROM_IP, When::Always),
    (LAST_INT_TO_IP, When::Always),
    (KVM_SYSTEM_TIME, When::Kvm(kvm_feature::CLOCKSOURCE)),
    (KVM_WALL_CLOCK, When::Kvm(kvm_feature::CLOCKSOURCE)),
    (KVM_SYSTEM_TIME_NEW, When::Kvm(kvm_feature::CLOCKSOURCE2)),
    (KVM_WALL_CLOCK_NEW, When::Kvm(kvm_feature::CLOCKSOURCE2)),
    (KVM_ASYNC_PF_EN, When::Kvm(kvm_feature::ASYNC_PF)),
    (KVM_STEAL_TIME, When::Kvm(kvm_feature::STEAL_TIME)),
    (KVM_PV_EOI_EN, When::Kvm(kvm_feature::PV_EOI)),
    (KVM_ASYNC_PF_INT, When::Kvm(kvm_feature::ASYNC_PF_INT)),
    (KVM_ASYNC_PF_ACK, When::Kvm(kvm_feature::ASYNC_PF_INT)),
    (KVM_POLL_CONTROL, When::Kvm(kvm_feature::POLL_CONTROL)),
    (TSC_ADJUST, When::Always),
    (TSC_DEADLINE, When::Always),
    (ARCH_CAPABILITIES, When::Always),
    (MISC_ENABLE, When::Always),
    (MCG_STATUS, When::Always),
    (MCG_CTL, When::Always),
    (MCG_EXT_CTL, When::Always),
    (SMBASE, When::Smm),
    (SMI_COUNT, When::Smm),
    (PLATFORM_INFO, When::Always),
    (MISC_FEATURES_ENABLES, When::Always),
    (POWER_CTL, When::Always),
    (UCODE_REV, When::Always),
    (HWCR, When::Always),
];

/// KVM_GET_MSR_FEATURE_INDEX_LIST.
pub const FEATURE: &[u32] = &[
    UCODE_REV,
    ARCH_CAPABILITIES,
    PERF_CAPABILITIES,
    PLATFORM_INFO,
];

/// Whether the MSR says, as CPUID does, what the guest has: fixed when the vCPU has run.
pub const fn is_fixed_by_run(msr: u32) -> bool {
    matches!(msr, ARCH_CAPABILITIES | PLATFORM_INFO)
}

/// KVM_GET_MSR_INDEX_LIST, in order.
pub fn saved(have: Implemented, smm: bool) -> impl Iterator<Item = u32> {
    SAVED
        .iter()
        .filter(move |(_, when)| match when {
            When::Always => true,
            When::Rdtscp => have.rdtscp,
            When::SpecCtrl => have.spec_ctrl,
            When::Waitpkg => have.waitpkg,
            When::Xsaves => have.xsaves,
            When::Smm => smm,
            When::Kvm(feature) => have.kvm_features & feature != 0,
        })
        .map(|(msr, _)| *msr)
}

/// Whether user space was told of `msr` by one of the lists.
pub fn advertised(msr: u32, have: Implemented, smm: bool) -> bool {
    saved(have, smm).any(|m| m == msr) || FEATURE.contains(&msr)
}

/// The value of a feature MSR (KVM_GET_MSRS on the system fd). `host` reads an MSR of the processor, if it is there;
/// `absent` is that of [`super::rules::arch_capabilities`].
pub fn feature_value(
    msr: u32,
    cpuid: &dyn HostCpuid,
    absent: u64,
    mut host: impl FnMut(u32) -> Option<u64>,
) -> Option<u64> {
    match msr {
        UCODE_REV => Some(host(UCODE_REV).unwrap_or(0)),
        ARCH_CAPABILITIES => {
            let has = cpuid.cpuid(0, 0).eax >= 7 && cpuid.cpuid(7, 0).edx & (1 << 29) != 0;
            let raw = if has { host(ARCH_CAPABILITIES) } else { None };
            Some(super::rules::arch_capabilities(raw.unwrap_or(0), absent))
        }
        PLATFORM_INFO => Some(1 << 31),
        // There is no PMU.
        PERF_CAPABILITIES => Some(0),
        _ => None,
    }
}
