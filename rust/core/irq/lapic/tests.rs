// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC: registers, modes and messages here, the rest by subject.

mod priority;
mod properties;
mod timer;

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
    let first = a.shared().post_fixed(5, Trigger::Edge);
    assert_eq!(first, Posted::Error);
    assert!(first.kicks() && !first.is_taken());
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
