// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC: tables for registers, modes and timer.

mod properties;

use super::*;
use crate::irq::{
    DeliveryMode,
    DestMode,
    Interrupt,
    Shorthand,
    Trigger, //
};
use std::boxed::Box;

type Apic = Lapic<Box<Shared>>;

#[derive(Clone, Copy, Default)]
struct Now {
    ns: u64,
    tsc: u64,
}

impl Clock for Now {
    fn ns(&self) -> u64 {
        self.ns
    }
    fn guest_tsc(&self) -> u64 {
        self.tsc
    }
}

fn at(ns: u64) -> Now {
    Now { ns, tsc: ns }
}

fn apic() -> Apic {
    Lapic::new(Box::default(), Config::new(3, true))
}

fn write(apic: &mut Apic, reg: Reg, value: u32, now: Now) -> Effects {
    apic.mmio_write(u32::from(reg.offset()), 4, value, &now)
}

fn read(apic: &mut Apic, reg: Reg, now: Now) -> u32 {
    apic.mmio_read(u32::from(reg.offset()), 4, &now) as u32
}

fn enabled() -> Apic {
    let mut apic = apic();
    assert!(write(&mut apic, Reg::SVR, 0x1ff, at(0)).map);
    apic
}

fn saved_and_restored(a: &mut Apic, now: Now) -> Apic {
    let mut state = LapicState::default();
    a.get_state(&mut state, &now);
    let mut b = apic();
    let _ = b.set_base(a.base(), 0, true).unwrap();
    let _ = b.set_state(&state, &now).unwrap();
    if let Alarm::AtTsc(deadline) = a.alarm() {
        assert!(b.set_tsc_deadline(deadline).is_some());
    }
    let mut again = LapicState::default();
    b.get_state(&mut again, &now);
    assert_eq!(state, again);
    b
}

#[test]
fn a_timer_goes_on_while_the_apic_is_switched_off() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::TIMER_DIVIDE, 0xb, at(0));
    let periodic = 0x40 | lvt::TIMER_PERIODIC;
    let _ = write(&mut a, Reg::LVT_TIMER, periodic, at(0));
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1_000_000, at(0));
    // The host's timer has fired, and the owner has not looked yet.
    let _ = a.shared().inbox.post(Events::TIMER);
    let _ = write(&mut a, Reg::SVR, 0xff, at(1_000_000));
    assert!(a.shared().inbox.events().has(Events::TIMER));
    assert_eq!(a.timer_expired(&at(1_000_000)), Alarm::AtNs(2_000_000));
    assert_eq!(a.deliverable(), None);
    let _ = write(&mut a, Reg::SVR, 0x1ff, at(1_500_000));
    let _ = write(&mut a, Reg::LVT_TIMER, periodic, at(1_500_000));
    assert_eq!(a.timer_expired(&at(2_000_000)), Alarm::AtNs(3_000_000));
    assert_eq!(a.deliverable(), Some(0x40));
}

#[test]
fn hardware_finds_its_pages() {
    assert_eq!(core::mem::size_of::<Shared>(), 8192);
    assert_eq!(core::mem::offset_of!(Shared, inbox), 4096);
    assert_eq!(core::mem::size_of::<LapicState>(), 1024);
}

#[test]
fn reset_values_of_the_sdm() {
    let mut a = apic();
    for (reg, want) in [
        (Reg::ID, 3 << 24),
        (Reg::VERSION, 0x50014),
        (Reg::TPR, 0),
        (Reg::LDR, 0),
        (Reg::DFR, !0),
        (Reg::SVR, 0xff),
        (Reg::LVT_TIMER, lvt::MASKED),
        (Reg::LVT_LINT1, lvt::MASKED),
        (Reg::LVT_LINT0, lvt::MODE_EXTINT),
        (Reg::TIMER_DIVIDE, 0),
    ] {
        assert_eq!(read(&mut a, reg, at(0)), want, "{reg:?}");
    }
    assert_eq!(a.base(), 0xfee0_0900);
    assert!(a.accepts_pic());
    assert_eq!(
        a.shared().post_fixed(0x40, Trigger::Edge),
        Posted::Refused,
        "software-disabled"
    );
}

#[test]
fn base_transitions_of_the_sdm() {
    const OFF: u64 = 0xfee0_0100;
    const X: u64 = OFF | apic_base::ENABLED;
    const X2: u64 = X | apic_base::X2APIC;
    for (from, to, guest, host) in [
        (X, X2, true, true),
        (X, OFF, true, true),
        (X2, OFF, true, true),
        (X2, X, false, true),
        (OFF, X, true, true),
        (OFF, X2, false, true),
        (X, OFF | apic_base::X2APIC, false, false),
        (X, X | 1, false, false),
        (X, X | 1 << 46, false, false),
    ] {
        for (is_host, want) in [(false, guest), (true, host)] {
            let mut a = apic();
            let _ = a.set_base(from, 0, true).unwrap();
            let got = a.set_base(to, !((1 << 46) - 1), is_host);
            assert_eq!(got.is_ok(), want, "{from:#x} -> {to:#x}");
            assert_eq!(a.base(), if want { to } else { from });
        }
    }
}

#[test]
fn every_change_of_place_is_told() {
    const OFF: u64 = apic_base::DEFAULT;
    const X: u64 = OFF | apic_base::ENABLED;
    const X2: u64 = X | apic_base::X2APIC;
    const MOVED: u64 = 0xfed0_0000 | apic_base::ENABLED;
    const MOVED_X2: u64 = MOVED | apic_base::X2APIC;
    const MOVED_OFF: u64 = 0xfed0_0000;
    let places = [
        (X, Place::DefaultPage),
        (X | apic_base::BSP, Place::DefaultPage),
        (X2, Place::Msrs),
        (MOVED_X2, Place::Msrs),
        (MOVED, Place::Elsewhere),
        (0x1_fee0_0000 | apic_base::ENABLED, Place::Elsewhere),
        (OFF, Place::Elsewhere),
        (MOVED_OFF, Place::Elsewhere),
    ];
    for (from, before) in places {
        for (to, after) in places {
            let mut a = apic();
            let _ = a.set_base(from, 0, true).unwrap();
            assert_eq!(a.place(), before, "{from:#x}");
            let effects = a.set_base(to, 0, true).unwrap();
            assert_eq!(a.place(), after, "{to:#x}");
            assert_eq!(effects.place, before != after, "{from:#x} -> {to:#x}");
        }
    }
    // INIT keeps the base, RESET does not.
    let mut a = apic();
    let _ = a.set_base(X2, 0, true).unwrap();
    a.reset(true);
    assert_eq!(a.place(), Place::Msrs);
    a.reset(false);
    assert_eq!(a.place(), Place::DefaultPage);
}

#[test]
fn the_threshold_is_the_class_that_waits_for_a_lower_priority() {
    for (tpr, pending, threshold) in [
        (0x50, None, 0),
        (0x50, Some(0x31), 3),
        (0x5f, Some(0x5e), 5),
        (0x50, Some(0x61), 0),
        (0xff, Some(0xff), 15),
        (0x00, Some(0x10), 0),
    ] {
        let mut a = enabled();
        let _ = a.mmio_write(0x80, 4, tpr, &at(0));
        if let Some(vector) = pending {
            let _ = a.shared().post_fixed(vector, Trigger::Edge);
        }
        assert_eq!(a.tpr_threshold(), threshold, "TPR {tpr:#x}, {pending:x?}");
    }
}

#[test]
fn the_vapic_word_tells_what_waits_and_what_is_in_service() {
    let mut a = enabled();
    assert_eq!(a.vapic_word(), 0);
    a.set_tpr(0x63);
    assert_eq!(a.vapic_word(), 0x63);
    let _ = a.shared().post_fixed(0x72, Trigger::Edge);
    assert_eq!(a.vapic_word(), 0x7200_0063);
    assert_eq!(a.deliverable(), Some(0x72));
    a.accept(0x72);
    assert_eq!(a.vapic_word(), 0x7063);
    let _ = a.shared().post_fixed(0x45, Trigger::Edge);
    let _ = a.shared().post_fixed(0x31, Trigger::Edge);
    assert_eq!(a.vapic_word(), 0x4500_7063);
    let _ = a.eoi();
    assert_eq!(a.vapic_word(), 0x4500_0063);
    a.set_tpr(0);
    assert_eq!(a.deliverable(), Some(0x45));
}

#[test]
fn accesses_to_the_task_priority_are_told_from_others() {
    for (offset, len, read, write) in [
        (0x80, 4, true, true),
        (0x80, 1, true, false),
        (0x82, 2, true, false),
        (0x83, 1, true, false),
        (0x83, 2, false, false),
        (0x80, 8, false, false),
        (0x7f, 2, false, false),
        (0x84, 4, false, false),
        (0x90, 4, false, false),
        (0xa0, 4, false, false),
    ] {
        assert_eq!(
            is_task_priority(offset, len, false),
            read,
            "read {offset:#x}"
        );
        assert_eq!(
            is_task_priority(offset, len, true),
            write,
            "write {offset:#x}"
        );
    }
}

#[test]
fn x2apic_derives_its_logical_id() {
    let mut a: Apic = Lapic::new(Box::default(), Config::new(0x123, false));
    let effects = a
        .set_base(
            0xfee0_0000 | apic_base::ENABLED | apic_base::X2APIC,
            0,
            false,
        )
        .unwrap();
    assert!(effects.map && effects.mode);
    assert_eq!(a.msr_read(0x802, &at(0)), Ok(0x123));
    assert_eq!(a.msr_read(0x80d, &at(0)), Ok(0x12_0008));
    assert_eq!(a.mmio_base(), None);
    let id = a.shared().identity();
    assert!(id.x2apic && id.x2apic_id == 0x123 && !id.sw_enabled);
}

#[test]
fn x2apic_msrs_fault_where_the_sdm_says() {
    let mut a = apic();
    assert_eq!(a.msr_read(0x802, &at(0)), Err(MsrFault), "xAPIC mode");
    let _ = a.set_base(0xfee0_0d00, 0, true).unwrap();
    for msr in [
        0x80b, 0x83f, 0x80e, 0x831, 0x82f, 0x800, 0x840, 0x8ff, 0x7ff, 0x900,
    ] {
        assert_eq!(a.msr_read(msr, &at(0)), Err(MsrFault), "read {msr:#x}");
    }
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80d, 0),
        (0x80e, 0),
        (0x810, 0),
        (0x831, 0),
        (0x839, 0),
        (0x808, 1 << 32),
        (0x828, 1),
        (0x830, 1 << 20),
        (0x83f, 0x100),
    ] {
        assert_eq!(
            a.msr_write(msr, value, &at(0)),
            Err(MsrFault),
            "write {msr:#x}"
        );
    }
}

#[test]
fn icr_becomes_a_message() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::ICR2, 0x0500_0000, at(0));
    let irq = write(&mut a, Reg::ICR, 0x0000_4540 | 1 << 12, at(0))
        .ipi
        .unwrap();
    assert_eq!(
        irq,
        Interrupt {
            dest: 5,
            vector: 0x40,
            mode: DeliveryMode::Init,
            dest_mode: DestMode::Physical,
            trigger: Trigger::Edge,
            assert: true,
            shorthand: Shorthand::None,
            redirect_hint: false,
        }
    );
    assert_eq!(read(&mut a, Reg::ICR, at(0)), 0x4540, "never busy");
    let _ = a.set_base(0xfee0_0d00, 0, true).unwrap();
    let e = a.msr_write(0x830, 0x1234_5678_000c_08fe, &at(0)).unwrap();
    let irq = e.ipi.unwrap();
    assert_eq!((irq.dest, irq.dest_mode), (0x1234_5678, DestMode::Logical));
    assert_eq!(irq.shorthand, Shorthand::AllButSelf);
    assert_eq!(a.msr_read(0x830, &at(0)), Ok(0x1234_5678_000c_08fe));
    let irq = a.msr_write(0x83f, 0x77, &at(0)).unwrap().ipi.unwrap();
    assert_eq!((irq.shorthand, irq.vector), (Shorthand::SelfOnly, 0x77));
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::LVT_ERROR, 0xfe, at(0));
    assert_eq!(write(&mut a, Reg::ICR, 0x0f, at(0)).ipi, None);
    assert_eq!(a.shared().post_fixed(5, Trigger::Edge), Posted::Refused);
    assert!(a
        .shared()
        .inbox
        .take_events(Events::ALL)
        .has(Events::ILLEGAL_VECTOR));
    a.note_illegal_vector();
    let _ = write(&mut a, Reg::at(0x40), 0, at(0));
    assert_eq!(read(&mut a, Reg::ESR, at(0)), 0, "latched by a write only");
    let _ = write(&mut a, Reg::ESR, 0, at(0));
    assert_eq!(read(&mut a, Reg::ESR, at(0)), 0xe0);
    assert_eq!(a.deliverable(), Some(0xfe));
    let _ = write(&mut a, Reg::ESR, 0, at(0));
    assert_eq!(read(&mut a, Reg::ESR, at(0)), 0);
}

#[test]
fn eoi_tells_level_from_edge() {
    let mut a = enabled();
    for (vector, trigger) in [(0x30, Trigger::Level), (0x41, Trigger::Edge)] {
        assert_eq!(a.shared().post_fixed(vector, trigger), Posted::Kick);
        assert_eq!(a.deliverable(), Some(vector));
        a.accept(vector);
    }
    let eoi = write(&mut a, Reg::EOI, 0, at(0)).eoi.unwrap();
    assert_eq!((eoi.vector, eoi.trigger), (0x41, Trigger::Edge));
    let eoi = write(&mut a, Reg::EOI, 0, at(0)).eoi.unwrap();
    assert_eq!(
        (eoi.vector, eoi.trigger, eoi.broadcast),
        (0x30, Trigger::Level, true)
    );
    assert_eq!(write(&mut a, Reg::EOI, 0, at(0)).eoi, None);
}

#[test]
fn eoi_asks_for_a_look_if_something_waits_behind() {
    let mut a = enabled();
    for (vector, taken) in [(0x41, true), (0x45, false)] {
        let _ = a.shared().post_fixed(vector, Trigger::Edge);
        assert_eq!(a.deliverable(), Some(vector).filter(|_| taken));
        if taken {
            a.accept(vector);
        }
    }
    assert!(write(&mut a, Reg::EOI, 0, at(0)).recheck);
    assert_eq!(a.deliverable(), Some(0x45));
    a.accept(0x45);
    assert!(!write(&mut a, Reg::EOI, 0, at(0)).recheck);
    assert!(!write(&mut a, Reg::EOI, 0, at(0)).recheck);
    // Posted by another thread, not looked at yet.
    let _ = a.shared().post_fixed(0x51, Trigger::Edge);
    a.deliverable();
    a.accept(0x51);
    let _ = a.shared().post_fixed(0x41, Trigger::Edge);
    assert!(write(&mut a, Reg::EOI, 0, at(0)).recheck);
}

#[test]
fn one_shot_periodic_and_deadline_fire_once_each() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::LVT_TIMER, 0xec, at(0));
    let _ = write(&mut a, Reg::TIMER_DIVIDE, 0xb, at(0));
    assert!(write(&mut a, Reg::TIMER_INITIAL, 1_000_000, at(100)).timer);
    assert_eq!(a.alarm(), Alarm::AtNs(1_000_100));
    assert_eq!(read(&mut a, Reg::TIMER_CURRENT, at(600_100)), 400_000);
    assert_eq!(
        a.timer_expired(&at(1_000_099)),
        Alarm::AtNs(1_000_100),
        "early"
    );
    assert_eq!(a.deliverable(), None);
    assert_eq!(a.timer_expired(&at(1_000_100)), Alarm::Off);
    assert_eq!(a.deliverable(), Some(0xec));
    a.accept(0xec);
    let _ = a.eoi();

    let _ = write(&mut a, Reg::LVT_TIMER, 0xec | lvt::TIMER_PERIODIC, at(0));
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1_000_000, at(0));
    assert_eq!(a.timer_expired(&at(1_000_010)), Alarm::AtNs(2_000_000));
    // Days late: one tick, and on from now.
    let late = 1 << 50;
    assert_eq!(a.timer_expired(&at(late)), Alarm::AtNs(late));
    assert_eq!(a.timer_expired(&at(late)), Alarm::AtNs(late + 1_000_000));
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1, at(0));
    assert_eq!(a.alarm(), Alarm::AtNs(200_000), "no faster than the limit");

    a.accept(0xec);
    let _ = a.eoi();
    let _ = write(
        &mut a,
        Reg::LVT_TIMER,
        0xec | lvt::TIMER_TSC_DEADLINE,
        at(0),
    );
    assert_eq!(a.alarm(), Alarm::Off, "a change of mode disarms");
    assert!(!write(&mut a, Reg::TIMER_INITIAL, 5, at(0)).timer);
    assert_eq!(a.set_tsc_deadline(5000), Some(Alarm::AtTsc(5000)));
    assert_eq!(a.timer_expired(&at(4999)), Alarm::AtTsc(5000));
    assert_eq!(a.tsc_deadline(), 5000);
    assert_eq!(a.timer_expired(&at(5000)), Alarm::Off);
    assert_eq!(a.tsc_deadline(), 0);
    assert_eq!(a.deliverable(), Some(0xec));
    assert_eq!(a.set_tsc_deadline(0), Some(Alarm::Off));
}

#[test]
fn every_divider() {
    for (value, divider) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut a = enabled();
        let _ = write(&mut a, Reg::TIMER_DIVIDE, value, at(0));
        let _ = write(&mut a, Reg::TIMER_INITIAL, 1000, at(0));
        assert_eq!(a.alarm(), Alarm::AtNs(1000 * divider));
    }
}

#[test]
fn a_new_divider_stretches_what_is_left() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::TIMER_DIVIDE, 0xb, at(0));
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1001, at(0));
    assert!(write(&mut a, Reg::TIMER_DIVIDE, 1, at(500)).timer);
    assert_eq!(a.alarm(), Alarm::AtNs(500 + 501 * 4));
    assert_eq!(read(&mut a, Reg::TIMER_CURRENT, at(500)), 501);
    assert!(!write(&mut a, Reg::TIMER_DIVIDE, 1, at(600)).timer);
    assert!(write(&mut a, Reg::TIMER_DIVIDE, 0, at(500)).timer);
    assert_eq!(a.alarm(), Alarm::AtNs(500 + 501 * 2));
}

#[test]
fn lint0_leads_to_pic_or_nmi() {
    let mut a = enabled();
    let _ = write(
        &mut a,
        Reg::LVT_LINT0,
        lvt::MASKED | lvt::MODE_EXTINT,
        at(0),
    );
    assert!(!a.accepts_pic());
    let _ = write(&mut a, Reg::LVT_LINT0, lvt::MODE_NMI, at(0));
    assert!(!a.accepts_pic() && a.shared().lint0_is_nmi());
    assert_eq!(a.shared().pit_watchdog(), Posted::Kick);
    assert_eq!(a.shared().inbox.take_events(Events::NMI).nmis(), 1);
}

#[test]
fn state_in_x2apic_mode_has_the_uapi_form() {
    for format in [false, true] {
        let mut a = enabled();
        a.reconfigure(Config {
            x2apic_format: format,
            ..*a.config()
        });
        let _ = a.set_base(0xfee0_0d00, 0, true).unwrap();
        let _ = a.msr_write(0x830, 0xabcd_0000_0000_00fd, &at(0));
        let mut state = LapicState::default();
        a.get_state(&mut state, &at(0));
        assert_eq!(state.get(Reg::ICR2), 0xabcd_0000);
        assert_eq!(state.get(Reg::ID), if format { 3 } else { 3 << 24 });
        state.set(Reg::ID, 9);
        assert_eq!(a.set_state(&state, &at(0)).is_err(), format);
    }
}

#[test]
fn a_timer_made_periodic_after_its_end_is_saved() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1, at(0));
    a.timer_expired(&at(2));
    let _ = write(&mut a, Reg::LVT_TIMER, lvt::TIMER_PERIODIC, at(2));
    assert_eq!(a.alarm(), Alarm::Off);
    let b = saved_and_restored(&mut a, at(2));
    assert_eq!(b.alarm(), Alarm::Off);
}
