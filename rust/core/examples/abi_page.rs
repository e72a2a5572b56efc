// SPDX-License-Identifier: GPL-2.0

//! Prints Documentation/abi.rst.

fn main() {
    let mut page = String::new();
    rkvm_core::abi::page::write(&mut page).expect("strings take everything");
    print!("{page}");
}
