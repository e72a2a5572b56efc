// SPDX-License-Identifier: GPL-2.0

//! The one-byte opcode map.

use super::group::Group;
use super::Op::*;
use super::*;

/// A register in the opcode.
const fn low3(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Low3, Loc::None, Imm::None, flags)
}
/// A jump with a byte displacement.
const fn jb(op: Op) -> Entry {
    Entry::of(op, Loc::None, Loc::Imm, Imm::S8, F64)
}
/// A jump with a displacement of operand size.
const fn jz(op: Op) -> Entry {
    Entry::of(op, Loc::None, Loc::Imm, Imm::Z, F64)
}
const fn grp(group: Group, flags: u32) -> Entry {
    Entry::link(Op::Group, group as u8, flags | MODRM)
}
/// A string instruction on bytes.
const fn sb(op: Op) -> Entry {
    none(op, BYTE | STRING)
}
/// A string instruction on operand size.
const fn sv(op: Op) -> Entry {
    none(op, STRING)
}
/// A BCD adjustment.
const fn bcd(op: Op) -> Entry {
    none(op, NO64)
}
const fn pseg(op: Op) -> Entry {
    none(op, NO64 | D64)
}
const fn io(op: Op, port: Loc, flags: u32) -> Entry {
    let imm = match port {
        Loc::Imm => Imm::U8,
        _ => Imm::None,
    };
    Entry::of(op, Loc::None, port, imm, flags)
}
/// x87: decoded for its length.
const X87: Entry = Entry::of(NotImplemented, Loc::None, Loc::None, Imm::None, MODRM);
const PFX: Entry = none(Prefix, 0);
const MOV_LOW3_IB: Entry = Entry::of(Mov, Loc::Low3, Loc::Imm, Imm::Z, BYTE);
const MOV_LOW3_IV: Entry = Entry::of(Mov, Loc::Low3, Loc::Imm, Imm::V, 0);
const XCHG_LOW3: Entry = Entry::of(Xchg, Loc::Low3, Loc::Acc, Imm::None, 0);
const INC_LOW3: Entry = low3(Inc, NO64);
const DEC_LOW3: Entry = low3(Dec, NO64);
const PUSH_LOW3: Entry = Entry::of(Push, Loc::None, Loc::Low3, Imm::None, D64);
const POP_LOW3: Entry = low3(Pop, D64);
const JCC: Entry = jb(Jcc);
const MOFFS_B: u32 = BYTE;

/// The one-byte opcode map, by opcode.
#[rustfmt::skip]
pub static ONE_BYTE: [Entry; 256] = [
    // 00
    eb_gb(Add, LOCK), ev_gv(Add, LOCK), gb_eb(Add, 0), gv_ev(Add, 0),
    al_ib(Add), ax_iz(Add), pseg(PushSeg), pseg(PopSeg),
    eb_gb(Or, LOCK), ev_gv(Or, LOCK), gb_eb(Or, 0), gv_ev(Or, 0),
    al_ib(Or), ax_iz(Or), pseg(PushSeg), UD,
    // 10
    eb_gb(Adc, LOCK), ev_gv(Adc, LOCK), gb_eb(Adc, 0), gv_ev(Adc, 0),
    al_ib(Adc), ax_iz(Adc), pseg(PushSeg), pseg(PopSeg),
    eb_gb(Sbb, LOCK), ev_gv(Sbb, LOCK), gb_eb(Sbb, 0), gv_ev(Sbb, 0),
    al_ib(Sbb), ax_iz(Sbb), pseg(PushSeg), pseg(PopSeg),
    // 20
    eb_gb(And, LOCK), ev_gv(And, LOCK), gb_eb(And, 0), gv_ev(And, 0),
    al_ib(And), ax_iz(And), PFX, bcd(Daa),
    eb_gb(Sub, LOCK), ev_gv(Sub, LOCK), gb_eb(Sub, 0), gv_ev(Sub, 0),
    al_ib(Sub), ax_iz(Sub), PFX, bcd(Das),
    // 30
    eb_gb(Xor, LOCK), ev_gv(Xor, LOCK), gb_eb(Xor, 0), gv_ev(Xor, 0),
    al_ib(Xor), ax_iz(Xor), PFX, bcd(Aaa),
    eb_gb(Cmp, 0), ev_gv(Cmp, 0), gb_eb(Cmp, 0), gv_ev(Cmp, 0),
    al_ib(Cmp), ax_iz(Cmp), PFX, bcd(Aas),
    // 40: REX in 64-bit mode, taken before the table is asked
    INC_LOW3, INC_LOW3, INC_LOW3, INC_LOW3, INC_LOW3, INC_LOW3, INC_LOW3, INC_LOW3,
    DEC_LOW3, DEC_LOW3, DEC_LOW3, DEC_LOW3, DEC_LOW3, DEC_LOW3, DEC_LOW3, DEC_LOW3,
    // 50
    PUSH_LOW3, PUSH_LOW3, PUSH_LOW3, PUSH_LOW3, PUSH_LOW3, PUSH_LOW3, PUSH_LOW3, PUSH_LOW3,
    POP_LOW3, POP_LOW3, POP_LOW3, POP_LOW3, POP_LOW3, POP_LOW3, POP_LOW3, POP_LOW3,
    // 60: 62 is EVEX in 64-bit mode or with ModRM.mod 3; 63 is ARPL outside 64-bit mode
    none(Pusha, NO64), none(Popa, NO64), gv_ev(Bound, NO64 | MEM),
    Entry::of(Movsx, Loc::Reg, Loc::Rm32, Imm::None, MODRM),
    PFX, PFX, PFX, PFX,
    Entry::of(Push, Loc::None, Loc::Imm, Imm::Z, D64),
    Entry::of(Imul3, Loc::Reg, Loc::Rm, Imm::Z, MODRM),
    Entry::of(Push, Loc::None, Loc::Imm, Imm::S8, D64),
    Entry::of(Imul3, Loc::Reg, Loc::Rm, Imm::S8, MODRM),
    sb(Ins), sv(Ins), sb(Outs), sv(Outs),
    // 70
    JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC,
    // 80
    grp(Group::G1Eb, 0), grp(Group::G1EvIz, 0), grp(Group::G1Eb, NO64), grp(Group::G1EvIb, 0),
    eb_gb(Test, 0), ev_gv(Test, 0), eb_gb(Xchg, LOCK), ev_gv(Xchg, LOCK),
    eb_gb(Mov, 0), ev_gv(Mov, 0), gb_eb(Mov, 0), gv_ev(Mov, 0),
    e(MovFromSeg, 0), gv_ev(Lea, MEM), Entry::of(MovToSeg, Loc::None, Loc::Rm16, Imm::None, MODRM),
    grp(Group::G1A, 0),
    // 90: 90 itself is NOP or PAUSE without REX.B, sorted out at decode
    XCHG_LOW3, XCHG_LOW3, XCHG_LOW3, XCHG_LOW3, XCHG_LOW3, XCHG_LOW3, XCHG_LOW3, XCHG_LOW3,
    none(Cbw, 0), none(Cwd, 0), Entry::of(CallFar, Loc::None, Loc::Imm, Imm::Far, NO64), none(Fwait, 0),
    none(Pushf, D64), none(Popf, D64), none(Sahf, 0), none(Lahf, 0),
    // A0
    Entry::of(Mov, Loc::Acc, Loc::Rm, Imm::Moffs, MOFFS_B), Entry::of(Mov, Loc::Acc, Loc::Rm, Imm::Moffs, 0),
    Entry::of(Mov, Loc::Rm, Loc::Acc, Imm::Moffs, MOFFS_B), Entry::of(Mov, Loc::Rm, Loc::Acc, Imm::Moffs, 0),
    sb(Movs), sv(Movs), sb(Cmps), sv(Cmps),
    al_ib(Test), ax_iz(Test), sb(Stos), sv(Stos), sb(Lods), sv(Lods), sb(Scas), sv(Scas),
    // B0
    MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB, MOV_LOW3_IB,
    MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV, MOV_LOW3_IV,
    // C0: C4 and C5 are VEX in 64-bit mode or with ModRM.mod 3
    grp(Group::G2EbIb, 0), grp(Group::G2EvIb, 0),
    Entry::of(Ret, Loc::None, Loc::Imm, Imm::U16, F64), none(Ret, F64),
    gv_ev(LoadFar, NO64 | MEM), gv_ev(LoadFar, NO64 | MEM),
    grp(Group::G11Eb, 0), grp(Group::G11Ev, 0),
    Entry::of(Enter, Loc::None, Loc::Imm, Imm::Enter, D64), none(Leave, D64),
    Entry::of(RetFar, Loc::None, Loc::Imm, Imm::U16, 0), none(RetFar, 0),
    none(Int3, 0), Entry::of(Int, Loc::None, Loc::Imm, Imm::U8, 0), none(Into, NO64), none(Iret, 0),
    // D0
    grp(Group::G2EbOne, 0), grp(Group::G2EvOne, 0), grp(Group::G2EbCl, 0), grp(Group::G2EvCl, 0),
    Entry::of(Aam, Loc::None, Loc::Imm, Imm::U8, NO64), Entry::of(Aad, Loc::None, Loc::Imm, Imm::U8, NO64),
    none(Salc, NO64), none(Xlat, BYTE),
    X87, grp(Group::X87D9, 0), X87, grp(Group::X87Db, 0), X87, grp(Group::X87Dd, 0), X87, grp(Group::X87Df, 0),
    // E0
    jb(Loopne), jb(Loope), jb(Loop), jb(Jcxz),
    io(In, Loc::Imm, BYTE), io(In, Loc::Imm, 0), io(Out, Loc::Imm, BYTE), io(Out, Loc::Imm, 0),
    jz(Call), jz(Jmp), Entry::of(JmpFar, Loc::None, Loc::Imm, Imm::Far, NO64), jb(Jmp),
    io(In, Loc::Dx, BYTE), io(In, Loc::Dx, 0), io(Out, Loc::Dx, BYTE), io(Out, Loc::Dx, 0),
    // F0
    PFX, none(Int1, 0), PFX, PFX,
    none(Hlt, PRIV), none(Cmc, 0), grp(Group::G3Eb, 0), grp(Group::G3Ev, 0),
    none(Clc, 0), none(Stc, 0), none(Cli, 0), none(Sti, 0),
    none(Cld, 0), none(Std, 0), grp(Group::G4, 0), grp(Group::G5, 0),
];
