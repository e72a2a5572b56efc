// SPDX-License-Identifier: GPL-2.0

//! Single behaviours of what takes mappings or rights away: zaps, aging, watching writes.

use super::ept_cases::*;
use super::sim::*;
use crate::addr::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::level::*;
use crate::mmu::map::*;
use crate::mmu::memory::*;

#[test]
fn zap_takes_out_the_tables_it_spans_and_frees_them_after_the_flush() {
    let sim = Sim::new();
    let root = sim.alloc();
    let ept = Ept::new(&sim, root, &AD);
    let mut cache = Cache::new(&sim);
    for gfn in 0..1024 {
        cache.top_up();
        let _ = ept.map(&request(gfn, gfn, Level::Page4K, Access::R), &mut cache);
    }
    sim.walk_all(root, Level::Pml4);
    let mut pending = Pending::new();
    // One table as a whole and one entry of the next.
    let done = ept.zap_range(
        &mut Span::new(Gfn(0), Gfn(513)),
        Budget::UNLIMITED,
        &mut pending,
    );
    assert_eq!(done, Progress::Done);
    assert_eq!(pending.tables(), 1);
    assert_eq!(settle(&sim, pending), 1);
    assert_eq!(sim.leaves[1].get(), 511);
    let mut pending = Pending::new();
    assert_eq!(
        ept.zap_range(&mut ept.whole(), Budget::UNLIMITED, &mut pending),
        Progress::Done
    );
    assert!(ept.retire(&mut pending));
    assert_eq!(settle(&sim, pending), 4);
    assert_eq!(sim.allocated.get(), cache.tables.len());
}

#[test]
fn a_root_in_use_is_not_retired() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let _ = ept.map(&request(1, 1, Level::Page4K, Access::R), &mut cache);
    let mut pending = Pending::new();
    assert!(!ept.retire(&mut pending));
    assert!(!pending.needs_flush());
    settle(&sim, pending);
}

#[test]
fn a_paused_zap_does_not_cut_off_what_was_mapped_behind_it() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    for gfn in 0..512 {
        cache.top_up();
        let _ = ept.map(&request(gfn, gfn, Level::Page4K, Access::R), &mut cache);
    }
    let mut pending = Pending::new();
    let mut span = Span::new(Gfn(0), Gfn(512));
    let paused = ept.zap_range(&mut span, Budget(100), &mut pending);
    assert_eq!(paused, Progress::More);
    settle(&sim, pending);
    let at = span.position();
    assert!(at > Gfn(0) && at < Gfn(512));
    let _ = ept.map(&request(3, 3, Level::Page4K, Access::R), &mut cache);
    let mut pending = Pending::new();
    assert_eq!(
        ept.zap_range(&mut span, Budget::UNLIMITED, &mut pending),
        Progress::Done
    );
    assert_eq!(settle(&sim, pending), 0);
    assert!(ept.lookup(Gfn(3)).unwrap().entry.is_present());
    assert_eq!(sim.leaves[1].get(), 1);
}

#[test]
fn a_zap_in_portions_leaves_no_table() {
    for portion in [1, 7, 100, 513] {
        let sim = Sim::new();
        let ept = Ept::new(&sim, sim.alloc(), &AD);
        let mut cache = Cache::new(&sim);
        for gfn in [0, 511, 512, 700, 0x4_0000, 0x800_0000] {
            cache.top_up();
            let _ = ept.map(&request(gfn, gfn, Level::Page4K, Access::R), &mut cache);
        }
        let mut span = ept.whole();
        loop {
            let mut pending = Pending::new();
            let progress = ept.zap_range(&mut span, Budget(portion), &mut pending);
            settle(&sim, pending);
            if progress == Progress::Done {
                break;
            }
        }
        assert_eq!(sim.allocated.get(), 1 + cache.tables.len());
    }
}

#[test]
fn pages_age_with_and_without_flags() {
    for format in [&AD, &NO_AD] {
        let sim = Sim::new();
        let ept = Ept::new(&sim, sim.alloc(), format);
        let mut cache = Cache::new(&sim);
        cache.top_up();
        let r = request(9, 90, Level::Page4K, Access::R);
        let _ = ept.map(&r, &mut cache);
        assert!(ept.test_young(Gfn(0), Gfn(20)));
        assert!(!ept.test_young(Gfn(10), Gfn(20)));
        assert!(ept.clear_young(Gfn(0), Gfn(20)));
        assert!(!ept.test_young(Gfn(0), Gfn(20)));
        assert!(!ept.clear_young(Gfn(0), Gfn(20)));
        let aged = ept.lookup(Gfn(9)).unwrap().entry;
        assert!(aged.is_present() && aged.pfn() == Pfn(90));
        assert_eq!(aged.permits(Access::R), format.ad);
        assert_eq!(aged.is_access_tracked(), !format.ad);
        if !format.ad {
            assert_eq!(aged.restored().access(), Access::R.union(Access::X));
            let again = ept.map(&r, &mut cache);
            assert!(
                matches!(again, MapOutcome::Installed { entry, .. } if entry.permits(Access::W))
            );
            assert!(ept.test_young(Gfn(9), Gfn(10)));
        }
    }
}

#[test]
fn watched_pages_stay_writable_if_they_are_small() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let _ = ept.map(&request(4, 40, Level::Page4K, Access::W), &mut cache);
    let _ = ept.map(&request(5, 41, Level::Page4K, Access::R), &mut cache);
    cache.top_up();
    let _ = ept.map(&request(512, 1024, Level::Page2M, Access::W), &mut cache);
    for flush in [true, false] {
        let mut pending = Pending::new();
        let mut span = Span::new(Gfn(0), Gfn(1024));
        let progress = ept.watch_writes(&mut span, Budget::UNLIMITED, &mut pending);
        assert_eq!(progress, Progress::Done);
        assert_eq!(pending.needs_flush(), flush, "only if something was lost");
        settle(&sim, pending);
        let small = ept.lookup(Gfn(4)).unwrap();
        assert!(small.entry.permits(Access::W) && small.entry.0 & Entry::DIRTY == 0);
        let large = ept.lookup(Gfn(700)).unwrap();
        assert_eq!(large.level, Level::Page2M);
        assert!(!large.entry.permits(Access::W) && large.entry.permits(Access::R));
    }
    // The processor sets the flag, and logs that.
    let _ = ept.map(&request(513, 1025, Level::Page4K, Access::W), &mut cache);
    let mut logged = std::vec::Vec::new();
    let _ = ept.leaves(&mut ept.whole(), Budget::UNLIMITED, |gfn, _, entry| {
        if entry.0 & Entry::DIRTY != 0 {
            logged.push(gfn);
        }
    });
    assert_eq!(
        logged,
        [Gfn(513)],
        "the write split the page, and made one writable"
    );
}
