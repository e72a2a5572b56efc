// SPDX-License-Identifier: GPL-2.0

//! VMX as data: what the processor's virtual-machine extensions are made of, without executing one of them.
//!
//! SDM volume 3, "Virtual Machine Control Structures", "VM Entries", "VM Exits" and the appendices on capability
//! reporting, field encodings and basic exit reasons. VMREAD and VMWRITE themselves live in `sys`; whoever implements
//! [`Vmcs`] there (and the fake in the tests here) can be driven by this module.

pub mod controls;
pub mod counters;
pub mod event;
pub mod exit;
pub mod fields;
pub mod guest_state;
pub mod negotiate;
pub mod pml;
pub mod real_mode;
pub mod registers;
pub mod segment;

pub use fields::{Field, FieldValue, Readable, Writable};

/// A VMCS that is current on this processor, or something that behaves like one.
///
/// The fields are zero-sized types, so a call compiles to one VMREAD or VMWRITE with a constant encoding.
pub trait Vmcs {
    /// VMREAD of `field`.
    fn read<F: Readable>(&self, field: F) -> F::Value;
    /// VMWRITE of `value` to `field`.
    fn write<F: Writable>(&self, field: F, value: F::Value);
}
