// SPDX-License-Identifier: GPL-2.0

//! The emulator from bytes: what it does to registers, memory and devices.

#[path = "emulator/cet.rs"]
mod cet;
#[path = "emulator/mmio.rs"]
mod mmio;
#[path = "emulator/mock.rs"]
mod mock;
#[path = "emulator/moves.rs"]
mod moves;
#[path = "emulator/page.rs"]
mod page;
#[path = "emulator/properties.rs"]
mod properties;
#[path = "emulator/protected.rs"]
mod protected;
#[path = "emulator/strings.rs"]
mod strings;
#[path = "emulator/system.rs"]
mod system;
#[path = "emulator/vector.rs"]
mod vector;

#[test]
fn the_opcode_page_is_up_to_date() {
    let file = include_str!("../../../Documentation/emulator-opcodes.rst");
    assert!(
        file == page::page(),
        "Documentation/emulator-opcodes.rst differs from the tables"
    );
}
