// SPDX-License-Identifier: GPL-2.0

//! Faults that meet an invalidation by the host, or a slot that comes or goes.

use crate::addr::*;
use crate::mmu::invalidate::*;

#[test]
fn a_fault_across_an_invalidation_is_retried() {
    let mut i = Invalidations::new();
    let before = i.sample();
    assert!(!i.must_retry(before, Gfn(5), 1));
    i.begin([(Gfn(4), Gfn(8)), (Gfn(20), Gfn(21))].into_iter());
    assert!(!i.blocks(Gfn(3), 1) && i.blocks(Gfn(3), 2) && i.blocks(Gfn(5), 1));
    let during = i.sample();
    for (gfn, pages, retry) in [
        (3, 1, false),
        (4, 1, true),
        (0, 5, true),
        (20, 1, true),
        (21, 1, false),
    ] {
        assert_eq!(i.must_retry(during, Gfn(gfn), pages), retry, "{gfn}");
    }
    assert!(i.end());
    assert!(
        i.must_retry(before, Gfn(5), 1),
        "the look-up may be from before"
    );
    assert!(i.must_retry(during, Gfn(5), 1), "or from during");
    assert!(
        !i.blocks(Gfn(5), 1),
        "which is no matter for one under the lock"
    );
    assert!(!i.must_retry(i.sample(), Gfn(5), 1));
    i.begin(core::iter::empty());
    assert!(!i.must_retry(i.sample(), Gfn(5), 1), "no slot was met");
    assert!(i.end());
    assert!(!i.end(), "unbalanced");
}

#[test]
fn a_slot_that_appears_waits_for_invalidations_in_progress() {
    let mut i = Invalidations::new();
    i.slot_appears(Gfn(4), Gfn(8));
    assert!(!i.must_retry(i.sample(), Gfn(5), 1), "none is going on");
    i.begin(core::iter::empty());
    i.slot_appears(Gfn(4), Gfn(8));
    assert!(i.must_retry(i.sample(), Gfn(5), 1));
    assert!(!i.must_retry(i.sample(), Gfn(8), 1));
    i.begin([(Gfn(20), Gfn(21))].into_iter());
    assert!(i.end());
    assert!(i.must_retry(i.sample(), Gfn(5), 1), "the first goes on");
    assert!(i.end());
    assert!(!i.must_retry(i.sample(), Gfn(5), 1));
}

#[test]
fn nothing_is_mapped_in_a_slot_that_goes() {
    let mut i = Invalidations::new();
    let before = i.sample();
    i.slot_leaves(Gfn(4), Gfn(8));
    assert!(i.blocks(Gfn(0), 5) && i.blocks(Gfn(7), 1));
    assert!(!i.blocks(Gfn(0), 4) && !i.blocks(Gfn(8), 1));
    assert!(i.must_retry(before, Gfn(5), 1));
    i.begin([(Gfn(20), Gfn(21))].into_iter());
    assert!(!i.blocks(Gfn(8), 12), "one range does not widen the other");
    assert!(i.end());
    assert!(i.blocks(Gfn(5), 1), "nor end it");
    i.slot_left();
    assert!(!i.blocks(Gfn(5), 1));
}
