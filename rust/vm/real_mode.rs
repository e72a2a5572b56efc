// SPDX-License-Identifier: GPL-2.0

//! The pages that real mode needs on a processor without unrestricted guest: its TSS and the identity map
//! (Documentation/real-mode.rst; api.rst, "KVM_SET_TSS_ADDR", "KVM_SET_IDENTITY_MAP_ADDR").
//!
//! With unrestricted guest both ioctls only check and keep their argument.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::SetOnce, //
};
use rkvm_core::{
    addr::{
        Gpa,
        PAGE_SHIFT, //
    },
    memslots::{
        IDENTITY_PAGETABLE_PRIVATE_SLOT,
        TSS_PRIVATE_SLOT, //
    },
    vmx::real_mode::{
        identity_map,
        tss, //
    },
};

use super::Vm;
use crate::{
    host::host,
    sys::{
        uabi::UserArg,
        user_mapping::UserMapping,
        usermem, //
    },
};

/// The highest address at which the three pages of KVM_SET_TSS_ADDR fit below 4 GiB.
const MAX_TSS_ADDRESS: u64 = (1 << 32) - tss::PAGES * 4096;

/// Memory of ours in the guest.
struct Placed {
    gpa: Gpa,
    _memory: UserMapping,
}

/// Where they are.
pub(crate) struct RealModePages {
    tss: SetOnce<Placed>,
    identity_map: SetOnce<Placed>,
    /// Where the identity map is to be; 0 for the default.
    identity_address: AtomicU64,
}

impl RealModePages {
    pub(crate) const fn new() -> Self {
        Self {
            tss: SetOnce::new(),
            identity_map: SetOnce::new(),
            identity_address: AtomicU64::new(0),
        }
    }

    /// The TSS, if user space has said where it may be.
    pub(crate) fn tss(&self) -> Option<Gpa> {
        self.tss.as_ref().map(|p| p.gpa)
    }

    /// The identity map, from the first vCPU on.
    pub(crate) fn identity_map(&self) -> Option<Gpa> {
        self.identity_map.as_ref().map(|p| p.gpa)
    }
}

impl Vm {
    /// KVM_SET_TSS_ADDR. EINVAL above 4 GiB, EEXIST the second time or where memory is.
    pub(super) fn set_tss_address(&self, address: u64) -> Result {
        if address > MAX_TSS_ADDRESS {
            return Err(EINVAL);
        }
        if host().vmcs.features.unrestricted_guest {
            return Ok(());
        }
        let _setup = self.setup.lock();
        let memory = UserMapping::new(tss::PAGES << PAGE_SHIFT)?;
        write(
            &memory,
            tss::IO_MAP_BASE_AT,
            &tss::IO_MAP_BASE.to_le_bytes(),
        )?;
        write(&memory, tss::LIMIT.into(), &[tss::LAST_BYTE])?;
        self.place(&self.real_mode.tss, TSS_PRIVATE_SLOT, Gpa(address), memory)
    }

    /// KVM_SET_IDENTITY_MAP_ADDR. EINVAL once there are vCPUs.
    pub(super) fn set_identity_map_address(&self, arg: UserArg) -> Result {
        let _setup = self.setup.lock();
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        let address = arg.read::<u64>()?;
        self.real_mode
            .identity_address
            .store(address, Ordering::Relaxed);
        Ok(())
    }

    /// Puts the identity map into the guest's memory, before the first vCPU is made. The caller has the set-up lock.
    /// EEXIST if the guest has memory there.
    pub(super) fn place_identity_map(&self) -> Result {
        if host().vmcs.features.unrestricted_guest || self.real_mode.identity_map().is_some() {
            return Ok(());
        }
        let gpa = match self.real_mode.identity_address.load(Ordering::Relaxed) {
            0 => Gpa(identity_map::DEFAULT_ADDRESS),
            address => Gpa(address),
        };
        let memory = UserMapping::new(1 << PAGE_SHIFT)?;
        for index in 0..identity_map::ENTRIES {
            let entry = identity_map::entry(index).to_le_bytes();
            write(&memory, u64::from(index) * 4, &entry)?;
        }
        let place = &self.real_mode.identity_map;
        self.place(place, IDENTITY_PAGETABLE_PRIVATE_SLOT, gpa, memory)
    }

    /// Puts memory of ours into the guest. The caller has the set-up lock. EEXIST if it is there already.
    fn place(&self, place: &SetOnce<Placed>, slot: u16, gpa: Gpa, memory: UserMapping) -> Result {
        self.memory.add_private_slot(slot, gpa, &memory)?;
        // Nobody else comes here with the slot just made.
        place.populate(Placed {
            gpa,
            _memory: memory,
        });
        Ok(())
    }
}

/// Writes to memory of ours. EFAULT if the process has taken it away.
fn write(memory: &UserMapping, offset: u64, bytes: &[u8]) -> Result {
    usermem::copy_to(memory.hva().wrapping_add(offset), bytes).map_err(|_| EFAULT)
}
