// SPDX-License-Identifier: GPL-2.0

//! The guest walk against a second one, written mode by mode as the SDM tells it and as slow as it likes.

use crate::addr::*;
use crate::exception::*;
use crate::mmu::walk::*;
use crate::regs::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const PAGES: u64 = 12;

/// Guest memory from address 0 on. `None` beyond.
#[derive(Clone, PartialEq, Eq)]
struct Ram {
    bytes: Vec<u8>,
    read_only_page: Option<u64>,
    /// Before the first exchange, this entry gets this value: another vCPU.
    rival: Option<(u64, u64)>,
    reads: u32,
    stop_at_read: Option<u32>,
}

impl Ram {
    fn new() -> Self {
        Self {
            bytes: vec![0; (PAGES * 4096) as usize],
            read_only_page: None,
            rival: None,
            reads: 0,
            stop_at_read: None,
        }
    }

    fn get(&self, gpa: u64, size: usize) -> Option<u64> {
        let at = usize::try_from(gpa).ok()?;
        let mut raw = [0; 8];
        raw[..size].copy_from_slice(self.bytes.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(raw))
    }

    fn set(&mut self, gpa: u64, size: usize, value: u64) {
        let at = gpa as usize;
        self.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

impl GuestMemory for Ram {
    type Stop = &'static str;

    fn read_pte(&mut self, gpa: Gpa, size: PteSize) -> Result<Option<u64>, Self::Stop> {
        self.reads += 1;
        if self.stop_at_read == Some(self.reads) {
            return Err("stop");
        }
        Ok(self.get(gpa.0, size as usize))
    }

    fn compare_exchange_pte(
        &mut self,
        gpa: Gpa,
        size: PteSize,
        old: u64,
        new: u64,
    ) -> Result<PteUpdate, Self::Stop> {
        if let Some((at, value)) = self.rival.take() {
            self.set(at, size as usize, value);
        }
        if self.read_only_page == Some(gpa.0 >> 12) {
            return Ok(PteUpdate::ReadOnly);
        }
        match self.get(gpa.0, size as usize) {
            None => Ok(PteUpdate::Unreachable),
            Some(found) if found != old => Ok(PteUpdate::Changed),
            Some(_) => {
                self.set(gpa.0, size as usize, new);
                Ok(PteUpdate::Done)
            }
        }
    }
}

/// Everything that a translation depends on.
#[derive(Clone, Debug)]
struct Guest {
    cr0: u64,
    cr4: u64,
    efer: u64,
    features: PagingFeatures,
    root: WalkRoot,
    state: ProtectionState,
}

impl Guest {
    fn paging(&self) -> GuestPaging {
        GuestPaging::new(self.cr0, self.cr4, self.efer, &self.features)
    }

    fn on(&self, bit: u64) -> bool {
        self.cr4 & bit != 0
    }
}

/// The oracle's result: physical address, page size, and the addresses of the entries used.
type Expected = Result<(u64, u64, Vec<u64>), u32>;

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn any(value: u64, from: u32, to: u32) -> bool {
    (from..=to).any(|n| bit(value, n))
}

fn oracle(ram: &Ram, g: &Guest, gva: u64, access: GuestAccess) -> Expected {
    let write = access.kind == AccessKind::Write;
    let fetch = access.kind == AccessKind::Fetch;
    let user = access.privilege == Privilege::User;
    let nxe = bit(g.efer, 11) && g.on(cr4::PAE);
    let m = g.features.max_phys_bits;
    let how = u32::from(write) * 2
        + u32::from(user) * 4
        + u32::from(fetch && (nxe || g.on(cr4::SMEP))) * 16;
    if !bit(g.cr0, 31) {
        return Ok((gva & 0xffff_ffff, 4096, vec![]));
    }
    let long = bit(g.efer, 10);
    let mut used: Vec<(u64, u64)> = vec![];
    let size;
    let base;
    if long || g.on(cr4::PAE) {
        let mut table;
        let mut shift;
        let linear = if long { gva } else { gva & 0xffff_ffff };
        if long {
            table = g.root.cr3;
            shift = if g.on(cr4::LA57) { 48 } else { 39 };
        } else {
            table = g.root.pdptrs[(linear >> 30) as usize];
            shift = 21;
            if !bit(table, 0) {
                return Err(how);
            }
        }
        loop {
            let at = (table & 0xf_ffff_ffff_f000) + (linear >> shift) % 512 * 8;
            let e = ram.get(at, 8).ok_or(how)?;
            if !bit(e, 0) {
                return Err(how);
            }
            let large = bit(e, 7) && shift > 12;
            let mut reserved = m <= 51 && any(e, m, 51);
            reserved |= !long && any(e, 52, 62);
            reserved |= !nxe && bit(e, 63);
            reserved |= large && shift >= 39;
            reserved |= large && shift == 30 && !g.features.gb_pages;
            reserved |= large && shift == 30 && any(e, 13, 29);
            reserved |= large && shift == 21 && any(e, 13, 20);
            if reserved {
                return Err(how | 9);
            }
            used.push((at, e));
            if large || shift == 12 {
                size = 1u64 << shift;
                base = e & 0xf_ffff_ffff_f000;
                break;
            }
            table = e;
            shift -= 9;
        }
    } else {
        let linear = gva & 0xffff_ffff;
        let at = (g.root.cr3 & 0xffff_f000) + (linear >> 22) * 4;
        let pde = ram.get(at, 4).ok_or(how)?;
        if !bit(pde, 0) {
            return Err(how);
        }
        used.push((at, pde));
        if bit(pde, 7) && g.on(cr4::PSE) {
            let address_bits = if g.features.pse36 { m.min(40) } else { 32 };
            if address_bits < 41 && any(pde, address_bits - 19, 21) {
                return Err(how | 9);
            }
            size = 1 << 22;
            let mut b = pde & 0xffc0_0000;
            for n in 32..address_bits {
                b |= u64::from(bit(pde, n - 19)) << n;
            }
            base = b;
        } else {
            let at = (pde & 0xffff_f000) + (linear >> 12) % 1024 * 4;
            let pte = ram.get(at, 4).ok_or(how)?;
            if !bit(pte, 0) {
                return Err(how);
            }
            used.push((at, pte));
            size = 4096;
            base = pte & 0xffff_f000;
        }
    }

    let user_page = used.iter().all(|(_, e)| bit(*e, 2));
    let writable = used.iter().all(|(_, e)| bit(*e, 1));
    let executable = !nxe || !used.iter().any(|(_, e)| bit(*e, 63));
    let wp = bit(g.cr0, 16);
    let implicit = access.privilege == Privilege::ImplicitSupervisor;
    let allowed = if user {
        user_page && (!write || writable) && (!fetch || executable)
    } else if user_page {
        let smap_ok = !g.on(cr4::SMAP) || (g.state.ac && !implicit);
        match access.kind {
            AccessKind::Read => smap_ok,
            AccessKind::Write => smap_ok && (writable || !wp),
            AccessKind::Fetch => executable && !g.on(cr4::SMEP),
        }
    } else {
        match access.kind {
            AccessKind::Read => true,
            AccessKind::Write => writable || !wp,
            AccessKind::Fetch => executable,
        }
    };
    let mut key_denies = false;
    if long && !fetch {
        let key = (used.last().unwrap().1 >> 59) % 16;
        let (on, register) = if user_page {
            (g.on(cr4::PKE), g.state.pkru)
        } else {
            (g.on(cr4::PKS), g.state.pkrs)
        };
        let ad = register >> (2 * key) & 1 == 1;
        let wd = register >> (2 * key + 1) & 1 == 1;
        key_denies = on && (ad || (wd && write && (user || wp)));
    }
    if !allowed || key_denies {
        return Err(how | 1 | (u32::from(key_denies) * 32));
    }
    let used = used.into_iter().map(|(at, _)| at).collect();
    Ok((base & !(size - 1) | gva & (size - 1), size, used))
}

/// Cheap random numbers for the many details of a case (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn word(&mut self) -> u64 {
        self.roll(1 << 22) << 44 | self.roll(1 << 22) << 22 | self.roll(1 << 22)
    }

    /// An entry that is mostly sane.
    fn pte(&mut self) -> u64 {
        let mut e = self.roll(PAGES + 1) << 12;
        for (bit, one_in) in [(0, 20), (1, 5), (2, 5), (5, 2), (6, 2)] {
            if !self.one_in(one_in) {
                e |= 1 << bit;
            }
        }
        if self.one_in(5) {
            e |= 1 << 7;
            if !self.one_in(4) {
                e &= !0x3f_e000;
            }
        }
        if self.one_in(8) {
            e |= 1 << 63;
        }
        if self.one_in(3) {
            e |= self.roll(16) << 59;
        }
        if self.one_in(10) {
            // The ends of reserved ranges more often than their middles.
            let ends = [8, 13, 20, 21, 29, 30, 51, 52, 62];
            e |= match self.roll(2) {
                0 => 1 << (12 + self.roll(40)),
                _ => 1 << ends[self.roll(9) as usize],
            };
        }
        e
    }
}

fn random_guest(d: &mut Dice) -> Guest {
    let mut cr4 = 0;
    for b in [
        cr4::PSE,
        cr4::PAE,
        cr4::SMEP,
        cr4::SMAP,
        cr4::PKE,
        cr4::PKS,
        cr4::LA57,
    ] {
        if d.one_in(2) {
            cr4 |= b;
        }
    }
    let mut efer = if d.one_in(4) { 0 } else { efer::NX };
    if d.one_in(2) {
        efer |= efer::LMA | efer::LME;
        cr4 |= cr4::PAE;
    }
    let mut cr0 = cr0::PE;
    if !d.one_in(30) {
        cr0 |= cr0::PG;
    }
    if !d.one_in(3) {
        cr0 |= cr0::WP;
    }
    let pointer = |d: &mut Dice| d.roll(PAGES) << 12;
    Guest {
        cr0,
        cr4,
        efer,
        features: PagingFeatures {
            max_phys_bits: 36 + d.roll(17) as u32,
            gb_pages: !d.one_in(4),
            pse36: d.one_in(2),
        },
        root: WalkRoot {
            cr3: pointer(d) | d.roll(32),
            pdptrs: core::array::from_fn(|_| pointer(d) | u64::from(!d.one_in(6))),
        },
        state: ProtectionState {
            ac: d.one_in(2),
            pkru: d.word() as u32 & d.word() as u32,
            pkrs: d.word() as u32 & d.word() as u32,
        },
    }
}

fn random_access(d: &mut Dice) -> GuestAccess {
    let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
    let privileges = [
        Privilege::User,
        Privilege::Supervisor,
        Privilege::ImplicitSupervisor,
    ];
    GuestAccess {
        kind: kinds[d.roll(3) as usize],
        privilege: privileges[d.roll(3) as usize],
    }
}

/// The memory after a successful access: A everywhere on the path, D in the last entry of a write.
fn with_flags(ram: &Ram, used: &[u64], size: usize, write: bool) -> Vec<u8> {
    let mut after = ram.clone();
    for (i, at) in used.iter().enumerate() {
        let dirty = write && i + 1 == used.len();
        if ram.read_only_page == Some(at >> 12) {
            continue;
        }
        let e = after.get(*at, size).unwrap();
        after.set(*at, size, e | 1 << 5 | u64::from(dirty) << 6);
    }
    after.bytes
}

/// One case: random tables, then 60 accesses. Returns how many succeeded.
fn compare(seed: u64) -> Result<u32, TestCaseError> {
    let mut d = Dice(seed | 1);
    let mut ram = Ram::new();
    let g = random_guest(&mut d);
    let paging = g.paging();
    let size = if paging.mode() == PagingMode::Bits32 {
        4
    } else {
        8
    };
    // Few indexes are in use, so that walks get somewhere.
    for page in 0..PAGES {
        for i in 0..4 {
            for j in [i, 512 + i, 1020 + i, 508 + i] {
                let at = page * 4096 + j * size % 4096;
                ram.set(at, size as usize, d.pte());
            }
        }
    }
    if d.one_in(4) {
        ram.read_only_page = Some(d.roll(PAGES));
    }
    let mut succeeded = 0;
    for _ in 0..60 {
        let mut gva = d.word();
        for shift in [12, 21, 22, 30, 39, 48] {
            gva &= !(0x1fc << shift);
        }
        let access = random_access(&mut d);
        let want = oracle(&ram, &g, gva, access);
        let before = ram.clone();

        let light = paging.probe(&mut ram, &g.root, &g.state, Gva(gva), access);
        prop_assert!(ram.bytes == before.bytes, "the light form wrote");
        let got = paging.translate(&mut ram, &g.root, &g.state, Gva(gva), access);
        match want {
            Ok((gpa, bytes, used)) => {
                let got = got.unwrap_or_else(|e| panic!("{g:?} {gva:#x} {access:?}: {e:?}"));
                prop_assert_eq!((got.gpa.0, got.page_bytes), (gpa, bytes));
                let after = with_flags(&before, &used, size as usize, access.is_write());
                prop_assert!(ram.bytes == after, "flags");
                if let Some(light) = light {
                    prop_assert_eq!(light, got);
                }
                prop_assert_eq!(
                    light.is_some(),
                    with_flags(
                        &Ram {
                            read_only_page: None,
                            ..before.clone()
                        },
                        &used,
                        size as usize,
                        access.is_write()
                    ) == before.bytes
                );
                succeeded += 1;
            }
            Err(code) => {
                let fault = Exception::pf(Gva(gva), code);
                prop_assert_eq!(got, Err(WalkError::Fault(fault)), "{:?} {:?}", g, access);
                prop_assert!(ram.bytes == before.bytes, "a fault leaves no flag");
                prop_assert_eq!(light, None);
            }
        }
    }
    Ok(succeeded)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1500), ..ProptestConfig::default() })]

    #[test]
    fn walks_agree_with_the_oracle(seed: u64) {
        compare(seed)?;
    }
}

#[test]
fn the_random_tables_lead_somewhere() {
    let mut ok = 0;
    for seed in 1..400u64 {
        ok += compare(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
    }
    assert!(ok > 399 * 60 / 10, "only {ok} accesses succeeded");
}

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
