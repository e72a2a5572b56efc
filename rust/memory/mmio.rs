// SPDX-License-Identifier: GPL-2.0

//! Frames without a slot: EPT violations become misconfigurations, and these are told to be MMIO without a look at the slots.

use rkvm_core::{
    addr::{
        Gfn,
        Gpa, //
    },
    memslots::Generation,
    mmu::map::MapOutcome,
    stats::VcpuStats,
};

use super::{
    fault::{
        Fault,
        VcpuMmu, //
    },
    slots::Slots,
    Mmu, //
};

/// Places for frames that a vCPU has found to be MMIO: those of its APIC, the I/O APIC and a few devices.
const MMIO_FRAMES: usize = 8;

/// Frames without a slot, each with the generation of the slots in which that was seen.
pub(super) struct MmioFrames([Option<(Gfn, Generation)>; MMIO_FRAMES]);

impl MmioFrames {
    pub(super) const fn new() -> Self {
        Self([None; MMIO_FRAMES])
    }

    #[inline]
    fn place(gfn: Gfn) -> usize {
        // The chips differ in bits 8 and up, the devices of a bus in the lowest ones.
        (gfn.0 ^ gfn.0 >> 8) as usize % MMIO_FRAMES
    }

    /// The generation in which `gfn` was seen.
    #[inline]
    pub(super) fn seen(&self, gfn: Gfn) -> Option<Generation> {
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

/// What a misconfigured entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misconfigured {
    /// MMIO, by an entry that is up to date.
    Mmio,
    /// The entry is old, or gone, or another vCPU has put a page in its place: to be treated as a violation.
    Refault,
    /// No entry of ours can be so.
    Bug,
}

impl Mmu {
    /// A frame without a slot: the APIC-access page, or MMIO, which is remembered in the EPT, so that the next access exits
    /// as a misconfiguration.
    pub(super) fn slotless_fault(
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
            _ => Misconfigured::Refault,
        }
    }
}
