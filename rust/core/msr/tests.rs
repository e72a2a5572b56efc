// SPDX-License-Identifier: GPL-2.0

mod bitmap;

use super::mce::{Mce, MCG_CMCI_P, MCG_CTL_P, MCG_LMCE_P, MCG_SER_P};
use super::number::*;
use super::store::{Context, Effect, GuestMsrs};
use super::*;
use crate::cpuid::features::Implemented;
use crate::cpuid::guest::GuestCaps;
use crate::cpuid::{CpuidEntry, HostCpuid, Regs, SIGNIFICANT_INDEX};
use crate::regs::efer;

mod restored;

/// A host with every bit set, and a guest that was given all of it with 39 physical address bits.
struct Everything;

impl HostCpuid for Everything {
    fn cpuid(&self, _: u32, _: u32) -> Regs {
        Regs {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        }
    }
}

fn have() -> Implemented {
    Implemented {
        ept: true,
        rdtscp: true,
        xsaves: true,
        spec_ctrl: true,
        xcr0: 7,
        ..Implemented::default()
    }
}

fn rich() -> GuestCaps {
    let entry = |function, index| CpuidEntry {
        function,
        index,
        flags: SIGNIFICANT_INDEX,
        eax: !0,
        ebx: !0,
        ecx: !0,
        edx: !0,
        padding: [0; 3],
    };
    let mut sizes = entry(0x8000_0008, 0);
    sizes.eax = 0x3027;
    let table = [
        entry(1, 0),
        entry(7, 0),
        entry(7, 2),
        entry(0xd, 1),
        entry(0x8000_0000, 0),
        entry(0x8000_0001, 0),
        sizes,
    ];
    GuestCaps::derive(&table, &Everything, &have())
}

fn poor() -> GuestCaps {
    GuestCaps::derive(&[], &Everything, &have())
}

fn context(caps: &GuestCaps, origin: Origin) -> Context<'_> {
    Context {
        origin,
        caps,
        platform_info_readable: true,
        misc_enable_no_mwait: false,
        has_run: false,
    }
}

#[test]
fn what_the_guest_has_is_fixed_once_it_has_run() {
    let caps = rich();
    let before = context(&caps, Origin::User);
    let after = Context {
        has_run: true,
        ..before
    };
    let mut msrs = GuestMsrs::new(0);
    assert!(msrs.set(PLATFORM_INFO, 1, &before).is_ok());
    assert!(msrs.set(PLATFORM_INFO, 1, &after).is_ok(), "the same value");
    assert_eq!(msrs.set(PLATFORM_INFO, 0, &after), Err(MsrError::Invalid));
    assert_eq!(msrs.get(PLATFORM_INFO, &after), Ok(1));
    assert!(
        msrs.set(LSTAR, 0x1000, &after).is_ok(),
        "state is not fixed"
    );
}

#[test]
fn hwcr_keeps_two_bits_and_drops_three() {
    let caps = rich();
    let user = context(&caps, Origin::User);
    let mut msrs = GuestMsrs::new(0);
    for bit in 0..64 {
        let value = 1u64 << bit;
        let written = msrs.set(HWCR, value, &user).is_ok();
        assert_eq!(written, [3, 6, 8, 18, 24].contains(&bit), "bit {bit}");
        let kept = if [18, 24].contains(&bit) { value } else { 0 };
        assert_eq!(msrs.get(HWCR, &user), Ok(kept), "bit {bit}");
        msrs.set(HWCR, 0, &user).unwrap();
    }
}

#[test]
fn every_number_is_safe_to_read_and_write() {
    let values = [
        0,
        1,
        !0,
        0x0007_0406_0007_0406,
        1 << 63,
        0x8000_0000_0000,
        6,
    ];
    let numbers = (0..0x2000)
        .chain(0x4b56_4cf0..0x4b56_4d10)
        .chain(0xc000_0000..0xc000_0200);
    for caps in [rich(), poor()] {
        for origin in [Origin::Guest, Origin::User] {
            let mut msrs = GuestMsrs::new(0);
            let ctx = context(&caps, origin);
            for msr in numbers.clone() {
                let stored = handler(msr) == Handler::Store;
                assert_eq!(stored, GuestMsrs::holds(msr), "{msr:x}");
                if !stored {
                    assert_eq!(msrs.get(msr, &ctx), Err(MsrError::Unsupported), "{msr:x}");
                }
                for value in values {
                    let before = msrs;
                    if msrs.set(msr, value, &ctx).is_err() {
                        assert_eq!(msrs, before, "{msr:x}: a refused write changes nothing");
                    }
                }
            }
        }
    }
}

#[test]
fn syscall_targets_must_be_canonical() {
    let caps = rich();
    let ctx = context(&caps, Origin::Guest);
    let mut msrs = GuestMsrs::new(0);
    // The processor has LA57: 57 bits.
    assert_eq!(
        msrs.set(LSTAR, 0x00ff_ffff_ffff_ffff, &ctx),
        Ok(Effect::Load)
    );
    assert_eq!(
        msrs.set(LSTAR, 0x0100_0000_0000_0000, &ctx),
        Err(MsrError::Invalid)
    );
    // Whatever the guest's CPUID tells.
    let caps = poor();
    let ctx = context(&caps, Origin::User);
    assert_eq!(
        msrs.set(LSTAR, 0x0000_8000_0000_0000, &ctx),
        Ok(Effect::Load)
    );
    let caps = GuestCaps::derive(&[], &restored::Bare, &have());
    let ctx = context(&caps, Origin::User);
    assert_eq!(
        msrs.set(LSTAR, 0x0000_8000_0000_0000, &ctx),
        Err(MsrError::Invalid)
    );
    assert_eq!(
        msrs.set(LSTAR, 0xffff_8000_0000_0000, &ctx),
        Ok(Effect::Load)
    );
    assert_eq!(msrs.get(LSTAR, &ctx), Ok(0xffff_8000_0000_0000));
}

#[test]
fn pat_types() {
    for (pat, valid) in [
        (0x0007_0406_0007_0406, true),
        (0x0706_0504_0100_0000, true),
        (0x02, false),
        (0x03 << 56, false),
        (0x08, false),
        (0x80, false),
    ] {
        assert_eq!(rules::pat_valid(pat), valid, "{pat:x}");
    }
}

#[test]
fn mtrr_rules() {
    let caps = rich();
    let ctx = context(&caps, Origin::Guest);
    let mut msrs = GuestMsrs::new(0);
    for (msr, value, valid) in [
        (MTRR_PHYS_BASE0, 0x8000_0006, true),
        (MTRR_PHYS_BASE0, 0x8000_0002, false),
        (MTRR_PHYS_BASE0, 0x8000_0106, false),
        (MTRR_PHYS_BASE0, 1 << 39 | 6, false),
        (MTRR_PHYS_BASE0 + 1, 0x7f_8000_0800, true),
        (MTRR_PHYS_BASE0 + 1, 0x7f_8000_0801, false),
        (MTRR_PHYS_LAST + 1, 6, false),
        (MTRR_FIX64K_00000, 0x0606_0606_0606_0606, true),
        (MTRR_FIX4K_F8000, 0x0606_0306_0606_0606, false),
        (MTRR_DEF_TYPE, 0xc06, true),
        (MTRR_DEF_TYPE, 0x1006, false),
        (MTRR_CAP, 0x508, false),
    ] {
        assert_eq!(
            msrs.set(msr, value, &ctx).is_ok(),
            valid,
            "{msr:x} {value:x}"
        );
    }
    assert_eq!(msrs.get(MTRR_CAP, &ctx), Ok(0x508));
    assert_eq!(msrs.get(MTRR_PHYS_BASE0 + 1, &ctx), Ok(0x7f_8000_0800));
}

#[test]
fn machine_check_banks() {
    let mut mce = Mce::default();
    assert_eq!(mce.setup(0), Err(MsrError::Invalid));
    assert_eq!(mce.setup(33), Err(MsrError::Invalid));
    assert_eq!(mce.setup(1 | 1 << 25), Err(MsrError::Invalid));
    assert_eq!(mce.setup(10 | MCG_CTL_P | MCG_SER_P | MCG_CMCI_P), Ok(()));
    let (guest, user) = (Origin::Guest, Origin::User);
    assert_eq!(mce.get(MC0_CTL, guest), Ok(!0));
    assert_eq!(mce.get(MCG_CTL, guest), Ok(!0));
    assert_eq!(
        mce.get(MC0_CTL + 4 * 10, guest),
        Err(MsrError::Invalid),
        "no eleventh bank"
    );
    assert_eq!(mce.set(MC0_CTL, !(1 << 10), guest), Ok(()));
    assert_eq!(mce.set(MC0_CTL, 5, guest), Err(MsrError::Invalid));
    assert_eq!(
        mce.set(MC0_CTL + 1, 5, guest),
        Err(MsrError::Invalid),
        "STATUS only clears"
    );
    assert_eq!(mce.set(MC0_CTL + 1, 5, user), Ok(()));
    assert_eq!(mce.set(MC0_CTL2, 1 << 30 | 1, guest), Ok(()));
    assert_eq!(mce.set(MC0_CTL2, 1 << 31, guest), Err(MsrError::Invalid));
    assert_eq!(mce.set(MCG_CAP, 1, user), Err(MsrError::Invalid));
}

#[test]
fn what_cpuid_hides_is_hidden_from_the_guest() {
    let caps = poor();
    let mut msrs = GuestMsrs::new(0x40);
    let guest = context(&caps, Origin::Guest);
    for msr in [
        TSC_AUX,
        SPEC_CTRL,
        XSS,
        ARCH_CAPABILITIES,
        PERF_CAPABILITIES,
        UMWAIT_CONTROL,
        KVM_POLL_CONTROL,
    ] {
        assert!(msrs.get(msr, &guest).is_err(), "{msr:x}");
        assert!(msrs.set(msr, 0, &guest).is_err(), "{msr:x}");
    }
    let caps = rich();
    let guest = context(&caps, Origin::Guest);
    assert_eq!(msrs.set(TSC_AUX, 3, &guest), Ok(Effect::Load));
    assert_eq!(msrs.set(TSC_AUX, 1 << 32, &guest), Err(MsrError::Invalid));
    assert_eq!(msrs.set(SPEC_CTRL, 7, &guest), Ok(Effect::Load));
    assert_eq!(msrs.set(SPEC_CTRL, 1 << 9, &guest), Err(MsrError::Invalid));
    assert_eq!(msrs.set(XSS, 1 << 11, &guest), Err(MsrError::Invalid));
    assert_eq!(msrs.get(ARCH_CAPABILITIES, &guest), Ok(0x40));
    for msr in [ARCH_CAPABILITIES, PERF_CAPABILITIES] {
        assert_eq!(msrs.set(msr, 0, &guest), Err(MsrError::Unsupported));
    }
    let user = context(&caps, Origin::User);
    assert_eq!(msrs.get(PERF_CAPABILITIES, &guest), Ok(0));
    assert_eq!(msrs.set(PERF_CAPABILITIES, 0, &user), Ok(Effect::None));
    assert_eq!(
        msrs.set(PERF_CAPABILITIES, 1, &user),
        Err(MsrError::Invalid)
    );
}

#[test]
fn misc_enable_has_read_only_and_dependent_bits() {
    let caps = rich();
    let mut msrs = GuestMsrs::new(0);
    let guest = context(&caps, Origin::Guest);
    let reset = msrs.misc_enable;
    assert!(
        msrs.set(MISC_ENABLE, 0, &guest).is_err(),
        "PEBS and BTS stay unavailable"
    );
    assert_eq!(
        msrs.set(MISC_ENABLE, reset | 1 << 7, &guest),
        Ok(Effect::None)
    );
    assert_eq!(msrs.misc_enable, reset, "EMON does not stick");
    assert_eq!(
        msrs.set(MISC_ENABLE, reset | 1 << 18, &guest),
        Ok(Effect::UpdateCpuid)
    );
    assert!(msrs.mwait_enabled());
}

#[test]
fn feature_control_has_what_the_guest_has_until_it_is_locked() {
    const LMCE_ON: u64 = 1 << 20;
    let caps = rich();
    let mut msrs = GuestMsrs::new(0);
    let (guest, user) = (context(&caps, Origin::Guest), context(&caps, Origin::User));
    assert!(msrs.set(FEAT_CTL, LMCE_ON, &guest).is_err(), "no LMCE");
    assert_eq!(msrs.mce.setup(10 | MCG_LMCE_P), Ok(()));
    assert!(msrs.set(FEAT_CTL, 1 << 2, &guest).is_err(), "no VMX");
    assert!(msrs.get(MCG_EXT_CTL, &guest).is_err(), "not on");
    assert!(msrs.set(MCG_EXT_CTL, 1, &guest).is_err(), "not on");
    assert_eq!(msrs.set(MCG_EXT_CTL, 0, &user), Ok(Effect::None));
    assert!(msrs.set(FEAT_CTL, LMCE_ON | 1, &guest).is_ok());
    assert_eq!(msrs.get(FEAT_CTL, &guest), Ok(LMCE_ON | 1));
    assert_eq!(msrs.set(MCG_EXT_CTL, 1, &guest), Ok(Effect::None));
    assert_eq!(msrs.get(MCG_EXT_CTL, &guest), Ok(1));
    assert!(msrs.set(MCG_EXT_CTL, 2, &user).is_err(), "reserved");
    assert!(msrs.set(FEAT_CTL, LMCE_ON | 1, &guest).is_err(), "locked");
    assert!(msrs.set(FEAT_CTL, 1 << 3, &user).is_err(), "reserved");
    assert!(msrs.set(FEAT_CTL, 1 << 2, &user).is_ok());
    assert!(msrs.set(FEAT_CTL, 0, &guest).is_ok(), "open again");
}

#[test]
fn efer_transitions() {
    let caps = rich();
    let write = |old, new, paging, origin| rules::efer_write(old, new, paging, &caps, origin);
    assert_eq!(write(0, efer::LME, false, Origin::Guest), Ok(efer::LME));
    assert_eq!(
        write(0, efer::LME, true, Origin::Guest),
        Err(MsrError::Invalid)
    );
    let long = efer::LME | efer::LMA;
    assert_eq!(
        write(long, efer::LME | efer::SCE, true, Origin::Guest),
        Ok(long | efer::SCE)
    );
    assert_eq!(
        write(0, 1 << 12, false, Origin::User),
        Err(MsrError::Invalid)
    );
    let poor = poor();
    let poor_write = |origin| rules::efer_write(0, efer::LME, false, &poor, origin);
    assert_eq!(poor_write(Origin::Guest), Err(MsrError::Invalid));
    assert_eq!(poor_write(Origin::User), Ok(efer::LME));
}

#[test]
fn apic_base_transitions() {
    use crate::irq::lapic::apic_base::{BSP, DEFAULT, ENABLED, X2APIC};
    let caps = rich();
    let valid = |old, new, origin| rules::apic_base_valid(old, new, &caps, origin);
    let (off, x, x2) = (DEFAULT, DEFAULT | ENABLED, DEFAULT | ENABLED | X2APIC);
    for (old, new, guest) in [
        (off, x, true),
        (x, x2, true),
        (x2, off, true),
        (x2, x, false),
        (off, x2, false),
    ] {
        assert_eq!(valid(old, new, Origin::Guest), guest, "{old:x} {new:x}");
        assert!(valid(old, new | BSP, Origin::User));
    }
    assert!(!valid(off, DEFAULT | X2APIC, Origin::User));
    assert!(!valid(off, x | 1, Origin::User) && !valid(off, x | 1 << 39, Origin::User));
    assert!(!rules::apic_base_valid(x, x2, &poor(), Origin::User));
}

#[test]
fn lists_name_only_what_there_is() {
    use crate::cpuid::kvm_feature;
    let bare: std::vec::Vec<u32> = list::saved(Implemented::default(), false).collect();
    for absent in [
        TSC_AUX,
        SPEC_CTRL,
        XSS,
        SMBASE,
        KVM_SYSTEM_TIME_NEW,
        KVM_STEAL_TIME,
    ] {
        assert!(!bare.contains(&absent), "{absent:x}");
    }
    let all = Implemented {
        kvm_features: kvm_feature::CLOCKSOURCE2,
        ..have()
    };
    for msr in list::saved(all, true) {
        assert_ne!(handler(msr), Handler::Unknown, "{msr:x}");
    }
    assert!(list::saved(all, true).any(|m| m == KVM_SYSTEM_TIME_NEW));
    assert!(!list::saved(all, true).any(|m| m == KVM_SYSTEM_TIME));
    assert!(list::advertised(PLATFORM_INFO, all, false) && !list::advertised(0x1234, all, false));
    assert_eq!(
        list::feature_value(UCODE_REV, &Everything, 0, |_| Some(7)),
        Some(7)
    );
    assert_eq!(
        list::feature_value(ARCH_CAPABILITIES, &Everything, 0, |_| None),
        Some(0x40)
    );
    // RDCL_NO by the MSR, ITS_NO by what the kernel knows; TSX_CTRL is not for guests, and TAA_NO not by the MSR alone.
    assert_eq!(
        list::feature_value(ARCH_CAPABILITIES, &Everything, 1 << 62, |_| Some(0x181)),
        Some(1 << 62 | 0x41)
    );
    assert_eq!(
        list::feature_value(ARCH_CAPABILITIES, &Everything, 1 << 8, |_| Some(0x100)),
        Some(0x140)
    );
    assert_eq!(
        list::feature_value(PERF_CAPABILITIES, &Everything, 0, |_| Some(7)),
        Some(0)
    );
    assert_eq!(list::feature_value(TSC, &Everything, 0, |_| Some(7)), None);
}

#[test]
fn unknown_msrs() {
    assert_eq!(
        unsupported(Origin::Guest, None, true, false),
        Err(MsrError::Unsupported)
    );
    assert_eq!(unsupported(Origin::Guest, Some(5), false, true), Ok(0));
    assert_eq!(unsupported(Origin::User, Some(0), true, false), Ok(0));
    assert_eq!(
        unsupported(Origin::User, Some(1), true, false),
        Err(MsrError::Unsupported)
    );
    assert_eq!(
        unsupported(Origin::User, None, false, false),
        Err(MsrError::Unsupported)
    );
}
