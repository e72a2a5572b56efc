// SPDX-License-Identifier: GPL-2.0

//! Rows that a mandatory prefix chooses: none, 66, F3, F2.

use super::Op::*;
use super::*;

/// A set of four rows. The number is the index in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are opcodes (V: vector moves of the 0F map) or mnemonics
pub(crate) enum Prefixed {
    Rdpid,
    Clwb,
    Clflush,
    Fsgsbase,
    Lfence,
    Mfence,
    Sfence,
    Serialize,
    Endbr,
    Popcnt,
    Bsf,
    Bsr,
    Movnti,
    V10,
    V11,
    V12,
    V13,
    V16,
    V17,
    V28,
    V29,
    V2b,
    V6e,
    V6f,
    V7e,
    V7f,
    Vd6,
    Ve7,
    Vf0,
    MovbeLoad,
    MovbeStore,
    Movntdqa,
    Adx,
    Invpcid,
    Movdir64b,
    Bzhi,
    Wruss,
    Mulx,
    ShiftX,
    Andn,
    Group17,
    Rorx,
    Ptwrite,
    Lkgs,
    Clac,
    Rstorssp,
    Broadcast,
    BroadcastMemory,
    BroadcastEvex,
    MaskLoad,
    MaskStore,
    Maskmov,
    Extract,
    ExtractEvex,
    Insert,
    InsertEvex,
    Pinsrw,
    Movsh,
    MovshStore,
    Movw,
    MovwStore,
}

/// `m` is the row for memory and register alike.
const fn rm(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Reg, Loc::Rm, Imm::None, flags | MODRM)
}
const fn mr(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm, Loc::Reg, Imm::None, flags | MODRM)
}
const fn load(op: Op) -> Entry {
    rm(op, VEX_OK)
}
const fn store(op: Op) -> Entry {
    mr(op, VEX_OK)
}
const fn extract(flags: u32) -> Entry {
    Entry::of(
        VecExtract,
        Loc::Rm,
        Loc::Reg,
        Imm::U8,
        flags | MODRM | VEX_OK,
    )
}
const fn insert(flags: u32) -> Entry {
    Entry::of(
        VecInsert,
        Loc::Reg,
        Loc::Rm,
        Imm::U8,
        flags | MODRM | VEX_OK,
    )
}
const UD_IB: Entry = Entry::of(Undefined, Loc::None, Loc::None, Imm::U8, MODRM);
const NI_IB: Entry = Entry::of(NotImplemented, Loc::None, Loc::None, Imm::U8, MODRM);
const TOUCH: Entry = Entry::of(Touch, Loc::Rm, Loc::None, Imm::None, MODRM | BYTE | MEM);
const NI: Entry = Entry::of(NotImplemented, Loc::None, Loc::None, Imm::None, MODRM);
const UDM: Entry = Entry::of(Undefined, Loc::None, Loc::None, Imm::None, MODRM);
const NOP_M: Entry = e(Nop, 0);
const FENCE: Entry = none(Fence, MODRM | REG);

#[rustfmt::skip]
static PREFIXED: [[Entry; 4]; 61] = [
    // Rdpid: 0F C7 /7 register
    [NI, NI, Entry::of(Rdpid, Loc::Rm, Loc::None, Imm::None, MODRM | REG | NATIVE | ON_UD), NI],
    // Clwb: 0F AE /6 memory
    [NI, TOUCH, NI, UDM],
    // Clflush: 0F AE /7 memory
    [TOUCH, TOUCH, UDM, UDM],
    // Fsgsbase: 0F AE /0 to /3 register
    [UDM, UDM, Entry::of(Fsgsbase, Loc::Rm, Loc::None, Imm::None, MODRM | ONLY64 | NO16), UDM],
    // Lfence, Mfence, Sfence
    [FENCE, UDM, NI, UDM],
    [FENCE, NI, NI, NI],
    [FENCE, UDM, UDM, UDM],
    // Serialize: 0F 01 E8
    [none(Serialize, MODRM), UDM, NI, NI],
    // Endbr: 0F 1E
    [NOP_M, NOP_M, e(Endbr, 0), NOP_M],
    // Popcnt: 0F B8
    [UDM, UDM, rm(Popcnt, 0), UDM],
    // Bsf, Bsr: 0F BC, 0F BD
    [rm(Bsf, 0), rm(Bsf, 0), rm(Tzcnt, 0), rm(Bsf, 0)],
    [rm(Bsr, 0), rm(Bsr, 0), rm(Lzcnt, 0), rm(Bsr, 0)],
    // Movnti: 0F C3
    [mr(Movnti, MEM | NO16), UDM, UDM, UDM],
    // 0F 10 and 0F 11: MOVUPS, MOVUPD, MOVSS, MOVSD
    [load(VecMov), load(VecMov), load(VecScalar), load(VecScalar)],
    [store(VecMov), store(VecMov), store(VecScalar), store(VecScalar)],
    // 0F 12 and 0F 13: MOVLPS/MOVHLPS, MOVLPD, MOVSLDUP, MOVDDUP
    [load(VecScalar), rm(VecScalar, VEX_OK | MEM), load(VecDup), load(VecDup)],
    [mr(VecScalar, VEX_OK | MEM), mr(VecScalar, VEX_OK | MEM), UDM, UDM],
    // 0F 16 and 0F 17: MOVHPS/MOVLHPS, MOVHPD, MOVSHDUP
    [load(VecScalar), rm(VecScalar, VEX_OK | MEM), load(VecDup), UDM],
    [mr(VecScalar, VEX_OK | MEM), mr(VecScalar, VEX_OK | MEM), UDM, UDM],
    // 0F 28 and 0F 29: MOVAPS, MOVAPD
    [load(VecMovAligned), load(VecMovAligned), UDM, UDM],
    [store(VecMovAligned), store(VecMovAligned), UDM, UDM],
    // 0F 2B: MOVNTPS, MOVNTPD
    [mr(VecMovAligned, VEX_OK | MEM), mr(VecMovAligned, VEX_OK | MEM), UDM, UDM],
    // 0F 6E: MOVD and MOVQ from a general register or memory
    [rm(MmxMov, 0), load(VecScalar), UDM, UDM],
    // 0F 6F: MOVQ mm, MOVDQA, MOVDQU
    [rm(MmxMov, 0), load(VecMovAligned), load(VecMov), rm(VecMov, VEX_OK | EVEX)],
    // 0F 7E: MOVD and MOVQ to a general register or memory; F3: MOVQ xmm
    [mr(MmxMov, 0), store(VecScalar), load(VecScalar), UDM],
    // 0F 7F
    [mr(MmxMov, 0), store(VecMovAligned), store(VecMov), mr(VecMov, VEX_OK | EVEX)],
    // 0F D6: MOVQ to memory
    [UDM, store(VecScalar), NI, NI],
    // 0F E7: MOVNTQ, MOVNTDQ
    [mr(MmxMov, MEM), mr(VecMovAligned, VEX_OK | MEM), NI, UDM],
    // 0F F0: LDDQU
    [UDM, UDM, UDM, rm(VecMov, VEX_OK | MEM)],
    // 0F 38 F0: MOVBE load, CRC32 of a byte
    [rm(Movbe, MEM | ON_UD), rm(Movbe, MEM | ON_UD), UDM,
     Entry::of(Crc32, Loc::Reg, Loc::Rm8, Imm::None, MODRM)],
    // 0F 38 F1: MOVBE store, CRC32
    [mr(Movbe, MEM | ON_UD), mr(Movbe, MEM | ON_UD), UDM, rm(Crc32, 0)],
    // 0F 38 2A: MOVNTDQA
    [UDM, rm(VecMovAligned, VEX_OK | MEM), NI, UDM],
    // 0F 38 F6: WRSS, ADCX, ADOX
    [NI, rm(Adcx, NO16), rm(Adox, NO16), UDM],
    // 0F 38 82: INVPCID
    [UDM, rm(Invpcid, MEM | PRIV | NATIVE), UDM, UDM],
    // 0F 38 F8: MOVDIR64B
    [UDM, rm(Movdir64b, MEM), NI, NI],
    // VEX 0F 38 F5: BZHI, PEXT, PDEP
    [rm(Bzhi, VEX | L0 | VVVV), UDM, rm(Pext, VEX | L0 | VVVV), rm(Pdep, VEX | L0 | VVVV)],
    // 0F 38 F5: WRUSS
    [UDM, NI, UDM, UDM],
    // VEX 0F 38 F6: MULX
    [UDM, UDM, UDM, rm(Mulx, VEX | L0 | VVVV)],
    // VEX 0F 38 F7: BEXTR, SHLX, SARX, SHRX
    [rm(Bextr, VEX | L0 | VVVV), rm(Shlx, VEX | L0 | VVVV), rm(Sarx, VEX | L0 | VVVV), rm(Shrx, VEX | L0 | VVVV)],
    // VEX 0F 38 F2: ANDN
    [rm(Andn, VEX | L0 | VVVV), UDM, UDM, UDM],
    // VEX 0F 38 F3: group 17
    [Entry::link(Op::Group, super::group::Group::G17 as u8, MODRM), UDM, UDM, UDM],
    // VEX 0F 3A F0: RORX
    [UDM, UDM, UDM, Entry::of(Rorx, Loc::Reg, Loc::Rm, Imm::U8, MODRM | VEX | L0)],
    // 0F AE /4 register: PTWRITE
    [UDM, UDM, NI, UDM],
    // 0F 00 /6: LKGS
    [UDM, UDM, UDM, NI],
    // 0F 01 CA: CLAC, ERETU, ERETS
    [none(Clac, MODRM), UDM, NI, NI],
    // 0F 01 /5 memory: RSTORSSP
    [UDM, UDM, NI, UDM],
    // VEX and EVEX 0F 38 18, 19, 58, 59, 78, 79; 1A, 5A; 1B, 5B: VBROADCAST and VPBROADCAST
    [UDM, load(VecBroadcast), UDM, UDM],
    [UDM, rm(VecBroadcast, VEX_OK | MEM), UDM, UDM],
    [UDM, rm(VecBroadcast, VEX_OK | EVEX | MEM), UDM, UDM],
    // VEX 0F 38 2C, 2D, 8C and 2E, 2F, 8E: VMASKMOV and VPMASKMOV
    [UDM, rm(VecMaskMov, VEX_OK | MEM), UDM, UDM],
    [UDM, mr(VecMaskMov, VEX_OK | MEM), UDM, UDM],
    // 0F F7: MASKMOVQ, MASKMOVDQU
    [rm(MaskMov, REG), rm(MaskMov, VEX_OK | REG), UDM, UDM],
    // 0F 3A 14 to 17 and VEX 19, 39; EVEX 1B, 3B: PEXTR, EXTRACTPS, VEXTRACT
    [UD_IB, extract(0), UD_IB, UD_IB],
    [UD_IB, extract(EVEX), UD_IB, UD_IB],
    // 0F 3A 20, 22 and VEX 18, 38; EVEX 1A, 3A: PINSR, VINSERT
    [UD_IB, insert(0), UD_IB, UD_IB],
    [UD_IB, insert(EVEX), UD_IB, UD_IB],
    // 0F C4: PINSRW of MMX, PINSRW
    [NI_IB, insert(0), UD_IB, UD_IB],
    // Map 5, 10 and 11: VMOVSH; 6E and 7E: VMOVW
    [NI, NI, load(VecHalf), NI],
    [NI, NI, store(VecHalf), NI],
    [NI, load(VecHalf), NI, NI],
    [NI, store(VecHalf), NI, NI],
];

/// The row of a set for the mandatory prefix `column`: 0 none, 1 66, 2 F3, 3 F2.
#[inline]
pub fn prefixed_row(set: u8, column: u8) -> Entry {
    PREFIXED
        .get(usize::from(set))
        .and_then(|rows| rows.get(usize::from(column & 3)))
        .copied()
        .unwrap_or(UDM)
}
