// SPDX-License-Identifier: GPL-2.0

//! Decode against iced-x86, by enumeration: every opcode map, mode and set of prefixes, with every ModRM byte.
//!
//! Compared are validity, length and operands. Where the two differ with a reason, `known()` says so; what is not
//! listed there is a failure. An instruction that the emulator does not execute (`Op::NotImplemented`) is compared by
//! length only: it ends in KVM_INTERNAL_ERROR_EMULATION whether or not it is valid.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use rkvm_core::emulate::insn::{Base, Encoding, Rm};
use rkvm_core::emulate::table::{self, Imm, Loc, Op};
use rkvm_core::emulate::*;
use rkvm_core::exception::Exception;
use rkvm_core::regs::SegReg;
use std::collections::BTreeMap;

/// RIP of the decoded instruction: in the middle, so that branches back and forth stay inside 16 bits.
const IP: u64 = 0x4000;

struct Bytes<'a>(&'a [u8]);

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

/// A general register of ours as iced names it.
fn gpr(n: u8, width: Width, rex: bool) -> Register {
    let base = match width {
        Width::B1 if !rex && (4..8).contains(&n) => {
            return [Register::AH, Register::CH, Register::DH, Register::BH][usize::from(n) - 4]
        }
        Width::B1 => {
            return [
                Register::AL,
                Register::CL,
                Register::DL,
                Register::BL,
                Register::SPL,
                Register::BPL,
                Register::SIL,
                Register::DIL,
                Register::R8L,
                Register::R9L,
                Register::R10L,
                Register::R11L,
                Register::R12L,
                Register::R13L,
                Register::R14L,
                Register::R15L,
            ][usize::from(n)]
        }
        Width::B2 => Register::AX,
        Width::B4 => Register::EAX,
        Width::B8 => Register::RAX,
    };
    base + u32::from(n)
}

fn segment(s: SegReg) -> Register {
    match s {
        SegReg::Es => Register::ES,
        SegReg::Cs => Register::CS,
        SegReg::Ss => Register::SS,
        SegReg::Ds => Register::DS,
        SegReg::Fs => Register::FS,
        _ => Register::GS,
    }
}

/// What is wrong with our memory operand, if anything.
fn memory(i: &Insn, x: &Instruction) -> Option<String> {
    let long = x.code_size() == iced_x86::CodeSize::Code64;
    // In 64-bit mode the four old segments are one, though iced shows their prefixes.
    let flat = |s: Register| i.address != Width::B2 && s < Register::FS;
    let same = x.memory_segment() == segment(i.segment)
        || (long && flat(x.memory_segment()) && flat(segment(i.segment)));
    if !same {
        return Some(format!(
            "segment {:?} not {:?}",
            i.segment,
            x.memory_segment()
        ));
    }
    if i.base == Base::Rip {
        let at = IP.wrapping_add(u64::from(i.length)).wrapping_add(i.disp) & i.address.mask();
        return (at != x.memory_displacement64())
            .then(|| format!("rip {at:x} not {:x}", x.memory_displacement64()));
    }
    let base = match i.base {
        Base::Reg(r) => gpr(r, i.address, true),
        _ => Register::None,
    };
    let index = i.index.map_or(Register::None, |r| gpr(r, i.address, true));
    let scale = if i.index.is_some() && i.address != Width::B2 {
        1 << i.scale
    } else {
        1
    };
    let theirs = x.memory_displacement64() & i.address.mask();
    let same = base == x.memory_base()
        && index == x.memory_index()
        && (scale == x.memory_index_scale() || index == Register::None)
        && i.disp & i.address.mask() == theirs;
    (!same).then(|| {
        format!(
            "{base:?}+{index:?}*{scale}+{:x} not {:?}+{:?}*{}+{theirs:x}",
            i.disp,
            x.memory_base(),
            x.memory_index(),
            x.memory_index_scale()
        )
    })
}

/// What is wrong with the operand `loc` of ours against operand `n` of iced.
fn operand(i: &Insn, loc: Loc, x: &Instruction, n: u32) -> Option<String> {
    let rex = i.rex != 0;
    let width = match loc {
        Loc::Rm8 => Width::B1,
        Loc::Rm16 => Width::B2,
        Loc::Rm32 => Width::B4,
        _ => i.width,
    };
    let kind = x.op_kind(n);
    let register = match loc {
        Loc::Rm | Loc::Rm8 | Loc::Rm16 | Loc::Rm32 => match i.rm {
            Rm::Reg(r) => gpr(r, width, rex),
            Rm::Mem if kind == OpKind::Memory => return memory(i, x),
            Rm::Mem => return Some(format!("memory not {kind:?}")),
        },
        Loc::Reg => gpr(i.reg, width, rex),
        Loc::Acc => gpr(0, width, true),
        Loc::Low3 => gpr(i.opcode & 7 | (i.rex & 1) << 3, width, rex),
        Loc::Cl => Register::CL,
        Loc::Dx => Register::DX,
        Loc::Imm => {
            let theirs = match kind {
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    let mask = i.width.mask();
                    let at = IP.wrapping_add(u64::from(i.length)).wrapping_add(i.imm) & mask;
                    return (at != x.near_branch_target())
                        .then(|| format!("target {at:x} not {:x}", x.near_branch_target()));
                }
                OpKind::FarBranch16 | OpKind::FarBranch32 => {
                    let offset = match kind {
                        OpKind::FarBranch16 => u32::from(x.far_branch16()),
                        _ => x.far_branch32(),
                    };
                    let same = u64::from(offset) == i.imm && x.far_branch_selector() == i.imm2;
                    return (!same).then(|| String::from("far target"));
                }
                OpKind::Register | OpKind::Memory => return Some(format!("imm not {kind:?}")),
                _ => x.immediate(n),
            };
            let mask = match i.entry.imm {
                Imm::U8 => 0xff,
                _ => i.width.mask(),
            };
            return (theirs & mask != i.imm & mask)
                .then(|| format!("imm {:x} not {theirs:x}", i.imm));
        }
        Loc::One | Loc::None => return None,
    };
    if kind != OpKind::Register || x.op_register(n) != register {
        return Some(format!("{register:?} not {kind:?} {:?}", x.op_register(n)));
    }
    None
}

/// Operations whose operands are more than `dst` and `src` say; length and memory operand are compared.
fn implicit(op: Op) -> bool {
    matches!(
        op,
        Op::MovFromCr
            | Op::MovToCr
            | Op::MovFromDr
            | Op::MovToDr
            | Op::MovFromSeg
            | Op::MovToSeg
            | Op::Rdpid
            | Op::Cmpxchg8b
            | Op::Invpcid
            | Op::Movdir64b
            | Op::VecMov
            | Op::VecMovAligned
            | Op::VecScalar
            | Op::VecHalf
            | Op::VecDup
            | Op::VecBroadcast
            | Op::VecExtract
            | Op::VecInsert
            | Op::VecMaskMov
            | Op::MaskMov
            | Op::MmxMov
            | Op::Andn
            | Op::Bextr
            | Op::Blsr
            | Op::Blsmsk
            | Op::Blsi
            | Op::Bzhi
            | Op::Mulx
            | Op::Pdep
            | Op::Pext
            | Op::Sarx
            | Op::Shlx
            | Op::Shrx
            | Op::In
            | Op::Out
            | Op::Push
            | Op::CallFar
            | Op::JmpFar
            | Op::Enter
            | Op::Crc32
            | Op::Ret
            | Op::RetFar
            | Op::Aam
            | Op::Aad
            | Op::Int
            | Op::Lar
            | Op::Lsl
            | Op::Touch
            | Op::Arpl
            | Op::LoadFar
            | Op::Bound
            | Op::Nop
            | Op::Fxsave
            | Op::Fxrstor
            | Op::Fnstcw
            | Op::Fnstsw
            | Op::Shld
            | Op::Shrd
            | Op::Lldt
            | Op::Ltr
            | Op::Verr
            | Op::Verw
            | Op::Lmsw
            | Op::Endbr
    )
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

struct Comparison {
    cases: u64,
    differences: BTreeMap<String, (u64, String)>,
}

impl Comparison {
    fn new() -> Self {
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

    fn one(&mut self, mode: Mode, bytes: &[u8]) {
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
                } else if let Some(why) = self.operands(&insn, &x) {
                    self.note(key("operands"), bytes, &x, &why);
                }
            }
        }
    }

    fn operands(&self, i: &Insn, x: &Instruction) -> Option<String> {
        let e = i.entry;
        if implicit(e.op) || e.any(table::STRING) {
            let has_memory = (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Memory);
            if e.any(table::MODRM) && i.rm == Rm::Mem {
                return if has_memory {
                    memory(i, x)
                } else {
                    Some(String::from("memory"))
                };
            }
            return None;
        }
        let mut n = 0;
        for loc in [e.dst, e.src] {
            if loc == Loc::None {
                continue;
            }
            if n >= x.op_count() {
                return Some(format!("{loc:?} too much"));
            }
            if let Some(why) = operand(i, loc, x, n) {
                return Some(why);
            }
            n += 1;
        }
        None
    }

    fn finish(self, most: u64) {
        for (key, (count, example)) in &self.differences {
            eprintln!("{key}: {count} times, {example}");
        }
        assert!(self.cases >= most, "only {} cases", self.cases);
        assert!(
            self.differences.is_empty(),
            "{} kinds of differences",
            self.differences.len()
        );
    }
}

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
