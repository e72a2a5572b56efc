// SPDX-License-Identifier: GPL-2.0

//! The ring of coalesced MMIO: writes that user space looks at later, when another exit wakes it.

use core::sync::atomic::{
    fence,
    Ordering, //
};

use kernel::{
    c_str,
    prelude::*,
    static_lock_class, //
};
use rkvm_core::iobus::ring::{
    free_slot,
    slot,
    FIRST,
    LAST, //
};

use crate::sys::{
    page::SharedPage,
    spinlock_irq::SpinLockIrq, //
};

/// The ring of a VM. All its vCPUs fill it.
#[pin_data]
pub(super) struct Ring {
    page: SharedPage,
    /// Held by the vCPU that fills a slot.
    #[pin]
    turn: SpinLockIrq<()>,
}

impl Ring {
    /// An empty ring. ENOMEM.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            page: SharedPage::new()?,
            turn <- SpinLockIrq::new((), c_str!("ring_lock"), static_lock_class!()),
        })
    }

    /// What user space maps.
    pub(super) fn page(&self) -> &SharedPage {
        &self.page
    }

    /// Puts a write in. False if there is no room, or user space has spoiled the indices. Any context.
    pub(super) fn push(&self, address: u64, data: &[u8], pio: bool) -> bool {
        let Some(bytes) = slot(address, data, pio) else {
            return false;
        };
        let _turn = self.turn.lock();
        let last = self.page.read::<u32, LAST>();
        let first = self.page.read::<u32, FIRST>();
        let Some(free) = free_slot(first, last) else {
            return false;
        };
        if self.page.copy_to(free.offset, &bytes).is_none() {
            return false;
        }
        // User space that sees the index has to see the slot.
        fence(Ordering::Release);
        self.page.write::<u32, LAST>(free.next);
        true
    }
}
