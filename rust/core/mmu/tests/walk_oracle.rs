// SPDX-License-Identifier: GPL-2.0

//! The guest walk against a second one, written mode by mode as the SDM tells it and as slow as it likes.

use super::walk_world::*;
use crate::addr::*;
use crate::exception::*;
use crate::mmu::walk::*;
use crate::regs::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// The oracle's result: physical address, page size, and the addresses of the entries used.
type Expected = Result<(u64, u64, Vec<u64>), u32>;

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn any(value: u64, from: u32, to: u32) -> bool {
    (from..=to).any(|n| bit(value, n))
}

/// Where the tables lead: the page, and the entries used with their addresses.
struct Path {
    base: u64,
    size: u64,
    used: Vec<(u64, u64)>,
}

/// What a fault's error code has of the path: an entry is not there, or nothing is where it should be.
const ABSENT: u32 = 0;
/// An entry has a reserved bit set: P and RSVD.
const RESERVED: u32 = 1 | 8;

/// Execute-disable is on.
fn has_nx(g: &Guest) -> bool {
    bit(g.efer, 11) && g.on(cr4::PAE)
}

/// PAE, 4-level and 5-level paging: entries of eight bytes.
fn path_of_eight(ram: &Ram, g: &Guest, gva: u64) -> Result<Path, u32> {
    let long = bit(g.efer, 10);
    let m = g.features.max_phys_bits;
    let linear = if long { gva } else { gva & 0xffff_ffff };
    let (mut table, mut shift) = if long {
        (g.root.cr3, if g.on(cr4::LA57) { 48 } else { 39 })
    } else {
        (g.root.pdptrs[(linear >> 30) as usize], 21)
    };
    if !long && !bit(table, 0) {
        return Err(ABSENT);
    }
    let mut used = vec![];
    loop {
        let at = (table & 0xf_ffff_ffff_f000) + (linear >> shift) % 512 * 8;
        let e = ram.get(at, 8).ok_or(ABSENT)?;
        if !bit(e, 0) {
            return Err(ABSENT);
        }
        let large = bit(e, 7) && shift > 12;
        let mut reserved = m <= 51 && any(e, m, 51);
        reserved |= !long && any(e, 52, 62);
        reserved |= !has_nx(g) && bit(e, 63);
        reserved |= large && shift >= 39;
        reserved |= large && shift == 30 && !g.features.gb_pages;
        reserved |= large && shift == 30 && any(e, 13, 29);
        reserved |= large && shift == 21 && any(e, 13, 20);
        if reserved {
            return Err(RESERVED);
        }
        used.push((at, e));
        if large || shift == 12 {
            return Ok(Path {
                base: e & 0xf_ffff_ffff_f000,
                size: 1 << shift,
                used,
            });
        }
        table = e;
        shift -= 9;
    }
}

/// 32-bit paging: entries of four bytes.
fn path_of_four(ram: &Ram, g: &Guest, gva: u64) -> Result<Path, u32> {
    let linear = gva & 0xffff_ffff;
    let at = (g.root.cr3 & 0xffff_f000) + (linear >> 22) * 4;
    let pde = ram.get(at, 4).ok_or(ABSENT)?;
    if !bit(pde, 0) {
        return Err(ABSENT);
    }
    let mut used = vec![(at, pde)];
    if bit(pde, 7) && g.on(cr4::PSE) {
        let address_bits = if g.features.pse36 {
            g.features.max_phys_bits.min(40)
        } else {
            32
        };
        if address_bits < 41 && any(pde, address_bits - 19, 21) {
            return Err(RESERVED);
        }
        let mut base = pde & 0xffc0_0000;
        for n in 32..address_bits {
            base |= u64::from(bit(pde, n - 19)) << n;
        }
        return Ok(Path {
            base,
            size: 1 << 22,
            used,
        });
    }
    let at = (pde & 0xffff_f000) + (linear >> 12) % 1024 * 4;
    let pte = ram.get(at, 4).ok_or(ABSENT)?;
    if !bit(pte, 0) {
        return Err(ABSENT);
    }
    used.push((at, pte));
    Ok(Path {
        base: pte & 0xffff_f000,
        size: 4096,
        used,
    })
}

/// Whether the path's rights let the access through, and whether its protection key does.
fn rights(g: &Guest, path: &Path, access: GuestAccess) -> (bool, bool) {
    let write = access.kind == AccessKind::Write;
    let fetch = access.kind == AccessKind::Fetch;
    let user = access.privilege == Privilege::User;
    let user_page = path.used.iter().all(|(_, e)| bit(*e, 2));
    let writable = path.used.iter().all(|(_, e)| bit(*e, 1));
    let executable = !has_nx(g) || !path.used.iter().any(|(_, e)| bit(*e, 63));
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
    let mut key_allows = true;
    if bit(g.efer, 10) && !fetch {
        let key = (path.used.last().unwrap().1 >> 59) % 16;
        let (on, register) = if user_page {
            (g.on(cr4::PKE), g.state.pkru)
        } else {
            (g.on(cr4::PKS), g.state.pkrs)
        };
        let ad = register >> (2 * key) & 1 == 1;
        let wd = register >> (2 * key + 1) & 1 == 1;
        key_allows = !(on && (ad || (wd && write && (user || wp))));
    }
    (allowed, key_allows)
}

fn oracle(ram: &Ram, g: &Guest, gva: u64, access: GuestAccess) -> Expected {
    if !bit(g.cr0, 31) {
        return Ok((gva & 0xffff_ffff, 4096, vec![]));
    }
    let fetch = access.kind == AccessKind::Fetch;
    let how = u32::from(access.kind == AccessKind::Write) * 2
        + u32::from(access.privilege == Privilege::User) * 4
        + u32::from(fetch && (has_nx(g) || g.on(cr4::SMEP))) * 16;
    let path = if bit(g.efer, 10) || g.on(cr4::PAE) {
        path_of_eight(ram, g, gva)
    } else {
        path_of_four(ram, g, gva)
    }
    .map_err(|why| how | why)?;
    let (allowed, key_allows) = rights(g, &path, access);
    if !allowed || !key_allows {
        return Err(how | 1 | (u32::from(!key_allows) * 32));
    }
    let Path { base, size, used } = path;
    let used = used.into_iter().map(|(at, _)| at).collect();
    Ok((base & !(size - 1) | gva & (size - 1), size, used))
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
