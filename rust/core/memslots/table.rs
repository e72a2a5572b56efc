// SPDX-License-Identifier: GPL-2.0

//! Editing a set of slots that nobody reads yet.

use super::{
    Change,
    Region,
    Slot,
    SlotTable, //
};
use crate::{
    addr::{
        Gfn,
        Hva, //
    },
    search::partition_point, //
};

/// An element of the index by host address.
///
/// Besides its own range it knows how far any range up to it reaches. That value never falls along the index, so the
/// first range that can meet an address is found by binary search although ranges may overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HvaKey {
    start: Hva,
    end: Hva,
    reach: Hva,
    base_gfn: Gfn,
}

impl HvaKey {
    /// First host address of the slot.
    #[inline]
    pub const fn start(&self) -> Hva {
        self.start
    }

    /// The largest end of this and all earlier keys.
    #[inline]
    pub const fn reach(&self) -> Hva {
        self.reach
    }

    /// Which slot: its first frame.
    #[inline]
    pub const fn base_gfn(&self) -> Gfn {
        self.base_gfn
    }

    const fn of(region: &Region) -> Self {
        Self {
            start: region.userspace_addr,
            end: region.end_hva(),
            reach: region.end_hva(),
            base_gfn: region.base_gfn,
        }
    }

    /// The order of the index; the frame makes it total.
    const fn sorts_before(&self, other: &Self) -> bool {
        self.start.0 < other.start.0
            || (self.start.0 == other.start.0 && self.base_gfn.0 < other.base_gfn.0)
    }
}

/// An element of the index by slot id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdKey {
    id: u16,
    base_gfn: Gfn,
}

impl IdKey {
    /// The slot id.
    #[inline]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Which slot: its first frame.
    #[inline]
    pub const fn base_gfn(&self) -> Gfn {
        self.base_gfn
    }
}

/// The storage has no room for another slot: nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// A set of slots being edited.
///
/// # Invariants
///
/// The first `len` elements of `by_gfn` are sorted by frame and don't overlap; the first `len` of `by_hva` are their
/// keys, sorted, with their `reach` up to date, and those of `by_id` their ids, sorted. All slices are at least `len`
/// long, and what is behind is as it was when the storage was new: a slot there has no pages.
#[derive(Debug)]
pub struct SlotTableMut<'a, A> {
    by_gfn: &'a mut [Slot<A>],
    by_hva: &'a mut [HvaKey],
    by_id: &'a mut [IdKey],
    len: usize,
}

impl<'a, A: Copy + Default> SlotTableMut<'a, A> {
    /// Storage whose first `len` elements an earlier `SlotTableMut` has filled (or a copy of them), the others default ones.
    pub fn new(
        by_gfn: &'a mut [Slot<A>],
        by_hva: &'a mut [HvaKey],
        by_id: &'a mut [IdKey],
        len: usize,
    ) -> Self {
        let len = len.min(by_gfn.len()).min(by_hva.len()).min(by_id.len());
        Self {
            by_gfn,
            by_hva,
            by_id,
            len,
        }
    }

    /// Slots in use: what the glue keeps beside its storage.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no slot.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The set as readers will see it.
    pub fn view(&self) -> SlotTable<'_, A> {
        SlotTable::new(
            self.by_gfn.get(..self.len).unwrap_or(&[]),
            self.by_hva.get(..self.len).unwrap_or(&[]),
            self.by_id.get(..self.len).unwrap_or(&[]),
        )
    }

    /// Makes a planned change; `arch` goes to a created, moved or changed slot. [`Change::Nothing`] does nothing.
    ///
    /// Costs as many moves as there are slots above the changed one: none for a VMM that adds them in order.
    ///
    /// # Errors
    ///
    /// [`TableFull`] if a slot is to be created and the storage is full.
    pub fn apply(&mut self, change: &Change, arch: A) -> Result<(), TableFull> {
        match change {
            Change::Create(new) => self.insert(*new, arch),
            Change::Delete(old) => {
                self.remove(old);
                Ok(())
            }
            Change::Move { old, new } => {
                self.remove(old);
                self.insert(*new, arch)
            }
            Change::FlagsOnly { new, .. } => {
                self.replace(*new, arch);
                Ok(())
            }
            Change::Nothing => Ok(()),
        }
    }

    fn insert(&mut self, region: Region, arch: A) -> Result<(), TableFull> {
        let end = self.len.wrapping_add(1);
        let key = HvaKey::of(&region);
        let gfn_at = partition_point(self.view().slots(), |s| s.region.base_gfn < region.base_gfn);
        let hva_at = self.hva_position(&key);
        let id_at = self.id_position(region.id);
        let id_key = IdKey {
            id: region.id,
            base_gfn: region.base_gfn,
        };
        let (Some(slots), Some(keys), Some(ids)) = (
            self.by_gfn.get_mut(..end),
            self.by_hva.get_mut(..end),
            self.by_id.get_mut(..end),
        ) else {
            return Err(TableFull);
        };
        insert_at(slots, gfn_at, Slot { region, arch });
        insert_at(keys, hva_at, key);
        insert_at(ids, id_at, id_key);
        self.len = end;
        self.update_reach(hva_at);
        Ok(())
    }

    fn remove(&mut self, region: &Region) {
        let slots = self.view().slots();
        let gfn_at = partition_point(slots, |s| s.region.base_gfn < region.base_gfn);
        if slots.get(gfn_at).map(|s| s.region.id) != Some(region.id) {
            return;
        }
        let hva_at = self.hva_position(&HvaKey::of(region));
        if let Some(slots) = self.by_gfn.get_mut(..self.len) {
            remove_at(slots, gfn_at);
        }
        if let Some(keys) = self.by_hva.get_mut(..self.len) {
            remove_at(keys, hva_at);
        }
        let id_at = self.id_position(region.id);
        if let Some(ids) = self.by_id.get_mut(..self.len) {
            remove_at(ids, id_at);
        }
        self.len = self.len.saturating_sub(1);
        self.update_reach(hva_at);
    }

    fn replace(&mut self, region: Region, arch: A) {
        let at = partition_point(self.view().slots(), |s| s.region.base_gfn < region.base_gfn);
        if let Some(slot) = self.by_gfn.get_mut(at) {
            if slot.region.id == region.id {
                *slot = Slot { region, arch };
            }
        }
    }

    fn hva_position(&self, key: &HvaKey) -> usize {
        let keys = self.by_hva.get(..self.len).unwrap_or(&[]);
        partition_point(keys, |k| k.sorts_before(key))
    }

    fn id_position(&self, id: u16) -> usize {
        let ids = self.by_id.get(..self.len).unwrap_or(&[]);
        partition_point(ids, |k| k.id < id)
    }

    /// Brings `reach` up to date from position `from` on.
    fn update_reach(&mut self, from: usize) {
        let mut reach = from
            .checked_sub(1)
            .and_then(|before| self.by_hva.get(before))
            .map_or(Hva(0), |k| k.reach);
        let changed = self.by_hva.get_mut(from..self.len).unwrap_or(&mut []);
        for key in changed {
            reach = reach.max(key.end);
            key.reach = reach;
        }
    }
}

/// Puts `value` at position `at`; the last element falls out.
fn insert_at<T: Copy>(slice: &mut [T], at: usize, value: T) {
    let mut carried = value;
    for element in slice.iter_mut().skip(at) {
        core::mem::swap(element, &mut carried);
    }
}

/// Closes the gap at position `at`; the last place is empty then.
fn remove_at<T: Copy + Default>(slice: &mut [T], at: usize) {
    let mut carried = T::default();
    for element in slice.get_mut(at..).unwrap_or(&mut []).iter_mut().rev() {
        core::mem::swap(element, &mut carried);
    }
}
