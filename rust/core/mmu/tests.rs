// SPDX-License-Identifier: GPL-2.0

//! The EPT on simulated memory, and the guest walk against an oracle.

mod ept_cases;
mod ept_model;
mod ept_world;
mod sim;
mod walk_oracle;
