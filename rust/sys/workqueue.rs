// SPDX-License-Identifier: GPL-2.0

//! A work queue of our own, which can be flushed and ends with the module, and work items for it.
//!
//! What an interrupt or a wake-up callback finds out but must not do itself (taking down an irqfd, an injection that
//! may sleep) is handed to a kernel thread. C header: `include/linux/workqueue.h`.

use super::bindings;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings as kb;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::workqueue::{Queue, Work, WorkItem};

/// A work queue; dropping it finishes what is queued. Dereferences to the kernel crate's [`Queue`].
///
/// # Invariants
///
/// The pointer is a live work queue that this value owns.
pub(crate) struct OwnedQueue(NonNull<kb::workqueue_struct>);

// SAFETY: Work queues belong to no thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: All operations on a work queue are thread safe.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// A queue; its items run with interrupts on and may sleep. `ENOMEM`.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: `name` is a string that lives forever.
        let queue = unsafe { bindings::rkvm_alloc_workqueue(name.as_char_ptr()) };
        // INVARIANT: Fresh.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    /// Waits until everything that is queued now has run. Sleeps; not from an item of this queue.
    pub(crate) fn flush(&self) {
        // SAFETY: Alive by the type invariant.
        unsafe { bindings::rkvm_flush_workqueue(self.0.as_ptr()) };
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    #[inline]
    fn deref(&self) -> &Queue {
        // SAFETY: Alive as long as `self`, by the type invariant.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: Owned by the type invariant; nobody can queue any more.
        unsafe { kb::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// What a [`Deferred`] item does when its turn comes.
pub(crate) trait Task: Send + Sync + 'static {
    /// Runs in a kernel thread; may sleep.
    fn run(&self);
}

/// A work item that may be queued again and again, from any context; runs once for each time it was idle when queued.
#[pin_data]
pub(crate) struct Deferred<T: Task> {
    #[pin]
    work: Work<Deferred<T>>,
    task: T,
}

impl_has_work! {
    impl{T: Task} HasWork<Deferred<T>> for Deferred<T> { self.work }
}

impl<T: Task> Deferred<T> {
    /// A new item. `ENOMEM`.
    pub(crate) fn new(task: T) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                work <- new_work!("rkvm::Deferred"),
                task,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Queues the item; answers whether it was not yet queued. Any context. The queue holds a reference until it ran.
    #[inline]
    pub(crate) fn queue(self: Arc<Self>, queue: &OwnedQueue) -> bool {
        queue.enqueue(self).is_ok()
    }

    /// What the item works for.
    #[inline]
    pub(crate) fn task(&self) -> &T {
        &self.task
    }
}

impl<T: Task> WorkItem for Deferred<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.task.run();
    }
}
