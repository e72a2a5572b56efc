// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::format;

/// Capability MSRs as (number, value).
type Dump = &'static [(u32, u64)];

/// A Skylake client: no APIC-register virtualisation worth using, as it lacks posted interrupts.
const SKYLAKE: Dump = &[
    (0x480, 0x00da_0400_0000_0004),
    (0x485, 0x7004_c1e7),
    (0x486, 0x8000_0021),
    (0x487, 0xffff_ffff),
    (0x488, 0x2000),
    (0x489, 0x0037_27ff),
    (0x48b, 0x005f_fcff_0000_0000),
    (0x48c, 0x0000_0f01_0673_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x01ff_ffff_0003_6dfb),
    (0x490, 0x0003_ffff_0000_11fb),
];

/// A Tiger Lake: everything up to TSC scaling, posted interrupts and CET state.
const TIGERLAKE: Dump = &[
    (0x480, 0x00da_0400_0000_000a),
    (0x485, 0x7004_c1e7),
    (0x486, 0x8000_0021),
    (0x487, 0xffff_ffff),
    (0x488, 0x2000),
    (0x489, 0x00ff_ffff),
    (0x48b, 0x335f_fff0_0000_0000 | 0x000f << 32),
    (0x48c, 0x0000_0f01_0673_4141),
    (0x48d, 0x0000_00ff_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x77ff_ffff_0003_6dfb),
    (0x490, 0x0077_ffff_0000_11fb),
];

/// A Core 2: no TRUE MSRs, no EPT, no VPID.
const CORE2: Dump = &[
    (0x480, 0x001a_0400_0000_000d),
    (0x481, 0x0000_003f_0000_0016),
    (0x482, 0xf7f9_fffe_0401_e172),
    (0x483, 0x0003_ffff_0003_6dff),
    (0x484, 0x0000_3fff_0000_11ff),
    (0x485, 0x0004_03c0),
    (0x486, 0x8000_0021),
    (0x487, 0xffff_ffff),
    (0x488, 0x2000),
    (0x489, 0x27ff),
    (0x48b, 0x0000_0041_0000_0000),
];

fn read_with(dump: Dump, change: impl Fn(u32, u64) -> Option<u64>) -> CapabilityMsrs {
    CapabilityMsrs::read(|msr| {
        let (_, value) = dump.iter().find(|(n, _)| *n == msr)?;
        change(msr, *value)
    })
    .expect("all MSRs that must exist do")
}

fn read(dump: Dump) -> CapabilityMsrs {
    read_with(dump, |_, value| Some(value))
}

fn negotiated(dump: Dump, params: Params) -> VmcsConfig {
    negotiate(&read(dump), &params).unwrap_or_else(|missing| panic!("{missing}"))
}

#[test]
fn skylake_gets_ept_but_no_apicv() {
    let config = negotiated(SKYLAKE, Params::default());
    let f = config.features;
    assert!(f.ept && f.ept_ad && f.ept_1g && f.unrestricted_guest && f.vpid && f.pml && f.ple);
    assert!(!f.apicv && f.flexpriority);
    assert_eq!(config.revision_id, 4);
    assert_eq!(config.preemption_timer_shift, 7);
    assert_eq!(config.max_msr_list, 512);
    assert!(config.base.primary.has(Primary::UNCOND_IO_EXITING));
    assert!(!config.base.primary.has(Primary::CR3_LOAD_EXITING));
    assert!(!config.base.primary.has(Primary::INVLPG_EXITING));
    assert!(!config.dynamic.pin.has(PinBased::POSTED_INTR));
}

#[test]
fn tigerlake_gets_everything() {
    let f = negotiated(TIGERLAKE, Params::default()).features;
    assert!(f.apicv && f.tsc_scaling && f.cet_state && f.preemption_timer && f.virtual_nmis);
    assert!(f.rdtscp && f.invpcid && f.xsaves && f.umip_emulation);
}

#[test]
fn translations_are_dropped_as_the_processor_can() {
    let scopes = |absent: u64| {
        let caps = read_with(TIGERLAKE, |msr, value| {
            Some(if msr == 0x48c { value & !absent } else { value })
        });
        let f = negotiate(&caps, &Params::default())
            .expect("still usable")
            .features;
        assert!(f.ept && f.vpid);
        (f.invept, f.invvpid)
    };
    assert_eq!(scopes(0), (Scope::Single, Scope::Single));
    assert_eq!(
        scopes(ept_vpid::INVEPT_CONTEXT),
        (Scope::All, Scope::Single)
    );
    assert_eq!(
        scopes(ept_vpid::INVVPID_SINGLE),
        (Scope::Single, Scope::All)
    );
}

#[test]
fn a_processor_without_true_msrs_is_read_by_the_old_ones_and_named_for_what_it_lacks() {
    let caps = read(CORE2);
    assert_eq!(caps.primary.must, 0x0401_e172);
    assert_eq!(
        negotiate(&caps, &Params::default()),
        Err(Missing::Control {
            word: "primary VM-exit controls",
            name: "LOAD_PAT"
        })
    );
}

#[test]
fn a_forced_control_is_set_and_not_switchable() {
    // Skylake by its old MSR: CR3 exits can't be switched off.
    let caps = read_with(SKYLAKE, |msr, value| {
        Some(if msr == 0x48e {
            value | 0x1_8000
        } else {
            value
        })
    });
    let config = negotiate(&caps, &Params::default()).expect("still usable");
    assert!(config.base.primary.has(Primary::CR3_LOAD_EXITING));
    assert!(!config.dynamic.primary.has(Primary::CR3_LOAD_EXITING));
}

#[test]
fn what_is_missing_is_named() {
    let without = |msr: u32, bit: u32| {
        let caps = read_with(TIGERLAKE, |n, value| {
            Some(if n == msr {
                value & !(1 << (32 + bit))
            } else {
                value
            })
        });
        format!(
            "{}",
            negotiate(&caps, &Params::default()).expect_err("a needed control is gone")
        )
    };
    assert_eq!(
        without(0x48e, 28),
        "the processor lacks USE_MSR_BITMAPS in the primary processor-based VM-execution controls"
    );
    assert_eq!(
        without(0x48d, 0),
        "the processor lacks EXT_INTR_EXITING in the pin-based VM-execution controls"
    );
    assert_eq!(
        without(0x490, 9),
        "the processor lacks IA32E_MODE in the VM-entry controls"
    );
}

#[test]
fn an_unreadable_msr_is_named() {
    assert_eq!(
        CapabilityMsrs::read(|_| None),
        Err(Missing::Msr("IA32_VMX_BASIC"))
    );
    let all_but_misc = |msr| (msr != 0x485).then_some(0);
    assert_eq!(
        CapabilityMsrs::read(all_but_misc),
        Err(Missing::Msr("IA32_VMX_MISC"))
    );
}

#[test]
fn an_odd_vmcs_region_is_refused() {
    for basic in [
        0x00d9_0400_0000_0004,
        0x0082_0400_0000_0004,
        0x00da_1400_0000_0004,
    ] {
        let caps = CapabilityMsrs {
            basic,
            ..read(SKYLAKE)
        };
        assert_eq!(
            negotiate(&caps, &Params::default()),
            Err(Missing::VmcsRegion),
            "{basic:x}"
        );
    }
}

#[test]
fn parameters_switch_off_with_all_that_depends() {
    let off = |params: Params| negotiated(TIGERLAKE, params);
    let no_ept = off(Params {
        ept: false,
        ..Params::default()
    });
    let f = no_ept.features;
    assert!(!f.ept && !f.ept_ad && !f.pml && !f.unrestricted_guest);
    assert!(no_ept.base.primary.has(Primary::INVLPG_EXITING));
    assert!(no_ept.base.primary.has(Primary::CR3_LOAD_EXITING));
    assert!(!no_ept.has(Secondary::UNRESTRICTED_GUEST));

    let no_ad = off(Params {
        eptad: false,
        ..Params::default()
    });
    assert!(no_ad.features.ept && !no_ad.features.pml && !no_ad.has(Secondary::ENABLE_PML));

    let no_apicv = off(Params {
        enable_apicv: false,
        ..Params::default()
    });
    assert!(!no_apicv.has(Secondary::VIRTUAL_INTR_DELIVERY));
    assert!(!no_apicv.dynamic.pin.has(PinBased::POSTED_INTR));

    let no_ple = off(Params {
        ple_gap: 0,
        ..Params::default()
    });
    assert!(!no_ple.has(Secondary::PAUSE_LOOP_EXITING) && no_ple.ple_window == 0);

    let no_vnmi = off(Params {
        vnmi: false,
        ..Params::default()
    });
    assert!(!no_vnmi.dynamic.primary.has(Primary::NMI_WINDOW_EXITING));
}

/// All shapes of vCPU on all parameter sets keep the SDM's rules and the capability MSRs.
#[test]
fn every_shape_is_consistent() {
    for dump in [SKYLAKE, TIGERLAKE] {
        let caps = read(dump);
        for bits in 0..256u32 {
            let bit = |n: u32| bits & (1 << n) != 0;
            let params = Params {
                ept: bit(0),
                eptad: bit(1),
                unrestricted_guest: bit(2),
                vpid: bit(3),
                flexpriority: bit(4),
                enable_apicv: bit(5),
                pml: bit(6),
                vnmi: bit(7),
                ..Params::default()
            };
            let config = negotiate(&caps, &params).expect("all parameter sets run");
            for shape_bits in 0..8192u32 {
                let bit = |n: u32| shape_bits & (1 << n) != 0;
                let controls = config.controls_for(&VcpuShape {
                    apic: match (bit(0), bit(1), bit(2)) {
                        (false, ..) => None,
                        (true, true, _) => Some(Place::Msrs),
                        (true, false, true) => Some(Place::DefaultPage),
                        (true, false, false) => Some(Place::Elsewhere),
                    },
                    apicv_active: bit(3),
                    hlt_in_guest: bit(4),
                    mwait_in_guest: bit(5),
                    pause_in_guest: bit(6),
                    rdtscp: bit(7),
                    invpcid: bit(8),
                    xsaves: bit(9),
                    waitpkg: bit(10),
                    logs_writes: bit(11),
                    vpid: bit(12),
                });
                assert_eq!(controls.broken_rule(), None, "{params:?} {shape_bits:x}");
                assert!(caps.pin.permits(controls.pin.to_raw()));
                assert!(caps.primary.permits(controls.primary.to_raw()));
                assert!(caps.secondary.permits(controls.secondary.to_raw()));
                assert!(caps.exit.permits(controls.exit.to_raw()));
                assert!(caps.entry.permits(controls.entry.to_raw()));
            }
        }
    }
}

/// VM entry refuses the control with VPID 0.
#[test]
fn a_vcpu_for_which_there_is_no_vpid_left_runs_without() {
    let config = negotiated(TIGERLAKE, Params::default());
    for vpid in [false, true] {
        let c = config.controls_for(&VcpuShape {
            vpid,
            ..VcpuShape::default()
        });
        assert_eq!(c.secondary.has(Secondary::ENABLE_VPID), vpid);
    }
}

#[test]
fn help_for_the_apic_follows_its_place() {
    let with = |flexpriority| {
        negotiated(
            TIGERLAKE,
            Params {
                flexpriority,
                enable_apicv: false,
                ..Params::default()
            },
        )
    };
    let (page, msrs) = (
        Secondary::VIRTUALIZE_APIC_ACCESSES,
        Secondary::VIRTUALIZE_X2APIC_MODE,
    );
    for flexpriority in [false, true] {
        let config = with(flexpriority);
        for (apic, shadow, has_page, has_msrs) in [
            (None, false, false, false),
            (Some(Place::Elsewhere), true, false, false),
            (Some(Place::DefaultPage), true, flexpriority, false),
            (Some(Place::Msrs), true, false, true),
        ] {
            let c = config.controls_for(&VcpuShape {
                apic,
                ..VcpuShape::default()
            });
            assert_eq!(c.primary.has(Primary::TPR_SHADOW), shadow, "{apic:?}");
            let exits = Primary::CR8_LOAD_EXITING.with(Primary::CR8_STORE_EXITING);
            assert_eq!(c.primary.has(exits), !shadow, "{apic:?}");
            assert_eq!(c.secondary.has(page), has_page, "{apic:?}");
            assert_eq!(c.secondary.has(msrs), has_msrs, "{apic:?}");
        }
    }
}

#[test]
fn broken_rules_are_found() {
    let good = negotiated(TIGERLAKE, Params::default()).base;
    let mut c = good;
    c.primary = c.primary.with(Primary::NMI_WINDOW_EXITING);
    assert_eq!(c.broken_rule(), None);
    c.pin = c.pin.without(PinBased::VIRTUAL_NMIS);
    assert!(c.broken_rule().is_some());
    let mut c = good;
    c.secondary = c.secondary.without(Secondary::ENABLE_EPT);
    assert!(c.broken_rule().is_some());
    let mut c = good;
    c.pin = c.pin.with(PinBased::POSTED_INTR);
    assert!(c.broken_rule().is_some());
}
