// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest frames are backed by which addresses of the VMM.
//!
//! The counterpart of the slot part of C KVM's `kvm_main.c`; reached by KVM_SET_USER_MEMORY_REGION(2) (see [`plan()`]),
//! by every EPT violation and by every access of the host to guest memory.
//!
//! The storage belongs to the glue: three slices of equal length, sorted by guest frame, by host address and by id.
//! A [`SlotTable`] is a view of a published, immutable set (readers hold SRCU); a [`SlotTableMut`] edits one that
//! nobody reads yet. Lookups are binary searches, so 32,764 slots cost 15 steps, or none with a hint.

use crate::{
    addr::{
        Gfn,
        Gpa,
        Hva,
        PAGE_SHIFT, //
    },
    search::partition_point, //
};

mod generation;
mod plan;
mod table;

#[cfg(test)]
mod tests;

pub use generation::{
    FinishedUpdate,
    Generation,
    MMIO_GENERATION_BITS,
    MMIO_GENERATION_MASK, //
};
pub use plan::{
    plan,
    Change,
    MemoryRegion,
    SlotError,
    SlotLimits, //
};
pub use table::{
    HvaKey,
    IdKey,
    SlotTableMut,
    TableFull, //
};

/// Slot ids that exist at all (C KVM: KVM_MEM_SLOTS_NUM, SHRT_MAX).
pub const MEM_SLOTS_NUM: u16 = i16::MAX as u16;
/// Slot ids that KVM itself uses on x86.
pub const INTERNAL_MEM_SLOTS: u16 = 3;
/// Slot ids for user space: what KVM_CAP_NR_MEMSLOTS answers.
pub const USER_MEM_SLOTS: u16 = MEM_SLOTS_NUM.wrapping_sub(INTERNAL_MEM_SLOTS);
/// The private slot of the three pages of KVM_SET_TSS_ADDR.
pub const TSS_PRIVATE_SLOT: u16 = USER_MEM_SLOTS;
/// The private slot of the page of KVM_SET_IDENTITY_MAP_ADDR. C KVM has the APIC-access page in the one before, which is
/// in no slot here.
pub const IDENTITY_PAGETABLE_PRIVATE_SLOT: u16 = USER_MEM_SLOTS.wrapping_add(2);
/// Largest number of 4 KiB pages in a slot of user space.
pub const MEM_MAX_NR_PAGES: u64 = (1 << 31) - 1;

/// Flags of a slot, with the values of the ABI (api.rst, KVM_SET_USER_MEMORY_REGION).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SlotFlags(u32);

impl SlotFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// KVM_MEM_LOG_DIRTY_PAGES: writes are recorded in a bitmap or ring.
    pub const LOG_DIRTY_PAGES: Self = Self(1 << 0);
    /// KVM_MEM_READONLY: reads see the memory, writes leave to user space as MMIO.
    pub const READONLY: Self = Self(1 << 1);

    /// The flags of `bits`, or `None` if one of them is not among `valid`.
    #[inline]
    pub const fn from_bits(bits: u32, valid: Self) -> Option<Self> {
        if bits & !valid.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The value in the ABI.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Both sets together.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags in which the two differ.
    #[inline]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

/// What a slot maps, without what the glue hangs on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Id inside the address space, less than [`MEM_SLOTS_NUM`].
    pub id: u16,
    /// Flags.
    pub flags: SlotFlags,
    /// First guest frame.
    pub base_gfn: Gfn,
    /// Length in 4 KiB pages; 0 only in unused storage.
    pub npages: u64,
    /// Where the first page lies in the VMM, 4 KiB aligned.
    pub userspace_addr: Hva,
}

impl Region {
    /// The frame after the last one.
    #[inline]
    pub const fn end_gfn(&self) -> Gfn {
        self.base_gfn.wrapping_add(self.npages)
    }

    /// The host address after the last byte.
    #[inline]
    pub const fn end_hva(&self) -> Hva {
        self.userspace_addr
            .wrapping_add(self.npages.wrapping_shl(PAGE_SHIFT))
    }

    /// Whether `gfn` lies in this slot.
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        gfn.wrapping_sub(self.base_gfn) < self.npages
    }

    /// Index of the page of `gfn` in the slot (for bitmaps and the like), if it lies in it.
    #[inline]
    pub const fn page_index(&self, gfn: Gfn) -> Option<u64> {
        if self.contains(gfn) {
            Some(gfn.wrapping_sub(self.base_gfn))
        } else {
            None
        }
    }

    /// The host address of the page of `gfn`, if it lies in this slot.
    #[inline]
    pub const fn gfn_to_hva(&self, gfn: Gfn) -> Option<Hva> {
        match self.page_index(gfn) {
            Some(page) => Some(
                self.userspace_addr
                    .wrapping_add(page.wrapping_shl(PAGE_SHIFT)),
            ),
            None => None,
        }
    }

    /// The host address of the byte at `gpa`, if it lies in this slot.
    #[inline]
    pub const fn gpa_to_hva(&self, gpa: Gpa) -> Option<Hva> {
        match self.gfn_to_hva(gpa.frame()) {
            Some(page) => Some(page.wrapping_add(gpa.page_offset())),
            None => None,
        }
    }

    /// Whether the guest may write here without leaving to user space.
    #[inline]
    pub const fn is_writable(&self) -> bool {
        !self.flags.contains(SlotFlags::READONLY)
    }

    /// Whether writes have to be recorded.
    #[inline]
    pub const fn logs_dirty_pages(&self) -> bool {
        self.flags.contains(SlotFlags::LOG_DIRTY_PAGES)
    }

    /// The frames whose host addresses meet `[start, end)`, as a half-open range, if there are any.
    pub const fn gfns_of_hva_range(&self, start: Hva, end: Hva) -> Option<(Gfn, Gfn)> {
        let from = if start.0 > self.userspace_addr.0 {
            start.0
        } else {
            self.userspace_addr.0
        };
        let to = if end.0 < self.end_hva().0 {
            end.0
        } else {
            self.end_hva().0
        };
        if from >= to {
            return None;
        }
        let first = from.wrapping_sub(self.userspace_addr.0) >> PAGE_SHIFT;
        // The last byte decides: a range that ends inside a page includes that page.
        let last = to.wrapping_sub(1).wrapping_sub(self.userspace_addr.0) >> PAGE_SHIFT;
        Some((
            self.base_gfn.wrapping_add(first),
            self.base_gfn.wrapping_add(last).wrapping_add(1),
        ))
    }
}

/// A slot: its region, and what the architecture keeps for it (an index or a counted reference of the glue).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot<A> {
    /// What is mapped where.
    pub region: Region,
    /// The glue's own: where the dirty bitmap, rmap and write-tracking counts are.
    pub arch: A,
}

/// A published set of slots of one address space, for reading.
#[derive(Debug)]
pub struct SlotTable<'a, A> {
    by_gfn: &'a [Slot<A>],
    by_hva: &'a [HvaKey],
    by_id: &'a [IdKey],
}

impl<A> Clone for SlotTable<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for SlotTable<'_, A> {}

impl<'a, A> SlotTable<'a, A> {
    /// A view of storage that a [`SlotTableMut`] has filled: the first `len` elements of each of its slices.
    #[inline]
    pub const fn new(by_gfn: &'a [Slot<A>], by_hva: &'a [HvaKey], by_id: &'a [IdKey]) -> Self {
        Self {
            by_gfn,
            by_hva,
            by_id,
        }
    }

    /// All slots in the order of their frames.
    #[inline]
    pub const fn slots(self) -> &'a [Slot<A>] {
        self.by_gfn
    }

    /// The slot that holds `gfn`.
    #[inline]
    pub fn find(self, gfn: Gfn) -> Option<&'a Slot<A>> {
        let after = partition_point(self.by_gfn, |s| s.region.base_gfn <= gfn);
        let slot = self.by_gfn.get(after.checked_sub(1)?)?;
        slot.region.contains(gfn).then_some(slot)
    }

    /// The slot that holds `gfn`, looked for first where the last one was found.
    ///
    /// `hint` is the caller's (one for each vCPU) and may be of any age: it is checked, so a stale one only costs.
    #[inline]
    pub fn find_near(self, gfn: Gfn, hint: &mut u16) -> Option<&'a Slot<A>> {
        if let Some(slot) = self.by_gfn.get(usize::from(*hint)) {
            if slot.region.contains(gfn) {
                return Some(slot);
            }
        }
        let after = partition_point(self.by_gfn, |s| s.region.base_gfn <= gfn);
        let index = after.checked_sub(1)?;
        let slot = self.by_gfn.get(index)?;
        if !slot.region.contains(gfn) {
            return None;
        }
        *hint = u16::try_from(index).unwrap_or(0);
        Some(slot)
    }

    /// The slot with this id.
    pub fn find_id(self, id: u16) -> Option<&'a Slot<A>> {
        let at = partition_point(self.by_id, |k| k.id() < id);
        let slot = self.find(self.by_id.get(at)?.base_gfn())?;
        (slot.region.id == id).then_some(slot)
    }

    /// The slots that meet the half-open range of frames, in order.
    pub fn in_gfn_range(self, start: Gfn, end: Gfn) -> impl Iterator<Item = &'a Slot<A>> {
        let from = partition_point(self.by_gfn, |s| s.region.end_gfn() <= start);
        self.by_gfn
            .get(from..)
            .unwrap_or(&[])
            .iter()
            .take_while(move |s| s.region.base_gfn < end)
    }

    /// The slots whose host addresses meet `[start, end)`, with the frames that do (half-open): what an mmu_notifier
    /// of the VMM's address space asks. Several slots may share host memory; all are found.
    pub fn in_hva_range(
        self,
        start: Hva,
        end: Hva,
    ) -> impl Iterator<Item = (&'a Slot<A>, Gfn, Gfn)> {
        let table = self;
        let from = partition_point(self.by_hva, |k| k.reach() <= start);
        self.by_hva
            .get(from..)
            .unwrap_or(&[])
            .iter()
            .take_while(move |k| k.start() < end)
            .filter_map(move |k| {
                let slot = table.find(k.base_gfn())?;
                let (first, after) = slot.region.gfns_of_hva_range(start, end)?;
                Some((slot, first, after))
            })
    }
}
