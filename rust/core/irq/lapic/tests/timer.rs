// SPDX-License-Identifier: GPL-2.0

//! The timer: one-shot, periodic, TSC deadline.

use super::*;

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
fn a_timer_made_periodic_after_its_end_is_saved() {
    let mut a = enabled();
    let _ = write(&mut a, Reg::TIMER_INITIAL, 1, at(0));
    a.timer_expired(&at(2));
    let _ = write(&mut a, Reg::LVT_TIMER, lvt::TIMER_PERIODIC, at(2));
    assert_eq!(a.alarm(), Alarm::Off);
    let b = saved_and_restored(&mut a, at(2));
    assert_eq!(b.alarm(), Alarm::Off);
}
