// SPDX-License-Identifier: GPL-2.0

//! EPT violations: from a guest physical address to a mapping.

use core::sync::atomic::{
    fence,
    Ordering, //
};

use kernel::prelude::*;
use rkvm_core::{
    addr::{
        Gfn,
        Gpa,
        Hva,
        Pfn, //
    },
    memslots::{
        Generation,
        Region, //
    },
    mmu::{
        ahead::Ahead,
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
    mmio::MmioFrames,
    slots::Slots,
    tables::TableCache,
    walk::PagingCache,
    Guarded,
    Mmu, //
};
use crate::{
    host::host,
    sys::{
        gup::{
            fault_in,
            host_page,
            report_poison,
            Unavailable,
            Want, //
        },
        host_tables::{
            mapped,
            mapping_level,
            HostLevel,
            MappedPage,
            MOST_PAGES, //
        },
        params, //
    },
    vcpu::requests::Request as VcpuRequest, //
};

/// A device of the host is about to be mapped, or was.
const DEVICE_COMES: u32 = 1;
/// And all vCPUs know.
const DEVICE_ANNOUNCED: u32 = 2;

/// What a vCPU keeps for its faults and walks.
pub(crate) struct VcpuMmu {
    /// Where the last slot was found.
    hint: u16,
    /// Whether its faults come in order.
    ahead: Ahead,
    /// Spare tables.
    pub(super) cache: TableCache,
    /// The guest's paging mode.
    pub(super) paging: PagingCache,
    /// Frames that were found to be MMIO.
    pub(super) mmio: MmioFrames,
}

impl VcpuMmu {
    pub(crate) const fn new() -> Self {
        Self {
            hint: 0,
            ahead: Ahead::new(),
            cache: TableCache::new(),
            paging: PagingCache::new(),
            mmio: MmioFrames::new(),
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

/// A fault on a frame of a slot.
struct Request<'a> {
    slots: &'a Slots,
    region: &'a Region,
    gfn: Gfn,
    hva: Hva,
    need: Access,
}

/// The page of the host for a request.
struct Page {
    pfn: Pfn,
    writable: bool,
    host: Level,
    memory_type: MemoryType,
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
        let request = Request {
            slots,
            region,
            gfn,
            hva: region.gfn_to_hva(gfn).ok_or(EFAULT)?,
            need,
        };
        let installed = match self.install_mapped_or_new(vcpu, &request) {
            Some(installed) => installed,
            None => match self.install_any(vcpu, &request) {
                Ok(installed) => installed,
                Err(Unavailable::HwPoison) => {
                    report_poison(request.hva);
                    return Ok(Fault::Resume);
                }
                Err(Unavailable::ReadOnly) => return Ok(Fault::Emulate),
                Err(Unavailable::Interrupted) => return Err(EINTR),
                Err(Unavailable::Fault) => return Err(EFAULT),
            },
        };
        match installed {
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

    /// Installs a page that the host has, or has at once because nothing was there yet. `None` if there is more to it.
    fn install_mapped_or_new(&self, vcpu: &mut VcpuMmu, r: &Request<'_>) -> Option<Installed> {
        let frames = vcpu.ahead.frames(r.gfn, frames_limit(r));
        self.install_mapped(vcpu, r, frames).or_else(|| {
            if !r.need.contains(Access::W) || !fault_in(r.hva, frames) {
                return None;
            }
            self.install_mapped(vcpu, r, frames)
        })
    }

    /// Installs a page that the host has mapped as the access needs it, and those behind it as far as they are there and
    /// `frames` allows. The lock keeps the host from changing anything about them meanwhile.
    fn install_mapped(
        &self,
        vcpu: &mut VcpuMmu,
        r: &Request<'_>,
        frames: u32,
    ) -> Option<Installed> {
        let lock = self.lock.read();
        if lock.invalidations.blocks(r.gfn, 1) {
            return Some(Installed::Invalidated);
        }
        let pages = mapped(r.hva, frames);
        let mut pages = pages.iter();
        let first = pages.next()?;
        if r.need.contains(Access::W) && !first.writable() {
            return None;
        }
        let page = Page {
            pfn: first.pfn(),
            writable: first.writable(),
            host: level_of(first.level()),
            memory_type: MemoryType::WriteBack,
        };
        let Some(request) = self.map_request(&lock, r, &page) else {
            return Some(Installed::Invalidated);
        };
        let outcome = self.map(vcpu, r, &request);
        if let MapOutcome::Installed { level, entry } = outcome {
            first.note_use(true, entry.permits(Access::W));
            let along = if frames > 1 && level == Level::Page4K {
                self.map_ahead(&lock, r, &request, pages)
            } else {
                0
            };
            vcpu.ahead.mapped(r.gfn, along.saturating_add(1));
        }
        Some(Installed::Outcome(outcome))
    }

    /// Maps the pages behind the one of `request`; returns how many.
    fn map_ahead(
        &self,
        lock: &Guarded,
        r: &Request<'_>,
        request: &MapRequest,
        pages: impl Iterator<Item = MappedPage> + Clone,
    ) -> u64 {
        let next = r.gfn.wrapping_add(1);
        if lock.invalidations.blocks(next, u64::from(MOST_PAGES)) {
            return 0;
        }
        let writable = r.region.is_writable();
        let tables = self.tables();
        let leaves = pages.clone().map(|p| (p.pfn(), p.writable() && writable));
        let mapped = self.ept(&tables).map_ahead(request, leaves);
        for page in pages.take(mapped as usize) {
            page.note_use(false, page.writable() && writable);
        }
        mapped
    }

    /// Gets the page by whatever way there is, and installs it.
    fn install_any(&self, vcpu: &mut VcpuMmu, r: &Request<'_>) -> Result<Installed, Unavailable> {
        let sample = Sample(self.sequence.load(Ordering::Acquire));
        // The page is not to be looked up before the sample was taken.
        fence(Ordering::Acquire);
        let want = Want {
            write: r.need.contains(Access::W),
            map_writable: r.region.is_writable(),
        };
        let held = host_page(r.hva, want)?;
        if held.is_device() && host().leaks_to_devices {
            self.announce_device();
        }
        let lock = self.lock.read();
        if lock.invalidations.must_retry(sample, r.gfn, 1) {
            return Ok(Installed::Invalidated);
        }
        let page = Page {
            pfn: held.pfn(),
            writable: held.writable(),
            host: if held.may_be_huge() {
                level_of(mapping_level(r.hva))
            } else {
                Level::Page4K
            },
            memory_type: if held.is_device() {
                MemoryType::Uncacheable
            } else {
                MemoryType::WriteBack
            },
        };
        let Some(request) = self.map_request(&lock, r, &page) else {
            return Ok(Installed::Invalidated);
        };
        let outcome = self.map(vcpu, r, &request);
        held.release(
            matches!(outcome, MapOutcome::Installed { entry, .. } if entry.permits(Access::W)),
        );
        Ok(Installed::Outcome(outcome))
    }

    /// The guest is about to get a device of the host: when this returns, no vCPU is in the guest that does not know.
    #[cold]
    fn announce_device(&self) {
        if self.devices.load(Ordering::Acquire) == DEVICE_ANNOUNCED {
            return;
        }
        self.devices.fetch_max(DEVICE_COMES, Ordering::AcqRel);
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(VcpuRequest::DeviceMapped);
            vcpu.requests.kick_and_wait();
        }
        self.devices.store(DEVICE_ANNOUNCED, Ordering::Release);
    }

    /// Whether [`Self::announce_device`] was called.
    pub(crate) fn maps_devices(&self) -> bool {
        self.devices.load(Ordering::Acquire) != 0
    }

    /// What to ask the EPT for; `None` if a part of a large page is being changed by the host.
    fn map_request(&self, lock: &Guarded, r: &Request<'_>, page: &Page) -> Option<MapRequest> {
        let level = fault_level(r.region, r.gfn, page.host, self.format.max_leaf);
        if level > Level::Page4K && lock.invalidations.blocks(level.base(r.gfn), level.pages()) {
            return None;
        }
        let mut access = Access::RWX;
        if !r.region.is_writable() {
            access = access.without(Access::W);
        }
        Some(MapRequest {
            gfn: r.gfn,
            pfn: page.pfn,
            level,
            access,
            host_writable: page.writable && r.region.is_writable(),
            fault: r.need,
            memory_type: page.memory_type,
            // A guest may have a device combine writes, and caches memory whatever it says.
            ignore_pat: page.memory_type == MemoryType::WriteBack,
        })
    }

    /// Asks the EPT, and logs that the page can be written now.
    fn map(&self, vcpu: &mut VcpuMmu, r: &Request<'_>, request: &MapRequest) -> MapOutcome {
        let tables = self.tables();
        let outcome = self
            .ept(&tables)
            .map(request, &mut vcpu.cache.source(&self.stats));
        if let MapOutcome::Installed { entry, .. } = outcome {
            if entry.permits(Access::W) {
                r.slots.mark_dirty(r.region, r.gfn);
            }
        }
        outcome
    }
}

/// Frames that the fault may map at most: those left in the slot, and one where each write is to be seen.
#[inline]
fn frames_limit(r: &Request<'_>) -> u32 {
    if r.region.logs_dirty_pages() {
        return 1;
    }
    let left = r.region.end_gfn().0.saturating_sub(r.gfn.0);
    let most = params::fault_ahead().min(MOST_PAGES);
    u64::from(most).min(left) as u32
}

#[inline]
fn level_of(host: HostLevel) -> Level {
    match host {
        HostLevel::K4 => Level::Page4K,
        HostLevel::M2 => Level::Page2M,
        HostLevel::G1 => Level::Page1G,
    }
}
