// SPDX-License-Identifier: GPL-2.0

//! Single behaviours of the EPT when something is mapped.

use super::sim::*;
use crate::addr::*;
use crate::memslots::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::level::*;
use crate::mmu::map::*;
use crate::mmu::memory::*;
use crate::mmu::mmio::*;
use std::boxed::Box;

/// A processor that has everything.
pub const AD: Format = Format {
    root: Level::Pml4,
    max_leaf: Level::Page1G,
    ad: true,
    execute_only: true,
    small_code: false,
};
/// Large pages are not executable.
pub const SMALL_CODE: Format = Format {
    small_code: true,
    ..AD
};
/// Without accessed and dirty flags.
pub const NO_AD: Format = Format { ad: false, ..AD };

/// An access of kind `fault` to `gfn`, behind which is `pfn` in a page of `level`.
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

/// Flushes and frees; gives the number of tables.
pub fn settle(sim: &Sim, pending: Pending) -> usize {
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
