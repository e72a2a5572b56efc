// SPDX-License-Identifier: GPL-2.0

//! Eventfds: signalling them (ioeventfd, resample), and being called when they are signalled (irqfd).
//!
//! C header: `include/linux/eventfd.h`. An irqfd is an [`EventFdWait`] whose handler injects in
//! [`EventFdHandler::signaled`], and in [`EventFdHandler::hung_up`] queues the work that drops it.

use super::bindings;
use core::marker::PhantomPinned;
use core::mem::{offset_of, MaybeUninit};
use core::ptr::{addr_of, NonNull};
use kernel::bindings as kb;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::ffi;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A reference to an eventfd. Share it by `Arc`.
///
/// # Invariants
///
/// The pointer is valid, by a reference that this value owns.
pub(crate) struct EventFd(NonNull<kb::eventfd_ctx>);

// SAFETY: Eventfds belong to no thread.
unsafe impl Send for EventFd {}
// SAFETY: All operations on an eventfd are thread safe.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd behind a descriptor of the calling process. `EBADF`; `EINVAL` if it is no eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: No requirements.
        let context = from_err_ptr(unsafe { kb::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: The reference was just taken.
        NonNull::new(context).map(Self).ok_or(EINVAL)
    }

    /// Adds one to the count and wakes who waits. Any context.
    #[inline]
    pub(crate) fn signal(&self) {
        // SAFETY: Alive by the type invariant.
        unsafe { kb::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }

    /// Whether both are the same eventfd.
    #[inline]
    pub(crate) fn is_same(&self, other: &EventFd) -> bool {
        self.0 == other.0
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { kb::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// A reference to an open file, while a waiter is hooked up.
struct FileRef(NonNull<kb::file>);

impl FileRef {
    /// `EBADF`.
    fn get(fd: i32) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        // SAFETY: No requirements.
        NonNull::new(unsafe { kb::fget(fd) }).map(Self).ok_or(EBADF)
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: The reference that `fget` took is given back once.
        unsafe { kb::fput(self.0.as_ptr()) };
    }
}

/// What happens when an eventfd is signalled. Both are called with interrupts off and the eventfd's lock held: no
/// sleeping, no signalling of the same eventfd, and the [`EventFdWait`] itself must not be dropped in them.
pub(crate) trait EventFdHandler: Send + Sync + 'static {
    /// The eventfd was signalled; its count has been taken.
    fn signaled(&self);

    /// The last descriptor was closed: no signal will come any more. The waiter should be dropped, by someone else.
    fn hung_up(&self);
}

/// A waiter on an eventfd, called on each signal instead of user space. Dropping it ends that: no callback runs after.
#[pin_data(PinnedDrop)]
pub(crate) struct EventFdWait<H: EventFdHandler> {
    handler: H,
    eventfd: EventFd,
    pending: bool,
    #[pin]
    entry: Opaque<kb::wait_queue_entry>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The wait queue is locked by the kernel; `H` is `Send` by its trait.
unsafe impl<H: EventFdHandler> Send for EventFdWait<H> {}
// SAFETY: `H` is `Sync` by its trait, and the entry is not reachable through a shared reference.
unsafe impl<H: EventFdHandler> Sync for EventFdWait<H> {}

/// What `vfs_poll()` carries to [`hook`].
#[repr(C)]
struct Hook {
    table: kb::poll_table_struct,
    entry: *mut kb::wait_queue_entry,
    result: ffi::c_int,
}

/// Puts the waiter before all others, alone.
///
/// # Safety
///
/// `table` is the first field of a [`Hook`] whose entry is initialised; `head` is a live wait queue.
unsafe extern "C" fn hook(
    _file: *mut kb::file,
    head: *mut kb::wait_queue_head_t,
    table: *mut kb::poll_table,
) {
    // SAFETY: By the contract, during the call nobody else uses the hook.
    let hook = unsafe { &mut *table.cast::<Hook>() };
    // SAFETY: By the contract.
    hook.result = unsafe { kb::add_wait_queue_priority_exclusive(head, hook.entry) };
}

impl<H: EventFdHandler> EventFdWait<H> {
    /// Hooks `handler` to the eventfd behind a descriptor of the calling process. `EBADF`; `EINVAL` if it is no
    /// eventfd; `EBUSY` if it already has such a waiter. Callbacks may come before this returns.
    ///
    /// An eventfd that was signalled before makes no callback for that: see [`Self::was_pending`].
    pub(crate) fn new(fd: i32, handler: H) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let file = FileRef::get(fd)?;
            // SAFETY: The file is alive.
            let context = from_err_ptr(unsafe { kb::eventfd_ctx_fileget(file.0.as_ptr()) })?;
            // INVARIANT: The reference was just taken.
            let eventfd = NonNull::new(context).map(EventFd).ok_or(EINVAL)?;
            Ok(try_pin_init!(&this in Self {
                handler,
                eventfd,
                pending: false,
                entry <- Opaque::try_ffi_init(move |slot| {
                    let events = Self::hook_up(&file, slot)?;
                    // SAFETY: `pending` was initialised above; callbacks don't touch it.
                    unsafe { (*this.as_ptr()).pending = events & kb::POLLIN != 0 };
                    Ok::<(), Error>(())
                }),
                _pin: PhantomPinned,
            }? Error))
        })
    }

    /// Adds the entry in `slot` to the file's wait queue; answers the events that are pending.
    fn hook_up(file: &FileRef, slot: *mut kb::wait_queue_entry) -> Result<u32> {
        // SAFETY: `slot` is memory for the entry.
        unsafe { bindings::rkvm_waitqueue_entry_init(slot, Some(Self::wake)) };
        let mut hook_data = Hook {
            // SAFETY: All zero is a poll table; it is initialised below.
            table: unsafe { MaybeUninit::zeroed().assume_init() },
            entry: slot,
            result: EINVAL.to_errno(),
        };
        let table = &raw mut hook_data.table;
        // SAFETY: `table` is ours.
        unsafe { bindings::rkvm_poll_init(table, Some(hook)) };
        // SAFETY: The file is alive, and `table` is the first field of a `Hook`.
        let events =
            unsafe { bindings::rkvm_eventfd_poll(file.0.as_ptr(), (&raw mut hook_data).cast()) };
        to_result(hook_data.result)?;
        Ok(events)
    }

    /// Whether the eventfd was already signalled when it was hooked: inject once for it.
    #[inline]
    pub(crate) fn was_pending(&self) -> bool {
        self.pending
    }

    /// The eventfd, to find the waiter by.
    #[inline]
    pub(crate) fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// What was hooked up.
    #[inline]
    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// The kernel's wake function: under the lock of the wait queue, with interrupts off.
    ///
    /// # Safety
    ///
    /// `entry` is the field of a registered `Self`.
    unsafe extern "C" fn wake(
        entry: *mut kb::wait_queue_entry,
        _mode: ffi::c_uint,
        _sync: ffi::c_int,
        key: *mut ffi::c_void,
    ) -> ffi::c_int {
        let this = entry
            .cast::<u8>()
            .wrapping_sub(offset_of!(Self, entry))
            .cast::<Self>();
        // SAFETY: `entry` is in a `Self`, whose handler was initialised before it was hooked and outlives that.
        let handler = unsafe { &*addr_of!((*this).handler) };
        // SAFETY: As for the handler.
        let eventfd = unsafe { &*addr_of!((*this).eventfd) };
        // SAFETY: No requirements.
        let events = unsafe { bindings::rkvm_key_to_poll(key) };
        let signaled = events & kb::POLLIN != 0;
        if signaled {
            let mut count = 0;
            // SAFETY: The eventfd is alive and the lock of its wait queue is held.
            unsafe { kb::eventfd_ctx_do_read(eventfd.0.as_ptr(), &mut count) };
            handler.signaled();
        }
        if events & bindings::RKVM_EPOLLHUP != 0 {
            handler.hung_up();
        }
        signaled.into()
    }
}

#[pinned_drop]
impl<H: EventFdHandler> PinnedDrop for EventFdWait<H> {
    fn drop(self: Pin<&mut Self>) {
        let mut count = 0;
        // SAFETY: A value exists only if the entry was hooked to this eventfd, which is still alive.
        unsafe {
            kb::eventfd_ctx_remove_wait_queue(self.eventfd.0.as_ptr(), self.entry.get(), &mut count)
        };
    }
}
