// SPDX-License-Identifier: GPL-2.0

//! The emulator from bytes: what it does to registers, memory and devices.

#[path = "emulator/mmio.rs"]
mod mmio;
#[path = "emulator/mock.rs"]
mod mock;
#[path = "emulator/protected.rs"]
mod protected;
#[path = "emulator/strings.rs"]
mod strings;
