// SPDX-License-Identifier: GPL-2.0

//! Operands of an instruction as the emulator has decoded them, and as iced has.

use iced_x86::{CodeSize, Instruction, OpKind, Register};
use rkvm_core::emulate::insn::{Base, Rm};
use rkvm_core::emulate::table::{self, Imm, Loc, Op};
use rkvm_core::emulate::{Insn, Width};
use rkvm_core::regs::SegReg;

/// RIP of the decoded instruction: in the middle, so that branches back and forth stay inside 16 bits.
pub const IP: u64 = 0x4000;

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
    let long = x.code_size() == CodeSize::Code64;
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

/// What is wrong with our operands, if anything.
pub fn differ(i: &Insn, x: &Instruction) -> Option<String> {
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
