// SPDX-License-Identifier: GPL-2.0

//! The state of a vCPU as user space saves and restores it, one subject a file (api.rst, "vCPU ioctls").

pub(crate) mod attributes;
pub(crate) mod debug;
pub(crate) mod events;
pub(crate) mod fpu;
pub(crate) mod guest_debug;
pub(crate) mod interrupts;
pub(crate) mod mce;
pub(crate) mod mp_state;
pub(crate) mod msrs;
pub(crate) mod stats;
pub(crate) mod sync_regs;
