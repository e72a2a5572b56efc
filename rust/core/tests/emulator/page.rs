// SPDX-License-Identifier: GPL-2.0

//! The opcode page of the documentation, made from the tables that decode reads.

use rkvm_core::emulate::table::{self, Entry, Imm, Loc, Op};
use std::fmt::Write;

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0

===========================
Opcodes of the emulator
===========================

This page is made from ``rust/core/emulate/table``; a test compares the two. Make it anew with::

    cargo run -q -p rkvm_core --example opcode_page > Documentation/emulator-opcodes.rst

Opcodes that are missing are #UD where the SDM defines none, and end in KVM_INTERNAL_ERROR_EMULATION where it does.
Operands are written as in the SDM's opcode map. *Modes*: all; 64 or not 64 for 64-bit mode; prot for not in real and
virtual-8086 mode. *Notes*: L: LOCK is allowed; 0: #GP(0) unless CPL is 0; m: memory only; r: register only; UD: also
emulated when hardware raises #UD.
";

fn operand(loc: Loc, e: &Entry) -> &'static str {
    let byte = e.any(table::BYTE);
    match (loc, byte) {
        (Loc::None, _) => "",
        (Loc::Rm, true) | (Loc::Rm8, _) => "Eb",
        (Loc::Rm, false) if e.imm == Imm::Moffs => "Ov",
        (Loc::Rm, false) => "Ev",
        (Loc::Rm16, _) => "Ew",
        (Loc::Rm32, _) => "Ed",
        (Loc::Reg, true) => "Gb",
        (Loc::Reg, false) => "Gv",
        (Loc::Acc, true) => "AL",
        (Loc::Acc, false) => "rAX",
        (Loc::Low3, true) => "Zb",
        (Loc::Low3, false) => "Zv",
        (Loc::Imm, _) => match e.imm {
            Imm::S8 | Imm::U8 => "Ib",
            Imm::U16 => "Iw",
            Imm::V => "Iv",
            Imm::Far => "Ap",
            Imm::Enter => "Iw, Ib",
            Imm::Z if byte => "Ib",
            _ => "Iz",
        },
        (Loc::One, _) => "1",
        (Loc::Cl, _) => "CL",
        (Loc::Dx, _) => "DX",
    }
}

/// Follows links; calls `row` with what is appended to the opcode and the row.
fn expand(e: Entry, suffix: String, row: &mut dyn FnMut(String, Entry)) {
    match e.op {
        Op::Undefined | Op::NotImplemented | Op::Prefix => {}
        Op::Group => {
            for reg in 0..8u8 {
                let memory = table::group_row(e.group(), reg, false);
                let register = table::group_row(e.group(), reg, true);
                if memory == register {
                    expand(memory, format!("{suffix} /{reg}"), row);
                } else {
                    expand(memory, format!("{suffix} /{reg} mem"), row);
                    expand(register, format!("{suffix} /{reg} reg"), row);
                }
            }
        }
        Op::RmGroup => {
            for rm in 0..8u8 {
                expand(
                    table::rm_row(e.group(), rm),
                    format!("{suffix} rm {rm}"),
                    row,
                );
            }
        }
        Op::Prefixed => {
            let columns: Vec<Entry> = (0..4).map(|c| table::prefixed_row(e.group(), c)).collect();
            for (n, name) in ["", "66", "F3", "F2"].iter().enumerate() {
                if n > 0 && columns[n] == columns[0] {
                    continue;
                }
                let text = match (*name, n) {
                    ("", _) => suffix.clone(),
                    (p, _) => format!("{suffix} ({p})"),
                };
                expand(columns[n], text, row);
            }
        }
        _ => row(suffix, e),
    }
}

/// The encodings of a vector move in a map of legacy opcodes, or of VEX and EVEX.
fn encodings(e: &Entry, vex: bool) -> &'static str {
    match e.op {
        Op::VecMaskMov => "VEX",
        Op::MaskMov => "SSE, VEX",
        _ if e.any(table::EVEX) => "",
        _ if vex => "VEX, EVEX",
        _ => "SSE, VEX, EVEX",
    }
}

fn notes(e: &Entry, vex: bool) -> String {
    let mut n = Vec::new();
    for (flag, text) in [
        (table::LOCK, "L"),
        (table::PRIV, "0"),
        (table::MEM, "m"),
        (table::REG, "r"),
        (table::ON_UD, "UD"),
        (table::VEX, "VEX"),
        (table::EVEX, "EVEX"),
        (table::VEX_OK, encodings(e, vex)),
    ] {
        if e.any(flag) && !text.is_empty() {
            n.push(text);
        }
    }
    n.join(" ")
}

fn map(out: &mut String, title: &str, prefix: &str, rows: &[(u8, Entry)]) {
    writeln!(out, "\n{title}\n{}\n", "=".repeat(title.len())).unwrap();
    out.push_str(".. list-table::\n   :header-rows: 1\n\n");
    out.push_str("   * - Opcode\n     - Operation\n     - Operands\n     - Modes\n     - Notes\n");
    for (opcode, e) in rows {
        expand(*e, format!("{prefix}{opcode:02X}"), &mut |name, e| {
            let operands: Vec<&str> = [e.dst, e.src]
                .iter()
                .map(|l| operand(*l, &e))
                .filter(|s| !s.is_empty())
                .collect();
            let modes = if e.any(table::NO64) {
                "not 64"
            } else if e.any(table::ONLY64) {
                "64"
            } else if e.any(table::PROT) {
                "prot"
            } else {
                "all"
            };
            let op = format!("{:?}", e.op).to_uppercase();
            for (lead, text) in [
                ("* - ", name.clone()),
                ("  - ", op),
                ("  - ", operands.join(", ")),
                ("  - ", modes.to_string()),
                ("  - ", notes(&e, prefix.contains("VEX"))),
            ] {
                writeln!(out, "   {}", format!("{lead}{text}").trim_end()).unwrap();
            }
        });
    }
}

/// The page.
pub fn page() -> String {
    let mut out = String::from(HEAD);
    let all = 0..=255u8;
    let one: Vec<_> = all
        .clone()
        .map(|o| (o, table::ONE_BYTE[usize::from(o)]))
        .collect();
    let two: Vec<_> = all
        .clone()
        .map(|o| (o, table::TWO_BYTE[usize::from(o)]))
        .collect();
    let of = |f: fn(u8, bool) -> Entry, vex| -> Vec<(u8, Entry)> {
        (0..=255u8).map(|o| (o, f(o, vex))).collect()
    };
    map(&mut out, "One byte", "", &one);
    map(&mut out, "Two bytes", "0F ", &two);
    map(
        &mut out,
        "Three bytes, 0F 38",
        "0F 38 ",
        &of(table::three_byte_38, false),
    );
    map(
        &mut out,
        "Three bytes, 0F 3A",
        "0F 3A ",
        &of(table::three_byte_3a, false),
    );
    map(
        &mut out,
        "VEX, 0F 38",
        "VEX 0F 38 ",
        &of(table::three_byte_38, true),
    );
    map(
        &mut out,
        "VEX, 0F 3A",
        "VEX 0F 3A ",
        &of(table::three_byte_3a, true),
    );
    let five: Vec<_> = (0..=255u8).map(|o| (o, table::map_5(o))).collect();
    map(&mut out, "EVEX, map 5", "EVEX map 5 ", &five);
    out
}
