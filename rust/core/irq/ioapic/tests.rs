// SPDX-License-Identifier: GPL-2.0

//! Tests of the I/O APIC: datasheet cases, and any order of assert, deassert, mask and EOI.

use super::*;
use crate::irq::VcpuSet;
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

/// One local APIC that takes everything, or nothing.
struct Sink {
    got: Vec<Interrupt>,
    takes: bool,
}

impl Sink {
    fn new() -> Self {
        Self {
            got: vec![],
            takes: true,
        }
    }
}

impl Deliver for Sink {
    fn deliver(&mut self, irq: &Interrupt, accepted: Option<&mut VcpuSet>) -> Delivery {
        if !self.takes {
            return Delivery::Coalesced;
        }
        self.got.push(*irq);
        if let Some(set) = accepted {
            set.insert(VcpuIndex(0));
        }
        Delivery::Accepted(1)
    }
}

const USER: IrqSource = IrqSource::UserSpace;

fn set_rte(io: &mut Ioapic, pin: u8, value: u64, sink: &mut Sink) -> Effects {
    let _ = io.write(0, 0x11 + u32::from(pin) * 2, |_| false, sink);
    let _ = io.write(0x10, (value >> 32) as u32, |_| false, sink);
    let _ = io.write(0, 0x10 + u32::from(pin) * 2, |_| false, sink);
    io.write(0x10, value as u32, |_| false, sink)
}

fn get_rte(io: &Ioapic, pin: u8) -> u64 {
    io.entry(pin)
}

#[test]
fn the_state_has_the_size_of_the_uapi() {
    assert_eq!(core::mem::size_of::<IoapicState>(), 24 + 8 * PINS);
}

#[test]
fn registers_of_the_datasheet() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    for (select, write, want) in [
        (0, 0xffff_ffff, 0x0f00_0000),
        (1, 0, 0x0017_0011),
        (2, 0, 0x0f00_0000),
        (0x10, 0, 0),
        (0x11, 0x0300_0000, 0x0300_0000),
        (0x3e, 0x1_5000, 0x1_0000),
        (0x40, 0, 0xffff_ffff),
        (0x05, 0, 0xffff_ffff),
        (0x1ff, 0, 0xffff_ffff),
    ] {
        let _ = io.write(0, select, |_| false, &mut sink);
        assert_eq!(io.read(0), select & 0xff);
        let _ = io.write(0x10, write, |_| false, &mut sink);
        assert_eq!(io.read(0x10), want, "{select:#x}");
    }
    assert_eq!(
        io.write(0x40, 0x33, |_| false, &mut sink),
        Effects::default()
    );
    let mut io = Ioapic::new(true);
    assert_eq!(io.write(0x40, 0x33, |_| false, &mut sink).eoi, Some(0x33));
}

#[test]
fn a_message_has_the_fields_of_its_entry() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 5, 0x0a00_0000_0000_8931, &mut sink);
    io.set_line(5, USER, true, false, &mut sink);
    let irq = sink.got[0];
    assert_eq!((irq.dest, irq.vector), (10, 0x31));
    assert_eq!(irq.mode, DeliveryMode::LowestPriority);
    assert_eq!(irq.dest_mode, DestMode::Logical);
    assert_eq!(irq.trigger, Trigger::Level);
    assert_ne!(get_rte(&io, 5) & rte::REMOTE_IRR, 0);
}

#[test]
fn level_waits_for_its_eoi_and_nmi_does_not() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 3, 0x8040, &mut sink);
    io.set_line(3, USER, true, false, &mut sink);
    assert_eq!(
        io.set_line(3, USER, true, false, &mut sink),
        Delivery::Ignored
    );
    assert!(!io.eoi(VcpuIndex(0), 0x40, Trigger::Level, true, &mut sink));
    assert_eq!(sink.got.len(), 2, "still high");
    io.set_line(3, USER, false, false, &mut sink);
    assert!(!io.eoi(VcpuIndex(0), 0x40, Trigger::Level, true, &mut sink));
    assert_eq!(sink.got.len(), 2);
    assert_eq!(get_rte(&io, 3) & rte::REMOTE_IRR, 0);
    let _ = set_rte(&mut io, 4, 0x8440, &mut sink);
    io.set_line(4, USER, true, false, &mut sink);
    assert_eq!(sink.got[2].mode, DeliveryMode::Nmi);
    assert_eq!(get_rte(&io, 4) & rte::REMOTE_IRR, 0);
}

#[test]
fn an_apic_that_does_not_take_it_gets_it_later() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 3, 0x8040, &mut sink);
    sink.takes = false;
    assert_eq!(
        io.set_line(3, USER, true, false, &mut sink),
        Delivery::Coalesced
    );
    sink.takes = true;
    io.service_delayed(&mut sink);
    assert_eq!(sink.got.len(), 1);
}

#[test]
fn a_storm_is_delayed() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 3, 0x8040, &mut sink);
    io.set_line(3, USER, true, false, &mut sink);
    let mut eois = 0;
    while !io.eoi(VcpuIndex(0), 0x40, Trigger::Level, true, &mut sink) {
        eois += 1;
        assert!(eois < 20_000);
    }
    assert_eq!(eois, 9_999);
    let before = sink.got.len();
    io.service_delayed(&mut sink);
    assert_eq!(sink.got.len(), before + 1);
}

#[test]
fn the_clock_coalesces_until_its_eoi() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, RTC_PIN, 0x48, &mut sink);
    let mut tick = |io: &mut Ioapic| {
        let d = io.set_line(RTC_PIN, USER, true, true, &mut sink);
        io.set_line(RTC_PIN, USER, false, true, &mut sink);
        d
    };
    assert_eq!(tick(&mut io), Delivery::Accepted(1));
    assert_eq!(tick(&mut io), Delivery::Coalesced);
    let mut other = Sink::new();
    assert!(!io.eoi(VcpuIndex(1), 0x48, Trigger::Edge, true, &mut other));
    assert_eq!(tick(&mut io), Delivery::Coalesced);
    assert!(!io.eoi(VcpuIndex(0), 0x48, Trigger::Edge, true, &mut other));
    assert_eq!(tick(&mut io), Delivery::Accepted(1));
}

#[test]
fn an_nmi_is_an_edge_whatever_its_entry_says() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 4, 0x8440, &mut sink);
    assert_eq!(
        io.set_line(4, USER, true, false, &mut sink),
        Delivery::Accepted(1)
    );
    assert_eq!(
        io.set_line(4, IrqSource::Pit, true, false, &mut sink),
        Delivery::Coalesced
    );
    // The EOI of another interrupt with this vector is not its business, and neither is a mask that goes.
    assert!(!io.eoi(VcpuIndex(0), 0x40, Trigger::Level, true, &mut sink));
    let _ = set_rte(&mut io, 4, 0x1_8440, &mut sink);
    let _ = set_rte(&mut io, 4, 0x8440, &mut sink);
    io.service_delayed(&mut sink);
    assert_eq!(sink.got.len(), 1);
    io.set_line(4, USER, false, false, &mut sink);
    io.set_line(4, IrqSource::Pit, false, false, &mut sink);
    io.set_line(4, USER, true, false, &mut sink);
    assert_eq!(sink.got.len(), 2);
}

#[test]
fn a_clock_that_makes_nmis_waits_for_no_eoi() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, RTC_PIN, 0x448, &mut sink);
    for _ in 0..2 {
        assert_eq!(
            io.set_line(RTC_PIN, USER, true, true, &mut sink),
            Delivery::Accepted(1)
        );
        io.set_line(RTC_PIN, USER, false, true, &mut sink);
    }
}

#[test]
fn the_clocks_old_vector_is_heard_until_its_eoi() {
    fn heard(io: &Ioapic) -> Vec<u8> {
        let mut vectors = vec![];
        io.heard_vectors(0, |v| vectors.push(v));
        vectors
    }
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, RTC_PIN, 0x48, &mut sink);
    io.set_line(RTC_PIN, USER, true, true, &mut sink);
    let _ = set_rte(&mut io, RTC_PIN, 0x49, &mut sink);
    assert_eq!(heard(&io), [0x48, 0x49]);
    assert!(!io.eoi(VcpuIndex(0), 0x48, Trigger::Edge, true, &mut sink));
    assert_eq!(heard(&io), [0x49]);
}

#[test]
fn unmasking_asks_the_resampler_first() {
    let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
    let _ = set_rte(&mut io, 3, 0x1_8040, &mut sink);
    io.set_line(3, USER, true, false, &mut sink);
    let e = io.write(0x10, 0x8040, |pin| pin == 3, &mut sink);
    assert_eq!(e.resample, Some(3));
    assert_eq!(e.mask_changed, Some((3, false)));
    assert!(sink.got.is_empty());
    let _ = set_rte(&mut io, 3, 0x1_8040, &mut sink);
    io.set_line(3, USER, true, false, &mut sink);
    let e = set_rte(&mut io, 3, 0x8040, &mut sink);
    assert_eq!((e.resample, sink.got.len()), (None, 1));
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, bool, bool),
    Rte(u8, bool, bool),
    Eoi(u8),
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..3, any::<bool>(), any::<bool>()).prop_map(|(p, s, h)| Op::Line(p, s, h)),
        2 => (0u8..3, any::<bool>(), any::<bool>()).prop_map(|(p, l, m)| Op::Rte(p, l, m)),
        3 => (0u8..3).prop_map(Op::Eoi),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_or_invented(ops in prop::collection::vec(op(), 0..120)) {
        let (mut io, mut sink) = (Ioapic::new(false), Sink::new());
        let mut high = [[false; 2]; 3];
        // What each pin must have sent by now.
        let mut want = [0usize; 3];
        // Level interrupts that wait for their EOI.
        let mut waits = [false; 3];
        let (mut level, mut masked) = ([false; 3], [true; 3]);
        for op in ops {
            match op {
                Op::Line(p, s, h) => {
                    let i = usize::from(p);
                    let was = high[i][0] || high[i][1];
                    if high[i][usize::from(s)] == h {
                        continue;
                    }
                    high[i][usize::from(s)] = h;
                    let now = high[i][0] || high[i][1];
                    io.set_line(p, if s { IrqSource::Pit } else { USER }, h, false, &mut sink);
                    want[i] += usize::from(now && !was && !masked[i] && !level[i]);
                }
                Op::Rte(p, l, m) => {
                    let i = usize::from(p);
                    (level[i], masked[i]) = (l, m);
                    waits[i] &= l;
                    let value = (0x50 + u64::from(p))
                        | if l { rte::LEVEL } else { 0 }
                        | if m { rte::MASKED } else { 0 };
                    // The low half only: the high one would be a second write that a guest can see.
                    let _ = io.write(0, 0x10 + u32::from(p) * 2, |_| false, &mut sink);
                    let _ = io.write(0x10, value as u32, |_| false, &mut sink);
                }
                Op::Eoi(p) => {
                    let i = usize::from(p);
                    let trigger = if level[i] { Trigger::Level } else { Trigger::Edge };
                    waits[i] = false;
                    prop_assert!(!io.eoi(VcpuIndex(0), 0x50 + p, trigger, true, &mut sink));
                }
                Op::SaveRestore => {
                    let state = io.state();
                    let mut restored = Ioapic::new(false);
                    // The devices drive their lines in the new machine as they did in the old one.
                    restored.lines = io.lines;
                    restored.set_state(&state, &mut sink);
                    prop_assert_eq!(restored.state(), state);
                    io = restored;
                }
            }
            for i in 0..3 {
                let up = high[i][0] || high[i][1];
                if level[i] && up && !masked[i] && !waits[i] {
                    want[i] += 1;
                    waits[i] = true;
                }
                let sent = sink.got.iter().filter(|m| usize::from(m.vector) == 0x50 + i).count();
                prop_assert_eq!(sent, want[i], "pin {}", i);
                prop_assert_eq!(get_rte(&io, i as u8) & rte::REMOTE_IRR != 0, waits[i]);
            }
        }
    }

    #[test]
    fn every_access_with_every_value_is_defined(
        ops in prop::collection::vec((0u8..4, any::<u32>(), any::<u32>()), 0..100),
        regs in any::<[u64; PINS]>(),
        irr in any::<u32>(),
    ) {
        let (mut io, mut sink) = (Ioapic::new(true), Sink::new());
        let state = IoapicState { redirtbl: regs, irr, ioregsel: irr, id: irr, ..io.state() };
        io.set_state(&state, &mut sink);
        for (what, a, b) in ops {
            match what {
                0 => drop(io.write(a & 0x50, b, |_| b & 1 == 0, &mut sink)),
                1 => drop(io.read(a)),
                2 => drop(io.set_line(a as u8, USER, b & 1 == 0, b & 2 == 0, &mut sink)),
                _ => drop(io.eoi(VcpuIndex(a as u16), b as u8, Trigger::Level, true, &mut sink)),
            }
            prop_assert!(io.read(0) <= 0xff);
        }
    }
}
