// SPDX-License-Identifier: GPL-2.0

//! Guest memory.

use kernel::prelude::*;
use rkvm_core::addr::Gpa;

/// KVM_CAP_NR_MEMSLOTS.
pub(crate) const USER_SLOTS: u32 = 32764;

/// The memory of a VM.
pub(crate) struct Memory {}

/// An access to guest memory that no slot answers, or whose host page is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl Memory {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {})
    }

    /// Whether the caller is the process that made the VM.
    pub(crate) fn is_owner(&self) -> bool {
        true
    }

    /// The EPT pointer for the VMCS.
    pub(crate) fn ept_pointer(&self) -> u64 {
        0
    }

    /// Reads guest memory; may cross pages.
    pub(crate) fn read(&self, _gpa: Gpa, _to: &mut [u8]) -> Result<(), NoMemory> {
        Err(NoMemory)
    }

    /// Writes guest memory; may cross pages.
    pub(crate) fn write(&self, _gpa: Gpa, _from: &[u8]) -> Result<(), NoMemory> {
        Err(NoMemory)
    }

    /// Whether a slot answers for the address, for writes if `write`.
    pub(crate) fn is_backed(&self, _gpa: Gpa, _write: bool) -> bool {
        false
    }

    /// Atomically replaces 1, 2, 4, 8 or 16 bytes if they equal `old`.
    pub(crate) fn compare_exchange(&self, _gpa: Gpa, _bytes: u8, _old: u128, _new: u128) -> Result<Swapped, NoMemory> {
        Err(NoMemory)
    }
}

/// The answer to a compare-and-exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// Memory held the expected value and was replaced.
    Done,
    /// Memory held something else.
    Changed,
}
