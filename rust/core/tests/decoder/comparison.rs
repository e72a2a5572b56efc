// SPDX-License-Identifier: GPL-2.0

//! One instruction by both decoders, and the differences that are meant.

use super::operands::{self, IP};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use rkvm_core::emulate::table::Op;
use rkvm_core::emulate::*;
use std::collections::BTreeMap;

/// An instruction that is there as a whole.
pub struct Bytes<'a>(pub &'a [u8]);

impl CodeSource for Bytes<'_> {
    fn more(&mut self, have: u8, buf: &mut [u8]) -> Reply<usize> {
        let left = &self.0[usize::from(have)..];
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        Ok(n)
    }
}

fn bitness(mode: Mode) -> u32 {
    match mode {
        Mode::Long64 => 64,
        Mode::Prot32 => 32,
        _ => 16,
    }
}

/// Differences that are meant, each with its reason; see Documentation/emulator.rst.
fn known(ours: Result<&Insn, Stop>, x: &Instruction, mode: Mode) -> bool {
    match ours {
        // What the executor does not know ends the same way whatever its validity.
        Ok(i) if i.entry.op == Op::NotImplemented => {
            x.is_invalid()
                || x.len() == usize::from(i.length)
                // AMD's own.
                || matches!(
                    x.code(),
                    Code::Extrq_xmm_imm8_imm8 | Code::Insertq_xmm_xmm_imm8_imm8
                )
        }
        Ok(i) if x.is_invalid() => match i.entry.op {
            // MOV to and from segment registers that do not exist: #UD at execution.
            Op::MovFromSeg | Op::MovToSeg => i.reg & 7 > 5 || i.reg & 7 == 1,
            _ => false,
        },
        // PAUSE with REX.B is one to iced.
        Ok(i) if i.entry.op == Op::Xchg && x.code() == Code::Pause => true,
        Ok(_) => false,
        Err(_) => {
            matches!(
                x.code(),
                // #UD by definition.
                Code::Ud0_r16_rm16
                    | Code::Ud0_r32_rm32
                    | Code::Ud0_r64_rm64
                    | Code::Ud1_r16_rm16
                    | Code::Ud1_r32_rm32
                    | Code::Ud1_r64_rm64
                    | Code::Ud2
            ) || (
                // Intel has SYSCALL and SYSRET in 64-bit mode only.
                mode != Mode::Long64 && matches!(x.code(), Code::Syscall | Code::Sysretd)
            ) || x.cpuid_features().iter().any(|f| {
                // AMD's and VIA's own.
                let name = format!("{f:?}");
                name.starts_with("D3NOW")
                    || name.starts_with("PADLOCK")
                    || name == "SSE4A"
                    || name == "SVM"
                    || name == "SKINIT_or_SVM"
            })
        }
    }
}

/// What was compared, and what differed.
pub struct Comparison {
    cases: u64,
    differences: BTreeMap<String, (u64, String)>,
}

impl Comparison {
    /// Nothing so far.
    pub fn new() -> Self {
        Self {
            cases: 0,
            differences: BTreeMap::new(),
        }
    }

    fn note(&mut self, key: String, bytes: &[u8], x: &Instruction, why: &str) {
        let e = self.differences.entry(key).or_insert_with(|| {
            let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            (
                0,
                format!("{}: iced {:?} {x}: {why}", hex.join(" "), x.code()),
            )
        });
        e.0 += 1;
    }

    /// Decodes one instruction both ways.
    pub fn one(&mut self, mode: Mode, bytes: &[u8]) {
        self.cases += 1;
        let mut insn = Insn::EMPTY;
        let ours = decode(&mut insn, mode, &mut Bytes(bytes));
        let mut raw = [0; 16];
        let have = bytes.len().min(15);
        raw[..have].copy_from_slice(&bytes[..have]);
        let mut ahead = Insn::EMPTY;
        let done = decode::decode_bytes(&mut ahead, mode, u128::from_le_bytes(raw), have as u8);
        if ours != Err(Stop::Unhandled) {
            assert_eq!(done, ours, "{bytes:02x?}");
        }
        if ours.is_ok() {
            assert_eq!(ahead, insn, "{bytes:02x?}");
        }
        let mut d = Decoder::with_ip(bitness(mode), bytes, IP, DecoderOptions::NONE);
        let mut x = Instruction::default();
        d.decode_out(&mut x);
        let key = |what: &str| {
            format!(
                "{mode:?} {:?} {:02x} {:?} {what}",
                insn.encoding, insn.opcode, insn.entry.op
            )
        };
        match ours {
            Err(stop) => {
                assert!(matches!(stop, Stop::Fault(_)), "{bytes:02x?}: {stop:?}");
                if !x.is_invalid() && !known(Err(stop), &x, mode) {
                    self.note(key("invalid"), bytes, &x, "we refuse");
                }
            }
            Ok(()) => {
                if known(Ok(&insn), &x, mode) {
                    return;
                }
                if x.is_invalid() {
                    self.note(key("valid"), bytes, &x, "we accept");
                } else if x.len() != usize::from(insn.length) {
                    self.note(
                        key("length"),
                        bytes,
                        &x,
                        &format!("our length {}", insn.length),
                    );
                } else if let Some(why) = operands::differ(&insn, &x) {
                    self.note(key("operands"), bytes, &x, &why);
                }
            }
        }
    }

    /// Fails if something differed, or if there were fewer cases than `least`.
    pub fn finish(self, least: u64) {
        for (key, (count, example)) in &self.differences {
            eprintln!("{key}: {count} times, {example}");
        }
        assert!(self.cases >= least, "only {} cases", self.cases);
        assert!(
            self.differences.is_empty(),
            "{} kinds of differences",
            self.differences.len()
        );
    }
}
