// SPDX-License-Identifier: GPL-2.0

//! MMIO entries: frames without a slot, remembered by an EPT misconfiguration.
//!
//! Write and execute without read is a misconfiguration on every processor (SDM, "EPT Misconfigurations"), so the
//! exit itself says "no slot here" and the slots need not be searched. The entry holds the generation of the slots it
//! was made under: an older one says nothing and the frame is looked up again.

use super::entry::{
    Access,
    Entry, //
};
use crate::addr::{
    Gfn,
    Gpa, //
};
use crate::memslots::{
    Generation,
    MMIO_GENERATION_BITS,
    MMIO_GENERATION_MASK, //
};

/// Where the parts of an MMIO entry go, on a host with these physical-address bits.
///
/// A processor with the L1TF bug reads, under speculation, the line at the address in an entry that it can't use; the
/// address bits here are the guest's choice. On such a host the top bits of the cacheable address are set, so that
/// nothing is there, and the bits of the frame number that were in their place go five bits up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioFormat {
    guard: u64,
}

/// What an MMIO entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioEntry {
    /// The frame.
    pub gfn: Gfn,
    /// The generation ([`Generation::mmio`]) it was made under.
    pub generation: u64,
}

impl MmioEntry {
    /// Whether the entry still holds under the generation of the slots that the caller reads.
    #[inline]
    pub const fn is_current(&self, slots: Generation) -> bool {
        !slots.is_updating() && self.generation == slots.mmio()
    }
}

/// Bits by which the guarded part of the frame number is moved, and how many guard bits there are.
const GUARD_BITS: u32 = 5;
/// Generation bits 6:0 are entry bits 9:3.
const LOW_BITS: u32 = 7;
const LOW_SHIFT: u32 = 3;
const LOW_MASK: u64 = ((1 << LOW_BITS) - 1) << LOW_SHIFT;
/// Generation bits 17:7 are entry bits 62:52.
const HIGH_SHIFT: u32 = 52;
const HIGH_MASK: u64 = ((1 << (MMIO_GENERATION_BITS - LOW_BITS)) - 1) << HIGH_SHIFT;

/// Write and execute without read.
const MISCONFIGURED: u64 = Entry::WRITE | Entry::EXECUTE;

impl MmioFormat {
    /// For a processor without L1TF, or one with `cache_bits` (cacheable physical-address bits) and L1TF.
    pub const fn new(l1tf_cache_bits: Option<u32>) -> Self {
        match l1tf_cache_bits {
            // Above this there is no room to move the bits to; nor is there such a processor with the bug.
            Some(bits) if bits <= 52 - GUARD_BITS && bits > 12 + GUARD_BITS => Self {
                guard: 0x1fu64.wrapping_shl(bits.wrapping_sub(GUARD_BITS)),
            },
            _ => Self { guard: 0 },
        }
    }

    /// The entry that makes accesses to `gfn` exit as misconfigurations until the slots change. `gfn` is one that the
    /// processor can address, so it has no bits above the cacheable ones.
    pub const fn encode(&self, gfn: Gfn, slots: Generation) -> Entry {
        let generation = slots.mmio();
        let address = gfn.base().0 & Entry::ADDRESS;
        let low = generation.wrapping_shl(LOW_SHIFT) & LOW_MASK;
        let high = generation.wrapping_shr(LOW_BITS).wrapping_shl(HIGH_SHIFT) & HIGH_MASK;
        let moved = (address & self.guard).wrapping_shl(GUARD_BITS);
        Entry(MISCONFIGURED | low | high | address | self.guard | moved)
    }

    /// What an entry says, if it is an MMIO entry.
    pub const fn decode(&self, entry: Entry) -> Option<MmioEntry> {
        if entry.is_present() || entry.0 & Access::RWX.bits() != MISCONFIGURED {
            return None;
        }
        let low = (entry.0 & LOW_MASK).wrapping_shr(LOW_SHIFT);
        let high = (entry.0 & HIGH_MASK)
            .wrapping_shr(HIGH_SHIFT)
            .wrapping_shl(LOW_BITS);
        let moved_to = self.guard.wrapping_shl(GUARD_BITS);
        let address = entry.0 & Entry::ADDRESS & !self.guard & !moved_to
            | (entry.0 & moved_to).wrapping_shr(GUARD_BITS);
        Some(MmioEntry {
            gfn: Gpa(address).frame(),
            generation: low | high,
        })
    }
}

const _: () = {
    assert!(LOW_MASK & HIGH_MASK == 0);
    assert!((LOW_MASK | HIGH_MASK) & (Entry::ADDRESS | Entry::SW_PRESENT | MISCONFIGURED) == 0);
    assert!(LOW_MASK >> LOW_SHIFT | HIGH_MASK >> HIGH_SHIFT << LOW_BITS == MMIO_GENERATION_MASK);
};
