// SPDX-License-Identifier: GPL-2.0

//! Decode against iced-x86, by enumeration: every opcode map, mode and set of prefixes, with every ModRM byte.
//!
//! Compared are validity, length and operands. Where the two differ with a reason, `known()` in `comparison.rs` says so;
//! what is not listed there is a failure. An instruction that the emulator does not execute (`Op::NotImplemented`) is
//! compared by length only: it ends in KVM_INTERNAL_ERROR_EMULATION whether or not it is valid.

#[path = "decoder/comparison.rs"]
mod comparison;
#[path = "decoder/operands.rs"]
mod operands;

use comparison::{Bytes, Comparison};
use rkvm_core::emulate::insn::Encoding;
use rkvm_core::emulate::*;
use rkvm_core::exception::Exception;

const MODES: [Mode; 3] = [Mode::Prot16, Mode::Prot32, Mode::Long64];

/// The prefix sets; those with REX only mean REX in 64-bit mode, elsewhere they are INC and DEC and cost nothing.
const PREFIXES: [&[u8]; 22] = [
    &[],
    &[0x66],
    &[0x67],
    &[0xf2],
    &[0xf3],
    &[0xf0],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
    &[0xf3, 0x66],
    &[0x66, 0xf0],
    &[0x66, 0x67],
    &[0x64],
    &[0x65, 0x2e],
    &[0x36],
    &[0x26, 0x3e],
    &[0x40],
    &[0x48],
    &[0x4f],
    &[0x66, 0x48],
    &[0xf3, 0x4d],
    &[0xf0, 0x48],
    &[0x48, 0x66],
];

/// What comes after ModRM: one SIB with an index, one without, and a displacement that is negative as a byte.
const TAILS: [[u8; 10]; 2] = [
    [0x8d, 0x92, 0x33, 0x44, 0xd5, 0x66, 0x77, 0x88, 0x19, 0x2a],
    [0x25, 0x12, 0xb3, 0x44, 0x55, 0xe6, 0x07, 0x18, 0x29, 0x3a],
];

fn map(opcode_prefix: &[u8], least: u64) {
    let mut c = Comparison::new();
    for mode in MODES {
        for prefixes in PREFIXES {
            for opcode in 0..=255u8 {
                for modrm in 0..=255u8 {
                    let tail = &TAILS[usize::from(modrm & 1)];
                    let mut bytes = [0u8; 18];
                    let mut n = 0;
                    for part in [prefixes, opcode_prefix, &[opcode, modrm], tail] {
                        let part = &part[..part.len().min(15 - n)];
                        bytes[n..n + part.len()].copy_from_slice(part);
                        n += part.len();
                    }
                    c.one(mode, &bytes[..15]);
                }
            }
        }
    }
    c.finish(least);
}

#[test]
fn one_byte_map() {
    map(&[], 4_000_000);
}

#[test]
fn two_byte_map() {
    map(&[0x0f], 4_000_000);
}

#[test]
fn three_byte_maps() {
    map(&[0x0f, 0x38], 4_000_000);
    map(&[0x0f, 0x3a], 4_000_000);
}

#[test]
fn addressing_forms() {
    let mut c = Comparison::new();
    for mode in MODES {
        for prefixes in PREFIXES {
            for modrm in 0..=255u8 {
                for sib in 0..=255u8 {
                    let mut bytes = prefixes.to_vec();
                    bytes.extend([0x8b, modrm, sib, 0xf1, 0x22, 0x33, 0x94]);
                    bytes.resize(15, 0x90);
                    c.one(mode, &bytes);
                }
            }
        }
    }
    c.finish(4_000_000);
}

#[test]
fn vex_maps() {
    let mut c = Comparison::new();
    for mode in [Mode::Prot32, Mode::Long64] {
        for payload in 0..=255u8 {
            for opcode in 0..=255u8 {
                for modrm in (0..=255u8).step_by(if payload & 0x78 == 0x78 { 1 } else { 37 }) {
                    let mut bytes = vec![0xc5, payload, opcode, modrm];
                    bytes.extend(TAILS[0]);
                    bytes.resize(15, 0x90);
                    c.one(mode, &bytes);
                }
            }
        }
        for first in 0..=255u8 {
            for second in [
                0x78u8, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0xf8, 0xf9, 0xfa, 0xfb, 0xfd, 0x30, 0x39,
                0x3d, 0xb2,
            ] {
                for opcode in 0..=255u8 {
                    for modrm in (0..=255u8).step_by(23) {
                        let mut bytes = vec![0xc4, first, second, opcode, modrm];
                        bytes.extend(TAILS[0]);
                        bytes.resize(15, 0x90);
                        c.one(mode, &bytes);
                    }
                }
            }
        }
    }
    c.finish(10_000_000);
}

#[test]
fn evex_moves() {
    let mut c = Comparison::new();
    let opcodes = [
        0x10u8, 0x11, 0x12, 0x13, 0x16, 0x17, 0x28, 0x29, 0x2a, 0x2b, 0x6e, 0x6f, 0x7e, 0x7f, 0xd6,
        0xe7, 0xf0, 0xf7, 0xc4, // maps 2 and 3
        0x14, 0x15, 0x18, 0x19, 0x1a, 0x1b, 0x20, 0x22, 0x2c, 0x2e, 0x38, 0x39, 0x3a, 0x3b, 0x58,
        0x59, 0x5a, 0x5b, 0x78, 0x79, 0x8c, 0x8e,
    ];
    let seconds = [
        0x7cu8, 0x7d, 0x7e, 0x7f, 0xfc, 0xfd, 0xfe, 0xff, 0x3e, 0xb5, 0x3c,
    ];
    // Lengths, V', masks, zeroing, broadcast.
    let thirds = [
        0x08u8, 0x28, 0x48, 0x68, 0x00, 0x0a, 0x4f, 0x88, 0x89, 0xcb, 0x18,
    ];
    let forms = [0x00u8, 0x04, 0x05, 0x43, 0x44, 0x86, 0xc0, 0xc7];
    for mode in [Mode::Prot32, Mode::Long64] {
        for first in (0..=255u8).filter(|first| first & 8 == 0) {
            for second in seconds {
                for third in thirds {
                    for opcode in opcodes {
                        for modrm in forms.iter().flat_map(|f| (0..8).map(move |r| f | r << 3)) {
                            let mut bytes = vec![0x62, first, second, third, opcode, modrm];
                            bytes.extend(TAILS[0]);
                            bytes.resize(15, 0x90);
                            c.one(mode, &bytes);
                        }
                    }
                }
            }
        }
    }
    c.finish(30_000_000);
}

#[test]
fn fifteen_bytes_are_the_limit() {
    let mut insn = Insn::EMPTY;
    let mut bytes = [0x66u8; 16];
    bytes[14] = 0x90;
    assert_eq!(decode(&mut insn, Mode::Long64, &mut Bytes(&bytes)), Ok(()));
    assert_eq!(insn.length, 15);
    bytes[14] = 0x66;
    bytes[15] = 0x90;
    let outcome = decode(&mut insn, Mode::Long64, &mut Bytes(&bytes));
    assert_eq!(outcome, Err(Exception::GP0.into()));
    assert_eq!(insn.encoding, Encoding::Legacy);
}
