// SPDX-License-Identifier: GPL-2.0

//! What user space restores, of other hosts and other vendors, and at times before it sets CPUID.

use super::*;

/// A host without any feature bit.
pub(super) struct Bare;

impl HostCpuid for Bare {
    fn cpuid(&self, _: u32, _: u32) -> Regs {
        Regs::default()
    }
}

/// A guest of nothing but a vendor, "AuthenticAMD" or none.
fn of_vendor(amd: bool) -> GuestCaps {
    let vendor = CpuidEntry {
        ebx: 0x6874_7541,
        ecx: 0x444d_4163,
        edx: 0x6974_6e65,
        ..CpuidEntry::default()
    };
    GuestCaps::derive(
        if amd {
            core::slice::from_ref(&vendor)
        } else {
            &[]
        },
        &Everything,
        &have(),
    )
}

#[test]
fn speculation_control_is_restored_before_cpuid() {
    let caps = poor();
    let (guest, user) = (context(&caps, Origin::Guest), context(&caps, Origin::User));
    let mut msrs = GuestMsrs::new(0);
    assert_eq!(msrs.set(SPEC_CTRL, 5, &user), Ok(Effect::Load));
    assert_eq!(msrs.get(SPEC_CTRL, &user), Ok(5));
    assert_eq!(msrs.get(SPEC_CTRL, &guest), Err(MsrError::Invalid));
    assert_eq!(msrs.set(SPEC_CTRL, 0, &guest), Err(MsrError::Invalid));
    assert_eq!(
        msrs.set(SPEC_CTRL, 1 << 9, &user),
        Err(MsrError::Invalid),
        "no processor has it"
    );
    let bare = GuestCaps::derive(&[], &Bare, &have());
    let user = context(&bare, Origin::User);
    assert_eq!(msrs.set(SPEC_CTRL, 1, &user), Err(MsrError::Invalid));
    assert_eq!(msrs.set(SPEC_CTRL, 0, &user), Ok(Effect::Load));
}

#[test]
fn commands_are_the_processors() {
    use crate::cpuid::features::{FLUSH_L1D, SPEC_CTRL};
    let (rich, poor) = (rich(), poor());
    let bare = GuestCaps::derive(&[], &Bare, &have());
    for feature in [SPEC_CTRL, FLUSH_L1D] {
        let command = |value, caps, origin| rules::command(value, 1, feature, caps, origin);
        assert_eq!(command(1, &rich, Origin::Guest), Ok(true));
        assert_eq!(command(0, &rich, Origin::Guest), Ok(false));
        assert_eq!(command(2, &rich, Origin::Guest), Err(MsrError::Invalid));
        assert_eq!(command(1, &poor, Origin::Guest), Err(MsrError::Invalid));
        assert_eq!(command(1, &poor, Origin::User), Ok(true));
        assert_eq!(command(2, &poor, Origin::User), Err(MsrError::Invalid));
        assert_eq!(command(1, &bare, Origin::User), Err(MsrError::Invalid));
    }
}

#[test]
fn sysenter_addresses_of_user_space_are_made_canonical() {
    let bare = GuestCaps::derive(&[], &Bare, &have());
    for (value, narrow, wide) in [
        (0x1234, 0x1234, 0x1234),
        (0x1234_0000_0000_5678, 0x5678, 0x0034_0000_0000_5678),
        (
            0x0000_8000_0000_0000,
            0xffff_8000_0000_0000,
            0x0000_8000_0000_0000,
        ),
        (0x0100_0000_0000_0000, 0, 0xff00_0000_0000_0000),
        (!0, !0, !0),
    ] {
        for (caps, restored) in [(&bare, narrow), (&poor(), wide)] {
            let of = |origin| rules::sysenter_address(value, caps, origin);
            assert_eq!(of(Origin::User), Ok(restored), "{value:x}");
            let canonical = restored == value;
            assert_eq!(of(Origin::Guest).is_ok(), canonical, "{value:x}");
        }
    }
}

#[test]
fn tsc_aux_has_32_bits_of_amds() {
    let mut msrs = GuestMsrs::new(0);
    for (amd, result, kept) in [
        (true, Ok(Effect::Load), 7),
        (false, Err(MsrError::Invalid), 0),
    ] {
        let caps = of_vendor(amd);
        let user = context(&caps, Origin::User);
        assert_eq!(msrs.set(TSC_AUX, 0, &user), Ok(Effect::Load));
        assert_eq!(msrs.set(TSC_AUX, 5 << 32 | 7, &user), result);
        assert_eq!(msrs.get(TSC_AUX, &user), Ok(kept));
    }
}

#[test]
fn what_amds_processors_have_reads_as_nothing() {
    let caps = poor();
    let mut msrs = GuestMsrs::new(0);
    for origin in [Origin::Guest, Origin::User] {
        let ctx = context(&caps, origin);
        for msr in (K7_EVNTSEL0..=K7_PERFCTR3).chain([NB_CFG, VM_HSAVE_PA, DC_CFG, BU_CFG2]) {
            assert_eq!(msrs.set(msr, 5, &ctx), Ok(Effect::None), "{msr:x}");
            assert_eq!(msrs.get(msr, &ctx), Ok(0), "{msr:x}");
        }
        for msr in [SYSCFG, INT_PENDING_MSG, TSEG_ADDR, TSEG_MASK] {
            assert_eq!(msrs.get(msr, &ctx), Ok(0), "{msr:x}");
            assert_eq!(
                msrs.set(msr, 0, &ctx),
                Err(MsrError::Unsupported),
                "{msr:x}"
            );
        }
        assert_eq!(msrs.get(K7_CLK_CTL, &ctx), Ok(0x2000_0000));
        assert_eq!(msrs.set(FAM10H_MMIO_CONF_BASE, 0, &ctx), Ok(Effect::None));
        assert_eq!(
            msrs.set(FAM10H_MMIO_CONF_BASE, 1, &ctx),
            Err(MsrError::Invalid)
        );
        assert_eq!(msrs.get(PATCH_LOADER, &ctx), Err(MsrError::Unsupported));
        assert_eq!(msrs.set(PATCH_LOADER, 1, &ctx), Ok(Effect::None));
    }
}

#[test]
fn transactions_have_a_bit_of_debugctl() {
    const RTM: u64 = 1 << 15;
    let (rich, poor) = (rich(), poor());
    assert_eq!(rules::debugctl(RTM | 3, &rich, Origin::Guest), Ok(RTM));
    assert_eq!(
        rules::debugctl(RTM, &poor, Origin::Guest),
        Err(MsrError::Invalid)
    );
    assert_eq!(rules::debugctl(RTM, &poor, Origin::User), Ok(RTM));
    assert_eq!(rules::debugctl(3, &poor, Origin::Guest), Ok(0));
    assert_eq!(
        rules::debugctl(4, &rich, Origin::User),
        Err(MsrError::Invalid)
    );
}

#[test]
fn the_mask_of_states_reads_for_user_space_in_any_case() {
    let caps = poor();
    let msrs = GuestMsrs::new(0);
    assert_eq!(msrs.get(XSS, &context(&caps, Origin::User)), Ok(0));
    assert_eq!(
        msrs.get(XSS, &context(&caps, Origin::Guest)),
        Err(MsrError::Invalid)
    );
}
