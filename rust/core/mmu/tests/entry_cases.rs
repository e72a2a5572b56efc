// SPDX-License-Identifier: GPL-2.0

//! What an entry may say: rights, MMIO, and how large a page may be.

use super::ept_cases::AD;
use crate::addr::*;
use crate::memslots::*;
use crate::mmu::entry::*;
use crate::mmu::huge::*;
use crate::mmu::level::*;
use crate::mmu::mmio::*;

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
