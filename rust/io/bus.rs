// SPDX-License-Identifier: GPL-2.0

//! One bus: which eventfd or ring takes a write.
//!
//! Guests read a table that is never changed, under SRCU; an ioctl copies it, changes the copy, shows it instead and
//! waits for the readers of the old one. What was taken off the bus is thus not signalled after the ioctl has returned.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};
use rkvm_core::iobus::{
    doorbells::{
        self,
        Doorbell,
        Entry, //
    },
    zones::{
        self,
        Zone, //
    },
    MAX_DEVICES,
};

use crate::sys::{
    eventfd::EventFd,
    srcu::{
        Srcu,
        SrcuGuard,
        SrcuPtr, //
    },
};

/// What guests see of a bus.
#[derive(Default)]
pub(crate) struct Table {
    doorbells: KVVec<Entry<Arc<EventFd>>>,
    zones: KVVec<Zone>,
}

/// Who takes a write.
pub(crate) enum Taker<'t> {
    /// An ioeventfd.
    Eventfd(&'t EventFd),
    /// A zone of coalesced MMIO, if there is room in the ring.
    Ring,
    /// User space.
    Nobody,
}

impl Table {
    /// Who takes a write of `data` at `address`. ioeventfds come before zones.
    #[inline]
    pub(crate) fn taker(&self, address: u64, data: &[u8]) -> Taker<'_> {
        let mut value = [0; 8];
        let Some(low) = value.get_mut(..data.len()) else {
            return Taker::Nobody;
        };
        low.copy_from_slice(data);
        let (length, value) = (data.len() as u32, u64::from_le_bytes(value));
        if let Some(eventfd) = doorbells::find(&self.doorbells, address, length, value) {
            Taker::Eventfd(eventfd)
        } else if zones::covers(&self.zones, address, data.len() as u64) {
            Taker::Ring
        } else {
            Taker::Nobody
        }
    }

    /// The ioeventfd without a length at `address`.
    #[inline]
    pub(crate) fn any_length(&self, address: u64) -> Option<&EventFd> {
        doorbells::find_any_length(&self.doorbells, address).map(|e| &**e)
    }

    /// A copy with room for one more ioeventfd and one more zone.
    fn copy(&self) -> Result<Self> {
        let mut copy = Self {
            doorbells: KVVec::with_capacity(
                self.doorbells.len().wrapping_add(1),
                GFP_KERNEL_ACCOUNT,
            )?,
            zones: KVVec::with_capacity(self.zones.len().wrapping_add(1), GFP_KERNEL_ACCOUNT)?,
        };
        for entry in &self.doorbells {
            copy.doorbells.push(entry.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        copy.zones
            .extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        Ok(copy)
    }
}

/// A bus.
#[pin_data]
pub(crate) struct Bus {
    table: SrcuPtr<KBox<Table>>,
    /// Nothing is on the bus: spares the guest's writes the look into the table. Set before a device is shown.
    empty: AtomicBool,
    /// Held by whoever replaces the table.
    #[pin]
    change: Mutex<()>,
}

impl Bus {
    /// An empty bus. ENOMEM.
    pub(super) fn new(srcu: Arc<Srcu>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            table: SrcuPtr::new(srcu, KBox::new(Table::default(), GFP_KERNEL_ACCOUNT)?),
            empty: AtomicBool::new(true),
            change <- new_mutex!(()),
        })
    }

    /// Whether there is nothing on the bus.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Relaxed)
    }

    /// What is on the bus now.
    #[inline]
    pub(super) fn table<'g>(&'g self, guard: &'g SrcuGuard<'_>) -> &'g Table {
        self.table.read(guard)
    }

    /// Shows what `f` makes of a copy of the table, and waits until nobody sees the old one. Sleeps.
    fn change(&self, f: impl FnOnce(&mut Table) -> Result) -> Result {
        let _turn = self.change.lock();
        let mut new = {
            let guard = self.table.srcu().read();
            self.table(&guard).copy()?
        };
        f(&mut new)?;
        let new = KBox::new(new, GFP_KERNEL_ACCOUNT)?;
        // Nothing fails from here on.
        let empty = new.doorbells.is_empty() && new.zones.is_empty();
        self.empty.store(empty, Ordering::Relaxed);
        drop(self.table.replace(new));
        Ok(())
    }

    /// Adds an ioeventfd. EEXIST if one takes the same writes, ENOSPC, ENOMEM.
    pub(crate) fn add_doorbell(&self, doorbell: Doorbell, device: EventFd) -> Result {
        let device = Arc::new(device, GFP_KERNEL_ACCOUNT)?;
        self.change(|table| {
            let at = doorbells::place(&table.doorbells, &doorbell).map_err(|_| EEXIST)?;
            check_room(table)?;
            let entry = Entry { doorbell, device };
            table
                .doorbells
                .insert_within_capacity(at, entry)
                .map_err(|_| ENOMEM)
        })
    }

    /// Takes an ioeventfd off the bus. ENOENT unless just this one, with this eventfd, is there.
    pub(crate) fn remove_doorbell(&self, doorbell: &Doorbell, eventfd: &EventFd) -> Result {
        self.change(|table| {
            let at = doorbells::position(&table.doorbells, doorbell).ok_or(ENOENT)?;
            let same = table
                .doorbells
                .get(at)
                .is_some_and(|e| e.device.is_same(eventfd));
            if !same {
                return Err(ENOENT);
            }
            table.doorbells.remove(at).map(drop).map_err(|_| ENOENT)
        })
    }

    /// Adds a zone of coalesced MMIO. ENOSPC, ENOMEM.
    pub(crate) fn add_zone(&self, zone: Zone) -> Result {
        self.change(|table| {
            check_room(table)?;
            let at = zones::place(&table.zones, &zone);
            table
                .zones
                .insert_within_capacity(at, zone)
                .map_err(|_| ENOMEM)?;
            zones::finish(&mut table.zones);
            Ok(())
        })
    }

    /// Takes all zones off the bus that contain the range. ENOMEM.
    pub(crate) fn remove_zones(&self, address: u64, size: u32) -> Result {
        self.change(|table| {
            table.zones.retain(|z| !z.contains(address, size.into()));
            zones::finish(&mut table.zones);
            Ok(())
        })
    }
}

/// ENOSPC if the bus is full. ioeventfds don't count, but need one that is not.
fn check_room(table: &Table) -> Result {
    if table.zones.len() < MAX_DEVICES {
        Ok(())
    } else {
        Err(ENOSPC)
    }
}
