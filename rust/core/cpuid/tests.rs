// SPDX-License-Identifier: GPL-2.0

use super::features::{self, Implemented};
use super::guest::{
    check, equal, execute, find, update_runtime, BadCpuid, CpuidIndex, GuestCaps, Runtime,
};
use super::supported::{emulated, supported, TooSmall};
use super::xstate::{XstateSizes, AMX_PARTS, AVX, AVX512, PKRU};
use super::*;
use crate::regs::{cr4, efer};
use std::vec;
use std::vec::Vec;

/// A host with every feature bit set, 39 physical bits, four cache levels.
struct Everything;

impl HostCpuid for Everything {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        let all = Regs {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        };
        match (leaf, subleaf) {
            (0, _) => Regs {
                eax: 0x20,
                ebx: 0x756e_6547,
                ecx: 0x6c65_746e,
                edx: 0x4965_6e69,
            },
            (4, 0..=3) => Regs { eax: 0x121, ..all },
            (4, _) => Regs::default(),
            (7, 0) => Regs { eax: 2, ..all },
            (0xd, 0 | 1) => all,
            (0xd, 2) => Regs {
                eax: 256,
                ebx: 576,
                ..Regs::default()
            },
            (0xd, 5) => Regs {
                eax: 64,
                ebx: 1088,
                ..Regs::default()
            },
            (0xd, 6) => Regs {
                eax: 512,
                ebx: 1152,
                ..Regs::default()
            },
            (0xd, 7) => Regs {
                eax: 1024,
                ebx: 1664,
                ..Regs::default()
            },
            (0xd, 9) => Regs {
                eax: 8,
                ebx: 2688,
                ..Regs::default()
            },
            (0xd, _) => Regs::default(),
            (0x8000_0000, _) => Regs {
                eax: 0x8000_0008,
                ..Regs::default()
            },
            (0x8000_0008, _) => Regs { eax: 0x3027, ..all },
            _ => all,
        }
    }
}

fn have() -> Implemented {
    Implemented {
        ept: true,
        pku: true,
        invpcid: true,
        rdtscp: true,
        xsaves: true,
        umip: true,
        xcr0: AVX512 | PKRU,
        host_phys_bits: 39,
        kvm_features: kvm_feature::CLOCKSOURCE | kvm_feature::CLOCKSOURCE2,
        ..Implemented::default()
    }
}

fn offer(have: &Implemented) -> Vec<CpuidEntry> {
    let mut out = vec![CpuidEntry::default(); MAX_ENTRIES];
    let n = supported(&Everything, have, &mut out).expect("256 entries are enough");
    out.truncate(n);
    out
}

fn leaf(entries: &[CpuidEntry], function: u32, index: u32) -> Regs {
    find(entries, function, index)
        .expect("the leaf is there")
        .regs()
}

#[test]
fn what_is_not_virtualised_is_not_offered() {
    let entries = offer(&have());
    let one = leaf(&entries, 1, 0);
    assert_eq!(one.ecx & (1 << 5), 0, "no VMX");
    assert_eq!(
        one.ecx & (1 << 3 | 1 << 15 | 1 << 27),
        0,
        "no MONITOR, PDCM, OSXSAVE"
    );
    assert_eq!(
        one.ecx & (1 << 31 | 1 << 21 | 1 << 24),
        1 << 31 | 1 << 21 | 1 << 24
    );
    let seven = leaf(&entries, 7, 0);
    assert_eq!(
        seven.ebx & (1 << 2 | 1 << 14 | 1 << 25),
        0,
        "no SGX, MPX, PT"
    );
    assert_eq!(
        seven.ecx & (1 << 5 | 1 << 7 | 1 << 30),
        0,
        "no WAITPKG, SHSTK, SGX_LC"
    );
    assert_eq!(
        seven.edx & (1 << 20 | 1 << 24 | 1 << 26),
        0,
        "no IBT, AMX, SPEC_CTRL"
    );
    assert_eq!(leaf(&entries, 0xa, 0), Regs::default());
    assert_eq!(leaf(&entries, 0xb, 0), Regs::default());
    assert_eq!(leaf(&entries, 6, 0).eax, 4);
}

#[test]
fn conditions_take_their_bits_away() {
    let bare = Implemented {
        xcr0: 0,
        invpcid: false,
        rdtscp: false,
        pku: false,
        ..have()
    };
    let entries = offer(&bare);
    assert_eq!(leaf(&entries, 1, 0).ecx & (1 << 26 | 1 << 28), 0);
    assert_eq!(leaf(&entries, 7, 0).ebx & (1 << 5 | 1 << 10 | 1 << 16), 0);
    assert_eq!(leaf(&entries, 7, 0).ecx & (1 << 3 | 1 << 22), 0);
    assert_eq!(leaf(&entries, 0x8000_0001, 0).edx & (1 << 27), 0);
    assert!(find(&entries, 0xd, 1).is_none());
    let with_amx = offer(&Implemented {
        xcr0: AVX | AMX_PARTS,
        ..have()
    });
    assert_ne!(leaf(&with_amx, 7, 0).edx & (1 << 24), 0);
}

#[test]
fn xsave_leaves_agree_with_each_other() {
    let entries = offer(&have());
    let zero = leaf(&entries, 0xd, 0);
    assert_eq!((zero.eax, zero.ebx, zero.ecx), (0x2e7, 2696, 2696));
    assert_eq!(leaf(&entries, 0xd, 1).ebx, 576 + 256 + 64 + 512 + 1024 + 8);
    for i in [2, 5, 6, 7, 9] {
        assert_ne!(leaf(&entries, 0xd, i).eax, 0);
    }
    assert!(find(&entries, 0xd, 3).is_none());
}

#[test]
fn address_sizes_and_kvm_leaves() {
    let entries = offer(&have());
    assert_eq!(leaf(&entries, 0x8000_0008, 0).eax, 0x27_3027);
    let shadow = offer(&Implemented {
        ept: false,
        host_phys_bits: 36,
        ..have()
    });
    assert_eq!(leaf(&shadow, 0x8000_0008, 0).eax, 0x3024);
    let signature = leaf(&entries, 0x4000_0000, 0);
    let mut text = Vec::new();
    for word in [signature.ebx, signature.ecx, signature.edx] {
        text.extend(word.to_le_bytes());
    }
    assert_eq!(text, b"KVMKVMKVM\0\0\0");
    assert_eq!(leaf(&entries, 0x4000_0001, 0).eax, 9);
}

#[test]
fn every_too_small_array_is_refused() {
    let n = offer(&have()).len();
    for size in 0..n {
        let mut out = vec![CpuidEntry::default(); size];
        assert_eq!(supported(&Everything, &have(), &mut out), Err(TooSmall));
    }
    let mut exact = vec![CpuidEntry::default(); n];
    assert_eq!(supported(&Everything, &have(), &mut exact), Ok(n));
    let mut two = [CpuidEntry::default(); 2];
    assert_eq!(emulated(&have(), &mut two), Err(TooSmall));
    let mut three = [CpuidEntry::default(); 3];
    assert_eq!(emulated(&have(), &mut three), Ok(3));
}

#[test]
fn the_index_finds_what_a_walk_finds() {
    let mut entries = offer(&have());
    // Out of order, doubled, and with leaves beyond the direct tables.
    entries.reverse();
    entries.push(CpuidEntry {
        function: 1,
        eax: 0xbad,
        ..CpuidEntry::default()
    });
    entries.push(CpuidEntry {
        function: 0x4000_0100,
        eax: 7,
        ..CpuidEntry::default()
    });
    let table = CpuidIndex::build(&entries);
    let functions = (0..0x48)
        .chain(0x8000_0000..0x8000_0048)
        .chain([0x4000_0000, 0x4000_0100]);
    for function in functions {
        for index in 0..20 {
            assert_eq!(
                table.lookup(&entries, function, index),
                find(&entries, function, index),
                "{function:x}.{index}"
            );
        }
    }
}

#[test]
fn leaves_out_of_range_answer_as_the_highest_basic_one() {
    let entry = |function, index, flags, eax| CpuidEntry {
        function,
        index,
        flags,
        eax,
        ..CpuidEntry::default()
    };
    let mut entries = vec![
        entry(0, 0, 0, 7),
        entry(1, 0, 0, 0x111),
        entry(7, 0, SIGNIFICANT_INDEX, 0x700),
        entry(7, 1, SIGNIFICANT_INDEX, 0x701),
        entry(0x8000_0000, 0, 0, 0x8000_0001),
    ];
    let ask =
        |entries: &[CpuidEntry], f, i| execute(entries, &CpuidIndex::build(entries), f, i).eax;
    assert_eq!(ask(&entries, 0x20, 0), 0x700);
    assert_eq!(ask(&entries, 0x20, 1), 0x701, "the index asked for is kept");
    assert_eq!(ask(&entries, 0x8000_0002, 0), 0x700);
    assert_eq!(ask(&entries, 0x4000_0000, 0), 0x700, "no such class");
    assert_eq!(ask(&entries, 0xc000_0000, 0), 0x700);
    assert_eq!(ask(&entries, 2, 0), 0, "in range but absent");
    assert_eq!(ask(&entries, 0x8000_0001, 0), 0, "in range but absent");
    assert_eq!(ask(&[], 0, 0), 0);
    let amd = entries.first_mut().expect("not empty");
    (amd.ebx, amd.ecx, amd.edx) = (0x6874_7541, 0x444d_4163, 0x6974_6e65);
    assert_eq!(ask(&entries, 0x20, 0), 0);
}

#[test]
fn topology_keeps_level_and_id_for_missing_subleaves() {
    let topology = CpuidEntry {
        function: 0xb,
        index: 1,
        flags: SIGNIFICANT_INDEX,
        edx: 3,
        ..CpuidEntry::default()
    };
    let entries = [
        CpuidEntry {
            eax: 0xb,
            ..CpuidEntry::default()
        },
        topology,
    ];
    let regs = execute(&entries, &CpuidIndex::build(&entries), 0xb, 0x105);
    assert_eq!(
        regs,
        Regs {
            ecx: 5,
            edx: 3,
            ..Regs::default()
        }
    );
}

#[test]
fn runtime_bits_follow_the_vcpu() {
    let mut entries = offer(&have());
    let sizes = XstateSizes::from_host(&Everything);
    let on = Runtime {
        cr4: cr4::OSXSAVE | cr4::PKE,
        apic_enabled: true,
        mwait: Some(true),
        xcr0: AVX,
        xss: 0,
    };
    update_runtime(&mut entries, &sizes, &on);
    let one = leaf(&entries, 1, 0);
    assert_eq!(one.ecx & (1 << 27 | 1 << 3), 1 << 27 | 1 << 3);
    assert_ne!(one.edx & (1 << 9), 0);
    assert_ne!(leaf(&entries, 7, 0).ecx & (1 << 4), 0);
    assert_eq!(
        (leaf(&entries, 0xd, 0).ebx, leaf(&entries, 0xd, 1).ebx),
        (832, 832)
    );
    let off = Runtime {
        cr4: 0,
        apic_enabled: false,
        mwait: None,
        xcr0: 1,
        ..on
    };
    update_runtime(&mut entries, &sizes, &off);
    let one = leaf(&entries, 1, 0);
    assert_eq!((one.ecx & (1 << 27), one.edx & (1 << 9)), (0, 0));
    assert_ne!(one.ecx & (1 << 3), 0, "left alone");
    assert_eq!(leaf(&entries, 0xd, 0).ebx, 576);
}

#[test]
fn a_guest_without_cpuid_has_nothing() {
    let caps = GuestCaps::derive(&[], &Everything, &have());
    assert_eq!(caps.maxphyaddr, 36);
    assert!(!caps.rules.efer_valid(efer::LME) && caps.rules.efer_valid(efer::SCE));
    assert!(caps.rules.cr4_valid(cr4::PAE) && !caps.rules.cr4_valid(cr4::OSXSAVE));
    assert_eq!(caps.xcr0_allowed, 0);
}

#[test]
fn a_guest_gets_what_it_was_given_and_no_more_than_there_is() {
    let mut entries = offer(&have());
    let caps = GuestCaps::derive(&entries, &Everything, &have());
    assert!(caps.has(features::LM) && caps.has(features::AVX512F) && !caps.has(features::MWAIT));
    assert_eq!(caps.maxphyaddr, 39);
    assert_eq!(caps.rules.cr3_reserved, !0 << 39);
    assert!(caps
        .rules
        .cr4_valid(cr4::SMEP | cr4::PCIDE | cr4::PKE | cr4::OSXSAVE | cr4::UMIP));
    assert!(!caps.rules.cr4_valid(cr4::VMXE) && !caps.rules.cr4_valid(cr4::CET));
    assert_eq!(caps.xcr0_allowed, AVX512 | PKRU);
    for entry in &mut entries {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (!0, !0, !0, !0);
    }
    let greedy = GuestCaps::derive(&entries, &Everything, &have());
    assert!(!greedy.rules.cr4_valid(cr4::VMXE) && !greedy.has(features::WAITPKG));
    assert_eq!(greedy.xcr0_allowed, AVX512 | PKRU);
    assert_eq!(
        greedy.reserved_gpa_bits(),
        0,
        "255 address bits leave none over"
    );
    assert!(greedy.has(features::MWAIT), "known, though not offered");
    let mut changed = greedy;
    changed.set_mwait(false);
    assert!(!changed.has(features::MWAIT) && changed.has(features::LM));
    changed.set_mwait(true);
    assert_eq!(changed, greedy);
}

#[test]
fn equal_tables_differ_in_padding_only() {
    let table = offer(&have());
    let mut other = table.clone();
    other[3].padding = [7; 3];
    assert!(equal(&table, &other));
    other[3].ebx ^= 1;
    assert!(!equal(&table, &other), "another value");
    assert!(!equal(&table, &table[1..]), "another length");
}

#[test]
fn bad_tables() {
    assert_eq!(check(&[CpuidEntry::default(); 257]), Err(BadCpuid::TooMany));
    let with = |eax| {
        [CpuidEntry {
            function: 0x8000_0008,
            eax,
            ..CpuidEntry::default()
        }]
    };
    for (eax, good) in [
        (0x3027, true),
        (0x3934, true),
        (0x0024, true),
        (0x2f27, false),
    ] {
        assert_eq!(check(&with(eax)).is_ok(), good, "{eax:x}");
    }
}
