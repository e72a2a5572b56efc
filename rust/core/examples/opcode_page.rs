// SPDX-License-Identifier: GPL-2.0

//! Prints Documentation/emulator-opcodes.rst.

#[path = "../tests/emulator/page.rs"]
mod page;

fn main() {
    print!("{}", page::page());
}
