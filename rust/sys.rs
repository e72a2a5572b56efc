// SPDX-License-Identifier: GPL-2.0

//! The unsafe layer: everything that touches the machine or the kernel's C side, behind safe types.

pub(crate) mod apic_page;
pub(crate) mod bindings;
pub(crate) mod clock;
mod counters;
pub(crate) mod cpu;
pub(crate) mod debug_registers;
pub(crate) mod debugfs;
pub(crate) mod eventfd;
pub(crate) mod fops;
pub(crate) mod fpu;
pub(crate) mod gup;
pub(crate) mod host_tables;
pub(crate) mod hrtimer;
pub(crate) mod killable_mutex;
pub(crate) mod mmu_notifier;
pub(crate) mod module_static;
pub(crate) mod msr;
pub(crate) mod page;
pub(crate) mod params;
pub(crate) mod restricted;
pub(crate) mod rwlock;
pub(crate) mod spinlock_irq;
pub(crate) mod srcu;
pub(crate) mod trace;
pub(crate) mod uabi;
pub(crate) mod user_mapping;
pub(crate) mod usermem;
pub(crate) mod vector;
pub(crate) mod vmx;
pub(crate) mod wait;
pub(crate) mod workqueue;

pub(crate) use rkvm_core::addr;
