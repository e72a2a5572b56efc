// SPDX-License-Identifier: GPL-2.0

//! Buses of devices: which eventfd a write rings, which writes go into the ring of coalesced MMIO.
//!
//! A bus is two tables, sorted, owned by the caller and only read while a guest runs: [`doorbells`] (ioeventfds) and
//! [`zones`] (coalesced MMIO and PIO). Neither answers reads. A write is looked up in O(log n), also where a guest has
//! thousands of values at one address. [`ring`] is the layout of the ring itself.

pub mod doorbells;
pub mod ring;
pub mod zones;

/// Devices of one bus that are no ioeventfds (KVM's NR_IOBUS_DEVS): one more is ENOSPC.
pub const MAX_DEVICES: usize = 1000;
