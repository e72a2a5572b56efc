// SPDX-License-Identifier: GPL-2.0

//! The memory manager as data: EPT over a trait for table memory, and the walk of the guest's own tables.
//!
//! SDM volume 3, "The Extended Page Table Mechanism (EPT)" and "Paging"; the counterpart of C KVM's `mmu/tdp_mmu.c`,
//! `mmu/spte.c` and `mmu/paging_tmpl.h`. Nothing here takes a lock or flushes a TLB: each operation says under which
//! side of `mmu_lock` it runs and what has to be flushed after it.
//!
//! - [`level`], [`entry`], [`mmio`]: what an entry is.
//! - [`memory`]: what the glue supplies, and how tables that were taken out reach their end ([`memory::Pending`]).
//! - [`ept`], [`map`], [`zap`], [`age`]: the operations.
//! - [`huge`], [`ahead`], [`invalidate`]: which level a fault may map, how many frames, and whether it is still allowed to.
//! - [`walk`]: guest virtual to guest physical.

pub mod age;
pub mod ahead;
mod cursor;
pub mod entry;
pub mod ept;
pub mod huge;
pub mod invalidate;
pub mod level;
pub mod map;
pub mod memory;
pub mod mmio;
pub mod walk;
pub mod zap;

#[cfg(test)]
mod tests;
