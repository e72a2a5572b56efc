// SPDX-License-Identifier: GPL-2.0

//! The world of the EPT model: slots, the host's pages behind them and what a processor may have in its TLB.

use super::ept_cases::request;
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
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Slots that come and go: (first frame, pages, first host frame, flags).
pub(super) const SLOTS: [(u64, u64, u64, u32); 5] = [
    (0, 1024, 0x1_0000, 0),
    // Host frames out of step with guest frames: 4 KiB pages only.
    (1024, 600, 0x2_0401, 0),
    (2048, 1024, 0x3_0000, 2),
    (0xfff, 514, 0x4_0fff, 0),
    (0x4_0000, 0x8_0000, 0x10_0000, 0),
];

/// Frames that the steps use: around the ends of slots and large pages.
pub(super) const FRAMES: [u64; 22] = [
    0, 1, 511, 512, 513, 1023, 1024, 1100, 1535, 1536, 1700, 2048, 2559, 2560, 3071, 3500, 0xfff,
    0x1000, 0x1200, 0x4_0000, 0x4_0201, 0x8_ffff,
];

/// What a processor remembers of a page.
pub(super) struct Translation {
    pfn: Pfn,
    rights: Access,
    /// It need not set the dirty flag any more.
    dirty: bool,
}

pub(super) struct World {
    pub(super) sim: &'static Sim,
    pub(super) format: &'static Format,
    pub(super) root: Table,
    pub(super) slots: [Option<Region>; SLOTS.len()],
    pub(super) generation: Generation,
    pub(super) mmio: MmioFormat,
    pub(super) invalidations: Invalidations,
    /// How often the host has replaced a page, by host frame; and 512 at once, by host frame / 512.
    pub(super) replaced: BTreeMap<u64, u64>,
    pub(super) replaced_many: BTreeMap<u64, u64>,
    /// Host frames that are shared copy-on-write.
    pub(super) shared: BTreeSet<u64>,
    /// The processor logs where it sets dirty flags, and what it has logged.
    pub(super) pml: bool,
    pub(super) logged: BTreeSet<u64>,
    /// The dirty log, and what the guest has written in slots that log since it was taken.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) written: BTreeSet<u64>,
    pub(super) tlb: BTreeMap<u64, Translation>,
    pub(super) cache: Cache<'static>,
}

impl World {
    pub(super) fn new(format: &'static Format, pml: bool) -> Self {
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
            pml,
            logged: BTreeSet::new(),
            dirty: BTreeSet::new(),
            written: BTreeSet::new(),
            tlb: BTreeMap::new(),
            cache: Cache::new(sim),
        };
        for i in 0..SLOTS.len() {
            world.slots[i] = Some(region(i));
        }
        world
    }

    pub(super) fn ept(&self) -> Ept<'static, Sim> {
        Ept::new(self.sim, self.root, self.format)
    }

    pub(super) fn slot(&self, gfn: u64) -> Option<Region> {
        let mut all = self.slots.iter().flatten();
        all.find(|s| s.contains(Gfn(gfn))).copied()
    }

    pub(super) fn host_frame(slot: &Region, gfn: u64) -> u64 {
        slot.gfn_to_hva(Gfn(gfn)).unwrap().0 >> 12
    }

    /// The frame behind a host page at this moment.
    pub(super) fn pfn(&self, host: u64) -> Pfn {
        let many = self.replaced_many.get(&(host >> 9)).unwrap_or(&0);
        let one = self.replaced.get(&host).unwrap_or(&0);
        Pfn(host | (many & 0x3f) << 24 | (one & 0x3f) << 30)
    }

    pub(super) fn host_level(&self, host: u64) -> Level {
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

    pub(super) fn settle(&mut self, pending: Pending) {
        let needed = pending.needs_flush();
        let flushed = pending.flush(|| self.sim.flush());
        if needed {
            self.tlb.clear();
        }
        flushed.free(self.sim);
    }

    /// What the glue does for mmu_notifier invalidations of the pages of one slot, around `change` of the host's tables.
    pub(super) fn invalidate(&mut self, start: u64, end: u64, change: impl FnOnce(&mut Self)) {
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

    pub(super) fn zap(&mut self, start: u64, end: u64) {
        self.invalidate(start, end, |_| ());
    }

    /// What a fault asks the EPT, after the host was asked for the page.
    pub(super) fn request_for(&mut self, gfn: u64, need: Access) -> Option<MapRequest> {
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
        if !slot.is_writable() {
            access = access.without(Access::W);
        }
        Some(MapRequest {
            access,
            host_writable: !self.shared.contains(&host),
            level: fault_level(&slot, Gfn(gfn), self.host_level(host), Level::Page1G),
            ..request(gfn, self.pfn(host).0, Level::Page4K, need)
        })
    }

    pub(super) fn fault(&mut self, gfn: u64, need: Access) {
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

    /// A fault by which the guest goes through its memory in order: what the host has behind it is mapped along.
    pub(super) fn fault_in_order(&mut self, gfn: u64, need: Access, frames: u64) {
        self.fault(gfn, need);
        let Some(request) = self.request_for(gfn, need) else {
            return;
        };
        let slot = self.slot(gfn).unwrap();
        if slot.logs_dirty_pages() || self.invalidations.blocks(Gfn(gfn), frames) {
            return;
        }
        let behind = (gfn + 1)..(gfn + frames).min(slot.end_gfn().0);
        let pages = behind.map(|gfn| {
            let host = Self::host_frame(&slot, gfn);
            (self.pfn(host), !self.shared.contains(&host))
        });
        let pages: Vec<_> = pages.collect();
        let _ = self.ept().map_ahead(&request, pages.into_iter());
    }

    /// A vCPU touches a page: by the TLB, or by the tables, setting flags as it goes.
    pub(super) fn access(&mut self, gfn: u64, need: Access) {
        self.sim.walk_all(self.root, self.format.root);
        let write = need == Access::W;
        if let Some(known) = self.tlb.get(&gfn) {
            if known.rights.contains(need) && (!write || known.dirty || !self.format.ad) {
                self.note_write(gfn, write);
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
                    let dirty = if write { Entry::DIRTY } else { 0 };
                    self.sim.set_bits(table, index, Entry::ACCESSED | dirty);
                }
                let dirty = e.0 & Entry::DIRTY != 0;
                if self.pml && write && !dirty {
                    self.logged.insert(gfn);
                }
                let known = Translation {
                    pfn: Pfn(e.pfn().0 + (gfn & level.offset_mask())),
                    rights: e.access(),
                    dirty: dirty || write,
                };
                self.tlb.insert(gfn, known);
                self.note_write(gfn, write);
            } else if let Some(m) = self.mmio.decode(e) {
                assert_eq!(m.gfn, Gfn(gfn));
                if m.is_current(self.generation) {
                    assert!(self.slot(gfn).is_none(), "a current MMIO entry over a slot");
                }
            }
            return;
        }
    }

    pub(super) fn bump_generation(&mut self) {
        let done = self.generation.start_update().finish_update(1);
        self.generation = done.generation;
    }

    fn note_write(&mut self, gfn: u64, write: bool) {
        if write && self.slot(gfn).is_some_and(|s| s.logs_dirty_pages()) {
            self.written.insert(gfn);
        }
    }

    /// Every write since the log was taken is in the log, or comes into it from the processor's.
    pub(super) fn check_log(&self) {
        for gfn in &self.written {
            let told = self.dirty.contains(gfn) || self.logged.contains(gfn);
            assert!(told, "the write to {gfn:#x} is in no log");
        }
    }

    /// Takes the log of these frames, and has the next write to each be seen again.
    pub(super) fn take_dirty_log(&mut self, start: Gfn, end: Gfn, budget: u32) {
        self.check_log();
        // The vCPUs leave the guest and hand over what was logged for them.
        self.dirty.append(&mut self.logged);
        self.dirty.retain(|gfn| !(start.0..end.0).contains(gfn));
        self.written.retain(|gfn| !(start.0..end.0).contains(gfn));
        self.watch(start, end, budget);
    }

    /// Has the next write to each page of the frames be seen.
    pub(super) fn watch(&mut self, start: Gfn, end: Gfn, budget: u32) {
        let mut span = Span::new(start, end);
        loop {
            let mut pending = Pending::new();
            let (ept, budget) = (self.ept(), Budget(budget));
            let progress = if self.pml {
                ept.watch_writes(&mut span, budget, &mut pending)
            } else {
                ept.write_protect(&mut span, budget, &mut pending)
            };
            self.settle(pending);
            match progress {
                Progress::Done => return,
                Progress::More => (),
            }
        }
    }

    /// Whether a vCPU may use `pfn` for `gfn` with these rights.
    pub(super) fn check_page(&self, gfn: u64, pfn: Pfn, rights: Access, what: &str) {
        let slot = self.slot(gfn);
        let slot = slot.unwrap_or_else(|| panic!("{what}: {gfn:#x} has no slot"));
        let host = Self::host_frame(&slot, gfn);
        assert_eq!(pfn, self.pfn(host), "{what}: {gfn:#x} maps another page");
        if rights.contains(Access::W) {
            assert!(slot.is_writable(), "{what}: {gfn:#x} is read-only");
            assert!(!self.shared.contains(&host), "{what}: {gfn:#x} is shared");
            assert!(
                self.pml || !slot.logs_dirty_pages() || self.dirty.contains(&gfn),
                "{what}: {gfn:#x} is writable, but not in the log"
            );
        }
    }

    pub(super) fn check_tlb(&self) {
        for (gfn, known) in &self.tlb {
            self.check_page(*gfn, known.pfn, known.rights, "TLB");
        }
    }

    pub(super) fn check_all(&self) {
        self.check_tlb();
        self.check_log();
        let mut count = [0; 6];
        let all = self.ept().leaves(
            &mut self.ept().whole(),
            Budget::UNLIMITED,
            |gfn, level, e| {
                count[level.number() as usize] += 1;
                let code_in_large = level > Level::Page4K && e.permits(Access::X);
                assert!(!(self.format.small_code && code_in_large), "large code");
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

pub(super) fn region(i: usize) -> Region {
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
