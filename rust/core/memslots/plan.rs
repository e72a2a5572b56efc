// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_USER_MEMORY_REGION(2): from a request to the change that it asks for, without making it.

use super::{
    Region,
    SlotFlags,
    SlotTable,
    MEM_MAX_NR_PAGES,
    MEM_SLOTS_NUM,
    USER_MEM_SLOTS, //
};
use crate::addr::{
    Gfn,
    Gpa,
    Hva,
    PAGE_OFFSET_MASK,
    PAGE_SHIFT, //
};

/// The arguments, as `struct kvm_userspace_memory_region` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Id in the low 16 bits, address space in the high ones.
    pub slot: u32,
    /// Flags, unchecked.
    pub flags: u32,
    /// First guest physical address.
    pub guest_phys_addr: Gpa,
    /// Length in bytes; 0 deletes.
    pub memory_size: u64,
    /// Where it lies in the VMM.
    pub userspace_addr: Hva,
}

impl MemoryRegion {
    /// The address space that the request is for.
    #[inline]
    pub const fn address_space(&self) -> u16 {
        (self.slot >> 16) as u16
    }

    /// The slot id inside that address space.
    #[inline]
    pub const fn id(&self) -> u16 {
        self.slot as u16
    }
}

/// What a request is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Address spaces of the VM: 1, or 2 with SMM.
    pub address_spaces: u16,
    /// The flags on offer.
    pub valid_flags: SlotFlags,
    /// The largest sum of address and size that `access_ok()` takes (the kernel's USER_PTR_MAX).
    pub user_ptr_max: Hva,
    /// Bits of a user address that are not a tag (`untagged_addr()`); all ones without LAM.
    pub untag_mask: u64,
    /// The highest frame that the MMU can map.
    pub max_gfn: Gfn,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// EINVAL.
    Invalid,
    /// EEXIST: another slot has some of these frames.
    Overlap,
}

/// What a valid request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new slot.
    Create(Region),
    /// The slot goes: unpublish, zap its frames, flush, then free what hangs on it.
    Delete(Region),
    /// The same memory at other frames: a deletion and a creation in one.
    Move {
        /// As it is.
        old: Region,
        /// As it shall be.
        new: Region,
    },
    /// Dirty logging goes on or off.
    FlagsOnly {
        /// As it is.
        old: Region,
        /// As it shall be.
        new: Region,
    },
    /// The slot is already so.
    Nothing,
}

/// Where a request comes from: the private slots are exempt from two checks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    User,
    Kernel,
}

/// The change that `request` asks of `table`, which is the current table of [`MemoryRegion::address_space`].
///
/// # Errors
///
/// [`SlotError::Overlap`] if all is in order but the frames; for anything else [`SlotError::Invalid`].
pub fn plan<A>(
    table: SlotTable<'_, A>,
    request: &MemoryRegion,
    limits: &SlotLimits,
) -> Result<Change, SlotError> {
    if request.id() >= USER_MEM_SLOTS {
        return Err(SlotError::Invalid);
    }
    plan_for(table, request, limits, Origin::User)
}

impl Change {
    /// The change that makes, or with `memory_size` 0 deletes, one of the private slots of KVM itself.
    ///
    /// # Errors
    ///
    /// As [`plan`]; a user slot id is [`SlotError::Invalid`].
    pub fn plan_private<A>(
        table: SlotTable<'_, A>,
        request: &MemoryRegion,
        limits: &SlotLimits,
    ) -> Result<Self, SlotError> {
        if request.id() < USER_MEM_SLOTS {
            return Err(SlotError::Invalid);
        }
        plan_for(table, request, limits, Origin::Kernel)
    }
}

fn plan_for<A>(
    table: SlotTable<'_, A>,
    request: &MemoryRegion,
    limits: &SlotLimits,
    origin: Origin,
) -> Result<Change, SlotError> {
    let flags = check_arguments(request, limits)?;
    let npages = request.memory_size >> PAGE_SHIFT;
    if origin == Origin::User && npages > MEM_MAX_NR_PAGES {
        return Err(SlotError::Invalid);
    }

    let old = table.find_id(request.id()).map(|s| s.region);
    if npages == 0 {
        return old.map(Change::Delete).ok_or(SlotError::Invalid);
    }
    let new = Region {
        id: request.id(),
        flags,
        base_gfn: request.guest_phys_addr.frame(),
        npages,
        userspace_addr: request.userspace_addr,
    };
    let change = match old {
        // C KVM also refuses a total of pages past 2^64: 32,767 slots of less than 2^52 pages can't reach it.
        None => Change::Create(new),
        Some(old) => modify(old, new)?,
    };
    if matches!(change, Change::Create(_) | Change::Move { .. }) {
        check_place(table, &new, limits)?;
    }
    Ok(change)
}

/// What can be said of the arguments without the table.
fn check_arguments(r: &MemoryRegion, limits: &SlotLimits) -> Result<SlotFlags, SlotError> {
    let flags = SlotFlags::from_bits(r.flags, limits.valid_flags).ok_or(SlotError::Invalid)?;
    let unaligned = (r.memory_size | r.guest_phys_addr.0 | r.userspace_addr.0) & PAGE_OFFSET_MASK;
    let host_end = r.userspace_addr.checked_add(r.memory_size);
    let valid = unaligned == 0
        && r.userspace_addr.0 & limits.untag_mask == r.userspace_addr.0
        && host_end.is_some_and(|end| end <= limits.user_ptr_max)
        && r.address_space() < limits.address_spaces
        && r.id() < MEM_SLOTS_NUM
        && r.guest_phys_addr.checked_add(r.memory_size).is_some();
    valid.then_some(flags).ok_or(SlotError::Invalid)
}

/// What an existing slot may become: memory, size and READONLY are fixed for its life.
fn modify(old: Region, new: Region) -> Result<Change, SlotError> {
    if new.userspace_addr != old.userspace_addr
        || new.npages != old.npages
        || new.flags.contains(SlotFlags::READONLY) != old.flags.contains(SlotFlags::READONLY)
    {
        return Err(SlotError::Invalid);
    }
    Ok(if new.base_gfn != old.base_gfn {
        Change::Move { old, new }
    } else if new.flags != old.flags {
        Change::FlagsOnly { old, new }
    } else {
        Change::Nothing
    })
}

/// Whether the frames are free (but for the slot itself) and within what the MMU can map.
fn check_place<A>(
    table: SlotTable<'_, A>,
    new: &Region,
    limits: &SlotLimits,
) -> Result<(), SlotError> {
    let mut others = table.in_gfn_range(new.base_gfn, new.end_gfn());
    if others.any(|s| s.region.id != new.id) {
        return Err(SlotError::Overlap);
    }
    if new.end_gfn() > limits.max_gfn.wrapping_add(1) {
        return Err(SlotError::Invalid);
    }
    Ok(())
}
