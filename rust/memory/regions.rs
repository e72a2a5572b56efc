// SPDX-License-Identifier: GPL-2.0

//! Changing the memory slots (api.rst, "KVM_SET_USER_MEMORY_REGION").
//!
//! There are two copies of the slots. A change is made to the one that nobody reads, that one is published, and when the
//! readers of the other are gone the same change is made there, too: the next change starts from it.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    addr::{
        Gfn,
        Gpa, //
    },
    memslots::{
        plan,
        Change,
        MemoryRegion,
        Region,
        SlotError,
        SlotFlags,
        SlotLimits, //
    },
};

use super::{
    dirty::DirtyLog,
    slots::Slots,
    Mmu, //
};
use crate::{
    host::host,
    sys::{
        user_mapping::UserMapping,
        usermem, //
    },
};

/// Address spaces of a VM.
const SPACES: u16 = 1;

/// What requests are held against on this host.
fn limits() -> SlotLimits {
    SlotLimits {
        address_spaces: SPACES,
        valid_flags: SlotFlags::LOG_DIRTY_PAGES.union(SlotFlags::READONLY),
        user_ptr_max: usermem::user_end(),
        untag_mask: u64::MAX,
        max_gfn: max_gfn(),
    }
}

/// The highest frame that guests can have: what the host can address, and a four-level EPT can map.
fn max_gfn() -> Gfn {
    let bits = host().implemented.host_phys_bits.clamp(32, 48);
    Gfn((1u64 << (bits - 12)) - 1)
}

impl Mmu {
    /// KVM_SET_USER_MEMORY_REGION(2). EINVAL, EEXIST if the frames are taken, ENOMEM.
    pub(crate) fn set_region(&self, request: &MemoryRegion) -> Result {
        let mut writer = self.writer.lock();
        let slots = writer.as_ref().ok_or(EIO)?;
        let change = plan(slots.table(), request, &limits()).map_err(|e| match e {
            SlotError::Invalid => EINVAL,
            SlotError::Overlap => EEXIST,
        })?;
        match change {
            Change::Nothing => Ok(()),
            Change::Create(new) => {
                let log = self.log_for(&new, None)?;
                self.publish(&mut writer, &change, log.as_ref())
            }
            Change::Delete(old) => self.publish_without(&mut writer, &old, &change, None),
            Change::Move { old, new } => {
                let log = self.log_for(&new, slots.log(&old))?;
                self.publish_without(&mut writer, &old, &change, log.as_ref())
            }
            Change::FlagsOnly { old, new } => {
                let log = self.log_for(&new, slots.log(&old))?;
                self.publish(&mut writer, &change, log.as_ref())?;
                if let Some(log) = &log {
                    self.begin_logging(&new, log);
                } else {
                    // Small pages of a log become large ones again, one fault at a time.
                    self.zap(new.base_gfn, new.end_gfn());
                }
                Ok(())
            }
        }
    }

    /// Puts memory of our own into the private slot `id`, which user space neither sees nor changes. The caller keeps the
    /// memory as long as the VM. EEXIST if the slot is in use or the frames are taken, EINVAL, ENOMEM.
    pub(crate) fn add_private_slot(&self, id: u16, gpa: Gpa, memory: &UserMapping) -> Result {
        let request = MemoryRegion {
            slot: id.into(),
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: memory.bytes(),
            userspace_addr: memory.hva(),
        };
        let mut writer = self.writer.lock();
        let slots = writer.as_ref().ok_or(EIO)?;
        if slots.table().find_id(id).is_some() {
            return Err(EEXIST);
        }
        let change =
            Change::plan_private(slots.table(), &request, &limits()).map_err(|e| match e {
                SlotError::Invalid => EINVAL,
                SlotError::Overlap => EEXIST,
            })?;
        self.publish(&mut writer, &change, None)
    }

    /// As [`Self::publish`], for a change that takes the frames of `old` away: their mappings go first, while the host's
    /// changes still find the slot, and none comes back before nobody knows it any more.
    fn publish_without(
        &self,
        writer: &mut Option<KBox<Slots>>,
        old: &Region,
        change: &Change,
        log: Option<&Arc<DirtyLog>>,
    ) -> Result {
        let (first, end) = (old.base_gfn, old.end_gfn());
        self.lock.write().invalidations.slot_leaves(first, end);
        self.zap(first, end);
        let result = self.publish(writer, change, log);
        self.lock.write().invalidations.slot_left();
        result
    }

    /// Makes `change` visible and waits until nobody sees the state before. On an error nothing has changed.
    fn publish(
        &self,
        writer: &mut Option<KBox<Slots>>,
        change: &Change,
        log: Option<&Arc<DirtyLog>>,
    ) -> Result {
        let spare = writer.as_ref().ok_or(EIO)?;
        let grown = if spare.has_room_for(change) {
            None
        } else {
            Some((spare.grown_for(change)?, spare.grown_for(change)?))
        };
        let (mut next, replacement) = match grown {
            Some((next, replacement)) => (next, Some(replacement)),
            None => (writer.take().ok_or(EIO)?, None),
        };
        let before = next.generation();
        if let Err(e) = next.apply(change, log) {
            if replacement.is_none() {
                *writer = Some(next);
            }
            return Err(e);
        }
        next.set_generation(before.start_update());
        let retired = {
            let mut lock = self.lock.write();
            if let Change::Create(new) | Change::Move { new, .. } = change {
                lock.invalidations.slot_appears(new.base_gfn, new.end_gfn());
            }
            self.slots.publish(next)
        };
        let old = retired.wait();
        self.uncover(change);
        self.count_logging(change);
        let mut spare = replacement.unwrap_or(old);
        // There is room, as there was in the other copy.
        spare.apply(change, log)?;

        let finished = before.finish_update(SPACES);
        if finished.zap_mmio {
            self.zap_all();
        }
        spare.set_generation(finished.generation);
        *writer = Some(spare);
        let guard = self.slots.srcu().read();
        self.slots.read(&guard).set_generation(finished.generation);
        Ok(())
    }
}
