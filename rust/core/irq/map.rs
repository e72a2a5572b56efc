// SPDX-License-Identifier: GPL-2.0

//! The map of a VM's local APICs: which vCPUs a message is for.
//!
//! It is built from all identities at once and not changed afterwards, so readers need no lock: the glue builds a new
//! one when an APIC says that its identity changed, and publishes it. Both arrays come from the caller and have the
//! size of one snapshot.
//!
//! SDM volume 3, "Determining IPI Destination", "Logical Destination Mode in x2APIC Mode".

use super::{
    lapic::{
        DFR_CLUSTER,
        DFR_FLAT, //
    },
    Delivery,
    DeliveryMode,
    DestMode,
    Interrupt,
    Shorthand,
    VcpuIndex, //
};
use crate::nospec;
use core::ops::DerefMut;

/// Destination of a broadcast in xAPIC format.
pub const BROADCAST: u32 = 0xff;
/// Destination of a broadcast in x2APIC format.
pub const X2APIC_BROADCAST: u32 = 0xffff_ffff;

const NONE: u16 = u16::MAX;
const CLUSTERS: usize = 16;
const PER_CLUSTER: usize = 4;
const SLOTS: usize = CLUSTERS * PER_CLUSTER;

/// The identity of one local APIC ([`super::lapic::Shared::identity`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Enabled in its base register.
    pub present: bool,
    /// Enabled in SVR.
    pub sw_enabled: bool,
    /// In x2APIC mode.
    pub x2apic: bool,
    /// The vCPU id.
    pub x2apic_id: u32,
    /// The id that the guest can change, in xAPIC mode.
    pub xapic_id: u8,
    /// Logical destination register.
    pub ldr: u32,
    /// Destination format register.
    pub dfr: u32,
}

/// Flags of KVM_CAP_X2APIC_API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// KVM_X2APIC_API_USE_32BIT_IDS.
    pub x2apic_format: bool,
    /// KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: 0xff is not a broadcast for APICs in x2APIC mode.
    pub no_broadcast_quirk: bool,
}

/// How logical destinations are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logical {
    Nobody,
    Flat,
    Cluster,
    X2Apic,
    /// Different models at once, or two APICs with one bit: ask each.
    Mixed,
}

/// The map. `E` holds one [`Entry`] for each vCPU, by index; `P` one `u16` for each APIC id.
pub struct Map<E, P> {
    entries: E,
    by_id: P,
    slots: [u16; SLOTS],
    logical: Logical,
    /// Some id belongs to two APICs, or is past the end of `by_id`.
    aliased: bool,
    options: Options,
}

/// Where the candidates for a message are.
#[derive(Clone, Copy)]
enum Candidates {
    None,
    One(u16),
    /// Bits of `mask` select entries of `slots` from `base` on.
    Slots {
        base: usize,
        mask: u32,
    },
    /// Bits of `mask` select APIC ids from `base` on.
    Ids {
        base: usize,
        mask: u32,
    },
    All,
}

impl<E: DerefMut<Target = [Entry]>, P: DerefMut<Target = [u16]>> Map<E, P> {
    /// Builds the map. `by_id` is scratch of `highest x2APIC id + 1` or 256 words, whichever is more; shorter works,
    /// but slowly.
    pub fn build(entries: E, mut by_id: P, options: Options) -> Self {
        by_id.fill(NONE);
        let mut map = Self {
            entries,
            by_id,
            slots: [NONE; SLOTS],
            logical: Logical::Nobody,
            aliased: false,
            options,
        };
        for index in 0..map.entries.len().min(usize::from(NONE)) {
            let Some(entry) = map.entries.get(index).copied() else {
                continue;
            };
            if entry.present {
                map.add_physical(index as u16, &entry);
                map.add_logical(index as u16, &entry);
            }
        }
        map
    }

    fn add_physical(&mut self, index: u16, entry: &Entry) {
        let id = if entry.x2apic || entry.x2apic_id > 0xff {
            entry.x2apic_id
        } else {
            u32::from(entry.xapic_id)
        };
        self.claim_id(id, index);
        if !entry.x2apic && entry.x2apic_id > 0xff && !self.options.x2apic_format {
            self.claim_id(u32::from(entry.xapic_id), index);
        }
    }

    fn claim_id(&mut self, id: u32, index: u16) {
        match self.by_id.get_mut(id as usize) {
            Some(slot) if *slot == NONE => *slot = index,
            _ => self.aliased = true,
        }
    }

    fn add_logical(&mut self, index: u16, entry: &Entry) {
        if !entry.sw_enabled || entry.ldr == 0 {
            return;
        }
        let id = entry.ldr >> 24;
        let (model, slot) = if entry.x2apic {
            (Logical::X2Apic, None)
        } else if entry.dfr == DFR_FLAT {
            if id == 0 {
                return;
            }
            (Logical::Flat, one_bit(id))
        } else if entry.dfr == DFR_CLUSTER {
            if id & 0xf == 0 {
                return;
            }
            (
                Logical::Cluster,
                one_bit(id & 0xf).map(|b| ((id & 0xf0) >> 2) | b),
            )
        } else {
            return;
        };
        if self.logical == Logical::Nobody {
            self.logical = model;
        }
        if self.logical != model {
            self.logical = Logical::Mixed;
        }
        if matches!(model, Logical::X2Apic) {
            return;
        }
        match slot.and_then(|s| self.slots.get_mut(s as usize)) {
            Some(slot) if *slot == NONE => *slot = index,
            _ => self.logical = Logical::Mixed,
        }
    }

    /// Delivers `irq`, sent by the vCPU `source` or by a device, to those it is for.
    ///
    /// `post` hands it to the APIC of a vCPU and says whether that took it.
    pub fn deliver(
        &self,
        irq: &Interrupt,
        source: Option<VcpuIndex>,
        mut post: impl FnMut(VcpuIndex, &Interrupt) -> bool,
    ) -> Delivery {
        let mut taken = 0u32;
        let mut give = |index: u16| {
            if post(VcpuIndex(index), irq) {
                taken = taken.saturating_add(1);
            }
        };
        let candidates = self.candidates(irq, source);
        let broadcast = irq.dest_mode == DestMode::Physical
            && irq.dest == BROADCAST
            && irq.mode == DeliveryMode::LowestPriority;
        if irq.is_lowest_priority() && !broadcast {
            if let Some(index) = self.lowest(candidates, irq, source) {
                give(index);
            }
        } else if let Candidates::One(index) = candidates {
            give(index);
        } else {
            self.each(candidates, irq, source, |index, _| give(index));
        }
        match taken {
            0 => Delivery::Coalesced,
            n => Delivery::Accepted(n),
        }
    }

    /// Whether a message from a device with this destination is for the vCPU.
    pub fn matches(&self, vcpu: VcpuIndex, dest: u32, dest_mode: DestMode) -> bool {
        self.entries
            .get(usize::from(vcpu.0))
            .is_some_and(|e| e.present && self.matches_dest(e, dest, dest_mode, false))
    }

    /// The vCPU that is chosen among those that match: by the vector, so that one vector always goes to the same
    /// one as long as the set stays (vector hashing).
    fn lowest(
        &self,
        candidates: Candidates,
        irq: &Interrupt,
        source: Option<VcpuIndex>,
    ) -> Option<u16> {
        if let Candidates::One(index) = candidates {
            return Some(index);
        }
        let mut count = 0u32;
        self.each(candidates, irq, source, |_, e| {
            count = count.wrapping_add(u32::from(e.sw_enabled));
        });
        let mut skip = u32::from(irq.vector).checked_rem(count)?;
        let mut chosen = None;
        self.each(candidates, irq, source, |index, e| {
            if e.sw_enabled && chosen.is_none() {
                match skip.checked_sub(1) {
                    Some(left) => skip = left,
                    None => chosen = Some(index),
                }
            }
        });
        chosen
    }

    fn candidates(&self, irq: &Interrupt, source: Option<VcpuIndex>) -> Candidates {
        match irq.shorthand {
            Shorthand::SelfOnly => {
                return source.map_or(Candidates::None, |s| Candidates::One(s.0))
            }
            Shorthand::All | Shorthand::AllButSelf => return Candidates::All,
            Shorthand::None => {}
        }
        if irq.dest == BROADCAST || irq.dest == X2APIC_BROADCAST {
            return Candidates::All;
        }
        match (irq.dest_mode, self.logical) {
            (DestMode::Physical, _) | (DestMode::Logical, Logical::X2Apic) if self.aliased => {
                Candidates::All
            }
            (DestMode::Physical, _) => match nospec::get(&self.by_id, irq.dest as usize) {
                Some(&index) if index != NONE => Candidates::One(index),
                _ => Candidates::None,
            },
            (DestMode::Logical, Logical::Nobody) => Candidates::None,
            (DestMode::Logical, Logical::Mixed) => Candidates::All,
            (DestMode::Logical, Logical::Flat) => Candidates::Slots {
                base: 0,
                mask: if irq.dest > 0xff { 0 } else { irq.dest },
            },
            (DestMode::Logical, Logical::Cluster) => Candidates::Slots {
                base: (irq.dest as usize & 0xf0) >> 2,
                mask: if irq.dest > 0xff { 0 } else { irq.dest & 0xf },
            },
            (DestMode::Logical, Logical::X2Apic) => Candidates::Ids {
                base: (irq.dest >> 16 << 4) as usize,
                mask: irq.dest & 0xffff,
            },
        }
    }

    /// Calls `f` for each candidate that matches.
    fn each(
        &self,
        candidates: Candidates,
        irq: &Interrupt,
        source: Option<VcpuIndex>,
        mut f: impl FnMut(u16, &Entry),
    ) {
        let mut look = |index: u16| {
            if let Some(entry) = self.entries.get(usize::from(index)) {
                if entry.present && self.matches_irq(index, entry, irq, source) {
                    f(index, entry);
                }
            }
        };
        let (table, base, mut mask): (&[u16], usize, u32) = match candidates {
            Candidates::None => return,
            Candidates::One(index) => return look(index),
            Candidates::All => {
                for index in 0..self.entries.len().min(usize::from(NONE)) {
                    look(index as u16);
                }
                return;
            }
            Candidates::Slots { base, mask } => (&self.slots, base, mask),
            Candidates::Ids { base, mask } => (&self.by_id, base, mask),
        };
        while mask != 0 {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
            if let Some(&index) = nospec::get(table, base.wrapping_add(bit)) {
                if index != NONE {
                    look(index);
                }
            }
        }
    }

    fn matches_irq(
        &self,
        index: u16,
        entry: &Entry,
        irq: &Interrupt,
        source: Option<VcpuIndex>,
    ) -> bool {
        let is_source = source == Some(VcpuIndex(index));
        match irq.shorthand {
            Shorthand::SelfOnly => is_source,
            Shorthand::All => true,
            Shorthand::AllButSelf => !is_source,
            Shorthand::None => self.matches_dest(entry, irq.dest, irq.dest_mode, source.is_some()),
        }
    }

    fn matches_dest(&self, entry: &Entry, dest: u32, dest_mode: DestMode, ipi: bool) -> bool {
        // Devices know 8-bit destinations only: their 0xff reaches x2APICs too, unless user space opted out.
        let quirk = !self.options.no_broadcast_quirk && !ipi;
        let broadcast = if entry.x2apic {
            dest == X2APIC_BROADCAST || quirk && dest == BROADCAST
        } else {
            dest == BROADCAST
        };
        if broadcast {
            return true;
        }
        match dest_mode {
            DestMode::Physical => self.matches_physical(entry, dest),
            DestMode::Logical => entry.sw_enabled && matches_logical(entry, dest),
        }
    }

    fn matches_physical(&self, entry: &Entry, dest: u32) -> bool {
        if entry.x2apic || dest > 0xff {
            // A vCPU whose id has no xAPIC form is reached by it before it has switched to x2APIC mode.
            dest == entry.x2apic_id && (entry.x2apic || entry.x2apic_id > 0xff)
        } else {
            // With 32-bit ids a truncated one is nobody's.
            dest == u32::from(entry.xapic_id)
                && !(self.options.x2apic_format && entry.x2apic_id > 0xff)
        }
    }
}

/// The number of the only bit in `bits`.
fn one_bit(bits: u32) -> Option<u32> {
    if bits.is_power_of_two() {
        Some(bits.trailing_zeros())
    } else {
        None
    }
}

fn matches_logical(entry: &Entry, dest: u32) -> bool {
    let ldr = entry.ldr;
    if entry.x2apic {
        return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff != 0;
    }
    if dest > 0xff {
        return false;
    }
    let id = ldr >> 24;
    match entry.dfr {
        DFR_FLAT => id & dest != 0,
        DFR_CLUSTER => id >> 4 == dest >> 4 && id & dest & 0xf != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
