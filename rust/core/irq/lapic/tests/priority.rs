// SPDX-License-Identifier: GPL-2.0

//! What the task priority holds back, and what the end of an interrupt lets through.

use super::*;

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
