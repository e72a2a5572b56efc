// SPDX-License-Identifier: GPL-2.0

//! The checks of KVM_SET_USER_MEMORY_REGION one by one, and the table against a plain list.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const PAGE: u64 = 4096;

fn limits() -> SlotLimits {
    SlotLimits {
        address_spaces: 1,
        valid_flags: SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY),
        user_ptr_max: Hva(0x7fff_ffff_f000),
        untag_mask: !0,
        max_gfn: Gfn((1 << 40) - 1),
    }
}

/// Storage as the glue has it.
#[derive(Clone)]
struct Store {
    slots: Vec<Slot<u32>>,
    hva: Vec<HvaKey>,
    id: Vec<IdKey>,
    len: usize,
}

impl Store {
    fn new(capacity: usize) -> Self {
        Self {
            slots: vec![Slot::default(); capacity],
            hva: vec![HvaKey::default(); capacity],
            id: vec![IdKey::default(); capacity],
            len: 0,
        }
    }

    fn view(&self) -> SlotTable<'_, u32> {
        SlotTable::new(
            &self.slots[..self.len],
            &self.hva[..self.len],
            &self.id[..self.len],
        )
    }

    fn apply(&mut self, change: &Change, arch: u32) -> Result<(), TableFull> {
        let mut t = SlotTableMut::new(&mut self.slots, &mut self.hva, &mut self.id, self.len);
        let result = t.apply(change, arch);
        self.len = t.len();
        result
    }

    fn set(&mut self, r: &MemoryRegion) -> Result<Change, SlotError> {
        let change = plan(self.view(), r, &limits())?;
        self.apply(&change, 0).unwrap();
        Ok(change)
    }
}

fn request(slot: u32, gpa: u64, size: u64, hva: u64) -> MemoryRegion {
    MemoryRegion {
        slot,
        flags: 0,
        guest_phys_addr: Gpa(gpa),
        memory_size: size,
        userspace_addr: Hva(hva),
    }
}

/// A store with slot 0 at frames 16 to 31.
fn one_slot() -> Store {
    let mut s = Store::new(8);
    s.set(&request(0, 16 * PAGE, 16 * PAGE, 0x10_0000)).unwrap();
    s
}

#[test]
fn refuses_bad_arguments() {
    let good = request(1, 0x10_0000, 2 * PAGE, 0x20_0000);
    let bad = [
        MemoryRegion { flags: 4, ..good },
        MemoryRegion {
            memory_size: PAGE + 1,
            ..good
        },
        MemoryRegion {
            guest_phys_addr: Gpa(0x10_0800),
            ..good
        },
        MemoryRegion {
            userspace_addr: Hva(0x20_0001),
            ..good
        },
        MemoryRegion {
            userspace_addr: Hva(0x7fff_ffff_e000),
            ..good
        },
        MemoryRegion {
            userspace_addr: Hva(!0xfff),
            ..good
        },
        MemoryRegion {
            slot: u32::from(USER_MEM_SLOTS),
            ..good
        },
        MemoryRegion {
            slot: 1 << 16,
            ..good
        },
        MemoryRegion {
            guest_phys_addr: Gpa(!0xfff),
            ..good
        },
        MemoryRegion {
            guest_phys_addr: Gpa(1 << 52),
            ..good
        },
        MemoryRegion {
            guest_phys_addr: Gpa((1 << 52) - PAGE),
            ..good
        },
        MemoryRegion {
            memory_size: (MEM_MAX_NR_PAGES + 1) * PAGE,
            ..good
        },
        MemoryRegion {
            memory_size: 0,
            ..good
        },
    ];
    let store = one_slot();
    assert_eq!(
        plan(store.view(), &good, &limits()),
        Ok(Change::Create(Region {
            id: 1,
            flags: SlotFlags::NONE,
            base_gfn: Gfn(0x100),
            npages: 2,
            userspace_addr: Hva(0x20_0000),
        }))
    );
    for (i, r) in bad.iter().enumerate() {
        assert_eq!(
            plan(store.view(), r, &limits()),
            Err(SlotError::Invalid),
            "case {i}"
        );
    }
}

#[test]
fn takes_the_largest_slot_and_the_last_frame() {
    let store = one_slot();
    let largest = request(1, 0x10_0000, MEM_MAX_NR_PAGES * PAGE, 0x20_0000);
    assert!(plan(store.view(), &largest, &limits()).is_ok());
    let last = request(1, (1 << 52) - 2 * PAGE, 2 * PAGE, 0x20_0000);
    assert!(plan(store.view(), &last, &limits()).is_ok());
    let id = request(u32::from(USER_MEM_SLOTS) - 1, 0, PAGE, 0x20_0000);
    assert!(plan(store.view(), &id, &limits()).is_ok());
}

#[test]
fn tagged_host_addresses_are_refused() {
    let store = one_slot();
    let lam = SlotLimits {
        untag_mask: !(0x3f << 57),
        user_ptr_max: Hva(!0),
        ..limits()
    };
    let tagged = request(1, 0x10_0000, PAGE, 0x20_0000 | 1 << 57);
    assert_eq!(plan(store.view(), &tagged, &lam), Err(SlotError::Invalid));
}

#[test]
fn an_existing_slot_is_moved_or_reflagged_but_not_resized() {
    let store = one_slot();
    let same = request(0, 16 * PAGE, 16 * PAGE, 0x10_0000);
    assert_eq!(plan(store.view(), &same, &limits()), Ok(Change::Nothing));

    let moved = MemoryRegion {
        guest_phys_addr: Gpa(24 * PAGE),
        ..same
    };
    assert!(
        matches!(plan(store.view(), &moved, &limits()), Ok(Change::Move { old, new })
            if old.base_gfn == Gfn(16) && new.base_gfn == Gfn(24)),
        "a slot may overlap itself"
    );
    let logged = MemoryRegion {
        flags: SlotFlags::LOG_DIRTY_PAGES.bits(),
        ..same
    };
    assert!(matches!(
        plan(store.view(), &logged, &limits()),
        Ok(Change::FlagsOnly { new, .. }) if new.logs_dirty_pages()
    ));
    for bad in [
        MemoryRegion {
            memory_size: 15 * PAGE,
            ..same
        },
        MemoryRegion {
            userspace_addr: Hva(0x20_0000),
            ..same
        },
        MemoryRegion {
            flags: SlotFlags::READONLY.bits(),
            ..same
        },
    ] {
        assert_eq!(plan(store.view(), &bad, &limits()), Err(SlotError::Invalid));
    }
}

#[test]
fn overlap_is_found_at_both_ends_and_inside() {
    let store = one_slot();
    for (first, pages, taken) in [
        (0, 16, false),
        (0, 17, true),
        (20, 1, true),
        (31, 9, true),
        (32, 9, false),
        (0, 64, true),
    ] {
        let r = request(1, first * PAGE, pages * PAGE, 0x20_0000);
        let got = plan(store.view(), &r, &limits());
        assert_eq!(got == Err(SlotError::Overlap), taken, "{first}+{pages}");
    }
}

#[test]
fn private_ids_are_for_the_kernel_only() {
    let mut store = one_slot();
    let tss = request(
        u32::from(TSS_PRIVATE_SLOT),
        0xfeff_d000,
        3 * PAGE,
        0x20_0000,
    );
    assert_eq!(plan(store.view(), &tss, &limits()), Err(SlotError::Invalid));
    let change = Change::plan_private(store.view(), &tss, &limits()).unwrap();
    store.apply(&change, 7).unwrap();
    let found = store.view().find_id(TSS_PRIVATE_SLOT).unwrap();
    assert_eq!((found.region.base_gfn, found.arch), (Gfn(0xfeffd), 7));
    let user = request(1, 0xfeff_d000, PAGE, 0x30_0000);
    assert_eq!(
        plan(store.view(), &user, &limits()),
        Err(SlotError::Overlap)
    );
}

#[test]
fn a_full_table_is_left_alone() {
    let mut store = Store::new(1);
    store.set(&request(3, 0, PAGE, 0x1000)).unwrap();
    let change = plan(store.view(), &request(4, PAGE, PAGE, 0x1000), &limits()).unwrap();
    assert_eq!(store.apply(&change, 0), Err(TableFull));
    assert_eq!(store.view().slots().len(), 1);
    assert!(store.view().find(Gfn(0)).is_some());
}

#[test]
fn nothing_is_left_of_a_slot_that_goes() {
    let mut store = one_slot();
    store.set(&request(1, 0, 16 * PAGE, 0x80_0000)).unwrap();
    store.set(&request(0, 0, 0, 0)).unwrap();
    store.set(&request(1, 0, 0, 0)).unwrap();
    let new = Store::new(8);
    assert_eq!(store.slots, new.slots);
    assert_eq!(store.hva, new.hva);
    assert_eq!(store.id, new.id);
}

#[test]
fn generations_mark_updates_and_report_the_wrap() {
    let mut g = Generation::first(0);
    assert_eq!(
        Generation::from_bits(g.start_update().to_bits()),
        g.start_update()
    );
    assert!(!g.is_updating());
    let mut wraps = 0;
    for step in 1..=(MMIO_GENERATION_MASK + 1) {
        let updating = g.start_update();
        assert!(updating.is_updating());
        assert_eq!(updating.mmio(), g.mmio());
        let done = updating.finish_update(1);
        assert!(!done.generation.is_updating());
        assert_eq!(done.zap_mmio, done.generation.mmio() == 0, "step {step}");
        wraps += u32::from(done.zap_mmio);
        g = done.generation;
    }
    assert_eq!(wraps, 1);
    // Two spaces never share a generation, and the odd one sees its wrap, too.
    let odd = Generation::first(1);
    assert_ne!(
        odd.start_update().finish_update(2).generation,
        Generation::first(0)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Set(MemoryRegion),
    Find(Gfn),
    Hva(Hva, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let set = (0u32..10, 0u64..60, 0u64..12, 0u64..40, 0u32..5).prop_map(
        |(slot, gfn, pages, hva, flags)| {
            Step::Set(MemoryRegion {
                slot,
                flags,
                guest_phys_addr: Gpa(gpa(gfn)),
                memory_size: pages * PAGE,
                userspace_addr: Hva(gpa(hva)),
            })
        },
    );
    prop_oneof![
        3 => set,
        1 => (0u64..80).prop_map(|g| Step::Find(Gfn(g))),
        1 => (0u64..60, 1u64..20).prop_map(|(h, n)| Step::Hva(Hva(h * PAGE + 5), n * 1000)),
    ]
}

fn gpa(frame: u64) -> u64 {
    frame * PAGE
}

/// The rules once more, over a plain list.
fn model_plan(list: &[Region], r: &MemoryRegion) -> Result<Vec<Region>, SlotError> {
    let pages = r.memory_size / PAGE;
    let old = list.iter().find(|s| u32::from(s.id) == r.slot);
    if r.flags > 3 {
        return Err(SlotError::Invalid);
    }
    let mut rest: Vec<_> = list
        .iter()
        .copied()
        .filter(|s| u32::from(s.id) != r.slot)
        .collect();
    if pages == 0 {
        return old.map(|_| rest).ok_or(SlotError::Invalid);
    }
    let first = r.guest_phys_addr.0 / PAGE;
    if let Some(o) = old {
        if o.npages != pages
            || o.userspace_addr != r.userspace_addr
            || (o.flags.bits() ^ r.flags) & 2 != 0
        {
            return Err(SlotError::Invalid);
        }
    }
    for gfn in first..first + pages {
        if rest
            .iter()
            .any(|s| (s.base_gfn.0..s.base_gfn.0 + s.npages).contains(&gfn))
        {
            return Err(SlotError::Overlap);
        }
    }
    rest.push(Region {
        id: r.slot as u16,
        flags: SlotFlags(r.flags),
        base_gfn: Gfn(first),
        npages: pages,
        userspace_addr: r.userspace_addr,
    });
    Ok(rest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..ProptestConfig::default() })]

    #[test]
    fn table_agrees_with_a_plain_list(steps in proptest::collection::vec(step(), 1..100)) {
        let mut store = Store::new(10);
        let mut list: Vec<Region> = Vec::new();
        let mut hint = 0u16;
        for s in steps {
            match s {
                Step::Set(r) => {
                    let want = model_plan(&list, &r);
                    let got = store.set(&r);
                    prop_assert_eq!(want.as_ref().err(), got.as_ref().err());
                    if let Ok(new) = want {
                        list = new;
                    }
                    list.sort_by_key(|s| s.base_gfn);
                    let have: Vec<_> = store.view().slots().iter().map(|s| s.region).collect();
                    prop_assert_eq!(&list, &have);
                    for s in &list {
                        prop_assert_eq!(store.view().find_id(s.id).map(|s| s.region), Some(*s));
                    }
                }
                Step::Find(gfn) => {
                    let want = list.iter().find(|s| s.base_gfn <= gfn && gfn < s.end_gfn());
                    prop_assert_eq!(store.view().find(gfn).map(|s| &s.region), want);
                    prop_assert_eq!(store.view().find_near(gfn, &mut hint).map(|s| &s.region), want);
                    prop_assert_eq!(store.view().find_near(gfn, &mut hint).map(|s| &s.region), want);
                }
                Step::Hva(start, bytes) => {
                    let end = start.wrapping_add(bytes);
                    let mut want = Vec::new();
                    for s in &list {
                        let hit = (0..s.npages).filter(|p| {
                            let page = s.userspace_addr.0 + p * PAGE;
                            page < end.0 && start.0 < page + PAGE
                        });
                        let hit: Vec<_> = hit.map(|p| s.base_gfn.0 + p).collect();
                        if let (Some(a), Some(b)) = (hit.first(), hit.last()) {
                            want.push((s.id, *a, *b + 1));
                        }
                    }
                    let mut have: Vec<_> = store
                        .view()
                        .in_hva_range(start, end)
                        .map(|(s, a, b)| (s.region.id, a.0, b.0))
                        .collect();
                    want.sort_unstable();
                    have.sort_unstable();
                    prop_assert_eq!(want, have);
                }
            }
        }
    }
}
