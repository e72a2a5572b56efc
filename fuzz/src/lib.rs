// SPDX-License-Identifier: GPL-2.0

//! Fuzz targets: each takes arbitrary bytes, makes a state of them, runs it, and panics where something does not hold
//! that has to hold for every input.
//!
//! `scripts/fuzz` runs them under libFuzzer, which looks for bytes that reach new code. The bytes that it found worth
//! keeping lie in `corpus/`; a plain `cargo test` runs them again.

pub mod chips;
pub mod corpus;
pub mod emulator;
pub mod input;
pub mod scene;
pub mod tables;

#[path = "../../rust/core/tests/emulator/mock.rs"]
pub mod mock;
