// SPDX-License-Identifier: GPL-2.0

//! Memory of our own in the address space of the VM's owner: what backs the private memory slots.
//!
//! It is user memory like that of all slots, so that one way of mapping serves them all. C header: `include/linux/mm.h`.

use super::addr::Hva;
use super::bindings;
use super::mmu_notifier::MmRef;
use kernel::prelude::*;

/// Anonymous memory in the address space of the process that made it, zeroed.
///
/// The process can write it and take it away, which harms nobody but its own guest.
pub(crate) struct UserMapping {
    mm: MmRef,
    hva: Hva,
    bytes: u64,
}

impl UserMapping {
    /// Maps `bytes`, a multiple of the page size, in the address space of the calling thread. ENOMEM, and whatever
    /// mmap(2) answers.
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let mm = MmRef::of_current().ok_or(EIO)?;
        // SAFETY: Adds a mapping where nothing is, to an address space that a thread of its own is in.
        let address = unsafe { bindings::rkvm_map_anonymous(bytes as usize) };
        // Errors are the last addresses there are.
        let error = address as isize;
        if (-4095..0).contains(&error) {
            return Err(Error::from_errno(error as i32));
        }
        Ok(Self {
            mm,
            hva: Hva(address as u64),
            bytes,
        })
    }

    /// The first address.
    pub(crate) fn hva(&self) -> Hva {
        self.hva
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for UserMapping {
    fn drop(&mut self) {
        // From another process, or in one that exits, it goes with the address space.
        if self.mm.is_current() {
            // SAFETY: User memory: nobody in the kernel has a reference to it.
            unsafe { bindings::rkvm_unmap(self.hva.0 as usize, self.bytes as usize) };
        }
    }
}
