// SPDX-License-Identifier: GPL-2.0

//! The two-byte opcode map (0F).

use super::group::Group;
use super::prefixed::Prefixed;
use super::Op::*;
use super::*;

const fn grp(group: Group) -> Entry {
    Entry::link(Op::Group, group as u8, MODRM)
}
const fn pfx(p: Prefixed) -> Entry {
    Entry::link(Op::Prefixed, p as u8, MODRM)
}
const NOP_M: Entry = e(Nop, 0);
/// A SIMD or MMX instruction with ModRM that is no plain move.
const SSE: Entry = NI_M;
/// The same with an immediate byte.
const SSE_IB: Entry = Entry::of(NotImplemented, Loc::None, Loc::None, Imm::U8, MODRM);
const JCC: Entry = Entry::of(Jcc, Loc::None, Loc::Imm, Imm::Z, F64);
const SETCC: Entry = e(Setcc, BYTE);
const CMOV: Entry = gv_ev(Cmovcc, 0);
const BSWAP: Entry = Entry::of(Bswap, Loc::Low3, Loc::None, Imm::None, 0);
const PUSH_SEG: Entry = none(PushSeg, D64);
const POP_SEG: Entry = none(PopSeg, D64);
const LOAD_FAR: Entry = gv_ev(LoadFar, MEM);
const fn crdr(op: Op) -> Entry {
    none(op, MODRM | NATIVE | NOMOD | PRIV)
}
const fn sh(op: Op, kind: Imm) -> Entry {
    let src = match kind {
        Imm::None => Loc::Cl,
        _ => Loc::Imm,
    };
    Entry::of(op, Loc::Rm, src, kind, MODRM)
}

/// The two-byte opcode map, by the byte after 0F.
#[rustfmt::skip]
pub static TWO_BYTE: [Entry; 256] = [
    // 00
    grp(Group::G6), grp(Group::G7),
    Entry::of(Lar, Loc::Reg, Loc::Rm16, Imm::None, MODRM | PROT),
    Entry::of(Lsl, Loc::Reg, Loc::Rm16, Imm::None, MODRM | PROT),
    UD, none(Syscall, ONLY64 | ON_UD), none(Clts, PRIV), none(Sysret, ONLY64 | PRIV | ON_UD),
    none(Invd, PRIV), none(Wbinvd, PRIV), UD, none(Undefined, 0),
    UD, e(Nop, 0), UD, UD,
    // 10
    pfx(Prefixed::V10), pfx(Prefixed::V11), pfx(Prefixed::V12), pfx(Prefixed::V13),
    SSE, SSE, pfx(Prefixed::V16), pfx(Prefixed::V17),
    grp(Group::G16), NOP_M, NOP_M, NOP_M, NOP_M, NOP_M, pfx(Prefixed::Endbr), NOP_M,
    // 20
    crdr(MovFromCr), crdr(MovFromDr), crdr(MovToCr), crdr(MovToDr), UD, UD, UD, UD,
    pfx(Prefixed::V28), pfx(Prefixed::V29), SSE, pfx(Prefixed::V2b), SSE, SSE, SSE, SSE,
    // 30
    none(Wrmsr, PRIV), none(Rdtsc, 0), none(Rdmsr, PRIV), none(Rdpmc, 0),
    none(Sysenter, ON_UD), none(Sysexit, PRIV | ON_UD), UD, none(NotImplemented, 0),
    UD, UD, UD, UD, UD, UD, UD, UD,
    // 40
    CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV, CMOV,
    // 50
    SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE,
    // 60
    SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE,
    pfx(Prefixed::V6e), pfx(Prefixed::V6f),
    // 70
    SSE_IB, SSE_IB, SSE_IB, SSE_IB, SSE, SSE, SSE, none(NotImplemented, 0),
    NI_M, NI_M, UD, UD, SSE, SSE, pfx(Prefixed::V7e), pfx(Prefixed::V7f),
    // 80
    JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC, JCC,
    // 90
    SETCC, SETCC, SETCC, SETCC, SETCC, SETCC, SETCC, SETCC,
    SETCC, SETCC, SETCC, SETCC, SETCC, SETCC, SETCC, SETCC,
    // A0
    PUSH_SEG, POP_SEG, none(Cpuid, 0), ev_gv(Bt, 0), sh(Shld, Imm::U8), sh(Shld, Imm::None), UD, UD,
    PUSH_SEG, POP_SEG, none(Rsm, ON_UD), ev_gv(Bts, LOCK), sh(Shrd, Imm::U8), sh(Shrd, Imm::None),
    grp(Group::G15), gv_ev(Imul2, 0),
    // B0
    eb_gb(Cmpxchg, LOCK), ev_gv(Cmpxchg, LOCK), LOAD_FAR, ev_gv(Btr, LOCK), LOAD_FAR, LOAD_FAR,
    Entry::of(Movzx, Loc::Reg, Loc::Rm8, Imm::None, MODRM),
    Entry::of(Movzx, Loc::Reg, Loc::Rm16, Imm::None, MODRM),
    pfx(Prefixed::Popcnt), none(Undefined, MODRM), grp(Group::G8), ev_gv(Btc, LOCK),
    pfx(Prefixed::Bsf), pfx(Prefixed::Bsr),
    Entry::of(Movsx, Loc::Reg, Loc::Rm8, Imm::None, MODRM),
    Entry::of(Movsx, Loc::Reg, Loc::Rm16, Imm::None, MODRM),
    // C0
    eb_gb(Xadd, LOCK), ev_gv(Xadd, LOCK), SSE_IB, pfx(Prefixed::Movnti), pfx(Prefixed::Pinsrw), SSE_IB, SSE_IB, grp(Group::G9),
    BSWAP, BSWAP, BSWAP, BSWAP, BSWAP, BSWAP, BSWAP, BSWAP,
    // D0
    SSE, SSE, SSE, SSE, SSE, SSE, pfx(Prefixed::Vd6), SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE,
    // E0
    SSE, SSE, SSE, SSE, SSE, SSE, SSE, pfx(Prefixed::Ve7), SSE, SSE, SSE, SSE, SSE, SSE, SSE, SSE,
    // F0
    pfx(Prefixed::Vf0), SSE, SSE, SSE, SSE, SSE, SSE, pfx(Prefixed::Maskmov), SSE, SSE, SSE, SSE, SSE, SSE, SSE, none(Undefined, MODRM),
];
