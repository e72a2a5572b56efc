// SPDX-License-Identifier: GPL-2.0

//! EPT paging-structure entries: the bits, and how entries are made.
//!
//! SDM volume 3, "The Extended Page Table Mechanism (EPT)", tables "Format of an EPT ... Entry". Bits that the SDM
//! calls ignored are used by rkvm; they are named `SW_`.

use super::level::{
    Index,
    Level, //
};
use crate::addr::{
    Hpa,
    Pfn, //
};

/// What may be done to a page: any of read, write and fetch. The bits are those of EPT entries and, in the same
/// places, of the exit qualification for EPT violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Data reads.
    pub const R: Self = Self(1);
    /// Data writes.
    pub const W: Self = Self(2);
    /// Instruction fetches.
    pub const X: Self = Self(4);
    /// All three.
    pub const RWX: Self = Self(7);

    /// From bits 2:0 of an entry or exit qualification; others are dropped.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self((bits & 7) as u8)
    }

    /// Bits 2:0 of an entry.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }

    /// Both.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This without `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is allowed.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// EPT memory types (SDM, "EPT Memory Type"), as bits 5:3 of a leaf hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the SDM's
pub enum MemoryType {
    Uncacheable = 0,
    WriteCombining = 1,
    WriteThrough = 4,
    WriteProtected = 5,
    WriteBack = 6,
}

/// What the processor can do and what was chosen: one for a VM, fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The level of the root table: [`Level::Pml4`] or [`Level::Pml5`].
    pub root: Level,
    /// The largest page that the processor and the module parameters allow.
    pub max_leaf: Level,
    /// Accessed and dirty flags for EPT are enabled in the EPTP. Without them pages age by being made inaccessible.
    pub ad: bool,
    /// Execute-only translations are supported (IA32_VMX_EPT_VPID_CAP).
    pub execute_only: bool,
    /// Code is fetched from pages of 4 KiB only: a processor with the iTLB multihit bug stops with a machine check when a
    /// guest changes the size of a page that it executes.
    pub small_code: bool,
}

/// What a leaf shall say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first frame of the page.
    pub pfn: Pfn,
    /// What slot and policy allow.
    pub access: Access,
    /// The host granted write access to the page; if not, W is left out.
    pub host_writable: bool,
    /// Made for an access, so it is accessed from the start (not for a prefetch).
    pub accessed: bool,
    /// Memory type.
    pub memory_type: MemoryType,
    /// The guest's PAT has no say.
    pub ignore_pat: bool,
}

/// An entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// Read access.
    pub const READ: u64 = 1 << 0;
    /// Write access.
    pub const WRITE: u64 = 1 << 1;
    /// Execute access.
    pub const EXECUTE: u64 = 1 << 2;
    /// Lowest bit of the memory type of a leaf (5:3).
    pub const MEMORY_TYPE_SHIFT: u32 = 3;
    /// Ignore PAT.
    pub const IGNORE_PAT: u64 = 1 << 6;
    /// Must be 1 in a leaf above 4 KiB.
    pub const LARGE: u64 = 1 << 7;
    /// Accessed flag.
    pub const ACCESSED: u64 = 1 << 8;
    /// Dirty flag.
    pub const DIRTY: u64 = 1 << 9;
    /// Physical address of page or table.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Bit 63: suppress #VE.
    pub const SUPPRESS_VE: u64 = 1 << 63;

    /// Present to rkvm, whether or not the processor may use it at the moment.
    pub const SW_PRESENT: u64 = 1 << 11;
    /// R and X of a leaf that was made inaccessible in order to see the next access; as far above R and X.
    pub const SW_SAVED_SHIFT: u32 = 52;
    /// The host page may be written.
    pub const SW_HOST_WRITABLE: u64 = 1 << 53;
    /// Slot and host allow W: where it is missing, dirty logging took it.
    pub const SW_MMU_WRITABLE: u64 = 1 << 55;

    const RWX: u64 = Self::READ | Self::WRITE | Self::EXECUTE;
    const RX: u64 = Self::READ | Self::EXECUTE;
    const SW_SAVED: u64 = Self::RX << Self::SW_SAVED_SHIFT;
    /// Memory type and IPAT.
    const CACHING: u64 = 7 << Self::MEMORY_TYPE_SHIFT | Self::IGNORE_PAT;

    /// Nothing mapped: what a zeroed table is full of.
    pub const EMPTY: Self = Self(0);

    /// The entry that points to a table. Rights are decided at the leaf, so the table has all.
    #[inline]
    pub const fn table(table: Hpa) -> Self {
        Self(table.0 & Self::ADDRESS | Self::RWX | Self::SW_PRESENT)
    }

    /// A leaf at `level`. What the processor would call a misconfiguration (W or X without R) loses W, and X too if
    /// execute-only is not supported. A large page that may not hold code ([`Format::small_code`]) loses X.
    pub const fn leaf(leaf: &Leaf, level: Level, format: &Format) -> Self {
        let mut rights = leaf.access.bits();
        if format.small_code && !matches!(level, Level::Page4K) {
            rights &= !Self::EXECUTE;
        }
        if !leaf.host_writable || rights & Self::READ == 0 {
            rights &= !Self::WRITE;
        }
        if rights & Self::READ == 0 && !format.execute_only {
            rights = 0;
        }
        let mut bits = rights
            | Self::SW_PRESENT
            | (leaf.memory_type as u64) << Self::MEMORY_TYPE_SHIFT
            | leaf.pfn.base().0 & Self::ADDRESS & !(level.offset_mask().wrapping_shl(12));
        if !matches!(level, Level::Page4K) {
            bits |= Self::LARGE;
        }
        if leaf.ignore_pat {
            bits |= Self::IGNORE_PAT;
        }
        if leaf.host_writable {
            bits |= Self::SW_HOST_WRITABLE;
        }
        if rights & Self::WRITE != 0 {
            bits |= Self::SW_MMU_WRITABLE;
        }
        if format.ad {
            if leaf.accessed {
                bits |= Self::ACCESSED;
            }
            if rights & Self::WRITE != 0 {
                // Set now, or the processor does it by a slow locked update at the first write.
                bits |= Self::DIRTY;
            }
        }
        Self(bits)
    }

    /// Whether rkvm has mapped something here: a table or a page, but not MMIO.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & Self::SW_PRESENT != 0
    }

    /// Whether this entry of a table of `level` maps a page.
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        self.is_present() && (matches!(level, Level::Page4K) || self.0 & Self::LARGE != 0)
    }

    /// Whether this entry of a table of `level` points to a table.
    #[inline]
    pub const fn is_table(self, level: Level) -> bool {
        self.is_present() && !self.is_leaf(level)
    }

    /// The page or table.
    #[inline]
    pub const fn address(self) -> Hpa {
        Hpa(self.0 & Self::ADDRESS)
    }

    /// The first frame of the page.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        self.address().frame()
    }

    /// What the processor allows by this entry.
    #[inline]
    pub const fn access(self) -> Access {
        Access::from_bits(self.0)
    }

    /// Whether an access that needs `need` succeeds by this entry.
    #[inline]
    pub const fn permits(self, need: Access) -> bool {
        self.is_present() && self.0 & Self::RWX != 0 && self.access().contains(need)
    }

    /// Whether the page was accessed since it was last made old.
    #[inline]
    pub const fn is_young(self, format: &Format) -> bool {
        if format.ad {
            self.0 & Self::ACCESSED != 0
        } else {
            self.0 & Self::RWX != 0
        }
    }

    /// The leaf, not accessed. Without accessed flags all rights go, R and X remembered, so that the next access faults.
    #[inline]
    pub const fn aged(self, format: &Format) -> Self {
        if format.ad {
            Self(self.0 & !Self::ACCESSED)
        } else if self.0 & Self::RWX == 0 {
            self
        } else {
            let saved = (self.0 & Self::RX).wrapping_shl(Self::SW_SAVED_SHIFT);
            Self(self.0 & !(Self::RWX | Self::SW_SAVED) | saved)
        }
    }

    /// A leaf that [`aged`](Self::aged) made inaccessible, with R and X as they were; W comes by a fault of its own.
    #[inline]
    pub const fn restored(self) -> Self {
        let saved = self.0.wrapping_shr(Self::SW_SAVED_SHIFT) & Self::RX;
        Self(self.0 & !Self::SW_SAVED | saved)
    }

    /// Whether the leaf is inaccessible because [`aged`](Self::aged) made it so.
    #[inline]
    pub const fn is_access_tracked(self) -> bool {
        self.is_present() && self.0 & Self::RWX == 0 && self.0 & Self::SW_SAVED != 0
    }

    /// Without W and the dirty flag. [`Entry::SW_MMU_WRITABLE`] stays: it says that only logging took W.
    #[inline]
    pub const fn write_protected(self) -> Self {
        Self(self.0 & !(Self::WRITE | Self::DIRTY))
    }

    /// Without the dirty flag.
    #[inline]
    pub const fn clean(self) -> Self {
        Self(self.0 & !Self::DIRTY)
    }

    /// With the accessed and dirty flags of `older`, an entry for the same page.
    #[inline]
    pub const fn with_flags_of(self, older: Self) -> Self {
        Self(self.0 | older.0 & (Self::ACCESSED | Self::DIRTY))
    }

    /// Whether this leaf can take the place of `older` while other processors use that one: the same page and type,
    /// and no right less. (A right less, or another page, needs a flush in between.)
    #[inline]
    pub const fn widens(self, older: Self) -> bool {
        let same = Self::ADDRESS | Self::LARGE | Self::CACHING;
        (self.0 ^ older.0) & same == 0
            && self.access().contains(older.access())
            && (self.0 | !older.0) & (Self::SW_HOST_WRITABLE | Self::SW_MMU_WRITABLE)
                == Self::SW_HOST_WRITABLE | Self::SW_MMU_WRITABLE
    }

    /// Leaf `index` of the table of `level` that maps what this leaf, one level higher, maps.
    #[inline]
    pub const fn split(self, index: Index, level: Level) -> Self {
        let offset = (index.get() as u64).wrapping_mul(level.pages().wrapping_shl(12));
        let bits = self.0 | offset;
        if matches!(level, Level::Page4K) {
            Self(bits & !Self::LARGE)
        } else {
            Self(bits)
        }
    }
}

/// The software bits are ignored ones, and apart from each other (SDM: 11 and 62:52 with the controls rkvm uses).
const _: () = {
    let hardware = Entry::RWX
        | Entry::CACHING
        | Entry::LARGE
        | Entry::ACCESSED
        | Entry::DIRTY
        | Entry::ADDRESS
        | Entry::SUPPRESS_VE;
    let software =
        Entry::SW_PRESENT | Entry::SW_SAVED | Entry::SW_HOST_WRITABLE | Entry::SW_MMU_WRITABLE;
    assert!(hardware & software == 0);
    assert!(software.count_ones() == 1 + Entry::SW_SAVED.count_ones() + 2);
};
