// SPDX-License-Identifier: GPL-2.0

//! EPT violations and misconfigurations: from a guest physical address to a mapping, or to "this is MMIO".

use core::sync::atomic::{
    fence,
    Ordering, //
};

use kernel::prelude::*;
use rkvm_core::{
    addr::{
        Gfn,
        Gpa,
        Hva, //
    },
    memslots::{
        Generation,
        Region, //
    },
    mmu::{
        entry::{
            Access,
            MemoryType, //
        },
        huge::fault_level,
        invalidate::Sample,
        level::Level,
        map::{
            MapOutcome,
            MapRequest, //
        },
    },
    stats::VcpuStats,
};

use super::{
    slots::Slots,
    tables::TableCache,
    walk::PagingCache,
    Guarded,
    Mmu, //
};
use crate::sys::gup::{
    host_page,
    mapping_level,
    report_poison,
    HostLevel,
    HostPage,
    Unavailable,
    Want, //
};

/// What a vCPU keeps for its faults and walks.
pub(crate) struct VcpuMmu {
    /// Where the last slot was found.
    hint: u16,
    /// Spare tables.
    pub(super) cache: TableCache,
    /// The guest's paging mode.
    pub(super) paging: PagingCache,
    /// Frames that were found to be MMIO.
    mmio: MmioFrames,
}

/// Places for frames that a vCPU has found to be MMIO: those of its APIC, the I/O APIC and a few devices.
const MMIO_FRAMES: usize = 8;

/// Frames without a slot, each with the generation of the slots in which that was seen.
struct MmioFrames([Option<(Gfn, Generation)>; MMIO_FRAMES]);

impl MmioFrames {
    #[inline]
    fn place(gfn: Gfn) -> usize {
        // The chips differ in bits 8 and up, the devices of a bus in the lowest ones.
        (gfn.0 ^ gfn.0 >> 8) as usize % MMIO_FRAMES
    }

    /// The generation in which `gfn` was seen.
    #[inline]
    fn seen(&self, gfn: Gfn) -> Option<Generation> {
        match self.0.get(Self::place(gfn)) {
            Some(Some((there, generation))) if *there == gfn => Some(*generation),
            _ => None,
        }
    }

    /// `gfn` is MMIO in this generation, unless that is of slots between two states.
    fn add(&mut self, gfn: Gfn, generation: Generation) {
        if generation.is_updating() {
            return;
        }
        if let Some(place) = self.0.get_mut(Self::place(gfn)) {
            *place = Some((gfn, generation));
        }
    }
}

impl VcpuMmu {
    pub(crate) const fn new() -> Self {
        Self {
            hint: 0,
            cache: TableCache::new(),
            paging: PagingCache::new(),
            mmio: MmioFrames([None; MMIO_FRAMES]),
        }
    }

    /// The generation of the slots in which this vCPU has found `gpa` to be MMIO, if it has.
    #[inline]
    pub(crate) fn seen_mmio(&self, gpa: Gpa) -> Option<Generation> {
        self.mmio.seen(gpa.frame())
    }

    /// The guest's CPUID has changed, and with it perhaps the format of its page tables.
    pub(crate) fn forget_paging(&mut self) {
        self.paging.forget();
    }
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The guest can go on.
    Resume,
    /// No slot answers this access: the instruction has to be emulated.
    Emulate,
}

/// What a misconfigured entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misconfigured {
    /// MMIO, by an entry that is up to date.
    Mmio,
    /// The entry is old, or gone: to be treated as a violation.
    Refault,
    /// No entry of ours can be so.
    Bug,
}

/// A fault on a frame of a slot.
struct Request<'a> {
    slots: &'a Slots,
    region: &'a Region,
    gfn: Gfn,
    hva: Hva,
    need: Access,
    sample: Sample,
}

/// The end of a try to install a mapping.
enum Installed {
    Outcome(MapOutcome),
    /// The host changes the page: not now.
    Invalidated,
}

impl Mmu {
    /// Maps the frame of `gpa` for an access that needs `need`.
    ///
    /// EFAULT if the VMM has no memory there, EINTR for a signal, ENOMEM. Sleeps.
    pub(crate) fn fault(
        &self,
        vcpu: &mut VcpuMmu,
        stats: &VcpuStats,
        gpa: Gpa,
        need: Access,
    ) -> Result<Fault> {
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        let gfn = gpa.frame();
        vcpu.cache.top_up()?;
        let Some(slot) = slots.table().find_near(gfn, &mut vcpu.hint) else {
            return Ok(self.slotless_fault(vcpu, stats, slots, gfn));
        };
        let region = &slot.region;
        if need.contains(Access::W) && !region.is_writable() {
            return Ok(Fault::Emulate);
        }
        let hva = region.gfn_to_hva(gfn).ok_or(EFAULT)?;
        let sample = Sample(self.sequence.load(Ordering::Acquire));
        // The page is not to be looked up before the sample was taken.
        fence(Ordering::Acquire);
        let want = Want {
            write: need.contains(Access::W),
            map_writable: region.is_writable(),
            no_wait: false,
            interruptible: true,
        };
        let page = match host_page(hva, want) {
            Ok(page) => page,
            Err(Unavailable::HwPoison) => {
                report_poison(hva);
                return Ok(Fault::Resume);
            }
            Err(Unavailable::Interrupted) => return Err(EINTR),
            Err(Unavailable::Fault | Unavailable::NeedsIo) => return Err(EFAULT),
        };
        let request = Request {
            slots,
            region,
            gfn,
            hva,
            need,
            sample,
        };
        match self.install(vcpu, &request, page) {
            Installed::Outcome(MapOutcome::Installed { .. }) => stats.pf_fixed.inc(),
            Installed::Outcome(MapOutcome::Spurious) => stats.pf_spurious.inc(),
            Installed::Outcome(MapOutcome::Conflict) => self.zap(gfn, gfn.wrapping_add(1)),
            // Slots don't reach that far.
            Installed::Outcome(MapOutcome::OutOfRange) => return Err(EIO),
            // The guest tries again, with a full cache.
            Installed::Outcome(MapOutcome::Raced | MapOutcome::OutOfTables)
            | Installed::Invalidated => (),
        }
        Ok(Fault::Resume)
    }

    /// The part of a fault under mmu_lock.
    fn install(&self, vcpu: &mut VcpuMmu, r: &Request<'_>, page: HostPage) -> Installed {
        let lock = self.lock.read();
        if lock.invalidations.must_retry(r.sample, r.gfn, 1) {
            return Installed::Invalidated;
        }
        let Some(level) = self.level(&lock, r, &page) else {
            return Installed::Invalidated;
        };
        let mut access = Access::RWX;
        if !r.region.is_writable() || (r.region.logs_dirty_pages() && !r.need.contains(Access::W)) {
            access = access.without(Access::W);
        }
        let request = MapRequest {
            gfn: r.gfn,
            pfn: page.pfn(),
            level,
            access,
            host_writable: page.writable() && r.region.is_writable(),
            fault: r.need,
            memory_type: if page.is_counted() {
                MemoryType::WriteBack
            } else {
                MemoryType::Uncacheable
            },
            ignore_pat: true,
        };
        let tables = self.tables();
        let outcome = self
            .ept(&tables)
            .map(&request, &mut vcpu.cache.source(&self.stats));
        let mut written = false;
        if let MapOutcome::Installed { entry, .. } = outcome {
            written = entry.permits(Access::W);
            if written {
                r.slots.mark_dirty(r.region, r.gfn);
            }
        }
        page.release(written);
        Installed::Outcome(outcome)
    }

    /// The size of the page to map; `None` if a part of it is being changed by the host.
    fn level(&self, lock: &Guarded, r: &Request<'_>, page: &HostPage) -> Option<Level> {
        if r.region.logs_dirty_pages() || !page.may_be_huge() {
            return Some(Level::Page4K);
        }
        let possible = fault_level(r.region, r.gfn, Level::Page1G, self.format.max_leaf);
        if possible == Level::Page4K {
            return Some(Level::Page4K);
        }
        let host = match mapping_level(r.hva) {
            HostLevel::K4 => return Some(Level::Page4K),
            HostLevel::M2 => Level::Page2M,
            HostLevel::G1 => Level::Page1G,
        };
        let level = fault_level(r.region, r.gfn, host, possible);
        let retry = lock
            .invalidations
            .must_retry(r.sample, level.base(r.gfn), level.pages());
        (!retry).then_some(level)
    }

    /// A frame without a slot: the APIC-access page, or MMIO, which is remembered in the EPT, so that the next access exits
    /// as a misconfiguration.
    fn slotless_fault(
        &self,
        vcpu: &mut VcpuMmu,
        stats: &VcpuStats,
        slots: &Slots,
        gfn: Gfn,
    ) -> Fault {
        let lock = self.lock.read();
        match self.map_apic_access(vcpu, gfn, &lock) {
            Some(MapOutcome::Conflict | MapOutcome::OutOfRange) => return Fault::Emulate,
            Some(_) => return Fault::Resume,
            None => {}
        }
        let generation = slots.generation();
        if !generation.is_updating() {
            let entry = self.mmio.encode(gfn, generation);
            let tables = self.tables();
            let outcome =
                self.ept(&tables)
                    .map_mmio(gfn, entry, &mut vcpu.cache.source(&self.stats));
            if matches!(outcome, MapOutcome::Installed { .. }) {
                stats.pf_mmio_spte_created.inc();
            }
        }
        Fault::Emulate
    }

    /// What the misconfigured entry for `gpa` says. As long as the slots don't change, a frame that was MMIO is MMIO.
    #[inline]
    pub(crate) fn misconfigured(&self, vcpu: &mut VcpuMmu, gpa: Gpa) -> Misconfigured {
        let guard = self.slots.srcu().read();
        let generation = self.slots.read(&guard).generation();
        if vcpu.mmio.seen(gpa.frame()) == Some(generation) {
            return Misconfigured::Mmio;
        }
        let found = self.look_up_misconfigured(gpa, generation);
        if found == Misconfigured::Mmio {
            vcpu.mmio.add(gpa.frame(), generation);
        }
        found
    }

    fn look_up_misconfigured(&self, gpa: Gpa, generation: Generation) -> Misconfigured {
        let tables = self.tables();
        let found = {
            let _lock = self.lock.read();
            self.ept(&tables).lookup(gpa.frame())
        };
        let Some(found) = found else {
            return Misconfigured::Bug;
        };
        match self.mmio.decode(found.entry) {
            Some(m) if m.is_current(generation) => Misconfigured::Mmio,
            Some(_) => Misconfigured::Refault,
            None if found.entry.is_present() => Misconfigured::Bug,
            None => Misconfigured::Refault,
        }
    }
}
