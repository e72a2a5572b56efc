// SPDX-License-Identifier: GPL-2.0

//! Single behaviours of entries and of the EPT.

use super::sim::*;
use crate::addr::*;
use crate::memslots::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::huge::*;
use crate::mmu::invalidate::*;
use crate::mmu::level::*;
use crate::mmu::map::*;
use crate::mmu::memory::*;
use crate::mmu::mmio::*;
use std::boxed::Box;

pub const AD: Format = Format {
    root: Level::Pml4,
    max_leaf: Level::Page1G,
    ad: true,
    execute_only: true,
    small_code: false,
};
pub const SMALL_CODE: Format = Format {
    small_code: true,
    ..AD
};
pub const NO_AD: Format = Format { ad: false, ..AD };

pub fn request(gfn: u64, pfn: u64, level: Level, fault: Access) -> MapRequest {
    MapRequest {
        gfn: Gfn(gfn),
        pfn: Pfn(pfn),
        level,
        access: Access::RWX,
        host_writable: true,
        fault,
        memory_type: MemoryType::WriteBack,
        ignore_pat: true,
    }
}

fn settle(sim: &Sim, pending: Pending) -> usize {
    pending.flush(|| sim.flush()).free(sim)
}

#[test]
fn maps_and_finds_a_page() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    let r = request(0x12345, 0x999, Level::Page4K, Access::R);
    assert_eq!(ept.map(&r, &mut cache), MapOutcome::OutOfTables);
    cache.top_up();
    let MapOutcome::Installed { level, entry } = ept.map(&r, &mut cache) else {
        panic!()
    };
    assert_eq!(level, Level::Page4K);
    // Read, write, execute, write-back, ignore PAT, accessed, dirty (SDM, "Format of an EPT Page-Table Entry").
    assert_eq!(entry.0 & 0x000f_ffff_ffff_f3ff, 0x99_9377);
    let found = ept.lookup(Gfn(0x12345)).unwrap();
    assert_eq!((found.level, found.entry), (level, entry));
    assert_eq!(ept.map(&r, &mut cache), MapOutcome::Spurious);
    assert!(!ept.lookup(Gfn(0x12346)).unwrap().entry.is_present());
}

#[test]
fn frames_beyond_the_root_are_refused() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let r = request(1 << 36, 1, Level::Page4K, Access::R);
    assert_eq!(ept.map(&r, &mut cache), MapOutcome::OutOfRange);
    assert_eq!(ept.lookup(Gfn(1 << 36)), None);
    let last = request((1 << 36) - 1, 1, Level::Page4K, Access::R);
    assert!(matches!(
        ept.map(&last, &mut cache),
        MapOutcome::Installed { .. }
    ));
    let five = Format {
        root: Level::Pml5,
        ..AD
    };
    let ept = Ept::new(&sim, sim.alloc(), &five);
    cache.top_up();
    assert!(matches!(
        ept.map(&r, &mut cache),
        MapOutcome::Installed { .. }
    ));
}

#[test]
fn another_page_or_fewer_rights_are_a_conflict() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let r = request(5, 50, Level::Page4K, Access::W);
    let _ = ept.map(&r, &mut cache);
    let other = MapRequest { pfn: Pfn(51), ..r };
    assert_eq!(ept.map(&other, &mut cache), MapOutcome::Conflict);
    let mmio = MmioFormat::new(None).encode(Gfn(5), Generation::first(0));
    assert_eq!(ept.map_mmio(Gfn(5), mmio, &mut cache), MapOutcome::Conflict);
    assert_eq!(ept.lookup(Gfn(5)).unwrap().entry.pfn(), Pfn(50));
    let narrow = MapRequest {
        gfn: Gfn(6),
        access: Access::R.union(Access::X),
        ..r
    };
    let _ = ept.map(&narrow, &mut cache);
    let without_x = MapRequest {
        access: Access::R.union(Access::W),
        ..narrow
    };
    assert_eq!(ept.map(&without_x, &mut cache), MapOutcome::Conflict);
}

#[test]
fn a_read_only_host_page_gets_no_write_right_until_it_is_got_for_writing() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let cow = MapRequest {
        host_writable: false,
        ..request(7, 70, Level::Page4K, Access::R)
    };
    let MapOutcome::Installed { entry, .. } = ept.map(&cow, &mut cache) else {
        panic!()
    };
    assert!(entry.permits(Access::R) && !entry.permits(Access::W));
    let write = request(7, 70, Level::Page4K, Access::W);
    let MapOutcome::Installed { entry, .. } = ept.map(&write, &mut cache) else {
        panic!()
    };
    assert!(entry.permits(Access::W));
}

#[test]
fn a_write_to_a_protected_large_page_splits_it() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let _ = ept.map(
        &request(0x40_0123, 0x80_0123, Level::Page1G, Access::R),
        &mut cache,
    );
    assert_eq!(ept.lookup(Gfn(0x40_0123)).unwrap().level, Level::Page1G);
    let mut pending = Pending::new();
    let done = ept.write_protect(
        &mut Span::new(Gfn(0x40_0123), Gfn(0x40_0124)),
        Budget::UNLIMITED,
        &mut pending,
    );
    assert_eq!(done, Progress::Done);
    assert!(pending.needs_flush());
    settle(&sim, pending);
    let _ = ept.map(
        &request(0x40_0123, 0x80_0123, Level::Page4K, Access::W),
        &mut cache,
    );
    for (gfn, level, writable) in [
        (0x40_0123, Level::Page4K, true),
        (0x40_0124, Level::Page4K, false),
        (0x40_0200, Level::Page2M, false),
        (0x43_ffff, Level::Page2M, false),
    ] {
        let l = ept.lookup(Gfn(gfn)).unwrap();
        let at = gfn & !(level.pages() - 1);
        assert_eq!((l.level, l.entry.pfn()), (level, Pfn(at + 0x40_0000)));
        assert_eq!(l.entry.permits(Access::W), writable);
        assert!(l.entry.permits(Access::R));
    }
    let count: [i64; 6] = core::array::from_fn(|i| sim.leaves[i].get());
    assert_eq!(count, [0, 512, 511, 0, 0, 0]);
}

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
fn losing_the_race_for_a_table_gives_it_back() {
    let sim: &'static Sim = Box::leak(Box::new(Sim::new()));
    let root = sim.alloc();
    let ept = Ept::new(sim, root, &AD);
    for n in 0..4 {
        let mut cache = Cache::new(sim);
        cache.top_up();
        sim.interfere(
            n,
            Box::new(move || {
                let mut cache = Cache::new(sim);
                cache.top_up();
                let r = request(0x200, 2, Level::Page4K, Access::R);
                let _ = Ept::new(sim, root, &AD).map(&r, &mut cache);
                cache.tables.drain(..).for_each(|t| sim.free(t));
            }),
        );
        let got = ept.map(&request(0x201, 3, Level::Page4K, Access::R), &mut cache);
        assert!(matches!(got, MapOutcome::Installed { .. }));
        assert!(ept.lookup(Gfn(0x200)).unwrap().entry.is_present());
        cache.tables.drain(..).for_each(|t| sim.free(t));
        assert_eq!(sim.reachable(root, Level::Pml4).len(), sim.allocated.get());
        let mut pending = Pending::new();
        let _ = ept.zap_range(&mut ept.whole(), Budget::UNLIMITED, &mut pending);
        settle(sim, pending);
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

#[test]
fn leaves_without_read_are_never_misconfigured() {
    for bits in 0..8 {
        for execute_only in [false, true] {
            let format = Format { execute_only, ..AD };
            let leaf = Leaf {
                pfn: Pfn(1),
                access: Access::from_bits(bits),
                host_writable: true,
                accessed: true,
                memory_type: MemoryType::WriteBack,
                ignore_pat: false,
            };
            let got = Entry::leaf(&leaf, Level::Page4K, &format).0 & 7;
            assert_eq!(got & !bits, 0, "never more than asked");
            assert!(matches!(got, 0 | 1 | 3 | 5 | 7) || (got == 4 && execute_only));
        }
    }
}

#[test]
fn mmio_entries_round_trip_on_every_host() {
    for bits in [None, Some(36), Some(39), Some(44), Some(46), Some(47)] {
        let format = MmioFormat::new(bits);
        for gfn in [0, 1, 0xfee00, 0xfffff, (1 << 34) - 1, (1 << 27) + 5] {
            if gfn >> bits.map_or(40, |b| b - 12) != 0 {
                continue;
            }
            let mut g = Generation::first(0);
            for _ in 0..300 {
                let e = format.encode(Gfn(gfn), g);
                assert_eq!(e.0 & 7, 6, "must be a misconfiguration");
                assert!(!e.is_present());
                let d = format.decode(e).unwrap();
                assert_eq!((d.gfn, d.generation), (Gfn(gfn), g.mmio()), "{bits:?}");
                assert!(d.is_current(g) && !d.is_current(g.start_update()));
                if let Some(bits) = bits {
                    let cacheable = e.0 & ((1 << bits) - 1) & Entry::ADDRESS;
                    assert_eq!(cacheable >> (bits - 5), 0x1f);
                }
                g = g.start_update().finish_update(977).generation;
                assert!(!d.is_current(g));
            }
        }
    }
    let format = MmioFormat::new(None);
    assert_eq!(format.decode(Entry::EMPTY), None);
    assert_eq!(format.decode(Entry::table(Hpa(0x1000))), None);
}

#[test]
fn frames_mapped_along_are_not_accessed_and_replace_nothing() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    let r = request(500, 5000, Level::Page4K, Access::W);
    let pages = || (5001..5100).map(|pfn| (Pfn(pfn), pfn != 5002));
    assert_eq!(ept.map_ahead(&r, pages()), 0, "there is no table yet");
    cache.top_up();
    let _ = ept.map(&r, &mut cache);
    assert_eq!(ept.map_ahead(&r, pages().take(2)), 2);
    let at = |gfn| ept.lookup(Gfn(gfn)).unwrap().entry;
    assert!(at(500).is_young(&AD) && !at(501).is_young(&AD));
    assert!(at(501).permits(Access::W) && !at(502).permits(Access::W));
    assert_eq!((at(502).pfn(), at(503)), (Pfn(5002), Entry::EMPTY));
    assert_eq!(ept.map_ahead(&r, pages()), 0, "501 is taken");
    // Behind a page that is there, one of MMIO, and the end of the table.
    let last = request(502, 5002, Level::Page4K, Access::R);
    let mmio = MmioFormat::new(None).encode(Gfn(505), Generation::first(0));
    let _ = ept.map_mmio(Gfn(505), mmio, &mut cache);
    assert_eq!(ept.map_ahead(&last, pages().skip(2)), 2);
    assert_eq!((at(504).pfn(), at(505)), (Pfn(5004), mmio));
    let behind = request(505, 5005, Level::Page4K, Access::R);
    assert_eq!(ept.map_ahead(&behind, pages().skip(5)), 6);
    assert_eq!((at(511).pfn(), at(512)), (Pfn(5011), Entry::EMPTY));
    assert_eq!(sim.leaves[1].get(), 11);
}

#[test]
fn code_is_in_small_pages_where_it_has_to_be() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &SMALL_CODE);
    let mut cache = Cache::new(&sim);
    let mut map = |gfn, need| {
        cache.top_up();
        let r = request(gfn, 0x1000 + gfn, Level::Page2M, need);
        match ept.map(&r, &mut cache) {
            MapOutcome::Installed { level, entry } => (level, entry.access()),
            other => panic!("{other:?}"),
        }
    };
    let data = Access::R.union(Access::W);
    assert_eq!(map(0x200, Access::W), (Level::Page2M, data));
    assert_eq!(map(0x203, Access::X), (Level::Page4K, Access::RWX));
    let found = |gfn| ept.lookup(Gfn(gfn)).unwrap();
    assert_eq!(found(0x202).level, Level::Page4K);
    assert_eq!(found(0x202).entry.access(), data);
    assert_eq!(found(0x202).entry.pfn(), Pfn(0x1202));
    assert_eq!(map(0x202, Access::X), (Level::Page4K, Access::RWX));
    assert_eq!(map(0x401, Access::X), (Level::Page4K, Access::RWX));
}

#[test]
fn a_page_larger_than_the_slot_or_out_of_step_is_not_mapped_large() {
    let slot = |gfn, npages, hva| Region {
        id: 0,
        flags: SlotFlags::NONE,
        base_gfn: Gfn(gfn),
        npages,
        userspace_addr: Hva(hva),
    };
    let g = Level::Page1G;
    let aligned = slot(0x200, 0x400, 0x4020_0000);
    assert_eq!(fault_level(&aligned, Gfn(0x3ff), g, g), Level::Page2M);
    assert_eq!(
        fault_level(&aligned, Gfn(0x3ff), Level::Page4K, g),
        Level::Page4K
    );
    let shifted = slot(0x200, 0x400, 0x4020_1000);
    assert_eq!(fault_level(&shifted, Gfn(0x3ff), g, g), Level::Page4K);
    let ragged = slot(0x201, 0x3ff, 0x4020_1000);
    assert_eq!(fault_level(&ragged, Gfn(0x3ff), g, g), Level::Page4K);
    assert_eq!(fault_level(&ragged, Gfn(0x400), g, g), Level::Page2M);
    let big = slot(0x4_0000, 0x4_0000, 0x8000_0000);
    assert_eq!(fault_level(&big, Gfn(0x7_ffff), g, g), g);
    let logged = Region {
        flags: SlotFlags::LOG_DIRTY_PAGES,
        ..big
    };
    assert_eq!(fault_level(&logged, Gfn(0x7_ffff), g, g), Level::Page4K);
}

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

#[test]
fn an_entry_to_nowhere_is_left_alone() {
    let sim = Sim::new();
    let ept = Ept::new(&sim, sim.alloc(), &AD);
    let mut cache = Cache::new(&sim);
    cache.top_up();
    let r = request(9, 90, Level::Page4K, Access::R);
    let _ = ept.map(&r, &mut cache);
    sim.fail_table.set(true);
    assert_eq!(ept.lookup(Gfn(9)), None);
    assert_eq!(ept.map(&r, &mut cache), MapOutcome::Raced);
    let mut pending = Pending::new();
    let done = ept.zap_range(&mut ept.whole(), Budget::UNLIMITED, &mut pending);
    assert_eq!((done, pending.needs_flush()), (Progress::Done, false));
    settle(&sim, pending);
}
