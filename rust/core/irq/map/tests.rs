// SPDX-License-Identifier: GPL-2.0

//! Tests of the APIC map: a table of destinations, and the fast lookups against asking everybody.

use super::*;
use crate::irq::Trigger;
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

fn irq(dest: u32, dest_mode: DestMode) -> Interrupt {
    Interrupt {
        dest,
        vector: 0x41,
        mode: DeliveryMode::Fixed,
        dest_mode,
        trigger: Trigger::Edge,
        assert: true,
        shorthand: Shorthand::None,
        redirect_hint: false,
    }
}

fn xapic(id: u8, ldr: u8, dfr: u32) -> Entry {
    Entry {
        present: true,
        sw_enabled: true,
        x2apic: false,
        x2apic_id: u32::from(id),
        xapic_id: id,
        ldr: u32::from(ldr) << 24,
        dfr,
    }
}

fn x2apic(id: u32) -> Entry {
    Entry {
        present: true,
        sw_enabled: true,
        x2apic: true,
        x2apic_id: id,
        xapic_id: 0,
        ldr: (id >> 4) << 16 | 1 << (id & 15),
        dfr: DFR_FLAT,
    }
}

fn targets(
    map: &Map<Vec<Entry>, Vec<u16>>,
    irq: &Interrupt,
    source: Option<VcpuIndex>,
) -> Vec<u16> {
    let mut got = vec![];
    map.deliver(irq, source, |v, _| {
        got.push(v.0);
        true
    });
    got.sort_unstable();
    got
}

fn build(entries: Vec<Entry>) -> Map<Vec<Entry>, Vec<u16>> {
    Map::build(entries, vec![0; 4096], Options::default())
}

#[test]
fn destinations_of_the_sdm() {
    use DestMode::{
        Logical,
        Physical, //
    };
    let flat = build((0..4).map(|i| xapic(i, 1 << i, DFR_FLAT)).collect());
    let cluster = build(
        (0..8)
            .map(|i| xapic(i, (i / 4) << 4 | 1 << (i % 4), DFR_CLUSTER))
            .collect(),
    );
    let x2 = build((0..40).map(|i| x2apic(i * 10)).collect());
    let cases: [(&Map<_, _>, u32, DestMode, &[u16]); 12] = [
        (&flat, 2, Physical, &[2]),
        (&flat, 4, Physical, &[]),
        (&flat, 0xff, Physical, &[0, 1, 2, 3]),
        (&flat, 0b1010, Logical, &[1, 3]),
        (&flat, 0xff, Logical, &[0, 1, 2, 3]),
        (&cluster, 0x13, Logical, &[4, 5]),
        (&cluster, 0x23, Logical, &[]),
        (&cluster, 0x0f, Logical, &[0, 1, 2, 3]),
        (&x2, 390, Physical, &[39]),
        (&x2, 1 << 16 | 1 << 4, Logical, &[2]),
        (&x2, 24 << 16 | 0xffff, Logical, &[39]),
        (&x2, 0xffff << 16 | 0xffff_0000, Logical, &[]),
    ];
    for (map, dest, mode, want) in cases {
        assert_eq!(targets(map, &irq(dest, mode), None), want, "{dest:#x}");
    }
    assert_eq!(
        targets(&x2, &irq(X2APIC_BROADCAST, Physical), None).len(),
        40
    );
}

#[test]
fn shorthands_need_a_source() {
    let map = build((0..3).map(|i| xapic(i, 1 << i, DFR_FLAT)).collect());
    let cases: [(Shorthand, &[u16]); 3] = [
        (Shorthand::SelfOnly, &[1]),
        (Shorthand::All, &[0, 1, 2]),
        (Shorthand::AllButSelf, &[0, 2]),
    ];
    for (shorthand, want) in cases {
        let irq = Interrupt {
            shorthand,
            ..irq(7, DestMode::Physical)
        };
        assert_eq!(targets(&map, &irq, Some(VcpuIndex(1))), want);
    }
}

#[test]
fn lowest_priority_picks_one_by_vector_and_skips_the_disabled() {
    let mut entries: Vec<_> = (0..4).map(|i| xapic(i, 1 << i, DFR_FLAT)).collect();
    entries[1].sw_enabled = false;
    let map = build(entries);
    let mut hits = [0u32; 4];
    for vector in 16..=255u8 {
        let irq = Interrupt {
            vector,
            mode: DeliveryMode::LowestPriority,
            ..irq(0xf, DestMode::Logical)
        };
        let got = targets(&map, &irq, None);
        assert_eq!(got.len(), 1);
        hits[usize::from(got[0])] += 1;
    }
    assert_eq!(hits, [80, 0, 80, 80]);
}

#[test]
fn a_device_broadcast_reaches_x2apics_unless_the_quirk_is_off() {
    let entries: Vec<_> = vec![x2apic(0), x2apic(255)];
    let quirk = build(entries.clone());
    let off = Map::build(
        entries,
        vec![0; 256],
        Options {
            no_broadcast_quirk: true,
            x2apic_format: true,
        },
    );
    let msi = irq(0xff, DestMode::Physical);
    assert_eq!(targets(&quirk, &msi, None), [0, 1]);
    assert_eq!(targets(&quirk, &msi, Some(VcpuIndex(0))), [1]);
    assert_eq!(targets(&off, &msi, None), [1]);
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (
        any::<[bool; 3]>(),
        prop_oneof![0u32..8, 250u32..260],
        any::<u8>(),
        prop_oneof![
            (0u32..8).prop_map(|b| 1 << (24 + b)),
            any::<u32>().prop_map(|l| l & 0xff00_0000)
        ],
        prop_oneof![Just(DFR_FLAT), Just(DFR_CLUSTER), Just(0x5fff_ffff)],
    );
    prop::collection::vec(entry, 0..9).prop_map(|v| {
        v.into_iter()
            .map(|([present, sw_enabled, is_x2], id, xid, ldr, dfr)| Entry {
                present,
                sw_enabled,
                x2apic: is_x2,
                x2apic_id: id,
                xapic_id: if xid & 1 == 0 { id as u8 } else { xid },
                ldr: if is_x2 { x2apic(id).ldr } else { ldr },
                dfr,
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_fast_lookup_finds_whom_asking_everybody_finds(
        entries in entries(),
        dest in prop_oneof![0u32..300, any::<u32>(), (0u32..20, any::<u16>()).prop_map(|(c, m)| c << 16 | u32::from(m))],
        logical in any::<bool>(),
        ipi in any::<bool>(),
        x2apic_format in any::<bool>(),
        no_broadcast_quirk in any::<bool>(),
        size in prop_oneof![Just(0usize), Just(256), Just(4096)],
    ) {
        let options = Options { x2apic_format, no_broadcast_quirk };
        let mode = if logical { DestMode::Logical } else { DestMode::Physical };
        let source = if ipi { Some(VcpuIndex(0)) } else { None };
        let map = Map::build(entries.clone(), vec![0; size], options);
        let want: Vec<u16> = entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.present && map.matches_dest(e, dest, mode, ipi))
            .map(|(i, _)| i as u16)
            .collect();
        let irq = irq(dest, mode);
        prop_assert_eq!(&targets(&map, &irq, source), &want);
        let lowest = Interrupt { mode: DeliveryMode::LowestPriority, ..irq };
        let one = targets(&map, &lowest, source);
        prop_assert!(one.iter().all(|i| want.contains(i)));
        if !(dest == BROADCAST && mode == DestMode::Physical) {
            let awake = want.iter().any(|i| entries[usize::from(*i)].sw_enabled);
            prop_assert!(one.len() <= 1 && (one.len() == 1 || !awake));
        }
    }
}
