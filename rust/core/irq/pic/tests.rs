// SPDX-License-Identifier: GPL-2.0

//! Tests of the PIC: datasheet cases, and any order of assert, deassert, mask, INTA and EOI.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const USER: IrqSource = IrqSource::UserSpace;

/// Initialized as a PC's firmware and Linux do it, nothing masked.
fn pc(icw4: u8) -> Pic {
    let mut pic = Pic::new();
    for (base, vector, wiring) in [(0x20, 0x30, 4), (0xa0, 0x38, 2)] {
        let _ = pic.write(base, 0x11);
        let _ = pic.write(base + 1, vector);
        let _ = pic.write(base + 1, wiring);
        let _ = pic.write(base + 1, icw4);
        let _ = pic.write(base + 1, 0);
    }
    pic
}

fn pulse(pic: &mut Pic, pin: u8) {
    let _ = pic.set_line(pin, USER, true);
    let _ = pic.set_line(pin, USER, false);
}

#[test]
fn the_state_has_the_size_of_the_uapi() {
    assert_eq!(core::mem::size_of::<PicState>(), 16);
}

#[test]
fn vectors_and_nesting() {
    let mut pic = pc(1);
    assert!(!pic.output());
    assert!(pic.set_line(4, USER, true).1.wake);
    assert_eq!(pic.read_irq().0, 0x34);
    pulse(&mut pic, 5);
    assert!(!pic.output(), "lower priority");
    pulse(&mut pic, 8);
    assert!(pic.output());
    assert_eq!(pic.read_irq().0, 0x38);
    assert!(!pic.output());
    assert_eq!(pic.write(0xa0, 0x20).acked, 1 << 8);
    assert_eq!(pic.write(0x20, 0x20).acked, 1 << 2);
    let e = pic.write(0x20, 0x20);
    assert_eq!((e.acked, e.wake), (1 << 4, true));
    assert_eq!(pic.read_irq().0, 0x35);
    assert_eq!(pic.read_irq().0, 0x37, "spurious");
    assert_eq!(pic.read(0x20).0, 0, "IRR");
    let _ = pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20).0, 1 << 5, "ISR has no spurious bit");
}

#[test]
fn level_pins_follow_their_line() {
    let mut pic = pc(1);
    let _ = pic.write(0x4d0, 0xff);
    let _ = pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0).0, pic.read(0x4d1).0), (0xf8, 0xde));
    let _ = pic.set_line(11, USER, true);
    assert_eq!(pic.read_irq().0, 0x3b);
    let _ = pic.write(0xa0, 0x63);
    let _ = pic.write(0x20, 0x62);
    assert!(pic.output(), "still high");
    let _ = pic.set_line(11, USER, false);
    assert!(!pic.output());
}

#[test]
fn rotation_and_set_priority() {
    let mut pic = pc(1);
    let _ = pic.set_line(3, USER, true);
    assert_eq!(pic.read_irq().0, 0x33);
    assert_eq!(pic.write(0x20, 0xa0).acked, 1 << 3);
    // Now 4 is highest, 3 lowest.
    pulse(&mut pic, 0);
    pulse(&mut pic, 5);
    assert_eq!(pic.read_irq().0, 0x35);
    let _ = pic.write(0x20, 0xe5);
    let _ = pic.write(0x20, 0xc7);
    pulse(&mut pic, 7);
    assert_eq!(pic.read_irq().0, 0x30);
}

#[test]
fn automatic_eoi_rotates_if_told() {
    let mut pic = pc(3);
    let _ = pic.write(0x20, 0x80);
    pulse(&mut pic, 1);
    pulse(&mut pic, 6);
    let (vector, e) = pic.read_irq();
    assert_eq!((vector, e.acked), (0x31, 1 << 1));
    assert!(e.wake);
    pulse(&mut pic, 1);
    assert_eq!(pic.read_irq().0, 0x36, "2 is highest now");
    assert_eq!(pic.read_irq().0, 0x31);
}

#[test]
fn special_modes() {
    let mut pic = pc(1);
    pulse(&mut pic, 1);
    let _ = pic.read_irq();
    pulse(&mut pic, 6);
    assert!(!pic.output());
    let _ = pic.write(0x21, 1 << 1);
    assert!(!pic.output());
    let _ = pic.write(0x20, 0x68);
    assert!(pic.output(), "special mask mode");
    let _ = pic.read_irq();
    assert_eq!(pic.write(0x20, 0x20).acked, 1 << 6, "not the masked one");

    let mut pic = pc(0x11);
    pulse(&mut pic, 12);
    assert_eq!(pic.read_irq().0, 0x3c);
    pulse(&mut pic, 9);
    assert!(pic.output(), "special fully nested mode");
    assert_eq!(pic.read_irq().0, 0x39);
}

#[test]
fn poll_is_an_acknowledge() {
    let mut pic = pc(1);
    let _ = pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20).0, 7);
    pulse(&mut pic, 6);
    let _ = pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20).0, 0x86);
    assert!(!pic.output());
    assert_eq!(pic.write(0x20, 0x20).acked, 1 << 6);
}

#[test]
fn status_says_masked_or_coalesced() {
    let mut pic = pc(1);
    assert_eq!(pic.set_line(5, USER, true).0, Delivery::Accepted(1));
    let _ = pic.set_line(5, USER, false);
    assert_eq!(pic.set_line(5, USER, true).0, Delivery::Coalesced);
    let e = pic.write(0x21, 1 << 6);
    assert_eq!(e.mask_changed, 1 << 6);
    assert_eq!(pic.set_line(6, USER, true).0, Delivery::Ignored);
    assert_eq!(pic.set_line(2, USER, true).0, Delivery::Ignored);
    assert_eq!(pic.set_line(16, USER, true).0, Delivery::Ignored);
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, bool),
    Mask(bool, u8),
    Take,
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0u8..16, any::<bool>()).prop_map(|(p, h)| Op::Line(p, h)),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(s, m)| Op::Mask(s, m)),
        4 => Just(Op::Take),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    /// Interrupts are taken and ended at once, so every edge that is not masked comes out exactly once.
    #[test]
    fn nothing_is_lost_or_invented(ops in prop::collection::vec(op(), 0..200), level in any::<u16>()) {
        let mut pic = pc(1);
        let _ = pic.write(0x4d0, level as u8);
        let _ = pic.write(0x4d1, (level >> 8) as u8);
        let level = level & 0xdef8;
        let (mut lines, mut edges, mut masks) = (0u16, 0u16, 0u16);
        // Priority order with the slave in the place of pin 2.
        let order: Vec<u16> = [0, 1].into_iter().chain(8..16).chain(3..8).collect();
        for op in ops {
            match op {
                Op::Line(2, _) => {}
                Op::Line(p, h) => {
                    let b = 1u16 << p;
                    edges |= if h && lines & b == 0 { b & !level } else { 0 };
                    lines = if h { lines | b } else { lines & !b };
                    let _ = pic.set_line(p, USER, h);
                }
                Op::Mask(slave, m) => {
                    masks = if slave {
                        masks & 0xff | u16::from(m) << 8
                    } else {
                        masks & 0xff00 | u16::from(m)
                    };
                    let _ = pic.write(if slave { 0xa1 } else { 0x21 }, m);
                }
                Op::Take => {
                    let mut ready = (edges | lines & level) & !masks;
                    if masks & 4 != 0 {
                        ready &= 0xff;
                    }
                    let want = order.iter().copied().find(|p| ready & 1 << p != 0);
                    prop_assert_eq!(pic.output(), want.is_some());
                    if let Some(p) = want {
                        let (vector, e) = pic.read_irq();
                        prop_assert_eq!(u16::from(vector), 0x30 + p);
                        prop_assert_eq!(e.acked, 0);
                        edges &= !(1 << p);
                        if p >= 8 {
                            prop_assert_eq!(pic.write(0xa0, 0x20).acked, 1 << p);
                        }
                        prop_assert_eq!(pic.write(0x20, 0x20).acked, if p < 8 { 1 << p } else { 4 });
                    }
                }
                Op::SaveRestore => {
                    let mut restored = Pic::new();
                    restored.lines = pic.lines;
                    for slave in [true, false] {
                        let _ = restored.set_state(slave, &pic.state(slave));
                        prop_assert_eq!(restored.state(slave), pic.state(slave));
                    }
                    pic = restored;
                }
            }
        }
    }

    #[test]
    fn every_access_to_every_state_is_defined(
        raw in any::<[[u8; 16]; 2]>(),
        ops in prop::collection::vec((0u8..4, 0usize..7, any::<u8>()), 0..100),
    ) {
        let mut pic = Pic::new();
        for (slave, r) in [(false, raw[0]), (true, raw[1])] {
            let [last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state,
                auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask] = r;
            let _ = pic.set_state(slave, &PicState {
                last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state,
                auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
            });
        }
        for (what, port, value) in ops {
            let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x99][port];
            let before = pic.output();
            let e = match what {
                0 => pic.write(port, value),
                1 => pic.read(port).1,
                2 => pic.set_line(value & 31, USER, value & 0x80 != 0).1,
                _ => {
                    // The vector is of one of the two chips, and the output is looked at anew.
                    let (vector, _) = pic.read_irq();
                    let bases = [pic.state(false).irq_base & 0xf8, pic.state(true).irq_base & 0xf8];
                    prop_assert!(bases.contains(&(vector & 0xf8)));
                    continue;
                }
            };
            prop_assert_eq!(e.wake, pic.output() && !before);
        }
    }
}
