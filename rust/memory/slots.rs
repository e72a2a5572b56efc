// SPDX-License-Identifier: GPL-2.0

//! The memory slots as readers see them: storage for `rkvm_core::memslots`, replaced as a whole under SRCU.

use core::sync::atomic::{
    fence,
    AtomicU64,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    addr::{
        Gfn,
        Gpa,
        Hva, //
    },
    memslots::{
        Change,
        Generation,
        HvaKey,
        IdKey,
        Region,
        Slot,
        SlotTable,
        SlotTableMut, //
    },
};

use super::dirty::DirtyLog;

/// One version of the slots. Readers see it under SRCU and it does not change, but for its generation.
pub(crate) struct Slots {
    by_gfn: KVVec<Slot<()>>,
    by_hva: KVVec<HvaKey>,
    by_id: KVVec<IdKey>,
    /// Slots in use; the vectors are at least as long.
    len: usize,
    /// By slot id: the log of a slot that has one.
    logs: KVVec<Option<Arc<DirtyLog>>>,
    generation: AtomicU64,
}

impl Slots {
    /// No slot.
    pub(super) fn new() -> Self {
        Self {
            by_gfn: KVVec::new(),
            by_hva: KVVec::new(),
            by_id: KVVec::new(),
            len: 0,
            logs: KVVec::new(),
            generation: AtomicU64::new(Generation::first(0).to_bits()),
        }
    }

    /// The lookups.
    #[inline]
    pub(super) fn table(&self) -> SlotTable<'_, ()> {
        SlotTable::new(
            self.by_gfn.get(..self.len).unwrap_or(&[]),
            self.by_hva.get(..self.len).unwrap_or(&[]),
            self.by_id.get(..self.len).unwrap_or(&[]),
        )
    }

    /// The generation.
    #[inline]
    pub(super) fn generation(&self) -> Generation {
        Generation::from_bits(self.generation.load(Ordering::Acquire))
    }

    pub(super) fn set_generation(&self, g: Generation) {
        self.generation.store(g.to_bits(), Ordering::Release);
    }

    /// The log of a slot.
    #[inline]
    pub(super) fn log(&self, region: &Region) -> Option<&Arc<DirtyLog>> {
        if !region.logs_dirty_pages() {
            return None;
        }
        self.logs.get(usize::from(region.id))?.as_ref()
    }

    /// Records a write by the kernel or the guest, which everybody sees already.
    #[inline]
    pub(super) fn mark_dirty(&self, region: &Region, gfn: Gfn) {
        if region.logs_dirty_pages() {
            if let (Some(log), Some(page)) = (self.log(region), region.page_index(gfn)) {
                log.mark(page);
            }
        }
    }

    /// As [`Self::mark_dirty`], behind a plain store of the kernel to the page.
    #[inline]
    pub(super) fn mark_stored(&self, region: &Region, gfn: Gfn) {
        if region.logs_dirty_pages() {
            // A bit that is found set may be taken at once, by somebody who then reads the page: the data must have arrived.
            fence(Ordering::SeqCst);
            self.mark_dirty(region, gfn);
        }
    }

    /// Where a guest physical address lies in the VMM, and in which slot.
    #[inline]
    pub(super) fn hva(&self, gpa: Gpa) -> Option<(Hva, &Region)> {
        let slot = self.table().find(gpa.frame())?;
        Some((slot.region.gpa_to_hva(gpa)?, &slot.region))
    }

    /// Whether `change` can be made without allocation.
    pub(super) fn has_room_for(&self, change: &Change) -> bool {
        let room = |r: &Region| !r.logs_dirty_pages() || self.logs.len() > usize::from(r.id);
        match change {
            Change::Create(new) => self.len < self.by_gfn.len() && room(new),
            Change::Move { new, .. } | Change::FlagsOnly { new, .. } => room(new),
            Change::Delete(_) | Change::Nothing => true,
        }
    }

    /// As [`Self::hva`], looking first where the last address was found; `hint` may be anything.
    #[inline]
    pub(super) fn hva_near(&self, gpa: Gpa, hint: &mut u16) -> Option<(Hva, &Region)> {
        let gfn = gpa.frame();
        if let Some(slot) = self.by_gfn.get(usize::from(*hint)) {
            // Beyond the slots in use a slot has no pages.
            if slot.region.contains(gfn) {
                return Some((slot.region.gpa_to_hva(gpa)?, &slot.region));
            }
        }
        let slot = self.table().find_near(gfn, hint)?;
        Some((slot.region.gpa_to_hva(gpa)?, &slot.region))
    }

    /// A copy in which there is room for `change`, and for some more. ENOMEM.
    pub(super) fn grown_for(&self, change: &Change) -> Result<KBox<Self>> {
        let capacity = self.len.saturating_mul(2).max(16);
        let mut copy = Self::new();
        copy.set_generation(self.generation());
        copy.len = self.len;
        copy.by_gfn = grown(&self.by_gfn, self.len, capacity)?;
        copy.by_hva = grown(&self.by_hva, self.len, capacity)?;
        copy.by_id = grown(&self.by_id, self.len, capacity)?;
        let mut logs = self.logs.len();
        if let Change::Create(new) | Change::Move { new, .. } | Change::FlagsOnly { new, .. } =
            change
        {
            if new.logs_dirty_pages() {
                logs = logs.max(usize::from(new.id).saturating_add(1));
            }
        }
        copy.logs = KVVec::with_capacity(logs, GFP_KERNEL_ACCOUNT)?;
        copy.logs
            .extend_from_slice(&self.logs, GFP_KERNEL_ACCOUNT)?;
        copy.logs.resize(logs, None, GFP_KERNEL_ACCOUNT)?;
        Ok(KBox::new(copy, GFP_KERNEL_ACCOUNT)?)
    }

    /// Makes a change for which there is room; `log` goes to the slot if it logs writes.
    pub(super) fn apply(&mut self, change: &Change, log: Option<&Arc<DirtyLog>>) -> Result {
        let mut table = SlotTableMut::new(
            &mut self.by_gfn,
            &mut self.by_hva,
            &mut self.by_id,
            self.len,
        );
        table.apply(change, ()).map_err(|_| ENOMEM)?;
        self.len = table.len();
        match change {
            Change::Create(r) | Change::Move { new: r, .. } | Change::FlagsOnly { new: r, .. } => {
                self.set_log(r.id, log.cloned());
            }
            Change::Delete(r) => self.set_log(r.id, None),
            Change::Nothing => (),
        }
        Ok(())
    }

    fn set_log(&mut self, id: u16, log: Option<Arc<DirtyLog>>) {
        if let Some(place) = self.logs.get_mut(usize::from(id)) {
            *place = log;
        }
    }
}

/// The first `len` elements of `old`, and default ones up to `capacity`.
fn grown<T: Copy + Default>(old: &KVVec<T>, len: usize, capacity: usize) -> Result<KVVec<T>> {
    let mut new = KVVec::with_capacity(capacity, GFP_KERNEL_ACCOUNT)?;
    new.extend_from_slice(old.get(..len).unwrap_or(&[]), GFP_KERNEL_ACCOUNT)?;
    new.resize(capacity, T::default(), GFP_KERNEL_ACCOUNT)?;
    Ok(new)
}
