// SPDX-License-Identifier: GPL-2.0

//! The EPT on simulated memory, and the guest walk against an oracle.

mod entry_cases;
mod ept_cases;
mod ept_model;
mod ept_races;
mod ept_world;
mod invalidate_cases;
mod sim;
mod walk_cases;
mod walk_oracle;
mod walk_world;
mod zap_cases;
