// SPDX-License-Identifier: GPL-2.0

//! Drives a KVM device from user space: what the behaviour tests and the benchmarks share.
//!
//! The device is `/dev/rkvm` unless `--dev` or `RKVM_DEV` names another one. Whatever is checked
//! here also holds for C KVM, which is the reference.
//!
//! A test makes a [`vm::Vm`], gives it [`ram::Ram`], assembles guest code with [`asm`], puts a
//! [`vcpu::Vcpu`] into a [`setup::Mode`] and looks at the [`vcpu::Exit`] of each run. [`tap::Tap`]
//! reports.

pub mod asm;
pub mod bench;
pub mod child;
pub mod climb;
pub mod compat;
pub mod cpu;
pub mod device;
pub mod errno;
pub mod faults;
pub mod load;
pub mod prefix;
pub mod ram;
pub mod setup;
pub mod spin;
pub mod sys;
pub mod tap;
pub mod tests;
pub mod userfaultfd;
pub mod vcpu;
pub mod vm;
pub mod waiter;
pub mod watcher;

/// What a test or a benchmark answers when it can't go on.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One mebibyte in bytes.
pub const MIB: usize = 1 << 20;
/// Bytes of a small page.
pub const PAGE: usize = 4096;
