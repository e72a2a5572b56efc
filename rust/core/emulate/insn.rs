// SPDX-License-Identifier: GPL-2.0

//! A decoded instruction: everything that follows from the bytes and the mode, nothing from the registers.

use crate::regs::SegReg;

use super::state::Width;
use super::table::{Entry, Imm, Loc, Op};

/// The longest instruction, in bytes (SDM, "Instruction Format").
pub const MAX_LENGTH: usize = 15;

/// A repeat prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rep {
    /// None.
    None,
    /// F3: REP, REPE.
    Rep,
    /// F2: REPNE.
    Repne,
}

/// The register part of an effective address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Only the displacement.
    None,
    /// A general register.
    Reg(u8),
    /// RIP of the next instruction.
    Rip,
}

/// What ModRM.rm names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// A register.
    Reg(u8),
    /// Memory, by [`Insn::base`], [`Insn::index`], [`Insn::scale`] and [`Insn::disp`].
    Mem,
}

/// The encoding that an instruction came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Legacy prefixes, perhaps REX.
    Legacy,
    /// Two- or three-byte VEX.
    Vex,
    /// EVEX.
    Evex,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// The bytes fetched so far.
    pub bytes: [u8; MAX_LENGTH],
    /// How many of them are valid.
    pub fetched: u8,
    /// Length in bytes.
    pub length: u8,
    /// The last opcode byte.
    pub opcode: u8,
    /// The row of the opcode table.
    pub entry: Entry,
    /// Operand width after prefixes and the entry's own rules.
    pub width: Width,
    /// Address width.
    pub address: Width,
    /// ModRM, or 0.
    pub modrm: u8,
    /// ModRM.reg with REX.R.
    pub reg: u8,
    /// What ModRM.rm names.
    pub rm: Rm,
    /// Base register of the memory operand.
    pub base: Base,
    /// Index register of the memory operand.
    pub index: Option<u8>,
    /// log2 of the factor of the index register.
    pub scale: u8,
    /// Displacement, sign-extended; the whole address of a moffs operand.
    pub disp: u64,
    /// Segment of the memory operand, override applied.
    pub segment: SegReg,
    /// Immediate, sign-extended as the opcode says.
    pub imm: u64,
    /// Second immediate: selector of a far pointer, level of ENTER.
    pub imm2: u16,
    /// LOCK prefix.
    pub lock: bool,
    /// Repeat prefix.
    pub rep: Rep,
    /// Operand-size prefix.
    pub opsize_prefix: bool,
    /// REX byte (0x40 to 0x4f) or 0; for VEX and EVEX the bits W, R, X, B in the same places.
    pub rex: u8,
    /// Encoding.
    pub encoding: Encoding,
    /// VEX.vvvv, not inverted.
    pub vvvv: u8,
    /// Vector length in bytes: 16, 32 or 64 (VEX.L, EVEX.L'L), 16 for legacy encodings.
    pub vector_len: u8,
    /// EVEX.aaa.
    pub opmask: u8,
    /// EVEX.z.
    pub zeroing: bool,
}

impl Insn {
    /// Whether the only memory that the instruction touches is its ModRM or moffs operand: no stack, no strings, no
    /// descriptors.
    #[inline]
    pub fn has_single_memory_operand(&self) -> bool {
        matches!(
            self.entry.op,
            Op::Mov
                | Op::Movzx
                | Op::Movsx
                | Op::Movnti
                | Op::Movbe
                | Op::Add
                | Op::Or
                | Op::Adc
                | Op::Sbb
                | Op::And
                | Op::Sub
                | Op::Xor
                | Op::Cmp
                | Op::Test
                | Op::Xchg
                | Op::Cmpxchg
                | Op::Xadd
                | Op::Inc
                | Op::Dec
        )
    }

    /// No instruction.
    pub const EMPTY: Self = Self {
        bytes: [0; MAX_LENGTH],
        fetched: 0,
        length: 0,
        opcode: 0,
        entry: Entry::of(Op::Undefined, Loc::None, Loc::None, Imm::None, 0),
        width: Width::B4,
        address: Width::B4,
        modrm: 0,
        reg: 0,
        rm: Rm::Mem,
        base: Base::None,
        index: None,
        scale: 0,
        disp: 0,
        segment: SegReg::Ds,
        imm: 0,
        imm2: 0,
        lock: false,
        rep: Rep::None,
        opsize_prefix: false,
        rex: 0,
        encoding: Encoding::Legacy,
        vvvv: 0,
        vector_len: 16,
        opmask: 0,
        zeroing: false,
    };

    /// Whether a byte operand in register `r` is one of AH to BH.
    #[inline]
    pub const fn high_byte(&self, r: u8) -> bool {
        self.rex == 0 && r & 0xc == 4
    }

    /// The offset of the memory operand in its segment, with registers as `gpr` gives them. `rip` is that of the
    /// instruction.
    #[inline]
    pub fn effective_address(&self, rip: u64, gpr: impl Fn(u8) -> u64) -> u64 {
        let base = match self.base {
            Base::Reg(r) => gpr(r),
            Base::None => 0,
            Base::Rip => rip.wrapping_add(u64::from(self.length)),
        };
        let index = match self.index {
            Some(r) => gpr(r).wrapping_shl(u32::from(self.scale)),
            None => 0,
        };
        base.wrapping_add(index).wrapping_add(self.disp) & self.address.mask()
    }

    /// REX.W, VEX.W or EVEX.W.
    #[inline]
    pub const fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// Whether an indirect near branch has the prefix 3EH, which has a meaning of its own there, and has it whatever other
    /// prefix follows (SDM, "No-Track Prefix for Near Indirect CALL/JMP").
    pub fn no_track(&self) -> bool {
        const OPCODE: u8 = 0xff;
        let mut prefixes = self.bytes.iter().take_while(|b| **b != OPCODE);
        prefixes.any(|b| *b == 0x3e)
    }
}
