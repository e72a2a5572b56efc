// SPDX-License-Identifier: GPL-2.0

//! The register state that the emulator works on: what is borrowed in full, and the forms of what it asks for.
//!
//! General registers, RIP and RFLAGS are handed in as one [`Regs`] and changed once, at commit. Everything else
//! (segments, control and debug registers, MSRs) is asked for one by one through [`super::VcpuOps`], because on VMX
//! each costs a VMREAD.

use crate::regs::Gpr;

/// General registers, instruction pointer and flags of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// RAX to R15 in [`Gpr`] order.
    pub gpr: [u64; 16],
    /// RIP; in 16- and 32-bit code the upper bits are zero.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

impl Regs {
    /// The register with the number `index` modulo 16.
    #[inline]
    pub fn read(&self, index: u8) -> u64 {
        self.gpr
            .get(usize::from(index & 15))
            .copied()
            .unwrap_or_default()
    }

    /// Replaces the register with the number `index` modulo 16.
    #[inline]
    pub fn write(&mut self, index: u8, value: u64) {
        if let Some(r) = self.gpr.get_mut(usize::from(index & 15)) {
            *r = value;
        }
    }

    /// A register by name.
    #[inline]
    pub fn get(&self, reg: Gpr) -> u64 {
        self.read(reg as u8)
    }

    /// Replaces a register by name.
    #[inline]
    pub fn set(&mut self, reg: Gpr, value: u64) {
        self.write(reg as u8, value);
    }
}

/// How code is decoded and addressed (SDM, "Modes of Operation").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// CR0.PE is 0.
    Real,
    /// CR0.PE and RFLAGS.VM are 1.
    Vm86,
    /// Protected or compatibility mode with CS.D = 0.
    Prot16,
    /// Protected or compatibility mode with CS.D = 1.
    Prot32,
    /// 64-bit mode: EFER.LMA and CS.L are 1.
    Long64,
}

impl Mode {
    /// Real and virtual-8086 mode: segments are selector times 16, no descriptors.
    #[inline]
    pub const fn is_real_like(self) -> bool {
        matches!(self, Self::Real | Self::Vm86)
    }

    /// 64-bit mode.
    #[inline]
    pub const fn is_long64(self) -> bool {
        matches!(self, Self::Long64)
    }

    /// The operand and address width without prefixes.
    #[inline]
    pub const fn default_width(self) -> Width {
        match self {
            Self::Prot32 | Self::Long64 => Width::B4,
            _ => Width::B2,
        }
    }
}

/// The width of an integer operand, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names say the number of bytes
pub enum Width {
    B1 = 1,
    B2 = 2,
    B4 = 4,
    B8 = 8,
}

impl Width {
    /// Bytes.
    #[inline]
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// Bytes, as a length.
    #[inline]
    pub const fn size(self) -> usize {
        self as usize
    }

    /// Bits: 8, 16, 32 or 64.
    #[inline]
    pub const fn bits(self) -> u32 {
        (self as u32).wrapping_mul(8)
    }

    /// All bits of the operand.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX.wrapping_shr(64u32.wrapping_sub(self.bits()))
    }

    /// The sign bit of the operand.
    #[inline]
    pub const fn sign(self) -> u64 {
        1u64.wrapping_shl(self.bits().wrapping_sub(1))
    }

    /// `value` truncated to the width and sign-extended to 64 bits.
    #[inline]
    pub const fn sign_extend(self, value: u64) -> u64 {
        let shift = 64u32.wrapping_sub(self.bits());
        (value.wrapping_shl(shift) as i64).wrapping_shr(shift) as u64
    }

    /// What a general register that held `old` holds once `value` is written to it: 32 bits clear the upper half, 8 and
    /// 16 keep the rest.
    #[inline]
    pub const fn merge(self, old: u64, value: u64) -> u64 {
        match self {
            Self::B8 => value,
            Self::B4 => value & self.mask(),
            Self::B1 | Self::B2 => (old & !self.mask()) | (value & self.mask()),
        }
    }
}

/// A segment register with its hidden part, in the form of the VMCS guest-state area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear address of offset 0.
    pub base: u64,
    /// The last valid offset, in bytes (granularity applied).
    pub limit: u32,
    /// Access rights as in the VMCS: type in 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
    pub access: u32,
}

/// Bits of [`Segment::access`] (SDM, "Guest Register State").
#[allow(missing_docs)]
pub mod ar {
    pub const TYPE: u32 = 0xf;
    pub const ACCESSED: u32 = 1 << 0;
    /// Data: writable. Code: readable.
    pub const RW: u32 = 1 << 1;
    /// Data: expand down. Code: conforming.
    pub const DC: u32 = 1 << 2;
    pub const CODE: u32 = 1 << 3;
    pub const S: u32 = 1 << 4;
    pub const P: u32 = 1 << 7;
    pub const AVL: u32 = 1 << 12;
    pub const L: u32 = 1 << 13;
    pub const DB: u32 = 1 << 14;
    pub const G: u32 = 1 << 15;
    pub const UNUSABLE: u32 = 1 << 16;
}

impl Segment {
    /// Descriptor privilege level.
    #[inline]
    pub const fn dpl(&self) -> u8 {
        ((self.access >> 5) & 3) as u8
    }

    /// Whether all the given access bits are set.
    #[inline]
    pub const fn has(&self, bits: u32) -> bool {
        self.access & bits == bits
    }

    /// A null or otherwise unusable segment with this selector.
    #[inline]
    pub const fn unusable(selector: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: 0,
            access: ar::UNUSABLE,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableReg {
    /// Linear address of the first entry.
    pub base: u64,
    /// Offset of the last valid byte.
    pub limit: u16,
}

/// Which descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub enum TableKind {
    Gdt,
    Idt,
}

/// Control registers that instructions can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub enum Cr {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
}

impl Cr {
    /// The register with this number in ModRM.reg, if there is one.
    #[inline]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Cr0),
            2 => Some(Self::Cr2),
            3 => Some(Self::Cr3),
            4 => Some(Self::Cr4),
            8 => Some(Self::Cr8),
            _ => None,
        }
    }
}
