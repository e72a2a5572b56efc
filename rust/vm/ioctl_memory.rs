// SPDX-License-Identifier: GPL-2.0

//! ioctls on a VM's fd that set up its memory (api.rst, "KVM_SET_USER_MEMORY_REGION" and others).

use kernel::prelude::*;
use rkvm_core::{
    addr::{
        Gpa,
        Hva, //
    },
    memslots::MemoryRegion, //
};

use super::Vm;
use crate::sys::uabi::{
    kvm_clear_dirty_log,
    kvm_dirty_log,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    UserArg, //
};

/// The flags that KVM_SET_USER_MEMORY_REGION knows: the structure has no fields for later ones.
const FIRST_FLAGS: u32 = 3;
/// KVM_SET_NR_MMU_PAGES wants at least so many.
const MIN_MMU_PAGES: u64 = 64;

/// KVM_SET_USER_MEMORY_REGION.
pub(super) fn set_user_memory_region(vm: &Vm, arg: UserArg) -> Result<usize> {
    let r: kvm_userspace_memory_region = arg.read()?;
    if r.flags & !FIRST_FLAGS != 0 {
        return Err(EINVAL);
    }
    let request = MemoryRegion {
        slot: r.slot,
        flags: r.flags,
        guest_phys_addr: Gpa(r.guest_phys_addr),
        memory_size: r.memory_size,
        userspace_addr: Hva(r.userspace_addr),
    };
    vm.memory.set_region(&request).map(|()| 0)
}

/// KVM_SET_USER_MEMORY_REGION2, which can do no more as long as there is no guest_memfd.
pub(super) fn set_user_memory_region2(vm: &Vm, arg: UserArg) -> Result<usize> {
    let r: kvm_userspace_memory_region2 = arg.read()?;
    let request = MemoryRegion {
        slot: r.slot,
        flags: r.flags,
        guest_phys_addr: Gpa(r.guest_phys_addr),
        memory_size: r.memory_size,
        userspace_addr: Hva(r.userspace_addr),
    };
    vm.memory.set_region(&request).map(|()| 0)
}

/// KVM_SET_NR_MMU_PAGES: limits the pages of shadow paging, of which EPT needs none.
pub(super) fn set_nr_mmu_pages(pages: u64) -> Result<usize> {
    if pages < MIN_MMU_PAGES {
        return Err(EINVAL);
    }
    Ok(0)
}

/// KVM_GET_DIRTY_LOG.
pub(super) fn get_dirty_log(vm: &Vm, arg: UserArg) -> Result<usize> {
    let log: kvm_dirty_log = arg.read()?;
    let to = UserArg::from_address(log.__bindgen_anon_1.bindgen_union_field);
    vm.memory.get_dirty_log(log.slot, to).map(|()| 0)
}

/// KVM_GET_DIRTY_LOG of a 32-bit program, whose address is followed by four bytes that mean nothing.
pub(super) fn compat_get_dirty_log(vm: &Vm, arg: UserArg) -> Result<usize> {
    let [slot, _, bitmap, _]: [u32; 4] = arg.read()?;
    let to = UserArg::from_address(bitmap.into());
    vm.memory.get_dirty_log(slot, to).map(|()| 0)
}

/// KVM_CLEAR_DIRTY_LOG.
pub(super) fn clear_dirty_log(vm: &Vm, arg: UserArg) -> Result<usize> {
    let log: kvm_clear_dirty_log = arg.read()?;
    let from = UserArg::from_address(log.__bindgen_anon_1.bindgen_union_field);
    let pages = log.num_pages.into();
    vm.memory
        .clear_dirty_log(log.slot, log.first_page, pages, from)
        .map(|()| 0)
}

/// KVM_CLEAR_DIRTY_LOG of a 32-bit program.
pub(super) fn compat_clear_dirty_log(vm: &Vm, arg: UserArg) -> Result<usize> {
    let [slot, pages, first, first_high, bitmap, _]: [u32; 6] = arg.read()?;
    let first = u64::from(first) | u64::from(first_high) << 32;
    let from = UserArg::from_address(bitmap.into());
    vm.memory
        .clear_dirty_log(slot, first, pages.into(), from)
        .map(|()| 0)
}
