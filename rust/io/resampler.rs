// SPDX-License-Identifier: GPL-2.0

//! Level interrupts of irqfds: when the guest ends one, the line falls and user space is told to look at its device
//! again (api.rst, KVM_IRQFD_FLAG_RESAMPLE).
//!
//! All irqfds of one GSI share a line, so they share a [`Resampler`]: the line falls once, and then all are told.
//! Were it to fall once for each, a device that asserts again in between would be lost.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};
use rkvm_core::irq::IrqSource;

use crate::{
    irq::{
        notify::AckNotifier,
        Irq, //
    },
    sys::eventfd::EventFd, //
};

/// The line of one GSI, and who is told when it falls.
#[pin_data]
pub(super) struct Resampler {
    irq: Arc<Irq>,
    gsi: u32,
    /// Held while they are signalled: outside the locks of eventfds and chips. An eventfd's lock may sleep on a kernel
    /// with PREEMPT_RT, so this is no raw one.
    #[pin]
    eventfds: SpinLock<KVec<Arc<EventFd>>>,
}

impl Resampler {
    /// A line that nobody uses yet. ENOMEM.
    pub(super) fn new(irq: &Arc<Irq>, gsi: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                irq: irq.clone(),
                gsi,
                eventfds <- new_spinlock!(KVec::new()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The GSI.
    pub(super) fn gsi(&self) -> u32 {
        self.gsi
    }
}

impl AckNotifier for Resampler {
    fn acked(&self, gsi: u32) {
        self.irq.set_irq(IrqSource::Resampler, gsi, false, false);
        for eventfd in self.eventfds.lock().iter() {
            eventfd.signal();
        }
    }
}

/// An eventfd in a [`Resampler`]. The first makes the chips tell the resampler of ended interrupts, the last ends that
/// when it is dropped. They are made and dropped with the lock of the VM's irqfds held.
pub(super) struct Subscription {
    resampler: Arc<Resampler>,
    eventfd: Arc<EventFd>,
}

impl Subscription {
    /// ENOMEM. Sleeps.
    pub(super) fn new(resampler: Arc<Resampler>, eventfd: EventFd) -> Result<Self> {
        let eventfd = Arc::new(eventfd, GFP_KERNEL_ACCOUNT)?;
        let count = resampler.eventfds.lock().len();
        let mut more = KVec::with_capacity(count.wrapping_add(1), GFP_KERNEL_ACCOUNT)?;
        if count == 0 {
            resampler
                .irq
                .add_notifier(resampler.gsi, resampler.clone())?;
        }
        let old = {
            let mut eventfds = resampler.eventfds.lock();
            for e in eventfds.iter() {
                // There is room: nobody else adds any meanwhile.
                let _ = more.push_within_capacity(e.clone());
            }
            let _ = more.push_within_capacity(eventfd.clone());
            core::mem::replace(&mut *eventfds, more)
        };
        drop(old);
        Ok(Self { resampler, eventfd })
    }

    /// Where it is.
    pub(super) fn resampler(&self) -> &Arc<Resampler> {
        &self.resampler
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let resampler = &self.resampler;
        let last = {
            let mut eventfds = resampler.eventfds.lock();
            let at = eventfds.iter().position(|e| Arc::ptr_eq(e, &self.eventfd));
            // This is not the last reference: `self` has one.
            let _ = at.map(|at| eventfds.remove(at));
            eventfds.is_empty()
        };
        if last {
            let notifier: Arc<dyn AckNotifier> = resampler.clone();
            resampler.irq.remove_notifier(resampler.gsi, &notifier);
            resampler
                .irq
                .set_irq(IrqSource::Resampler, resampler.gsi, false, false);
        }
    }
}
