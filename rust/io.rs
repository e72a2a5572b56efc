// SPDX-License-Identifier: GPL-2.0

//! Devices of a VM other than its chips: ioeventfds, coalesced MMIO, irqfds (Documentation/io.rst).

pub(crate) mod bus;
mod coalesced;
pub(crate) mod devices;
pub(crate) mod irqfd;
mod resampler;

use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::Arc, //
};

use crate::sys::{
    page::SharedPage,
    srcu::Srcu, //
};
use bus::{
    Bus,
    Taker, //
};
use coalesced::Ring;
use irqfd::Irqfds;

/// Which of the two address spaces that the guest's instructions reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// IN and OUT.
    Ports,
    /// Guest physical memory.
    Memory,
}

/// The devices of one VM.
#[pin_data]
pub(crate) struct Io {
    /// What all tables here are read under. Nothing that waits for it runs inside a section of it.
    srcu: Arc<Srcu>,
    #[pin]
    ports: Bus,
    #[pin]
    memory: Bus,
    #[pin]
    ring: Ring,
    irqfds: Irqfds,
}

impl Io {
    /// No devices, an empty ring. ENOMEM.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let srcu = Arc::pin_init(
                Srcu::new(c_str!("io_srcu"), static_lock_class!()),
                GFP_KERNEL_ACCOUNT,
            )?;
            let (ports, memory) = (srcu.clone(), srcu.clone());
            Ok(try_pin_init!(Self {
                srcu,
                ports <- Bus::new(ports),
                memory <- Bus::new(memory),
                ring <- Ring::new(),
                irqfds: Irqfds::new()?,
            }? Error))
        })
    }

    /// One of the two buses.
    #[inline]
    pub(crate) fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Ports => &self.ports,
            Space::Memory => &self.memory,
        }
    }

    /// The eventfds that interrupt.
    pub(crate) fn irqfds(&self) -> &Irqfds {
        &self.irqfds
    }

    /// The page that user space maps.
    pub(crate) fn ring_page(&self) -> &SharedPage {
        self.ring.page()
    }

    /// A guest writes `data`, at most 8 bytes. True if an ioeventfd or the ring took it. Any context.
    #[inline]
    pub(crate) fn write(&self, space: Space, address: u64, data: &[u8]) -> bool {
        !self.bus(space).is_empty() && self.offer(space, address, data)
    }

    /// The write, for a bus with something on it.
    #[inline(never)]
    fn offer(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let guard = self.srcu.read();
        match self.bus(space).table(&guard).taker(address, data) {
            Taker::Eventfd(eventfd) => {
                eventfd.signal();
                true
            }
            Taker::Ring => self.ring.push(address, data, space == Space::Ports),
            Taker::Nobody => false,
        }
    }

    /// A guest accesses memory; what it reads or writes is not known. True if an ioeventfd without a length took it.
    #[inline]
    pub(crate) fn touch(&self, address: u64) -> bool {
        let guard = self.srcu.read();
        match self.memory.table(&guard).any_length(address) {
            Some(eventfd) => {
                eventfd.signal();
                true
            }
            None => false,
        }
    }
}
