// SPDX-License-Identifier: GPL-2.0

//! The three-byte opcode maps (0F 38 and 0F 3A) and map 5: few rows are emulated, so they are functions and not arrays.

use super::prefixed::Prefixed;
use super::Op::*;
use super::*;

const fn pfx(p: Prefixed) -> Entry {
    Entry::link(Op::Prefixed, p as u8, MODRM)
}

/// The row of 0F 38 `opcode`, for legacy encodings or for VEX and EVEX.
pub const fn three_byte_38(opcode: u8, vex: bool) -> Entry {
    match (opcode, vex) {
        (0x18 | 0x19 | 0x58 | 0x59 | 0x78 | 0x79, true) => pfx(Prefixed::Broadcast),
        (0x1a | 0x5a, true) => pfx(Prefixed::BroadcastMemory),
        (0x1b | 0x5b, true) => pfx(Prefixed::BroadcastEvex),
        (0x2c | 0x2d | 0x8c, true) => pfx(Prefixed::MaskLoad),
        (0x2e | 0x2f | 0x8e, true) => pfx(Prefixed::MaskStore),
        (0x2a, _) => pfx(Prefixed::Movntdqa),
        (0x82, false) => pfx(Prefixed::Invpcid),
        (0xf0, false) => pfx(Prefixed::MovbeLoad),
        (0xf1, false) => pfx(Prefixed::MovbeStore),
        (0xf5, false) => pfx(Prefixed::Wruss),
        (0xf6, false) => pfx(Prefixed::Adx),
        (0xf8, false) => pfx(Prefixed::Movdir64b),
        (0xf9, false) => ev_gv(Movdiri, MEM | NO16 | NP),
        (0xf2, true) => pfx(Prefixed::Andn),
        (0xf3, true) => pfx(Prefixed::Group17),
        (0xf5, true) => pfx(Prefixed::Bzhi),
        (0xf6, true) => pfx(Prefixed::Mulx),
        (0xf7, true) => pfx(Prefixed::ShiftX),
        _ => NI_M,
    }
}

/// The row of 0F 3A `opcode`, for legacy encodings or for VEX and EVEX.
pub const fn three_byte_3a(opcode: u8, vex: bool) -> Entry {
    match (opcode, vex) {
        (0x14..=0x17, _) | (0x19 | 0x39, true) => pfx(Prefixed::Extract),
        (0x1b | 0x3b, true) => pfx(Prefixed::ExtractEvex),
        (0x20 | 0x22, _) | (0x18 | 0x38, true) => pfx(Prefixed::Insert),
        (0x1a | 0x3a, true) => pfx(Prefixed::InsertEvex),
        (0xf0, true) => pfx(Prefixed::Rorx),
        _ => Entry::of(NotImplemented, Loc::None, Loc::None, Imm::U8, MODRM),
    }
}

/// The row of map 5 of EVEX, half precision.
pub const fn map_5(opcode: u8) -> Entry {
    match opcode {
        0x10 => pfx(Prefixed::Movsh),
        0x11 => pfx(Prefixed::MovshStore),
        0x6e => pfx(Prefixed::Movw),
        0x7e => pfx(Prefixed::MovwStore),
        _ => NI_M,
    }
}
