// SPDX-License-Identifier: GPL-2.0

//! What another vCPU's fault does to a leaf while it is being restricted: both hold the read side of `mmu_lock`.

use super::ept_cases::{request, SMALL_CODE};
use super::sim::*;
use crate::addr::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::level::*;
use crate::mmu::map::*;
use crate::mmu::memory::*;
use std::boxed::Box;
use std::vec::Vec;

/// The first frame of a page of 1 GiB.
const FIRST: u64 = 0x4_0000;

/// What is left of a large page that was written, after `restrict`, at whose first exchange another vCPU executes code in
/// the page of a slot that logs.
fn split_by_a_fetch(
    large: Level,
    restrict: impl FnOnce(&Ept<'_, Sim>, &mut Span, &mut Pending) -> Progress,
) -> Vec<(Level, Entry)> {
    let sim: &'static Sim = Box::leak(Box::new(Sim::new()));
    let ept = Ept::new(sim, sim.alloc(), &SMALL_CODE);
    let mut cache = Cache::new(sim);
    cache.top_up();
    let written = request(FIRST, 0x8_0000, large, Access::W);
    let outcome = ept.map(&written, &mut cache);
    assert!(matches!(outcome, MapOutcome::Installed { level, .. } if level == large));
    let fetch = MapRequest {
        access: Access::RWX.without(Access::W),
        ..request(FIRST + 0x45, 0x8_0045, Level::Page4K, Access::X)
    };
    cache.top_up();
    sim.interfere(
        0,
        Box::new(move || {
            let _ = ept.map(&fetch, &mut cache);
        }),
    );
    let mut pending = Pending::new();
    let all = || Span::new(Gfn(FIRST), Gfn(FIRST + large.pages()));
    assert_eq!(restrict(&ept, &mut all(), &mut pending), Progress::Done);
    assert!(pending.needs_flush());
    let _ = pending.flush(|| sim.flush()).free(sim);
    let mut left = Vec::new();
    let _all = ept.leaves(&mut all(), Budget::UNLIMITED, |_, level, entry| {
        left.push((level, entry));
    });
    assert!(left.len() >= 512, "the fetch has split the page");
    left
}

#[test]
fn a_page_that_is_split_meanwhile_loses_write_access_in_all_its_parts() {
    for large in [Level::Page2M, Level::Page1G] {
        let left = split_by_a_fetch(large, |ept, span, pending| {
            ept.write_protect(span, Budget::UNLIMITED, pending)
        });
        let mut writable = left.iter().filter(|(_, e)| e.permits(Access::W));
        assert_eq!(writable.next(), None, "{large:?}");
    }
}

#[test]
fn a_page_that_is_split_meanwhile_is_watched_in_all_its_parts() {
    for large in [Level::Page2M, Level::Page1G] {
        let left = split_by_a_fetch(large, |ept, span, pending| {
            ept.watch_writes(span, Budget::UNLIMITED, pending)
        });
        let mut unseen = left.iter().filter(|(level, e)| {
            e.permits(Access::W) && (*level > Level::Page4K || e.0 & Entry::DIRTY != 0)
        });
        assert_eq!(unseen.next(), None, "{large:?}");
    }
}
