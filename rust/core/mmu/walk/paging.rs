// SPDX-License-Identifier: GPL-2.0

//! The paging modes as data: levels, widths, large pages and reserved bits.

use super::{
    PteSize,
    WalkRoot, //
};
use crate::addr::{
    Gpa,
    Gva,
    PAGE_SIZE, //
};
use crate::regs::{
    cr0,
    cr4,
    efer, //
};

/// P.
pub(super) const PRESENT: u64 = 1 << 0;
/// A.
pub(super) const ACCESSED: u64 = 1 << 5;
/// D.
pub(super) const DIRTY: u64 = 1 << 6;
/// PS: the entry maps a page.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Physical address of page or table, before MAXPHYADDR is taken into account.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Paging modes (SDM, "Paging Modes and Control Bits").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingMode {
    /// CR0.PG is clear.
    None,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

/// What the guest's CPUID says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingFeatures {
    /// MAXPHYADDR, 32 to 52.
    pub max_phys_bits: u32,
    /// Pages of 1 GiB.
    pub gb_pages: bool,
    /// PSE-36.
    pub pse36: bool,
}

/// How the guest translates: made anew when CR0, CR4, EFER or CPUID change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPaging {
    mode: PagingMode,
    /// Levels that are read from memory.
    levels: usize,
    /// The levels, from that of the smallest pages on.
    by_level: [LevelFormat; 5],
    /// Position in a table, before its entries' size is taken into account.
    index_mask: u64,
    pte_size: PteSize,
    /// Bits of a linear address that are used.
    linear_mask: u64,
    /// Physical-address bits above 31 that a large page of 32-bit paging has.
    pse36_bits: u32,
    pub(super) no_execute: bool,
    pub(super) write_protect: bool,
    pub(super) smep: bool,
    pub(super) smap: bool,
    pub(super) pku: bool,
    pub(super) pks: bool,
}

/// What differs from one level to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LevelFormat {
    /// log2 of the bytes that an entry spans.
    shift: u32,
    /// A present entry with one of these bits is a leaf: PS where there are large pages, P at the last level.
    leaf_if: u64,
    /// Reserved bits of an entry that points to a table.
    reserved_in_table: u64,
    /// Reserved bits of a leaf.
    reserved_in_leaf: u64,
}

impl LevelFormat {
    #[inline]
    pub(super) const fn is_leaf(&self, pte: u64) -> bool {
        pte & self.leaf_if != 0
    }

    #[inline]
    pub(super) const fn reserved_bits(&self, leaf: bool) -> u64 {
        if leaf {
            self.reserved_in_leaf
        } else {
            self.reserved_in_table
        }
    }

    /// Bytes that an entry spans.
    #[inline]
    pub(super) const fn page_bytes(&self) -> u64 {
        1u64.wrapping_shl(self.shift)
    }
}

/// Bits `low` to `high`, both included; none if `low` is above `high`.
const fn bits(low: u32, high: u32) -> u64 {
    if low > high || high > 63 {
        return 0;
    }
    let width = high.wrapping_sub(low).wrapping_add(1);
    u64::MAX
        .wrapping_shr(64u32.wrapping_sub(width))
        .wrapping_shl(low)
}

/// PDPTE registers of PAE paging: 2:1, 8:5 and all from MAXPHYADDR on are reserved.
const PDPTE_RESERVED: u64 = bits(1, 2) | bits(5, 8);

/// Whether MOV to CR3 (or whatever loads it) accepts this PDPTE: a present one may have no reserved bit set, `no_address`
/// being those that no guest physical address has. If not, the guest gets #GP(0).
pub const fn pdpte_is_valid(pdpte: u64, no_address: u64) -> bool {
    pdpte & PRESENT == 0 || pdpte & (PDPTE_RESERVED | no_address) == 0
}

impl GuestPaging {
    /// From the control registers. EFER.LMA decides about IA-32e mode.
    pub fn new(cr0: u64, cr4: u64, efer: u64, features: &PagingFeatures) -> Self {
        let mode = mode_of(cr0, cr4, efer);
        let wide = matches!(
            mode,
            PagingMode::Pae | PagingMode::Level4 | PagingMode::Level5
        );
        let long = matches!(mode, PagingMode::Level4 | PagingMode::Level5);
        let index_bits = if wide { 9 } else { 10 };
        let mut paging = Self {
            mode,
            levels: match mode {
                PagingMode::None => 0,
                PagingMode::Bits32 | PagingMode::Pae => 2,
                PagingMode::Level4 => 4,
                PagingMode::Level5 => 5,
            },
            by_level: [LevelFormat::default(); 5],
            index_mask: 1u64.wrapping_shl(index_bits).wrapping_sub(1),
            pte_size: if wide { PteSize::Eight } else { PteSize::Four },
            linear_mask: if long { u64::MAX } else { u64::from(u32::MAX) },
            pse36_bits: 0,
            no_execute: wide && efer & efer::NX != 0,
            write_protect: cr0 & cr0::WP != 0,
            smep: cr4 & cr4::SMEP != 0,
            smap: cr4 & cr4::SMAP != 0,
            pku: long && cr4 & cr4::PKE != 0,
            pks: long && cr4 & cr4::PKS != 0,
        };
        let mut shift = 12;
        for level in &mut paging.by_level {
            level.shift = shift;
            shift = shift.saturating_add(index_bits);
        }
        if wide {
            paging.describe_wide(features, long);
        } else {
            paging.describe_narrow(features, cr4 & cr4::PSE != 0);
        }
        paging
    }

    /// Large pages and reserved bits of 8-byte entries.
    fn describe_wide(&mut self, features: &PagingFeatures, long: bool) {
        let above = if long { 51 } else { 62 };
        let mut always = bits(features.max_phys_bits.max(32), above);
        if !self.no_execute {
            always |= NO_EXECUTE;
        }
        let gb_pages = long && features.gb_pages;
        // Bit 7 of a PTE is PAT; in a PDPTE without 1-GByte pages and from PML4 on it is reserved.
        let [pt, pd, pdpt, pml4, pml5] = &mut self.by_level;
        for level in [&mut *pt, pd, pdpt, pml4, pml5] {
            level.reserved_in_table = always | LARGE;
            level.reserved_in_leaf = always;
        }
        let [pt, pd, pdpt, _, _] = &mut self.by_level;
        pt.leaf_if = PRESENT;
        pd.leaf_if = LARGE;
        pd.reserved_in_leaf |= bits(13, 20);
        if gb_pages {
            pdpt.leaf_if = LARGE;
            pdpt.reserved_in_leaf |= bits(13, 29);
        }
    }

    /// Large pages and reserved bits of 4-byte entries. Without CR4.PSE, PS is ignored.
    fn describe_narrow(&mut self, features: &PagingFeatures, large_pages: bool) {
        let [pt, pd, ..] = &mut self.by_level;
        pt.leaf_if = PRESENT;
        if large_pages {
            pd.leaf_if = LARGE;
            if features.pse36 {
                self.pse36_bits = features.max_phys_bits.clamp(32, 40).wrapping_sub(32);
            }
            pd.reserved_in_leaf = bits(self.pse36_bits.wrapping_add(13), 21);
        }
    }

    /// The mode.
    #[inline]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The levels that are read from memory, from the root on.
    #[inline]
    pub(super) fn levels(&self) -> impl Iterator<Item = &LevelFormat> {
        self.by_level.get(..self.levels).unwrap_or(&[]).iter().rev()
    }

    #[inline]
    pub(super) const fn pte_size(&self) -> PteSize {
        self.pte_size
    }

    /// The first table to read, or `None` if a PDPTE is not present.
    #[inline]
    pub(super) fn first_table(&self, root: &WalkRoot, gva: Gva) -> Option<Gpa> {
        match self.mode {
            PagingMode::Pae => {
                let index = gva.0.wrapping_shr(30) & 3;
                let pdpte = *root.pdptrs.get(index as usize)?;
                (pdpte & PRESENT != 0).then_some(Gpa(pdpte & ADDRESS))
            }
            PagingMode::Bits32 => Some(Gpa(root.cr3 & bits(12, 31))),
            _ => Some(Gpa(root.cr3 & ADDRESS)),
        }
    }

    /// Where the entry for `gva` in the table of `level` is.
    #[inline]
    pub(super) const fn entry_address(&self, table: Gpa, level: &LevelFormat, gva: Gva) -> Gpa {
        let linear = gva.0 & self.linear_mask;
        let index = linear.wrapping_shr(level.shift) & self.index_mask;
        table.wrapping_add(index.wrapping_mul(self.pte_size as u64))
    }

    #[inline]
    pub(super) const fn table_address(&self, pte: u64) -> Gpa {
        Gpa(pte & ADDRESS)
    }

    /// The physical address of `gva` in the page that a leaf of `level` maps.
    #[inline]
    pub(super) const fn leaf_address(&self, pte: u64, page_bytes: u64, gva: Gva) -> Gpa {
        let offset = page_bytes.wrapping_sub(1);
        let mut base = pte & ADDRESS & !offset;
        if matches!(self.mode, PagingMode::Bits32) && page_bytes > PAGE_SIZE {
            // The high address bits of a 4-MByte page lie from bit 13 on.
            let mask = 1u64.wrapping_shl(self.pse36_bits).wrapping_sub(1);
            base |= (pte.wrapping_shr(13) & mask).wrapping_shl(32);
        }
        Gpa(base | gva.0 & offset)
    }
}

fn mode_of(cr0: u64, cr4: u64, efer: u64) -> PagingMode {
    if cr0 & cr0::PG == 0 {
        PagingMode::None
    } else if efer & efer::LMA != 0 {
        if cr4 & cr4::LA57 != 0 {
            PagingMode::Level5
        } else {
            PagingMode::Level4
        }
    } else if cr4 & cr4::PAE != 0 {
        PagingMode::Pae
    } else {
        PagingMode::Bits32
    }
}
