// SPDX-License-Identifier: GPL-2.0

//! The opcode tables: what each opcode is, as data. Decode, execute, the documentation and the tests read them.
//!
//! SDM volume 2, "Opcode Map". The rows are written in the notation of that appendix: `eb_gb` is a byte ModRM.rm
//! destination with a ModRM.reg source, `ev_iz` one of operand size with a 16- or 32-bit immediate, and so on.

mod group;
mod one;
mod prefixed;
mod three;
mod two;

pub use group::{group_row, rm_row};
pub use one::ONE_BYTE;
pub use prefixed::prefixed_row;
pub use three::{map_5, three_byte_38, three_byte_3a};
pub use two::TWO_BYTE;

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the SDM's mnemonics
pub enum Op {
    /// #UD by definition, or no instruction at all.
    Undefined,
    /// An instruction that the emulator decodes no further.
    NotImplemented,
    /// A legacy prefix.
    Prefix,
    /// The row is in a group, by ModRM.reg and whether ModRM.rm is a register.
    Group,
    /// The row is in a group by ModRM.rm (register forms of 0F 01).
    RmGroup,
    /// The row depends on 66, F3 and F2.
    Prefixed,
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
    Mov,
    Movsx,
    Movzx,
    Movnti,
    Movbe,
    Movdiri,
    Movdir64b,
    Lea,
    Xchg,
    Cmpxchg,
    Cmpxchg8b,
    Xadd,
    Inc,
    Dec,
    Not,
    Neg,
    Mul,
    Imul,
    /// IMUL with two operands.
    Imul2,
    /// IMUL with three operands.
    Imul3,
    Div,
    Idiv,
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
    Shld,
    Shrd,
    Bt,
    Bts,
    Btr,
    Btc,
    Bsf,
    Bsr,
    Tzcnt,
    Lzcnt,
    Popcnt,
    Bswap,
    Crc32,
    Adcx,
    Adox,
    Andn,
    Bextr,
    Blsr,
    Blsmsk,
    Blsi,
    Bzhi,
    Mulx,
    Pdep,
    Pext,
    Rorx,
    Sarx,
    Shlx,
    Shrx,
    /// CBW, CWDE, CDQE.
    Cbw,
    /// CWD, CDQ, CQO.
    Cwd,
    Daa,
    Das,
    Aaa,
    Aas,
    Aam,
    Aad,
    Salc,
    Lahf,
    Sahf,
    Xlat,
    Setcc,
    Cmovcc,
    Jcc,
    Jmp,
    JmpFar,
    Call,
    CallFar,
    Ret,
    RetFar,
    Iret,
    Int,
    Int3,
    Into,
    Int1,
    Loop,
    Loope,
    Loopne,
    Jcxz,
    Push,
    Pop,
    Pusha,
    Popa,
    Pushf,
    Popf,
    PushSeg,
    PopSeg,
    Enter,
    Leave,
    Bound,
    Arpl,
    MovFromSeg,
    MovToSeg,
    /// LES, LDS, LSS, LFS, LGS.
    LoadFar,
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
    Ins,
    Outs,
    In,
    Out,
    Clc,
    Stc,
    Cmc,
    Cld,
    Std,
    Cli,
    Sti,
    Clac,
    Stac,
    Hlt,
    Nop,
    Pause,
    /// ENDBR32, ENDBR64 and RDSSP; what else is there is a NOP.
    Endbr,
    /// Fences: nothing to do between instructions of one vCPU.
    Fence,
    /// PREFETCHh, CLFLUSH and the like: translate, do nothing.
    Touch,
    MovFromCr,
    MovToCr,
    MovFromDr,
    MovToDr,
    Clts,
    Lmsw,
    Smsw,
    Lgdt,
    Lidt,
    Sgdt,
    Sidt,
    Lldt,
    Sldt,
    Ltr,
    Str,
    Lar,
    Lsl,
    Verr,
    Verw,
    Invlpg,
    Invpcid,
    Invd,
    Wbinvd,
    Cpuid,
    Rdmsr,
    Wrmsr,
    Rdtsc,
    Rdtscp,
    Rdpmc,
    Rdpid,
    Xgetbv,
    Xsetbv,
    Swapgs,
    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    Fsgsbase,
    Syscall,
    Sysret,
    Sysenter,
    Sysexit,
    Rsm,
    Vmcall,
    Monitor,
    Mwait,
    Serialize,
    /// A move between a vector register and memory or a vector register, both of vector length.
    VecMov,
    /// As `VecMov`; memory must be aligned to its size.
    VecMovAligned,
    /// A vector move of a smaller memory operand (MOVSS, MOVLPS, MOVD, VMOVQ, ...).
    VecScalar,
    /// MOVDDUP, MOVSLDUP, MOVSHDUP.
    VecDup,
    /// VMOVSH and VMOVW.
    VecHalf,
    /// VBROADCAST and VPBROADCAST of a vector register or memory.
    VecBroadcast,
    /// PEXTR, EXTRACTPS, VEXTRACT.
    VecExtract,
    /// PINSR, VINSERT.
    VecInsert,
    /// VMASKMOV and VPMASKMOV.
    VecMaskMov,
    /// MASKMOVDQU and MASKMOVQ.
    MaskMov,
    /// MMX MOVQ and MOVD.
    MmxMov,
    Fxsave,
    Fxrstor,
    Fninit,
    Fnstcw,
    Fnstsw,
    /// FWAIT.
    Fwait,
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Loc {
    /// There is none, or the operation itself knows.
    None,
    /// ModRM.rm of operand width.
    Rm,
    /// ModRM.rm, one byte wide.
    Rm8,
    /// ModRM.rm, two bytes wide.
    Rm16,
    /// ModRM.rm, four bytes wide.
    Rm32,
    /// ModRM.reg.
    Reg,
    /// AL, AX, EAX, RAX.
    Acc,
    /// The register in the low three bits of the opcode.
    Low3,
    /// The immediate.
    Imm,
    /// The constant 1.
    One,
    /// CL.
    Cl,
    /// DX.
    Dx,
}

/// What follows ModRM, SIB and displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Imm {
    /// Nothing.
    None,
    /// One byte, sign-extended.
    S8,
    /// One byte, zero-extended.
    U8,
    /// Two bytes, zero-extended.
    U16,
    /// Two bytes for 16-bit operands, else four, sign-extended; one byte for byte operands.
    Z,
    /// As wide as the operand, up to eight bytes.
    V,
    /// A displacement of address width in place of ModRM.
    Moffs,
    /// A far pointer: offset of operand width (2 or 4), then a selector.
    Far,
    /// ENTER: two bytes, then one.
    Enter,
}

/// ModRM follows.
pub const MODRM: u32 = 1 << 0;
/// Byte operands.
pub const BYTE: u32 = 1 << 1;
/// LOCK is allowed with a memory destination.
pub const LOCK: u32 = 1 << 2;
/// #UD in 64-bit mode.
pub const NO64: u32 = 1 << 3;
/// #UD outside 64-bit mode.
pub const ONLY64: u32 = 1 << 4;
/// In 64-bit mode the operand width is 64 without REX.W, 16 with 66.
pub const D64: u32 = 1 << 5;
/// In 64-bit mode the operand width is 64 whatever the prefixes (Intel's near branches).
pub const F64: u32 = 1 << 6;
/// #GP(0) unless CPL is 0.
pub const PRIV: u32 = 1 << 7;
/// #UD in real and virtual-8086 mode.
pub const PROT: u32 = 1 << 8;
/// #UD if ModRM.rm is a register.
pub const MEM: u32 = 1 << 9;
/// #UD if ModRM.rm is memory.
pub const REG: u32 = 1 << 10;
/// Emulated also when hardware raised #UD for it.
pub const ON_UD: u32 = 1 << 11;
/// A string instruction.
pub const STRING: u32 = 1 << 12;
/// The operand width is 64 in 64-bit mode and 32 elsewhere.
pub const NATIVE: u32 = 1 << 13;
/// ModRM.mod is ignored: ModRM.rm is a register.
pub const NOMOD: u32 = 1 << 14;
/// Needs VEX.
pub const VEX: u32 = 1 << 15;
/// May have VEX or EVEX.
pub const VEX_OK: u32 = 1 << 16;
/// VEX.L must be 0.
pub const L0: u32 = 1 << 17;
/// VEX.vvvv is an operand.
pub const VVVV: u32 = 1 << 18;
/// #UD with a 66, F2 or F3 prefix.
pub const NP: u32 = 1 << 19;
/// A 16-bit operand size does not exist (66 is ignored).
pub const NO16: u32 = 1 << 20;

/// Needs EVEX.
pub const EVEX: u32 = 1 << 21;

/// A row of an opcode table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it does.
    pub op: Op,
    /// First operand: the destination, if any.
    pub dst: Loc,
    /// Second operand.
    pub src: Loc,
    /// Immediate.
    pub imm: Imm,
    /// Bits of this module's constants; for the group kinds of [`Op`], which group in the top byte.
    pub flags: u32,
}

impl Entry {
    /// A row.
    pub const fn of(op: Op, dst: Loc, src: Loc, imm: Imm, flags: u32) -> Self {
        Self {
            op,
            dst,
            src,
            imm,
            flags,
        }
    }

    /// A row that leads to another table; what the caller knows of all its rows is in `flags`.
    const fn link(op: Op, group: u8, flags: u32) -> Self {
        Self {
            op,
            dst: Loc::None,
            src: Loc::None,
            imm: Imm::None,
            flags: flags | (group as u32) << 24,
        }
    }

    /// For the group kinds of [`Op`]: which group.
    #[inline]
    pub const fn group(&self) -> u8 {
        (self.flags >> 24) as u8
    }

    /// Whether any of the given flags is set.
    #[inline]
    pub const fn any(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// An instruction of a map that is not emulated, with ModRM.
pub const NOT_EMULATED: Entry = NI_M;

/// No instruction.
const UD: Entry = Entry::of(Op::Undefined, Loc::None, Loc::None, Imm::None, 0);
/// An instruction with ModRM that is decoded for its length only.
const NI_M: Entry = Entry::of(Op::NotImplemented, Loc::None, Loc::None, Imm::None, MODRM);

const fn none(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::None, Loc::None, Imm::None, flags)
}
const fn eb_gb(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm, Loc::Reg, Imm::None, flags | MODRM | BYTE)
}
const fn ev_gv(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm, Loc::Reg, Imm::None, flags | MODRM)
}
const fn gb_eb(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Reg, Loc::Rm, Imm::None, flags | MODRM | BYTE)
}
const fn gv_ev(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Reg, Loc::Rm, Imm::None, flags | MODRM)
}
const fn al_ib(op: Op) -> Entry {
    Entry::of(op, Loc::Acc, Loc::Imm, Imm::Z, BYTE)
}
const fn ax_iz(op: Op) -> Entry {
    Entry::of(op, Loc::Acc, Loc::Imm, Imm::Z, 0)
}
/// ModRM.rm alone.
const fn e(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm, Loc::None, Imm::None, flags | MODRM)
}
/// ModRM.rm alone, 16 bits wide.
const fn ew(op: Op, flags: u32) -> Entry {
    Entry::of(op, Loc::Rm16, Loc::None, Imm::None, flags | MODRM)
}
