// SPDX-License-Identifier: GPL-2.0

//! Single behaviours of the guest walk: other vCPUs meanwhile, reasons to stop, the flags.

use super::walk_world::*;
use crate::addr::*;
use crate::exception::*;
use crate::mmu::walk::*;
use crate::regs::*;

/// 4-level tables: PML4 in page 1, then pages 2, 3, 4; all indexes 0; the page at `page`.
fn four_level(page: u64, leaf_flags: u64) -> (Ram, Guest) {
    let mut ram = Ram::new();
    for (table, next) in [(1, 2), (2, 3), (3, 4)] {
        ram.set(table << 12, 8, next << 12 | 0x27);
    }
    ram.set(4 << 12, 8, page << 12 | leaf_flags);
    let guest = Guest {
        cr0: cr0::PE | cr0::PG | cr0::WP,
        cr4: cr4::PAE,
        efer: efer::LMA | efer::LME | efer::NX,
        features: PagingFeatures {
            max_phys_bits: 46,
            gb_pages: true,
            pse36: true,
        },
        root: WalkRoot {
            cr3: 1 << 12,
            pdptrs: [0; 4],
        },
        state: ProtectionState::default(),
    };
    (ram, guest)
}

const WRITE: GuestAccess = GuestAccess {
    kind: AccessKind::Write,
    privilege: Privilege::Supervisor,
};

#[test]
fn an_entry_changed_by_another_vcpu_is_read_again() {
    let (mut ram, g) = four_level(7, 0x07);
    ram.rival = Some((4 << 12, 9 << 12 | 0x07));
    let t = g
        .paging()
        .translate(&mut ram, &g.root, &g.state, Gva(0x123), WRITE)
        .unwrap();
    assert_eq!(t.gpa, Gpa(0x9123));
    assert_eq!(ram.get(4 << 12, 8), Some(9 << 12 | 0x67));
    let (mut ram, g) = four_level(7, 0x07);
    ram.rival = Some((4 << 12, 7 << 12 | 0x05));
    let got = g
        .paging()
        .translate(&mut ram, &g.root, &g.state, Gva(0x123), WRITE);
    assert_eq!(
        got,
        Err(WalkError::Fault(Exception::pf(Gva(0x123), 3))),
        "the right was taken away in between"
    );
    assert_eq!(ram.get(4 << 12, 8), Some(7 << 12 | 0x05));
}

/// Changes the leaf before each exchange.
struct Restless(Ram, u64);

impl GuestMemory for Restless {
    type Stop = &'static str;

    fn read_pte(&mut self, gpa: Gpa, size: PteSize) -> Result<Option<u64>, Self::Stop> {
        self.0.read_pte(gpa, size)
    }

    fn compare_exchange_pte(
        &mut self,
        gpa: Gpa,
        size: PteSize,
        old: u64,
        new: u64,
    ) -> Result<PteUpdate, Self::Stop> {
        self.1 ^= 1 << 9;
        self.0.set(4 << 12, 8, self.1);
        self.0.compare_exchange_pte(gpa, size, old, new)
    }
}

#[test]
fn endless_changes_end_the_walk() {
    let (ram, g) = four_level(7, 0x07);
    let mut ram = Restless(ram, 7 << 12 | 0x07);
    let got = g
        .paging()
        .translate(&mut ram, &g.root, &g.state, Gva(0), WRITE);
    assert_eq!(got, Err(WalkError::Raced));
}

#[test]
fn the_reason_to_stop_comes_back_as_it_was() {
    for n in 1..=4 {
        let (mut ram, g) = four_level(7, 0x67);
        ram.stop_at_read = Some(n);
        let got = g
            .paging()
            .translate(&mut ram, &g.root, &g.state, Gva(0), WRITE);
        assert_eq!(got, Err(WalkError::Stop("stop")));
    }
}

#[test]
fn a_clean_page_says_so_until_it_is_written() {
    let (mut ram, g) = four_level(7, 0x27);
    let p = g.paging();
    let read = GuestAccess {
        kind: AccessKind::Read,
        ..WRITE
    };
    let t = p
        .translate(&mut ram, &g.root, &g.state, Gva(0), read)
        .unwrap();
    assert!(!t.dirty);
    assert_eq!(p.probe(&mut ram, &g.root, &g.state, Gva(0), WRITE), None);
    let t = p
        .translate(&mut ram, &g.root, &g.state, Gva(0), WRITE)
        .unwrap();
    assert!(t.dirty);
    assert_eq!(p.probe(&mut ram, &g.root, &g.state, Gva(0), WRITE), Some(t));
}

#[test]
fn pdptes_are_checked_as_the_move_to_cr3_does() {
    let ok = |pdpte| pdpte_is_valid(pdpte, !0 << 40);
    assert!(ok(0x1001) && ok((1 << 39) | 1));
    // PWT and PCD, and anything at all in one that is not present.
    assert!(ok(0x1019) && ok(!1));
    for n in [1, 2, 5, 6, 7, 8, 40, 51, 52, 63] {
        assert!(!ok(1 << n | 1), "bit {n}");
    }
}
