// SPDX-License-Identifier: GPL-2.0

//! ioeventfds: exact addresses, with a length and a value that may matter (api.rst, KVM_IOEVENTFD).

use crate::search::partition_point;

/// Which writes ring.
///
/// Ordered by address, then length, then value, "any" first in each: all that may take one write are neighbours, and
/// the more general come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doorbell {
    address: u64,
    length: u32,
    value: Option<u64>,
}

/// What is wrong with an ioeventfd. EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Another ioeventfd would take the same writes. EEXIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collision;

impl Doorbell {
    /// Any length (0) or exactly 1, 2, 4 or 8 bytes at `address`; any value, or one, which needs a length.
    pub const fn new(address: u64, length: u32, value: Option<u64>) -> Result<Self, Invalid> {
        if !matches!(length, 0 | 1 | 2 | 4 | 8) {
            return Err(Invalid);
        }
        if address.checked_add(length as u64).is_none() {
            return Err(Invalid);
        }
        if length == 0 && value.is_some() {
            return Err(Invalid);
        }
        Ok(Self {
            address,
            length,
            value,
        })
    }

    /// All lengths, all values.
    #[inline]
    const fn any_length(address: u64) -> Self {
        Self {
            address,
            length: 0,
            value: None,
        }
    }

    /// Whether there are writes that both would take.
    pub fn collides(&self, other: &Self) -> bool {
        self.address == other.address
            && (self.length == 0
                || other.length == 0
                || (self.length == other.length
                    && (self.value.is_none()
                        || other.value.is_none()
                        || self.value == other.value)))
    }
}

/// One ioeventfd: when it rings, and what.
#[derive(Clone, Debug)]
pub struct Entry<D> {
    /// The key of the table.
    pub doorbell: Doorbell,
    /// What rings.
    pub device: D,
}

/// Index of the first entry that is not below `key`.
#[inline]
fn lower_bound<D>(table: &[Entry<D>], key: &Doorbell) -> usize {
    partition_point(table, |e| e.doorbell < *key)
}

/// The entry that is exactly `doorbell`.
#[inline]
pub fn position<D>(table: &[Entry<D>], doorbell: &Doorbell) -> Option<usize> {
    let at = lower_bound(table, doorbell);
    table
        .get(at)
        .is_some_and(|e| e.doorbell == *doorbell)
        .then_some(at)
}

#[inline]
fn get<'t, D>(table: &'t [Entry<D>], doorbell: &Doorbell) -> Option<&'t D> {
    let at = position(table, doorbell)?;
    table.get(at).map(|e| &e.device)
}

/// Where a new one belongs. [`Collision`] if one is there that takes the same writes.
pub fn place<D>(table: &[Entry<D>], new: &Doorbell) -> Result<usize, Collision> {
    let first = lower_bound(table, &Doorbell::any_length(new.address));
    let same_address = table.get(first..).unwrap_or(&[]);
    let taken = same_address
        .iter()
        .take_while(|e| e.doorbell.address == new.address)
        .any(|e| e.doorbell.collides(new));
    if taken {
        Err(Collision)
    } else {
        Ok(lower_bound(table, new))
    }
}

/// What a write of `length` bytes at `address` rings; `value` is little-endian, with zeroes above it.
#[inline]
pub fn find<D>(table: &[Entry<D>], address: u64, length: u32, value: u64) -> Option<&D> {
    // Most guests have one at the address or none: the first that could take it says which.
    let at = lower_bound(table, &Doorbell::any_length(address));
    let first = table.get(at)?;
    let bell = &first.doorbell;
    if bell.address != address {
        return None;
    }
    if bell.length == 0 || (bell.length == length && bell.value.is_none()) {
        return Some(&first.device);
    }
    let key = |value| Doorbell {
        address,
        length,
        value,
    };
    get(table, &key(None)).or_else(|| get(table, &key(Some(value))))
}

/// What any access to `address` rings, its length and value unknown.
#[inline]
pub fn find_any_length<D>(table: &[Entry<D>], address: u64) -> Option<&D> {
    get(table, &Doorbell::any_length(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn bell(address: u64, length: u32, value: Option<u64>) -> Doorbell {
        Doorbell::new(address, length, value).unwrap()
    }

    fn table(bells: &[Doorbell]) -> Vec<Entry<usize>> {
        let mut table = Vec::new();
        for (device, doorbell) in bells.iter().enumerate() {
            let at = place(&table, doorbell).unwrap();
            table.insert(
                at,
                Entry {
                    doorbell: *doorbell,
                    device,
                },
            );
        }
        table
    }

    #[test]
    fn arguments_are_checked() {
        for length in 0..20 {
            let good = [0, 1, 2, 4, 8].contains(&length);
            assert_eq!(Doorbell::new(0, length, None).is_ok(), good);
        }
        assert_eq!(Doorbell::new(0, 0, Some(0)), Err(Invalid));
        assert_eq!(Doorbell::new(u64::MAX - 3, 4, None), Err(Invalid));
        assert!(Doorbell::new(u64::MAX - 4, 4, None).is_ok());
        assert!(Doorbell::new(u64::MAX, 0, None).is_ok());
    }

    #[test]
    fn a_write_rings_what_matches_it_exactly() {
        let t = table(&[
            bell(0x100, 4, Some(2)),
            bell(0x100, 4, Some(1)),
            bell(0x100, 2, None),
            bell(0x104, 0, None),
            bell(0x0f8, 8, None),
            bell(0x108, 1, Some(7)),
        ]);
        assert!(t.windows(2).all(|w| w[0].doorbell < w[1].doorbell));
        assert_eq!(find(&t, 0x100, 4, 1), Some(&1));
        assert_eq!(find(&t, 0x100, 4, 2), Some(&0));
        assert_eq!(find(&t, 0x100, 4, 3), None);
        assert_eq!(find(&t, 0x100, 2, 3), Some(&2));
        assert_eq!(find(&t, 0x100, 1, 1), None);
        assert_eq!(find(&t, 0x0f8, 8, u64::MAX), Some(&4));
        assert_eq!(find(&t, 0x0fc, 4, 0), None);
        for length in 1..9 {
            assert_eq!(find(&t, 0x104, length, 0), Some(&3));
        }
        assert_eq!(find(&t, 0x108, 1, 7), Some(&5));
        assert_eq!(find(&t, 0x10c, 1, 7), None);
        assert_eq!(find_any_length(&t, 0x104), Some(&3));
        assert_eq!(find_any_length(&t, 0x0f8), None);
        assert_eq!(find::<usize>(&[], 0, 1, 0), None);
    }

    #[test]
    fn what_would_be_ambiguous_collides() {
        let t = table(&[
            bell(0x10, 4, Some(1)),
            bell(0x10, 4, Some(2)),
            bell(0x20, 0, None),
            bell(0x30, 2, None),
        ]);
        let fits = |b| place(&t, &b).is_ok();
        assert!(!fits(bell(0x10, 4, Some(1))));
        assert!(!fits(bell(0x10, 4, None)));
        assert!(!fits(bell(0x10, 0, None)));
        assert!(fits(bell(0x10, 4, Some(3))));
        assert!(fits(bell(0x10, 2, None)));
        assert!(!fits(bell(0x20, 4, Some(1))));
        assert!(!fits(bell(0x30, 2, Some(1))));
        assert!(fits(bell(0x30, 4, Some(1))));
        assert!(fits(bell(0x11, 0, None)));
    }

    #[test]
    fn positions_are_of_equal_keys_only() {
        let t = table(&[bell(0x10, 4, Some(1)), bell(0x10, 4, Some(2))]);
        assert_eq!(position(&t, &bell(0x10, 4, Some(2))), Some(1));
        assert_eq!(position(&t, &bell(0x10, 4, None)), None);
        assert_eq!(position(&t, &bell(0x10, 4, Some(3))), None);
    }

    /// Against the rules as KVM states them, entry by entry.
    #[test]
    fn lookups_agree_with_a_walk_over_all_entries() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        let mut t: Vec<Entry<usize>> = Vec::new();
        for device in 0..2000 {
            let length = [0, 1, 2, 4, 8][random(5) as usize];
            let value = (length != 0 && random(4) != 0).then(|| random(6));
            let new = bell(random(150) * 4, length, value);
            let clash = t.iter().any(|e| e.doorbell.collides(&new));
            let placed = place(&t, &new);
            assert_eq!(placed.is_err(), clash);
            if let Ok(at) = placed {
                t.insert(
                    at,
                    Entry {
                        doorbell: new,
                        device,
                    },
                );
            }
        }
        assert!(t.len() > 300);
        for _ in 0..20_000 {
            let (address, length, value) =
                (random(600), [1, 2, 4, 8][random(4) as usize], random(7));
            let walked = t.iter().find(|e| {
                let b = e.doorbell;
                b.address == address
                    && (b.length == 0 || (b.length == length && b.value.is_none_or(|v| v == value)))
            });
            assert_eq!(find(&t, address, length, value), walked.map(|e| &e.device));
        }
    }
}
