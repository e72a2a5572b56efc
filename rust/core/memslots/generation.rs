// SPDX-License-Identifier: GPL-2.0

//! The generation of a set of slots: what tells a cached address or MMIO entry that it is out of date.

/// Bits of the generation that an MMIO entry has room for.
pub const MMIO_GENERATION_BITS: u32 = 18;
/// The generation as an MMIO entry keeps it.
pub const MMIO_GENERATION_MASK: u64 = (1 << MMIO_GENERATION_BITS) - 1;

/// Counts the changes of a set of slots.
///
/// While a change is being published, readers may hold the old or the new table, so both share one generation that
/// is marked: nothing cached under it may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

/// What [`Generation::finish_update`] leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FinishedUpdate {
    /// The generation to publish.
    pub generation: Generation,
    /// The part kept in MMIO entries has wrapped: entries of another age would look current, so all MMIO entries
    /// have to be zapped before the generation is published.
    pub zap_mmio: bool,
}

impl Generation {
    const UPDATE_IN_PROGRESS: u64 = 1 << 63;

    /// The first generation of address space `space` (0 or 1): no two spaces ever have an equal one.
    #[inline]
    pub const fn first(space: u16) -> Self {
        Self(space as u64)
    }

    /// The generation of the table that is about to be published.
    #[inline]
    pub const fn start_update(self) -> Self {
        Self(self.0 | Self::UPDATE_IN_PROGRESS)
    }

    /// The generation after all readers of the old table are gone, with `spaces` address spaces in the VM.
    #[inline]
    pub const fn finish_update(self, spaces: u16) -> FinishedUpdate {
        let old = self.0 & !Self::UPDATE_IN_PROGRESS;
        let next = old.wrapping_add(spaces as u64) & !Self::UPDATE_IN_PROGRESS;
        FinishedUpdate {
            generation: Self(next),
            zap_mmio: next & MMIO_GENERATION_MASK < old & MMIO_GENERATION_MASK,
        }
    }

    /// Whether a change is being published: cache nothing.
    #[inline]
    pub const fn is_updating(self) -> bool {
        self.0 & Self::UPDATE_IN_PROGRESS != 0
    }

    /// The generation as a number, for an atomic variable.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The generation that [`to_bits`](Self::to_bits) gave.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The generation as an MMIO entry keeps it, [`MMIO_GENERATION_BITS`] wide.
    #[inline]
    pub const fn mmio(self) -> u64 {
        self.0 & MMIO_GENERATION_MASK
    }
}
