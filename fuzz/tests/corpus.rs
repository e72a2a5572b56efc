// SPDX-License-Identifier: GPL-2.0

//! Runs the corpus again.

use rkvm_fuzz::corpus::{line, parse};
use std::panic::catch_unwind;

fn replay(corpus: &str, check: fn(&[u8])) {
    let inputs = parse(corpus);
    assert!(inputs.len() > 100, "the corpus is there");
    for input in inputs {
        // A failure is to say which input it was.
        let result = catch_unwind(|| check(&input));
        assert!(result.is_ok(), "input {}", line(&input));
    }
}

#[test]
fn the_emulator_holds_what_it_promises() {
    replay(
        include_str!("../corpus/emulator.hex"),
        rkvm_fuzz::emulator::check,
    );
}

#[test]
fn the_chips_hold_what_they_promise() {
    replay(include_str!("../corpus/chips.hex"), rkvm_fuzz::chips::check);
}

#[test]
fn the_tables_hold_what_they_promise() {
    replay(
        include_str!("../corpus/tables.hex"),
        rkvm_fuzz::tables::check,
    );
}
