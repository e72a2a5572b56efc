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

/// Index of the first element that is not `below`; those that are come first. As the slice method, whose additions the
/// kernel's build would check for overflow.
#[inline]
fn partition_point<T>(table: &[T], below: impl Fn(&T) -> bool) -> usize {
    let mut low = 0usize;
    let mut size = table.len();
    while size > 0 {
        let half = size / 2;
        let middle = low.wrapping_add(half);
        if table.get(middle).is_some_and(&below) {
            low = middle.wrapping_add(1);
            size = size.wrapping_sub(half).wrapping_sub(1);
        } else {
            size = half;
        }
    }
    low
}
