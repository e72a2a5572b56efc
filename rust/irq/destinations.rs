// SPDX-License-Identifier: GPL-2.0

//! The map of the VM's local APICs in memory of the kernel. It is built whole and then only read.

use core::ops::{
    Deref,
    DerefMut, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::irq::{
    map::{
        Entry,
        Map,
        Options, //
    },
    x2apic_api::X2apicApi, //
};

use crate::{
    vcpu::Vcpu,
    vm::vcpus::Vcpus, //
};

/// A vector that the map can write to while it is built.
pub(crate) struct Words<T>(KVVec<T>);

impl<T: Clone> Words<T> {
    pub(super) fn filled(value: T, n: usize) -> Result<Self> {
        Ok(Self(KVVec::from_elem(value, n, GFP_KERNEL_ACCOUNT)?))
    }
}

impl<T> Deref for Words<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Words<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// Ids that have a place in the map of every VM: those of the xAPIC.
const XAPIC_IDS: usize = 256;

/// Which vCPUs a message is for.
pub(crate) struct Destinations(Map<Words<Entry>, Words<u16>>);

impl Destinations {
    /// That of a VM without APICs.
    pub(crate) fn empty() -> Result<KBox<Self>> {
        Self::build(Words(KVVec::new()), Options::default())
    }

    /// Asks each vCPU, and one that is about to be added, for its APIC's identity, once.
    pub(crate) fn of(vcpus: &Vcpus, new: Option<&Arc<Vcpu>>, api: X2apicApi) -> Result<KBox<Self>> {
        let mut entries = KVVec::with_capacity(vcpus.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        for vcpu in Iterator::chain(vcpus.iter(), new) {
            entries.push(vcpu.apic_identity(), GFP_KERNEL_ACCOUNT)?;
        }
        let options = Options {
            x2apic_format: api.has_32bit_ids(),
            no_broadcast_quirk: api.no_broadcast_quirk(),
        };
        Self::build(Words(entries), options)
    }

    fn build(entries: Words<Entry>, options: Options) -> Result<KBox<Self>> {
        // The size comes from the same snapshot as the entries.
        let highest = entries
            .iter()
            .map(|e| e.x2apic_id as usize)
            .max()
            .unwrap_or(0);
        let by_id = Words::filled(0, highest.saturating_add(1).max(XAPIC_IDS))?;
        Ok(KBox::new(
            Self(Map::build(entries, by_id, options)),
            GFP_KERNEL_ACCOUNT,
        )?)
    }
}

impl Deref for Destinations {
    type Target = Map<Words<Entry>, Words<u16>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
