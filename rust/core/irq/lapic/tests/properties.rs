// SPDX-License-Identifier: GPL-2.0

//! Properties of the local APIC: against a model of priorities, over every register, and saved at any moment.

use super::*;
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    vec::Vec, //
};

/// What a guest and its devices do.
#[derive(Clone, Debug)]
enum Op {
    Post(u8, bool),
    Take,
    Eoi,
    Tpr(u8),
    Cr8(u8),
    SaveRestore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (16u8..=255, any::<bool>()).prop_map(|(v, l)| Op::Post(v, l)),
        4 => Just(Op::Take),
        2 => Just(Op::Eoi),
        1 => any::<u8>().prop_map(Op::Tpr),
        1 => (0u8..16).prop_map(Op::Cr8),
        1 => Just(Op::SaveRestore),
    ]
}

proptest! {
    #[test]
    fn interrupts_come_once_and_by_priority(ops in prop::collection::vec(op(), 0..200)) {
        let mut a = enabled();
        let (mut pending, mut service, mut tpr) = (BTreeSet::new(), Vec::<(u8, bool)>::new(), 0u8);
        let mut level = [false; 256];
        for op in ops {
            match op {
                Op::Post(v, l) => {
                    let trigger = if l { Trigger::Level } else { Trigger::Edge };
                    prop_assert!(a.shared().post_fixed(v, trigger).is_taken());
                    pending.insert(v);
                    level[usize::from(v)] = l;
                }
                Op::Take => {
                    let busy = service.iter().map(|s| s.0 & 0xf0).max().unwrap_or(0).max(tpr & 0xf0);
                    let want = pending.last().copied().filter(|v| v & 0xf0 > busy);
                    prop_assert_eq!(a.deliverable(), want);
                    if let Some(v) = want {
                        a.accept(v);
                        pending.remove(&v);
                        service.push((v, true));
                    }
                }
                Op::Eoi => {
                    service.sort_unstable();
                    let want = service.pop().map(|s| s.0);
                    let got = a.eoi();
                    prop_assert_eq!(got.map(|e| e.vector), want);
                    if let Some(e) = got {
                        prop_assert_eq!(e.trigger == Trigger::Level, level[usize::from(e.vector)]);
                    }
                }
                Op::Tpr(v) => {
                    let _ = write(&mut a, Reg::TPR, v.into(), at(0));
                    tpr = v;
                }
                Op::Cr8(v) => {
                    a.set_cr8(v.into());
                    tpr = v << 4;
                    prop_assert_eq!(a.cr8(), u64::from(v));
                }
                Op::SaveRestore => a = saved_and_restored(&mut a, at(0)),
            }
        }
        let threshold = a.tpr_threshold();
        prop_assert!(threshold <= tpr >> 4);
    }

    #[test]
    fn every_access_with_every_value_is_defined(
        ops in prop::collection::vec((any::<bool>(), 0u32..0x1010, 0u32..9, any::<u32>(), any::<u32>()), 0..60),
        x2apic in any::<bool>(),
    ) {
        let mut a = enabled();
        if x2apic {
            let _ = a.set_base(0xfee0_0d00, 0, true).unwrap();
        }
        let mut ns = 0u64;
        for (is_write, offset, len, value, step) in ops {
            ns += u64::from(step);
            let now = at(ns);
            let offset = if value & 1 == 0 { offset & !0xf } else { offset };
            if x2apic {
                let msr = 0x7f0 + (offset >> 4);
                if is_write {
                    let _ = a.msr_write(msr, value.into(), &now);
                } else if let Ok(v) = a.msr_read(msr, &now) {
                    prop_assert!(v >> 32 == 0 || msr == 0x830);
                }
            } else if is_write {
                let e = a.mmio_write(offset, if len & 1 == 0 { 4 } else { len }, value, &now);
                prop_assert!(!e.map || is_identity(offset));
                prop_assert!(!e.mode);
                if let Some(irq) = e.ipi {
                    prop_assert!(irq.vector >= 16 || !matches!(irq.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority));
                }
            } else {
                let v = a.mmio_read(offset, len, &now);
                prop_assert!(len >= 8 || v >> (8 * len) == 0);
            }
            if step & 7 == 0 {
                a.timer_expired(&now);
            }
            if let Some(v) = a.deliverable() {
                prop_assert!(v >= 16);
                a.accept(v);
                prop_assert_eq!(a.deliverable(), None);
            }
            let current = a.timer_current(&now);
            prop_assert!(current <= a.shared().regs.get(Reg::TIMER_INITIAL));
            saved_and_restored(&mut a, now);
        }
    }

    #[test]
    fn a_timer_saved_anywhere_fires_when_it_would_have(
        count in 1u32..2_000_000,
        divide in 0u32..12,
        periodic in any::<bool>(),
        save_at in 0u64..500_000_000,
    ) {
        let mut a = enabled();
        let mode = if periodic { lvt::TIMER_PERIODIC } else { 0 };
        let _ = write(&mut a, Reg::LVT_TIMER, 0x55 | mode, at(0));
        let _ = write(&mut a, Reg::TIMER_DIVIDE, divide, at(0));
        let _ = write(&mut a, Reg::TIMER_INITIAL, count, at(0));
        while let Alarm::AtNs(t) = a.alarm() {
            if t > save_at {
                break;
            }
            a.timer_expired(&at(t));
        }
        let mut b = saved_and_restored(&mut a, at(save_at));
        prop_assert_eq!(a.deliverable(), b.deliverable());
        match (a.alarm(), b.alarm()) {
            (Alarm::Off, Alarm::Off) => {}
            // The count has the resolution of a divided cycle.
            (Alarm::AtNs(t), Alarm::AtNs(u)) => prop_assert!(u.abs_diff(t) <= 200_000),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
