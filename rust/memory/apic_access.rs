// SPDX-License-Identifier: GPL-2.0

//! The APIC-access page: what the EPT maps where guests expect the registers of their local APIC, so that the processor
//! can tell an access to them from one to memory (SDM, "Virtualizing Memory-Mapped APIC Accesses").
//!
//! The page belongs to the module, not to the VMM's memory: nothing of the host ever moves it or takes it away. It is
//! mapped only while every APIC of the VM is at its default place, because all vCPUs share the EPT, and one whose APIC
//! is elsewhere must not find a page of memory there. A slot that the VMM puts at the address has precedence.

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::SetOnce, //
};
use rkvm_core::{
    addr::{
        Gfn,
        Gpa,
        Hpa, //
    },
    irq::lapic::apic_base,
    memslots::Change,
    mmu::{
        entry::{
            Access,
            MemoryType, //
        },
        level::Level,
        map::{
            MapOutcome,
            MapRequest, //
        },
    },
};

use super::{
    fault::VcpuMmu,
    Guarded,
    Mmu, //
};
use crate::sys::page::TablePage;

/// Where it is mapped.
const FRAME: Gfn = Gpa(apic_base::DEFAULT).frame();

/// The page of a VM, and whether it may be mapped.
pub(super) struct ApicAccess {
    /// Made with the first vCPU that has its APIC in the kernel.
    page: SetOnce<TablePage>,
    /// vCPUs whose APIC is not at its default place. Changed before the mapping is zapped, read under mmu_lock.
    away: AtomicU32,
}

impl ApicAccess {
    pub(super) const fn new() -> Self {
        Self {
            page: SetOnce::new(),
            away: AtomicU32::new(0),
        }
    }

    /// The page, if `gfn` is its place and it may be mapped there as far as the APICs are concerned.
    fn page_for(&self, gfn: Gfn, _lock: &Guarded) -> Option<&TablePage> {
        if gfn != FRAME || self.away.load(Ordering::Acquire) != 0 {
            return None;
        }
        self.page.as_ref()
    }
}

impl Mmu {
    /// The APIC-access page, for the VMCS. The caller has the VM's set-up lock. ENOMEM.
    pub(crate) fn apic_access_page(&self) -> Result<Hpa> {
        let page = &self.apic_access.page;
        if page.as_ref().is_none() {
            page.populate(TablePage::new()?);
        }
        page.as_ref().map(TablePage::hpa).ok_or(ENOMEM)
    }

    /// A vCPU's APIC leaves its default place, or comes back to it. When this returns, no vCPU meets the page any more
    /// that must not.
    pub(crate) fn apic_moved(&self, away: bool) {
        let last = if away {
            self.apic_access.away.fetch_add(1, Ordering::AcqRel);
            true
        } else {
            self.apic_access.away.fetch_sub(1, Ordering::AcqRel) == 1
        };
        // On the way back what says "MMIO" has to go, so that the page is mapped again.
        if last && self.apic_access.page.as_ref().is_some() {
            self.zap(FRAME, FRAME.wrapping_add(1));
        }
    }

    /// A slot may have appeared where the page is: nobody installs it there any more, now it is taken out.
    pub(super) fn uncover(&self, change: &Change) {
        if let Change::Create(new) | Change::Move { new, .. } = change {
            if new.contains(FRAME) && self.apic_access.page.as_ref().is_some() {
                self.zap(FRAME, FRAME.wrapping_add(1));
            }
        }
    }

    /// Maps the page at `gfn`, which no slot has, if that is its place; `None` if not. Under mmu_lock.
    pub(super) fn map_apic_access(
        &self,
        vcpu: &mut VcpuMmu,
        gfn: Gfn,
        lock: &Guarded,
    ) -> Option<MapOutcome> {
        let page = self.apic_access.page_for(gfn, lock)?;
        let request = MapRequest {
            gfn,
            pfn: page.hpa().frame(),
            level: Level::Page4K,
            // Whatever the guest does there exits because of the page, not because of its rights.
            access: Access::RWX,
            host_writable: true,
            fault: Access::RWX,
            memory_type: MemoryType::WriteBack,
            ignore_pat: true,
        };
        let tables = self.tables();
        let mut source = vcpu.cache.source(&self.stats);
        Some(self.ept(&tables).map(&request, &mut source))
    }
}
