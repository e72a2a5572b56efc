// SPDX-License-Identifier: GPL-2.0

//! Levels of a paging structure of 512 entries a table, and positions in a table.

use crate::addr::Gfn;

/// The level of a table or entry; a leaf at that level maps a page of the size in the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// PT: 4 KiB pages.
    Page4K = 1,
    /// PD: 2 MiB pages.
    Page2M = 2,
    /// PDPT: 1 GiB pages.
    Page1G = 3,
    /// PML4: tables only.
    Pml4 = 4,
    /// PML5: tables only.
    Pml5 = 5,
}

impl Level {
    /// 1 for [`Level::Page4K`], up to 5.
    #[inline]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// log2 of the number of 4 KiB pages that an entry of this level spans.
    #[inline]
    pub const fn gfn_shift(self) -> u32 {
        self.number().wrapping_sub(1).wrapping_mul(9)
    }

    /// 4 KiB pages that an entry of this level spans.
    #[inline]
    pub const fn pages(self) -> u64 {
        1u64.wrapping_shl(self.gfn_shift())
    }

    /// 4 KiB pages that a table of this level spans.
    #[inline]
    pub const fn table_pages(self) -> u64 {
        self.pages().wrapping_shl(9)
    }

    /// The bits of a frame number inside an entry of this level.
    #[inline]
    pub const fn offset_mask(self) -> u64 {
        self.pages().wrapping_sub(1)
    }

    /// The next smaller level.
    #[inline]
    pub const fn down(self) -> Option<Self> {
        match self {
            Self::Page4K => None,
            Self::Page2M => Some(Self::Page4K),
            Self::Page1G => Some(Self::Page2M),
            Self::Pml4 => Some(Self::Page1G),
            Self::Pml5 => Some(Self::Pml4),
        }
    }

    /// The next larger level.
    #[inline]
    pub const fn up(self) -> Option<Self> {
        match self {
            Self::Page4K => Some(Self::Page2M),
            Self::Page2M => Some(Self::Page1G),
            Self::Page1G => Some(Self::Pml4),
            Self::Pml4 => Some(Self::Pml5),
            Self::Pml5 => None,
        }
    }

    /// The first frame of the entry of this level that spans `gfn`.
    #[inline]
    pub const fn base(self, gfn: Gfn) -> Gfn {
        Gfn(gfn.0 & !self.offset_mask())
    }

    /// Where in its table of this level the entry for `gfn` is.
    #[inline]
    pub const fn index(self, gfn: Gfn) -> Index {
        Index::new(gfn.0.wrapping_shr(self.gfn_shift()) as usize)
    }
}

/// Position in a table: 0 to 511, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Index(u16);

impl Index {
    /// Entries in a table.
    pub const COUNT: usize = 512;
    /// The first position.
    pub const FIRST: Self = Self(0);

    /// The low 9 bits of `value`.
    #[inline]
    pub const fn new(value: usize) -> Self {
        Self((value & (Self::COUNT - 1)) as u16)
    }

    /// As a number.
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// All positions of a table.
    #[inline]
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u16).map(Self)
    }
}
