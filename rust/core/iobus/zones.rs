// SPDX-License-Identifier: GPL-2.0

//! Zones of coalesced MMIO and PIO: ranges, writes inside which wait in the ring (api.rst,
//! KVM_(UN)REGISTER_COALESCED_MMIO).

use crate::search::partition_point;

/// A range of addresses. Zones may overlap, and the same may be there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    address: u64,
    /// One past the last byte.
    end: u64,
    /// The highest `end` of this zone and all before it in the table.
    reach: u64,
}

impl Zone {
    /// `size` bytes from `address`; what would lie past the end of the address space is cut off.
    pub const fn new(address: u64, size: u32) -> Self {
        let end = address.saturating_add(size as u64);
        Self {
            address,
            end,
            reach: end,
        }
    }

    /// Whether all of the range is inside this zone. An empty range is too, if it begins inside or at the end.
    pub const fn contains(&self, address: u64, size: u64) -> bool {
        match address.checked_add(size) {
            Some(end) => self.address <= address && end <= self.end,
            None => false,
        }
    }
}

/// Index at which `new` belongs in the table.
pub fn place(table: &[Zone], new: &Zone) -> usize {
    partition_point(table, |z| z.address <= new.address)
}

/// Makes a table good for [`covers`] after its entries have changed.
pub fn finish(table: &mut [Zone]) {
    let mut reach = 0;
    for zone in table {
        reach = zone.end.max(reach);
        zone.reach = reach;
    }
}

/// Whether there is a zone that contains all `size` bytes from `address`. The table is sorted and [finished](finish).
#[inline]
pub fn covers(table: &[Zone], address: u64, size: u64) -> bool {
    let Some(end) = address.checked_add(size) else {
        return false;
    };
    // Of the zones that begin early enough, only the one that reaches farthest matters.
    let after = partition_point(table, |z| z.address <= address);
    match after.checked_sub(1).and_then(|last| table.get(last)) {
        Some(zone) => end <= zone.reach,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn table(zones: &[(u64, u32)]) -> Vec<Zone> {
        let mut table = Vec::new();
        for (address, size) in zones {
            let new = Zone::new(*address, *size);
            table.insert(place(&table, &new), new);
        }
        finish(&mut table);
        table
    }

    #[test]
    fn a_write_has_to_be_inside_one_zone() {
        let t = table(&[(0x2000, 0x100), (0x1000, 0x1000)]);
        assert!(covers(&t, 0x1000, 8));
        assert!(covers(&t, 0x1ff8, 8));
        assert!(!covers(&t, 0xfff, 1));
        assert!(!covers(&t, 0xffc, 8));
        assert!(!covers(&t, 0x1ffc, 8), "two zones side by side are not one");
        assert!(covers(&t, 0x20ff, 1));
        assert!(!covers(&t, 0x2100, 1));
        assert!(!covers(&[], 0, 1));
    }

    #[test]
    fn a_small_zone_does_not_hide_the_large_one_around_it() {
        let t = table(&[(0x1000, 0x1000), (0x1100, 4), (0x1800, 4)]);
        assert!(covers(&t, 0x1100, 8));
        assert!(covers(&t, 0x1900, 4));
        assert!(!covers(&t, 0x2000, 4));
    }

    #[test]
    fn ranges_at_the_end_of_the_address_space_do_not_wrap() {
        let t = table(&[(u64::MAX - 7, u32::MAX)]);
        assert!(covers(&t, u64::MAX - 7, 7));
        assert!(!covers(&t, u64::MAX - 7, 8));
        assert!(!covers(&t, 0, 1));
        assert!(!Zone::new(0, 8).contains(u64::MAX, 2));
    }

    #[test]
    fn lookups_agree_with_a_walk_over_all_zones() {
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..50 {
            let zones: Vec<_> = (0..random(20))
                .map(|_| (random(200), random(40) as u32))
                .collect();
            let t = table(&zones);
            for _ in 0..500 {
                let (address, size) = (random(250), 1 + random(8));
                let walked = t.iter().any(|z| z.contains(address, size));
                assert_eq!(covers(&t, address, size), walked);
            }
        }
    }
}
