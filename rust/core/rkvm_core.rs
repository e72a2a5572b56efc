// SPDX-License-Identifier: GPL-2.0

//! The pure part of rkvm: everything that can be said about a virtual machine without touching one.
//!
//! No unsafe code, no heap, no `kernel` crate: the same files are compiled into `rkvm.ko` by Kbuild and by cargo on
//! any host, where the tests run. Nothing here may panic, whatever the guest or user space hands in: a panic in the
//! kernel is a host crash. `make check` looks for `core::panicking` in the object.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod addr;
pub mod cpuid;
pub mod emulate;
pub mod exception;
pub mod iobus;
pub mod irq;
pub mod memslots;
pub mod mmu;
pub mod msr;
pub mod nospec;
pub mod pvclock;
pub mod regs;
mod search;
pub mod stats;
pub mod tsc;
pub mod vmx;
