// SPDX-License-Identifier: GPL-2.0

//! The parts of the harness: which tests there are ([`catalog`], [`upstream`]), images ([`contents`], [`guest`], [`fileset`],
//! [`cpio`], [`disk`], [`kernel`]), machines ([`emulator`], [`machine`], or this [`host`]), what runs in them ([`job`],
//! [`session`], [`suite`]) and what is made of their output ([`tap`], [`verdict`], [`kept`]).

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod catalog;
pub mod contents;
pub mod cpio;
pub mod disk;
pub mod elf;
pub mod emulator;
pub mod fileset;
pub mod guest;
pub mod host;
pub mod interrupt;
pub mod kept;
pub mod kernel;
pub mod machine;
pub mod paths;
pub mod session;
pub mod suite;
pub mod tap;
pub mod tidy;
pub mod upstream;
pub mod verdict;

pub use rkvm_job as job;
