// SPDX-License-Identifier: GPL-2.0

//! VMX operation, the VMCS that is current on a CPU, and the way in and out of the guest.
//!
//! The ladder of proofs: [`HwEnabled`] (this host is in VMX operation) makes [`VmcsContext`]; what is loaded of
//! that is a [`Loaded`], the only thing that can VMREAD and VMWRITE; and from there [`EntryGuard`], with preemption and
//! interrupts off, enters the guest. Nothing that may sleep is reachable with an `EntryGuard` in hand.

mod context;
mod enable;
mod enter;
mod host_state;
mod loaded;
mod ops;
mod percpu;
mod user_return;

pub(crate) use context::VmcsContext;
pub(crate) use enable::HwEnabled;
pub(crate) use enter::{
    EntryGuard,
    EntryResult, //
};
pub(crate) use loaded::Loaded;
pub(crate) use ops::{
    invept,
    invvpid, //
};
pub(crate) use user_return::{
    UserReturnMsr,
    UserReturnMsrs, //
};
