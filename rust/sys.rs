// SPDX-License-Identifier: GPL-2.0

//! The unsafe layer: everything that touches the machine or the kernel's C side, behind safe types.

pub(crate) mod bindings;
pub(crate) mod page;
pub(crate) mod srcu;

pub(crate) use rkvm_core::addr;
