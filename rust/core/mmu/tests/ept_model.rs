// SPDX-License-Identifier: GPL-2.0

//! Random sequences of faults, accesses, slot changes and host invalidations, against a model of what is allowed.
//!
//! The model knows the slots, which host frame is behind each page and whether it may be written, and keeps what a
//! processor may have in its TLB. After each step nothing in the tables or in the TLB may go beyond that.

use super::ept_cases::{AD, NO_AD, SMALL_CODE};
use super::ept_world::*;
use super::sim::*;
use crate::addr::*;
use crate::memslots::*;
use crate::mmu::entry::*;
use crate::mmu::ept::*;
use crate::mmu::memory::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

#[derive(Clone, Debug)]
enum Step {
    Fault(usize, u64),
    /// A fault that maps up to that many frames behind its own, too.
    FaultInOrder(usize, u64, u64),
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
    /// A part of the slot of the frame, that many pages from there.
    ClearDirtyLog(usize, u64),
    /// Zap some frames in small portions, with faults in between.
    PausedZap(usize, usize, u32),
    NewRoot,
}

fn step() -> impl Strategy<Value = Step> {
    let frame = || 0..FRAMES.len();
    prop_oneof![
        8 => (frame(), 0u64..3).prop_map(|(f, a)| Step::Fault(f, a)),
        4 => (frame(), 0u64..3, 1u64..40).prop_map(|(f, a, n)| Step::FaultInOrder(f, a, n)),
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
        1 => (frame(), 1u64..1000).prop_map(|(f, n)| Step::ClearDirtyLog(f, n)),
        1 => (frame(), frame(), 1u32..700).prop_map(|(f, g, n)| Step::PausedZap(f, g, n)),
        1 => Just(Step::NewRoot),
    ]
}

impl World {
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
            Step::FaultInOrder(f, a, n) => self.fault_in_order(FRAMES[f], need(a), n),
            Step::RacingFaults(f, a, g, b, n) => {
                self.racing_faults((FRAMES[f], need(a)), (FRAMES[g], need(b)), n);
            }
            Step::FaultAgainstAging(f, a, n) => self.fault_against_aging(FRAMES[f], need(a), n),
            Step::Access(f, a) => self.access(FRAMES[f], need(a)),
            Step::Invalidate(f, many) => self.replace_host_pages(FRAMES[f], many),
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
                        self.written.retain(|gfn| !old.contains(Gfn(*gfn)));
                    }
                    None => {
                        self.slots[i] = Some(region(i));
                        self.bump_generation();
                    }
                };
            }
            Step::ToggleLog(i) => self.toggle_log(i),
            Step::Age(f, n) => {
                let (s, e) = (Gfn(FRAMES[f]), Gfn(FRAMES[f] + n));
                let young = self.ept().test_young(s, e);
                assert_eq!(self.ept().clear_young(s, e), young);
                assert!(!self.ept().test_young(s, e));
            }
            Step::GetDirtyLog(i) => {
                if let Some(slot) = self.slots[i].filter(Region::logs_dirty_pages) {
                    self.take_dirty_log(slot.base_gfn, slot.end_gfn(), 50);
                }
            }
            Step::ClearDirtyLog(f, n) => {
                let slot = self.slot(FRAMES[f]).filter(Region::logs_dirty_pages);
                if let Some(slot) = slot {
                    let end = slot.end_gfn().min(Gfn(FRAMES[f] + n));
                    self.take_dirty_log(Gfn(FRAMES[f]), end, u32::MAX);
                }
            }
            Step::PausedZap(f, g, n) => {
                self.paused_zap(FRAMES[f.min(g)], FRAMES[f.max(g)] + 1, n);
            }
            Step::NewRoot => self.new_root(),
        }
    }

    /// Two vCPUs fault; the second does all of it at exchange number `n` of the first.
    fn racing_faults(&mut self, (f, a): (u64, Access), (g, b): (u64, Access), n: u32) {
        self.cache.top_up();
        let (Some(first), Some(second)) = (self.request_for(f, a), self.request_for(g, b)) else {
            return;
        };
        // Getting the second page may have replaced the first: that fault would start again.
        if self.request_for(f, a) != Some(first) {
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
        for gfn in [f, g] {
            let e = self.ept().lookup(Gfn(gfn)).unwrap().entry;
            if e.permits(Access::W) && self.slot(gfn).unwrap().logs_dirty_pages() {
                self.dirty.insert(gfn);
            }
        }
    }

    /// A frame ages at exchange number `n` of a fault on it.
    fn fault_against_aging(&mut self, f: u64, a: Access, n: u32) {
        self.cache.top_up();
        let Some(request) = self.request_for(f, a) else {
            return;
        };
        let (ept, gfn) = (self.ept(), Gfn(f));
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

    /// The host replaces the page behind a frame, or all the 2 MiB that it is in.
    fn replace_host_pages(&mut self, f: u64, many: bool) {
        let Some(slot) = self.slot(f) else {
            return;
        };
        let host = Self::host_frame(&slot, f);
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

    /// A slot begins to log writes, or ends it.
    fn toggle_log(&mut self, i: usize) {
        let Some(mut slot) = self.slots[i] else {
            return;
        };
        let on = !slot.logs_dirty_pages();
        let keep = slot.flags.bits() & SlotFlags::READONLY.bits();
        slot.flags = SlotFlags::from_bits(
            keep | u32::from(on),
            SlotFlags::from_bits(3, SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY)).unwrap(),
        )
        .unwrap();
        self.slots[i] = Some(slot);
        self.bump_generation();
        self.written.retain(|gfn| !slot.contains(Gfn(*gfn)));
        self.watch(
            slot.base_gfn,
            slot.end_gfn(),
            if on { 333 } else { u32::MAX },
        );
    }

    /// A zap in portions, with a fault behind it at the first pause.
    fn paused_zap(&mut self, start: u64, end: u64, n: u32) {
        let mut span = Span::new(Gfn(start), Gfn(end));
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
                self.fault(start, Access::R);
            }
            if pauses > 60 {
                break;
            }
        }
    }

    /// The old root is taken down as a whole.
    fn new_root(&mut self) {
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

fn run(format: &'static Format, pml: bool, steps: &[Step]) {
    let mut world = World::new(format, pml);
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
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(500), ..ProptestConfig::default() })]

    #[test]
    fn no_entry_goes_beyond_slot_and_host(steps in proptest::collection::vec(step(), 1..400)) {
        run(&AD, false, &steps);
    }

    #[test]
    fn nor_without_accessed_flags(steps in proptest::collection::vec(step(), 1..400)) {
        run(&NO_AD, false, &steps);
    }

    #[test]
    fn nor_where_code_is_in_small_pages_only(steps in proptest::collection::vec(step(), 1..400)) {
        run(&SMALL_CODE, false, &steps);
    }

    #[test]
    fn nor_while_the_processor_logs_writes(steps in proptest::collection::vec(step(), 1..400)) {
        run(&AD, true, &steps);
    }
}
