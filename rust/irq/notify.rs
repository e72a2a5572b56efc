// SPDX-License-Identifier: GPL-2.0

//! Who wants to hear that the guest has ended an interrupt: irqfds with a resample eventfd (api.rst, "KVM_IRQFD").

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::Irq;

/// Told when the guest ends an interrupt of a GSI, or unmasks its pin while a request is pending.
pub(crate) trait AckNotifier: Send + Sync {
    /// The interrupt is ended, by the thread of a vCPU or by an ioctl: never from an interrupt or with the lock of a
    /// chip or an eventfd held. It may signal an eventfd and set an interrupt line, and may not sleep.
    fn acked(&self, gsi: u32);
}

/// The notifiers of a VM, with their GSIs.
pub(crate) struct Notifiers(KVVec<(u32, Arc<dyn AckNotifier>)>);

impl Notifiers {
    pub(crate) const fn new() -> Self {
        Self(KVVec::new())
    }

    /// Whether anybody listens to `gsi`.
    #[inline]
    pub(crate) fn listens(&self, gsi: u32) -> bool {
        self.0.iter().any(|(g, _)| *g == gsi)
    }

    /// Makes this list that of `from`, without the entries that `drop` picks. ENOMEM only if there is no room for them.
    fn fill(&mut self, from: &Self, drop: impl Fn(&(u32, Arc<dyn AckNotifier>)) -> bool) -> Result {
        self.0.clear();
        for entry in from.0.iter().filter(|e| !drop(e)) {
            self.0
                .push((entry.0, entry.1.clone()), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

impl Irq {
    /// Whether anybody listens to `gsi`.
    pub(crate) fn listens(&self, gsi: u32) -> bool {
        let guard = self.srcu.read();
        self.notifiers.read(&guard).listens(gsi)
    }

    /// The interrupt of `gsi` is ended, or its pin unmasked while its request is pending: tells the notifiers. No chip lock
    /// is held.
    pub(crate) fn tell_acked(&self, gsi: u32) {
        let guard = self.srcu.read();
        let notifiers = self.notifiers.read(&guard);
        for (_, notifier) in notifiers.0.iter().filter(|(g, _)| *g == gsi) {
            notifier.acked(gsi);
        }
    }

    /// The interrupt of `gsi` is ended, and the chip is done with that: the interval timer may give its next tick.
    pub(super) fn gsi_ended(&self, gsi: u32) {
        if gsi == super::pit::GSI {
            self.pit_acked();
        }
    }

    /// `notifier` hears of `gsi` from now on. Sleeps. ENOMEM.
    pub(crate) fn add_notifier(&self, gsi: u32, notifier: Arc<dyn AckNotifier>) -> Result {
        let mut spare = self.spare_notifiers.lock();
        let new = {
            let guard = self.srcu.read();
            let old = self.notifiers.read(&guard);
            let room = old.0.len().saturating_add(1);
            let mut new = Notifiers(KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?);
            new.fill(old, |_| false)?;
            new.0.push((gsi, notifier), GFP_KERNEL_ACCOUNT)?;
            KBox::new(new, GFP_KERNEL_ACCOUNT)?
        };
        let mut old = self.notifiers.replace(new);
        old.0.clear();
        // Room for all but one: what the next removal needs, so that it can't fail.
        *spare = Some(old);
        drop(spare);
        self.rescan();
        Ok(())
    }

    /// `notifier` hears of `gsi` no more, and no call to it runs. Sleeps; not from a call to it.
    pub(crate) fn remove_notifier(&self, gsi: u32, notifier: &Arc<dyn AckNotifier>) {
        let mut spare = self.spare_notifiers.lock();
        let Some(mut new) = spare.take() else {
            return;
        };
        {
            let guard = self.srcu.read();
            let old = self.notifiers.read(&guard);
            let is_it = |e: &(u32, Arc<dyn AckNotifier>)| {
                e.0 == gsi && core::ptr::addr_eq(Arc::as_ptr(&e.1), Arc::as_ptr(notifier))
            };
            if !old.0.iter().any(is_it) || new.fill(old, is_it).is_err() {
                new.0.clear();
                *spare = Some(new);
                return;
            }
        }
        let mut old = self.notifiers.replace(new);
        old.0.clear();
        *spare = Some(old);
        drop(spare);
        self.rescan();
    }
}
