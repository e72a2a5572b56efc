// SPDX-License-Identifier: GPL-2.0

//! Tests of the routing table: the checks of KVM_SET_GSI_ROUTING, and look-ups against the list it was built of.

use super::*;
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

type Built = Result<Table<Vec<Route>, Vec<u16>>, RouteError>;

fn build(input: &[Route], options: Options) -> Built {
    let highest = input.iter().map(|r| r.gsi).max().unwrap_or(0);
    let index = vec![0xdead; index_len(highest.min(10_000))];
    Table::build(input, vec![Route::EMPTY; input.len()], index, options)
}

fn msi(gsi: u32) -> Route {
    let msi = MsiMessage {
        address_lo: 0xfee0_0000,
        address_hi: 0,
        data: gsi,
    };
    Route {
        gsi,
        target: Target::Msi(msi),
    }
}

#[test]
fn the_default_table() {
    let routes: Vec<_> = (0..).map_while(default_route).collect();
    assert_eq!(routes.len(), 40);
    let t = build(&routes, Options::default()).unwrap();
    for gsi in 0..24u8 {
        let got = t.get(gsi.into());
        assert_eq!(got.len(), if gsi < 16 { 2 } else { 1 });
        assert!(got.iter().any(|r| r.target == Target::Ioapic(gsi)));
        assert_eq!(t.gsi_of_ioapic(gsi), Some(gsi.into()));
        assert_eq!(
            t.gsi_of_pic(gsi),
            if gsi < 16 { Some(gsi.into()) } else { None }
        );
    }
    assert!(t.get(24).is_empty() && t.get(u32::MAX).is_empty());
}

#[test]
fn what_the_ioctl_refuses() {
    let pin = |gsi, chip, pin| Route {
        gsi,
        target: Target::chip_pin(chip, pin).unwrap(),
    };
    let none = Options::default();
    for (routes, options, want) in [
        (vec![msi(4096)], none, RouteError::Gsi),
        (vec![msi(u32::MAX)], none, RouteError::Gsi),
        (vec![msi(5), msi(5)], none, RouteError::Conflict),
        (
            vec![msi(5), pin(5, Chip::Ioapic, 5)],
            none,
            RouteError::Conflict,
        ),
        (
            vec![pin(5, Chip::Ioapic, 4), pin(5, Chip::Ioapic, 5)],
            none,
            RouteError::Conflict,
        ),
        (
            vec![pin(1, Chip::PicSlave, 0)],
            Options {
                split: true,
                ..none
            },
            RouteError::NoChip,
        ),
        (
            vec![Route {
                gsi: 1,
                target: Target::Msi(MsiMessage {
                    address_hi: 1,
                    ..MsiMessage::default()
                }),
            }],
            Options {
                x2apic_format: true,
                ..none
            },
            RouteError::Msi,
        ),
    ] {
        assert_eq!(build(&routes, options).err(), Some(want), "{routes:?}");
    }
    assert_eq!(Target::chip_pin(Chip::PicMaster, 8), None);
    assert_eq!(Target::chip_pin(Chip::Ioapic, 24), None);
    assert_eq!(Chip::from_abi(3), None);
    let all = [
        pin(9, Chip::PicMaster, 1),
        pin(9, Chip::PicSlave, 1),
        pin(9, Chip::Ioapic, 9),
    ];
    assert_eq!(build(&all, none).unwrap().get(9), all);
    let empty = build(&[], none).unwrap();
    assert!(empty.get(0).is_empty() && empty.gsi_of_pic(0).is_none());
    assert_eq!(
        Table::build(&[msi(3)], vec![Route::EMPTY], vec![0; 4], none).err(),
        Some(RouteError::Space)
    );
}

fn route() -> impl Strategy<Value = Route> {
    let gsi = prop_oneof![0u32..30, 4000u32..4100];
    (gsi, 0u32..4, 0u32..24).prop_map(|(gsi, chip, pin)| {
        match Chip::from_abi(chip).and_then(|c| Target::chip_pin(c, pin)) {
            Some(target) => Route { gsi, target },
            None => msi(gsi),
        }
    })
}

proptest! {
    #[test]
    fn a_lookup_finds_what_was_put_in(input in prop::collection::vec(route(), 0..60)) {
        let valid = input.iter().enumerate().all(|(i, a)| {
            a.gsi < 4096
                && input.iter().skip(i + 1).all(|b| {
                    a.gsi != b.gsi
                        || a.target.chip().is_some()
                            && b.target.chip().is_some()
                            && a.target.chip() != b.target.chip()
                })
        });
        match build(&input, Options::default()) {
            Err(_) => prop_assert!(!valid),
            Ok(t) => {
                prop_assert!(valid);
                for gsi in 0..4200 {
                    let want: Vec<_> = input.iter().copied().filter(|r| r.gsi == gsi).collect();
                    prop_assert_eq!(t.get(gsi), &want[..]);
                }
            }
        }
    }
}
