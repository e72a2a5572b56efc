// SPDX-License-Identifier: GPL-2.0

//! The ring of coalesced MMIO: `struct kvm_coalesced_mmio_ring`, one page shared with user space.
//!
//! The kernel fills the slot at `last` and moves `last` on, user space empties the slot at `first` and moves `first` on.
//! One slot stays empty, so that full and empty differ. User space can write to both indices at any time: they are read
//! once, checked, and then not read again.

/// Bytes of the page.
const PAGE: usize = 4096;
/// Where the slots begin, in bytes.
const SLOTS_AT: usize = 8;
/// Bytes of a slot, `struct kvm_coalesced_mmio`.
pub const SLOT_SIZE: usize = 24;
/// Slots in the ring (KVM_COALESCED_MMIO_MAX).
pub const SLOTS: u32 = ((PAGE - SLOTS_AT) / SLOT_SIZE) as u32;
/// Offset of `first`, a u32.
pub const FIRST: usize = 0;
/// Offset of `last`, a u32.
pub const LAST: usize = 4;
/// Bytes of data that a slot holds.
pub const DATA_MAX: usize = 8;

/// A slot that may be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Where it is in the page, in bytes.
    pub offset: usize,
    /// `last` after it was filled.
    pub next: u32,
}

/// The slot to fill, by the indices as user space shows them; `None` if the ring is full or the index is none.
#[inline]
pub const fn free_slot(first: u32, last: u32) -> Option<Free> {
    if last >= SLOTS {
        return None;
    }
    let next = match last.wrapping_add(1) {
        SLOTS => 0,
        n => n,
    };
    if next == first {
        return None;
    }
    Some(Free {
        offset: SLOTS_AT.wrapping_add((last as usize).wrapping_mul(SLOT_SIZE)),
        next,
    })
}

/// The bytes of a slot: address, length, 1 for a port, data padded with zeroes. `None` for more than [`DATA_MAX`] bytes.
#[inline]
pub fn slot(address: u64, data: &[u8], pio: bool) -> Option<[u8; SLOT_SIZE]> {
    if data.len() > DATA_MAX {
        return None;
    }
    let mut bytes = [0; SLOT_SIZE];
    let (head, tail) = bytes.split_first_chunk_mut::<8>()?;
    *head = address.to_le_bytes();
    let (length, tail) = tail.split_first_chunk_mut::<4>()?;
    *length = (data.len() as u32).to_le_bytes();
    let (kind, tail) = tail.split_first_chunk_mut::<4>()?;
    *kind = u32::from(pio).to_le_bytes();
    for (to, from) in tail.iter_mut().zip(data) {
        *to = *from;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_holds_one_less_than_its_slots() {
        assert_eq!(SLOTS, 170);
        let mut last = 0;
        let mut filled = 0;
        while let Some(free) = free_slot(0, last) {
            assert_eq!(free.offset, 8 + 24 * last as usize);
            last = free.next;
            filled += 1;
        }
        assert_eq!((filled, last), (169, 169));
        // User space takes one out: the last slot is filled, the index wraps.
        assert_eq!(free_slot(1, last).map(|f| f.next), Some(0));
    }

    #[test]
    fn no_index_leads_out_of_the_page() {
        for first in [0, 1, 169, 170, 171, u32::MAX] {
            for last in (0..200).chain([u32::MAX - 1, u32::MAX]) {
                if let Some(free) = free_slot(first, last) {
                    assert!(free.offset + SLOT_SIZE <= 4096);
                    assert!(free.next < SLOTS);
                }
            }
        }
    }

    #[test]
    fn slots_have_the_layout_of_the_abi() {
        let bytes = slot(0x1122_3344_5566_7788, &[1, 2], true).unwrap();
        assert_eq!(
            bytes,
            [
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 2, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0,
                0, 0, 0, 0
            ]
        );
        assert_eq!(slot(0, &[0; 9], false), None);
        assert_eq!(slot(0, &[], false), Some([0; 24]));
    }
}
