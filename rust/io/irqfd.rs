// SPDX-License-Identifier: GPL-2.0

//! irqfds: eventfds whose signals are interrupts (api.rst, "KVM_IRQFD").
//!
//! A signal arrives under the eventfd's lock with interrupts off, and the interrupt is made right there: its route is
//! looked up at each signal, so nothing has to be told when routes change. Closing the eventfd arrives the same way,
//! but the irqfd can't be taken down under that lock: a work item does it.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};
use rkvm_core::irq::IrqSource;

use super::resampler::{
    Resampler,
    Subscription, //
};
use crate::{
    irq::Irq,
    sys::{
        eventfd::{
            EventFd,
            EventFdHandler,
            EventFdWait, //
        },
        module_static::{
            Installed,
            ModuleStatic, //
        },
        workqueue::{
            Deferred,
            OwnedQueue,
            Task, //
        },
    },
};

/// Where irqfds of closed eventfds are taken down.
static QUEUE: ModuleStatic<OwnedQueue> = ModuleStatic::new();

/// Keeps the work queue, from before the first VM until after the last.
pub(crate) struct Registration {
    _queue: Installed<OwnedQueue>,
}

impl Registration {
    /// ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let queue = OwnedQueue::new(c"rkvm-irqfd")?;
        Ok(Self {
            _queue: QUEUE.install(queue),
        })
    }
}

/// One irqfd. It is dropped with the lock of its list held: first no signal comes any more, then its place in the
/// resampler goes.
struct Irqfd {
    wait: Pin<KBox<EventFdWait<Handler>>>,
    resample: Option<Subscription>,
}

/// What a signal does.
struct Handler {
    irq: Arc<Irq>,
    gsi: u32,
    /// A level that the resampler takes back; else an edge.
    level: bool,
    hang_up: Arc<Deferred<HangUp>>,
}

impl EventFdHandler for Handler {
    fn signaled(&self) {
        if self.level {
            self.irq
                .set_irq(IrqSource::Resampler, self.gsi, true, false);
        } else {
            self.irq
                .set_irq(IrqSource::UserSpace, self.gsi, true, false);
            self.irq
                .set_irq(IrqSource::UserSpace, self.gsi, false, false);
        }
    }

    fn hung_up(&self) {
        self.hang_up.clone().queue(&QUEUE);
    }
}

/// The work that takes an irqfd down whose eventfd is closed.
struct HangUp {
    list: Arc<List>,
    number: u64,
}

impl Task for HangUp {
    fn run(&self) {
        // It may be gone already: then there is nothing to do.
        self.list
            .remove(|irqfd| irqfd.wait.handler().hang_up.task().number == self.number);
    }
}

/// The irqfds of a VM.
#[pin_data]
struct List {
    /// Held while irqfds are made and dropped. Both sleep.
    #[pin]
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    irqfds: KVec<Irqfd>,
    /// Number of the next one. Numbers are not used again.
    next: u64,
}

impl List {
    fn remove(&self, which: impl Fn(&Irqfd) -> bool) {
        self.inner.lock().irqfds.retain(|irqfd| !which(irqfd));
    }
}

/// The irqfds of a VM. Dropped, all of them end.
///
/// The work items refer to the list, and the list to them: [`Self::end_all`] undoes that.
pub(crate) struct Irqfds(Arc<List>);

impl Irqfds {
    /// None. ENOMEM.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Arc::pin_init(
            pin_init!(List {
                inner <- new_mutex!(Inner::default()),
            }),
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// From now on a signal of the eventfd `fd` is an interrupt of `gsi`: an edge, or, with `resample`, a level that
    /// falls when the guest ends the interrupt, which `resample` then tells. EBADF, EINVAL, ENOMEM; EBUSY if the
    /// eventfd is an irqfd already.
    pub(crate) fn assign(
        &self,
        irq: &Arc<Irq>,
        fd: i32,
        gsi: u32,
        resample: Option<EventFd>,
    ) -> Result {
        let mut inner = self.0.inner.lock();
        inner.irqfds.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let level = resample.is_some();
        let resample = match resample {
            Some(eventfd) => {
                let resampler = match inner.resampler(gsi) {
                    Some(resampler) => resampler,
                    None => Resampler::new(irq, gsi)?,
                };
                Some(Subscription::new(resampler, eventfd)?)
            }
            None => None,
        };
        let number = inner.next;
        inner.next = number.wrapping_add(1);
        let list = self.0.clone();
        let handler = Handler {
            irq: irq.clone(),
            gsi,
            level,
            hang_up: Deferred::new(HangUp { list, number })?,
        };
        // If the eventfd is closed meanwhile, the work item waits for the lock, and then finds the irqfd.
        let wait = KBox::pin_init(EventFdWait::new(fd, handler), GFP_KERNEL_ACCOUNT)?;
        if wait.was_pending() {
            wait.handler().signaled();
        }
        inner
            .irqfds
            .push(Irqfd { wait, resample }, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Ends the irqfd of this eventfd and GSI, if there is one. After that no signal makes an interrupt. Sleeps.
    pub(crate) fn deassign(&self, eventfd: &EventFd, gsi: u32) {
        self.0.remove(|irqfd| {
            irqfd.wait.handler().gsi == gsi && irqfd.wait.eventfd().is_same(eventfd)
        });
        QUEUE.flush();
    }

    /// Ends all. Sleeps.
    pub(crate) fn end_all(&self) {
        self.0.remove(|_| true);
        // No callback queues any work now; what is queued lets go of the list.
        QUEUE.flush();
    }
}

impl Drop for Irqfds {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Inner {
    /// The resampler of a GSI, if it has one.
    fn resampler(&self, gsi: u32) -> Option<Arc<Resampler>> {
        let mut subscriptions = self.irqfds.iter().filter_map(|i| i.resample.as_ref());
        subscriptions
            .find(|s| s.resampler().gsi() == gsi)
            .map(|s| s.resampler().clone())
    }
}
