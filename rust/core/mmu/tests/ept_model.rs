// SPDX-License-Identifier: GPL-2.0

//! Random sequences of faults, accesses, slot changes and host invalidations, against a model of what is allowed.
//!
//! The model knows the slots, which host frame is behind each page and whether it may be written, and keeps what a
//! processor may have in its TLB. After each step nothing in the tables or in the TLB may go beyond that.

use super::ept_cases::{request, AD, NO_AD};
use super::sim::*;
use crate::addr::*;
use crate::memslots::*;
use crate::mmu::age::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::huge::*;
use crate::mmu::invalidate::*;
use crate::mmu::level::*;
use crate::mmu::map::*;
use crate::mmu::memory::*;
use crate::mmu::mmio::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

/// Slots that come and go: (first frame, pages, first host frame, flags).
const SLOTS: [(u64, u64, u64, u32); 5] = [
    (0, 1024, 0x1_0000, 0),
    // Host frames out of step with guest frames: 4 KiB pages only.
    (1024, 600, 0x2_0401, 0),
    (2048, 1024, 0x3_0000, 2),
    (0xfff, 514, 0x4_0fff, 0),
    (0x4_0000, 0x8_0000, 0x10_0000, 0),
];

/// Frames that the steps use: around the ends of slots and large pages.
const FRAMES: [u64; 22] = [
    0, 1, 511, 512, 513, 1023, 1024, 1100, 1535, 1536, 1700, 2048, 2559, 2560, 3071, 3500, 0xfff,
    0x1000, 0x1200, 0x4_0000, 0x4_0201, 0x8_ffff,
];

#[derive(Clone, Debug)]
enum Step {
    Fault(usize, u64),
    /// Two vCPUs: the second fault happens at some exchange of the first.
    RacingFaults(usize, u64, usize, u64, u32),
    /// Another CPU makes pages old or takes W at some exchange of the fault.
    FaultAgainstAging(usize, u64, u32),
    Access(usize, u64),
    /// The host takes a page away: one, or the 512 around it.
    Invalidate(usize, bool),
    /// The host shares a page copy-on-write.
    Share(usize),
    ToggleSlot(usize),
    ToggleLog(usize),
    Age(usize, u64),
    GetDirtyLog(usize),
    ClearDirty(usize, u64),
    /// Zap some frames in small portions, with faults in between.
    PausedZap(usize, usize, u32),
    NewRoot,
}

fn step() -> impl Strategy<Value = Step> {
    let frame = || 0..FRAMES.len();
    prop_oneof![
        8 => (frame(), 0u64..3).prop_map(|(f, a)| Step::Fault(f, a)),
        4 => (frame(), 0u64..3, frame(), 0u64..3, 0u32..6)
            .prop_map(|(f, a, g, b, n)| Step::RacingFaults(f, a, g, b, n)),
        2 => (frame(), 0u64..3, 0u32..4).prop_map(|(f, a, n)| Step::FaultAgainstAging(f, a, n)),
        8 => (frame(), 0u64..3).prop_map(|(f, a)| Step::Access(f, a)),
        2 => (frame(), any::<bool>()).prop_map(|(f, all)| Step::Invalidate(f, all)),
        1 => frame().prop_map(Step::Share),
        1 => (0..SLOTS.len()).prop_map(Step::ToggleSlot),
        1 => (0..SLOTS.len()).prop_map(Step::ToggleLog),
        2 => (frame(), 1u64..1000).prop_map(|(f, n)| Step::Age(f, n)),
        1 => (0..SLOTS.len()).prop_map(Step::GetDirtyLog),
        1 => (frame(), 1u64..1000).prop_map(|(f, n)| Step::ClearDirty(f, n)),
        1 => (frame(), frame(), 1u32..700).prop_map(|(f, g, n)| Step::PausedZap(f, g, n)),
        1 => Just(Step::NewRoot),
    ]
}

struct World {
    sim: &'static Sim,
    format: &'static Format,
    root: Table,
    slots: [Option<Region>; SLOTS.len()],
    generation: Generation,
    mmio: MmioFormat,
    invalidations: Invalidations,
    /// How often the host has replaced a page, by host frame; and 512 at once, by host frame / 512.
    replaced: BTreeMap<u64, u64>,
    replaced_many: BTreeMap<u64, u64>,
    /// Host frames that are shared copy-on-write.
    shared: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
    tlb: BTreeMap<u64, (Pfn, Access)>,
    cache: Cache<'static>,
}

impl World {
    fn new(format: &'static Format) -> Self {
        let sim: &'static Sim = Box::leak(Box::new(Sim::new()));
        let mut world = Self {
            sim,
            format,
            root: sim.alloc(),
            slots: [None; SLOTS.len()],
            generation: Generation::first(0),
            mmio: MmioFormat::new(Some(39)),
            invalidations: Invalidations::new(),
            replaced: BTreeMap::new(),
            replaced_many: BTreeMap::new(),
            shared: BTreeSet::new(),
            dirty: BTreeSet::new(),
            tlb: BTreeMap::new(),
            cache: Cache::new(sim),
        };
        for i in 0..SLOTS.len() {
            world.slots[i] = Some(region(i));
        }
        world
    }

    fn ept(&self) -> Ept<'static, Sim> {
        Ept::new(self.sim, self.root, self.format)
    }

    fn slot(&self, gfn: u64) -> Option<Region> {
        let mut all = self.slots.iter().flatten();
        all.find(|s| s.contains(Gfn(gfn))).copied()
    }

    fn host_frame(slot: &Region, gfn: u64) -> u64 {
        slot.gfn_to_hva(Gfn(gfn)).unwrap().0 >> 12
    }

    /// The frame behind a host page at this moment.
    fn pfn(&self, host: u64) -> Pfn {
        let many = self.replaced_many.get(&(host >> 9)).unwrap_or(&0);
        let one = self.replaced.get(&host).unwrap_or(&0);
        Pfn(host | (many & 0x3f) << 24 | (one & 0x3f) << 30)
    }

    fn host_level(&self, host: u64) -> Level {
        let small = |from: u64, to: u64| {
            self.replaced.range(from..to).next().is_some()
                || self.shared.range(from..to).next().is_some()
        };
        let (m, g) = (host & !0x1ff, host & !0x3_ffff);
        if small(m, m + 512) {
            Level::Page4K
        } else if small(g, g + 0x4_0000)
            || self
                .replaced_many
                .range(g >> 9..(g >> 9) + 512)
                .next()
                .is_some()
        {
            Level::Page2M
        } else {
            Level::Page1G
        }
    }

    fn settle(&mut self, pending: Pending) {
        let needed = pending.needs_flush();
        let flushed = pending.flush(|| self.sim.flush());
        if needed {
            self.tlb.clear();
        }
        flushed.free(self.sim);
    }

    /// What the glue does for mmu_notifier invalidations of the pages of one slot, around `change` of the host's tables.
    fn invalidate(&mut self, start: u64, end: u64, change: impl FnOnce(&mut Self)) {
        self.invalidations
            .begin(core::iter::once((Gfn(start), Gfn(end))));
        let mut pending = Pending::new();
        let done = self.ept().zap_range(
            &mut Span::new(Gfn(start), Gfn(end)),
            Budget::UNLIMITED,
            &mut pending,
        );
        assert_eq!(done, Progress::Done);
        self.settle(pending);
        change(self);
        assert!(self.invalidations.end());
    }

    fn zap(&mut self, start: u64, end: u64) {
        self.invalidate(start, end, |_| ());
    }

    /// What a fault asks the EPT, after the host was asked for the page.
    fn request_for(&mut self, gfn: u64, need: Access) -> Option<MapRequest> {
        let slot = self.slot(gfn)?;
        if need == Access::W && !slot.is_writable() {
            return None;
        }
        let host = Self::host_frame(&slot, gfn);
        if need == Access::W && self.shared.contains(&host) {
            // The host copies the page: an invalidation of its own.
            self.invalidate(gfn, gfn + 1, |w| {
                w.shared.remove(&host);
                *w.replaced.entry(host).or_insert(0) += 1;
            });
        }
        let mut access = Access::RWX;
        if !slot.is_writable() || (slot.logs_dirty_pages() && need != Access::W) {
            access = access.without(Access::W);
        }
        Some(MapRequest {
            access,
            host_writable: !self.shared.contains(&host),
            level: fault_level(&slot, Gfn(gfn), self.host_level(host), Level::Page1G),
            ..request(gfn, self.pfn(host).0, Level::Page4K, need)
        })
    }

    fn fault(&mut self, gfn: u64, need: Access) {
        for _ in 0..4 {
            self.cache.top_up();
            let sample = self.invalidations.sample();
            let Some(request) = self.request_for(gfn, need) else {
                if self.slot(gfn).is_none() {
                    let entry = self.mmio.encode(Gfn(gfn), self.generation);
                    let got = self.ept().map_mmio(Gfn(gfn), entry, &mut self.cache);
                    assert!(
                        matches!(got, MapOutcome::Installed { .. } | MapOutcome::Spurious),
                        "{got:?}"
                    );
                }
                return;
            };
            if self.invalidations.must_retry(sample, Gfn(gfn), 1) {
                continue;
            }
            match self.ept().map(&request, &mut self.cache) {
                MapOutcome::Installed { level, entry } => {
                    assert!(entry.permits(need), "installed, but not enough");
                    if entry.permits(Access::W) && self.slot(gfn).unwrap().logs_dirty_pages() {
                        assert_eq!(level, Level::Page4K);
                        self.dirty.insert(gfn);
                    }
                    return;
                }
                MapOutcome::Spurious => return,
                MapOutcome::Conflict => self.zap(gfn, gfn + 1),
                other => panic!("{other:?}"),
            }
        }
        panic!("no end of faults at {gfn:#x} for {need:?}");
    }

    /// A vCPU touches a page: by the TLB, or by the tables, setting flags as it goes.
    fn access(&mut self, gfn: u64, need: Access) {
        self.sim.walk_all(self.root, self.format.root);
        if let Some((_, rights)) = self.tlb.get(&gfn) {
            if rights.contains(need) {
                return;
            }
        }
        let (mut table, mut level) = (self.root, self.format.root);
        loop {
            let index = level.index(Gfn(gfn));
            let e = Entry(self.sim.read(table, index));
            if e.is_table(level) {
                (table, level) = (self.sim.table(e.address()).unwrap(), level.down().unwrap());
                continue;
            }
            if e.permits(need) {
                if self.format.ad {
                    let dirty = if need == Access::W { Entry::DIRTY } else { 0 };
                    self.sim.set_bits(table, index, Entry::ACCESSED | dirty);
                }
                let pfn = Pfn(e.pfn().0 + (gfn & level.offset_mask()));
                self.tlb.insert(gfn, (pfn, e.access()));
            } else if let Some(m) = self.mmio.decode(e) {
                assert_eq!(m.gfn, Gfn(gfn));
                if m.is_current(self.generation) {
                    assert!(self.slot(gfn).is_none(), "a current MMIO entry over a slot");
                }
            }
            return;
        }
    }

    fn bump_generation(&mut self) {
        let done = self.generation.start_update().finish_update(1);
        self.generation = done.generation;
    }

    fn run(&mut self, step: &Step) {
        let need = |a: u64| Access::from_bits(1 << a);
        match *step {
            Step::Fault(f, a) => {
                self.fault(FRAMES[f], need(a));
                // What was faulted in is usable at once.
                let write = need(a) == Access::W;
                let usable = self
                    .slot(FRAMES[f])
                    .is_some_and(|s| s.is_writable() || !write);
                let found = self.ept().lookup(Gfn(FRAMES[f])).unwrap().entry;
                assert_eq!(found.permits(need(a)), usable);
            }
            Step::RacingFaults(f, a, g, b, n) => {
                self.cache.top_up();
                let (Some(first), Some(second)) = (
                    self.request_for(FRAMES[f], need(a)),
                    self.request_for(FRAMES[g], need(b)),
                ) else {
                    return;
                };
                // Getting the second page may have replaced the first: that fault would start again.
                if self.request_for(FRAMES[f], need(a)) != Some(first) {
                    return;
                }
                let (sim, root, format) = (self.sim, self.root, self.format);
                sim.interfere(
                    n,
                    Box::new(move || {
                        let mut cache = Cache::new(sim);
                        cache.top_up();
                        let _ = Ept::new(sim, root, format).map(&second, &mut cache);
                        cache.tables.drain(..).for_each(|t| sim.free(t));
                    }),
                );
                let _ = self.ept().map(&first, &mut self.cache);
                sim.no_interference();
                for gfn in [FRAMES[f], FRAMES[g]] {
                    let e = self.ept().lookup(Gfn(gfn)).unwrap().entry;
                    if e.permits(Access::W) && self.slot(gfn).unwrap().logs_dirty_pages() {
                        self.dirty.insert(gfn);
                    }
                }
            }
            Step::FaultAgainstAging(f, a, n) => {
                self.cache.top_up();
                let Some(request) = self.request_for(FRAMES[f], need(a)) else {
                    return;
                };
                let (ept, gfn) = (self.ept(), Gfn(FRAMES[f]));
                self.sim.interfere(
                    n,
                    Box::new(move || {
                        ept.clear_young(gfn, gfn.wrapping_add(1));
                    }),
                );
                let _ = self.ept().map(&request, &mut self.cache);
                self.sim.no_interference();
                let e = self.ept().lookup(gfn).unwrap().entry;
                if e.permits(Access::W) && self.slot(gfn.0).unwrap().logs_dirty_pages() {
                    self.dirty.insert(gfn.0);
                }
            }
            Step::Access(f, a) => self.access(FRAMES[f], need(a)),
            Step::Invalidate(f, many) => {
                let Some(slot) = self.slot(FRAMES[f]) else {
                    return;
                };
                let host = Self::host_frame(&slot, FRAMES[f]);
                let (from, to) = if many {
                    (host & !511, (host & !511) + 512)
                } else {
                    (host, host + 1)
                };
                let hva = |frame: u64| Hva(frame << 12);
                let (start, end) = slot.gfns_of_hva_range(hva(from), hva(to)).unwrap();
                self.invalidate(start.0, end.0, |w| {
                    if many {
                        *w.replaced_many.entry(host >> 9).or_insert(0) += 1;
                        // A new large page.
                        let small: Vec<_> = w.replaced.range(from..to).map(|(k, _)| *k).collect();
                        small.iter().for_each(|k| {
                            w.replaced.remove(k);
                        });
                        w.shared.retain(|h| !(from..to).contains(h));
                    } else {
                        *w.replaced.entry(host).or_insert(0) += 1;
                    }
                });
            }
            Step::Share(f) => {
                let Some(slot) = self.slot(FRAMES[f]) else {
                    return;
                };
                let host = Self::host_frame(&slot, FRAMES[f]);
                self.invalidate(FRAMES[f], FRAMES[f] + 1, |w| {
                    w.shared.insert(host);
                });
            }
            Step::ToggleSlot(i) => {
                match self.slots[i].take() {
                    Some(old) => {
                        self.bump_generation();
                        self.zap(old.base_gfn.0, old.end_gfn().0);
                        self.dirty.retain(|gfn| !old.contains(Gfn(*gfn)));
                    }
                    None => {
                        self.slots[i] = Some(region(i));
                        self.bump_generation();
                    }
                };
            }
            Step::ToggleLog(i) => {
                let Some(mut slot) = self.slots[i] else {
                    return;
                };
                let on = !slot.logs_dirty_pages();
                let keep = slot.flags.bits() & SlotFlags::READONLY.bits();
                slot.flags = SlotFlags::from_bits(
                    keep | u32::from(on),
                    SlotFlags::from_bits(3, SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY))
                        .unwrap(),
                )
                .unwrap();
                self.slots[i] = Some(slot);
                self.bump_generation();
                self.write_protect(&slot, if on { 333 } else { u32::MAX });
            }
            Step::Age(f, n) => {
                let (s, e) = (Gfn(FRAMES[f]), Gfn(FRAMES[f] + n));
                let young = self.ept().test_young(s, e);
                assert_eq!(self.ept().clear_young(s, e), young);
                assert!(!self.ept().test_young(s, e));
            }
            Step::GetDirtyLog(i) => {
                if let Some(slot) = self.slots[i].filter(Region::logs_dirty_pages) {
                    self.dirty.retain(|gfn| !slot.contains(Gfn(*gfn)));
                    self.write_protect(&slot, 50);
                }
            }
            Step::ClearDirty(f, n) => {
                if self.format.ad {
                    let (s, e) = (Gfn(FRAMES[f]), Gfn(FRAMES[f] + n));
                    let mut pending = Pending::new();
                    let mut reports = BTreeSet::new();
                    let done = self.ept().clear_dirty(
                        &mut Span::new(s, e),
                        Budget::UNLIMITED,
                        &mut pending,
                        |gfn, _| {
                            assert!(reports.insert(gfn), "reported twice");
                        },
                    );
                    assert_eq!(done, Progress::Done);
                    assert_eq!(pending.needs_flush(), !reports.is_empty());
                    self.settle(pending);
                }
            }
            Step::PausedZap(f, g, n) => {
                let (s, e) = (FRAMES[f.min(g)], FRAMES[f.max(g)] + 1);
                let mut span = Span::new(Gfn(s), Gfn(e));
                let mut pauses = 0;
                loop {
                    let at = span.position();
                    let mut pending = Pending::new();
                    let progress = self.ept().zap_range(&mut span, Budget(n), &mut pending);
                    self.settle(pending);
                    match progress {
                        Progress::Done => break,
                        Progress::More => assert!(span.position() > at, "no progress"),
                    }
                    pauses += 1;
                    if pauses == 1 {
                        self.fault(s, Access::R);
                    }
                    if pauses > 60 {
                        break;
                    }
                }
            }
            Step::NewRoot => {
                let old = self.ept();
                self.root = self.sim.alloc();
                // All vCPUs have left the old root.
                self.sim.flush();
                self.tlb.clear();
                let mut span = old.whole();
                loop {
                    let mut pending = Pending::new();
                    let progress = old.zap_range(&mut span, Budget(3000), &mut pending);
                    self.settle(pending);
                    match progress {
                        Progress::Done => break,
                        Progress::More => (),
                    }
                }
                let mut pending = Pending::new();
                assert!(old.retire(&mut pending));
                self.settle(pending);
            }
        }
    }

    fn write_protect(&mut self, slot: &Region, budget: u32) {
        let mut span = Span::new(slot.base_gfn, slot.end_gfn());
        loop {
            let mut pending = Pending::new();
            let progress = self.ept().write_protect(
                &mut span,
                WriteProtect::ForLogging,
                Budget(budget),
                &mut pending,
            );
            self.settle(pending);
            match progress {
                Progress::Done => return,
                Progress::More => (),
            }
        }
    }

    /// Whether a vCPU may use `pfn` for `gfn` with these rights.
    fn check_page(&self, gfn: u64, pfn: Pfn, rights: Access, what: &str) {
        let slot = self.slot(gfn);
        let slot = slot.unwrap_or_else(|| panic!("{what}: {gfn:#x} has no slot"));
        let host = Self::host_frame(&slot, gfn);
        assert_eq!(pfn, self.pfn(host), "{what}: {gfn:#x} maps another page");
        if rights.contains(Access::W) {
            assert!(slot.is_writable(), "{what}: {gfn:#x} is read-only");
            assert!(!self.shared.contains(&host), "{what}: {gfn:#x} is shared");
            assert!(
                !slot.logs_dirty_pages() || self.dirty.contains(&gfn),
                "{what}: {gfn:#x} is writable, but not in the log"
            );
        }
    }

    fn check_tlb(&self) {
        for (gfn, (pfn, rights)) in &self.tlb {
            self.check_page(*gfn, *pfn, *rights, "TLB");
        }
    }

    fn check_all(&self) {
        self.check_tlb();
        let mut count = [0; 6];
        let all = self.ept().leaves(
            &mut self.ept().whole(),
            Budget::UNLIMITED,
            |gfn, level, e| {
                count[level.number() as usize] += 1;
                // Each page of a small leaf; of a large one the ends and the frames that the steps use.
                let inside = FRAMES.iter().map(|f| f.wrapping_sub(gfn.0));
                let last = level.pages() - 1;
                for i in inside.filter(|i| *i <= last).chain([0, last]) {
                    self.check_page(gfn.0 + i, Pfn(e.pfn().0 + i), e.access(), "leaf");
                }
            },
        );
        assert_eq!(all, Progress::Done);
        let leaves: [i64; 6] = core::array::from_fn(|i| self.sim.leaves[i].get());
        assert_eq!(leaves, count, "leaf counts");
        let reachable = self.sim.reachable(self.root, self.format.root).len();
        assert_eq!(
            self.sim.allocated.get(),
            reachable + self.cache.tables.len(),
            "tables lost"
        );
    }
}

fn region(i: usize) -> Region {
    let (gfn, npages, host, flags) = SLOTS[i];
    let all = SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY);
    Region {
        id: i as u16,
        flags: SlotFlags::from_bits(flags, all).unwrap(),
        base_gfn: Gfn(gfn),
        npages,
        userspace_addr: Hva(host << 12),
    }
}

fn run(format: &'static Format, steps: &[Step]) {
    let mut world = World::new(format);
    for (i, s) in steps.iter().enumerate() {
        world.run(s);
        world.check_tlb();
        if i % 8 == 7 {
            world.check_all();
        }
    }
    world.check_all();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_entry_goes_beyond_slot_and_host(steps in proptest::collection::vec(step(), 1..400)) {
        run(&AD, &steps);
    }

    #[test]
    fn nor_without_accessed_flags(steps in proptest::collection::vec(step(), 1..400)) {
        run(&NO_AD, &steps);
    }
}
