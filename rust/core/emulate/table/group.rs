// SPDX-License-Identifier: GPL-2.0

//! Opcode extensions: rows chosen by ModRM.reg (SDM, "Opcode Extensions For One-Byte And Two-byte Opcodes").

use super::prefixed::Prefixed;
use super::Op::*;
use super::*;

/// A group of rows. The number is the index in the table of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the SDM's group numbers with the operands where there are several
pub(crate) enum Group {
    G1Eb,
    G1EvIz,
    G1EvIb,
    G1A,
    G2EbIb,
    G2EvIb,
    G2EbOne,
    G2EvOne,
    G2EbCl,
    G2EvCl,
    G3Eb,
    G3Ev,
    G4,
    G5,
    G6,
    G7,
    G8,
    G9,
    G11Eb,
    G11Ev,
    G15,
    G16,
    G17,
    X87D9,
    X87Db,
    X87Dd,
    X87Df,
}

/// Groups chosen by ModRM.rm: the register forms of 0F 01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RmGroup {
    /// 0F 01 C0 to C7.
    R0,
    /// 0F 01 C8 to CF.
    R1,
    /// 0F 01 D0 to D7.
    R2,
    /// 0F 01 D8 to DF.
    R3,
    /// 0F 01 E8 to EF.
    R5,
    /// 0F 01 F8 to FF.
    R7,
    /// DB E0 to E7.
    Db,
    /// DF E0 to E7.
    Df,
}

type Rows = [Entry; 16];

const fn both(r: [Entry; 8]) -> Rows {
    let [a, b, c, d, e, f, g, h] = r;
    [a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]
}

const fn imm(op: Op, kind: Imm, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm, Loc::Imm, kind, flags | MODRM)
}

/// Group 1 with this immediate.
const fn alu(kind: Imm, f: u32) -> Rows {
    let l = f | LOCK;
    both([
        imm(Add, kind, l),
        imm(Or, kind, l),
        imm(Adc, kind, l),
        imm(Sbb, kind, l),
        imm(And, kind, l),
        imm(Sub, kind, l),
        imm(Xor, kind, l),
        imm(Cmp, kind, f),
    ])
}

/// Group 2 with this count.
const fn shift(src: Loc, kind: Imm, f: u32) -> Rows {
    const fn s(op: Op, src: Loc, kind: Imm, f: u32) -> Entry {
        Entry::of(op, Loc::Rm, src, kind, f | MODRM)
    }
    both([
        s(Rol, src, kind, f),
        s(Ror, src, kind, f),
        s(Rcl, src, kind, f),
        s(Rcr, src, kind, f),
        s(Shl, src, kind, f),
        s(Shr, src, kind, f),
        s(Shl, src, kind, f),
        s(Sar, src, kind, f),
    ])
}

/// Group 3.
const fn unary(f: u32) -> Rows {
    both([
        imm(Test, Imm::Z, f),
        imm(Test, Imm::Z, f),
        e(Not, f | LOCK),
        e(Neg, f | LOCK),
        e(Mul, f),
        e(Imul, f),
        e(Div, f),
        e(Idiv, f),
    ])
}

/// The rows of an x87 opcode, of which one is emulated.
const fn x87(column: usize, row: Entry) -> Rows {
    let n = NI_M;
    match column {
        7 => [n, n, n, n, n, n, n, row, n, n, n, n, n, n, n, n],
        _ => [n, n, n, n, n, n, n, n, n, n, n, n, row, n, n, n],
    }
}

/// Group 11: MOV, and XABORT or XBEGIN.
const fn mov(f: u32) -> Rows {
    let m = imm(Mov, Imm::Z, f);
    let rtm = Entry::of(NotImplemented, Loc::None, Loc::None, Imm::Z, MODRM | f);
    [
        m, UD, UD, UD, UD, UD, UD, UD, m, UD, UD, UD, UD, UD, UD, rtm,
    ]
}

/// A row where there is only the first one, for memory and register.
const fn first(r: Entry) -> Rows {
    both([r, UD, UD, UD, UD, UD, UD, UD])
}

const fn pfx(p: Prefixed) -> Entry {
    Entry::link(Op::Prefixed, p as u8, MODRM)
}
const fn rmg(g: RmGroup) -> Entry {
    Entry::link(Op::RmGroup, g as u8, MODRM)
}
/// A source in ModRM.rm that is a branch target.
const fn near(op: Op) -> Entry {
    Entry::of(op, Loc::None, Loc::Rm, Imm::None, MODRM | F64)
}
const fn far(op: Op) -> Entry {
    Entry::of(op, Loc::None, Loc::Rm, Imm::None, MODRM | MEM)
}
const fn bit(op: Op, f: u32) -> Entry {
    imm(op, Imm::U8, f)
}
/// A descriptor-table register and memory.
const fn dt(op: Op, f: u32) -> Entry {
    Entry::of(
        op,
        Loc::None,
        Loc::None,
        Imm::None,
        MODRM | MEM | NATIVE | f,
    )
}
const NOP_M: Entry = e(Nop, 0);
const TOUCH: Entry = Entry::of(Touch, Loc::Rm, Loc::None, Imm::None, MODRM | BYTE | MEM);

static GROUPS: [Rows; 27] = [
    alu(Imm::Z, BYTE),
    alu(Imm::Z, 0),
    alu(Imm::S8, 0),
    first(e(Pop, D64)),
    shift(Loc::Imm, Imm::U8, BYTE),
    shift(Loc::Imm, Imm::U8, 0),
    shift(Loc::One, Imm::None, BYTE),
    shift(Loc::One, Imm::None, 0),
    shift(Loc::Cl, Imm::None, BYTE),
    shift(Loc::Cl, Imm::None, 0),
    unary(BYTE),
    unary(0),
    both([
        e(Inc, BYTE | LOCK),
        e(Dec, BYTE | LOCK),
        UD,
        UD,
        UD,
        UD,
        UD,
        UD,
    ]),
    both([
        e(Inc, LOCK),
        e(Dec, LOCK),
        near(Call),
        far(CallFar),
        near(Jmp),
        far(JmpFar),
        Entry::of(Push, Loc::None, Loc::Rm, Imm::None, MODRM | D64),
        UD,
    ]),
    both([
        e(Sldt, PROT),
        e(Str, PROT),
        ew(Lldt, PROT | PRIV),
        ew(Ltr, PROT | PRIV),
        ew(Verr, PROT),
        ew(Verw, PROT),
        pfx(Prefixed::Lkgs),
        UD,
    ]),
    [
        dt(Sgdt, 0),
        dt(Sidt, 0),
        dt(Lgdt, PRIV),
        dt(Lidt, PRIV),
        e(Smsw, 0),
        pfx(Prefixed::Rstorssp),
        ew(Lmsw, PRIV),
        e(Invlpg, PRIV | MEM | BYTE),
        rmg(RmGroup::R0),
        rmg(RmGroup::R1),
        rmg(RmGroup::R2),
        rmg(RmGroup::R3),
        e(Smsw, 0),
        rmg(RmGroup::R5),
        ew(Lmsw, PRIV),
        rmg(RmGroup::R7),
    ],
    both([
        UD,
        UD,
        UD,
        UD,
        bit(Bt, 0),
        bit(Bts, LOCK),
        bit(Btr, LOCK),
        bit(Btc, LOCK),
    ]),
    [
        UD,
        Entry::of(Cmpxchg8b, Loc::Rm, Loc::None, Imm::None, MODRM | MEM | LOCK),
        UD,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        UD,
        UD,
        UD,
        UD,
        UD,
        UD,
        NI_M,
        pfx(Prefixed::Rdpid),
    ],
    mov(BYTE),
    mov(0),
    [
        e(Fxsave, NP | MEM),
        e(Fxrstor, NP | MEM),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        pfx(Prefixed::Clwb),
        pfx(Prefixed::Clflush),
        pfx(Prefixed::Fsgsbase),
        pfx(Prefixed::Fsgsbase),
        pfx(Prefixed::Fsgsbase),
        pfx(Prefixed::Fsgsbase),
        pfx(Prefixed::Ptwrite),
        pfx(Prefixed::Lfence),
        pfx(Prefixed::Mfence),
        pfx(Prefixed::Sfence),
    ],
    // Prefetch hints; the register forms are NOPs.
    [
        TOUCH, TOUCH, TOUCH, TOUCH, NOP_M, NOP_M, NOP_M, NOP_M, NOP_M, NOP_M, NOP_M, NOP_M, NOP_M,
        NOP_M, NOP_M, NOP_M,
    ],
    // VEX group 17: BLSR, BLSMSK, BLSI.
    both([
        UD,
        e(Blsr, VEX | L0 | VVVV),
        e(Blsmsk, VEX | L0 | VVVV),
        e(Blsi, VEX | L0 | VVVV),
        UD,
        UD,
        UD,
        UD,
    ]),
    x87(7, ew(Fnstcw, MEM)),
    x87(12, rmg(RmGroup::Db)),
    x87(7, ew(Fnstsw, MEM)),
    x87(12, rmg(RmGroup::Df)),
];

static RM_GROUPS: [[Entry; 8]; 8] = [
    [
        NI_M,
        none(Vmcall, ON_UD | MODRM | NP),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    [
        none(Monitor, PRIV | MODRM | NP),
        none(Mwait, PRIV | MODRM | NP),
        pfx(Prefixed::Clac),
        none(Stac, MODRM | NP),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    [
        none(Xgetbv, MODRM | NP),
        none(Xsetbv, PRIV | MODRM | NP),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    // All but VMMCALL are AMD's.
    [UD, none(Vmcall, ON_UD | MODRM), UD, UD, UD, UD, UD, UD],
    [
        pfx(Prefixed::Serialize),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    [
        none(Swapgs, ONLY64 | PRIV | MODRM),
        none(Rdtscp, MODRM),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    [
        NI_M,
        NI_M,
        NI_M,
        none(Fninit, MODRM),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
    [
        none(Fnstsw, MODRM),
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
        NI_M,
    ],
];

/// The row of a group for ModRM.reg and whether ModRM.rm is a register.
#[inline]
pub fn group_row(group: u8, reg: u8, is_register: bool) -> Entry {
    let column = (reg & 7) | if is_register { 8 } else { 0 };
    GROUPS
        .get(usize::from(group))
        .and_then(|rows| rows.get(usize::from(column)))
        .copied()
        .unwrap_or(UD)
}

/// The row of a register form of 0F 01 for ModRM.rm.
#[inline]
pub fn rm_row(group: u8, rm: u8) -> Entry {
    RM_GROUPS
        .get(usize::from(group))
        .and_then(|rows| rows.get(usize::from(rm & 7)))
        .copied()
        .unwrap_or(UD)
}
