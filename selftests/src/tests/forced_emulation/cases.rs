// SPDX-License-Identifier: GPL-2.0

//! The table of instructions.
//!
//! An operand in memory is the one at [`super::guest::POINTER`]: ModRM r/m 7 is `[bx]` in 16-bit code and `[rdi]` elsewhere, and both
//! registers point there.

mod branch;
mod data;
mod segment;
mod system;
mod vector;

use super::guest::{Guest, Mode};

/// An instruction and the state it starts from.
pub struct Case {
    /// The modes it is executed in: the sum of [`Mode`]s.
    pub modes: u16,
    /// The instruction as the SDM writes it, and what is special.
    pub what: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    /// Changes the state that the mode begins with.
    pub set: fn(&mut Guest<'_>),
}

/// All subjects.
pub const ALL: [(&str, &[Case]); 5] = [
    ("system", system::CASES),
    ("segment", segment::CASES),
    ("branch", branch::CASES),
    ("data", data::CASES),
    ("vector", vector::CASES),
];

/// Goes first, to give the stack of level 0 memory: Bochs saves a wrong RF for an INT1 whose delivery meets an EPT violation.
pub const FIRST: Case = Case {
    modes: Mode::Vm86 as u16,
    what: "INT3",
    bytes: &[0xcc],
    set: |_| (),
};

/// What virtual-8086 mode, as which real mode runs without unrestricted guest, does otherwise than real mode
/// (Documentation/real-mode.rst): its IOPL 3 is in the flags that it pushes, nothing that it pops changes that, and
/// SYSENTER leaves it.
pub const UNLIKE_VIRTUAL_8086: [&str; 9] = [
    "system: PUSHF with IOPL 0",
    "system: POPF",
    "system: POPF with IOPL 3",
    "system: POPF, the other operand size",
    "branch: IRET, the other operand size",
    "branch: INT 50h",
    "branch: INT 51h: absent",
    "branch: INT 20h: not for level 3",
    "branch: SYSENTER",
];

const LONG: u16 = Mode::Long as u16 | Mode::UserLong as u16;
const VM86: u16 = Mode::Vm86 as u16;
const USER: u16 =
    Mode::Vm86 as u16 | Mode::User32 as u16 | Mode::UserCompat as u16 | Mode::UserLong as u16;
const ANY: u16 = 0x1ff;
const KERNEL: u16 = ANY & !USER;
const LEGACY: u16 = ANY & !LONG;
const CODE16: u16 = Mode::Real as u16 | Mode::Vm86 as u16 | Mode::Prot16 as u16;
const CODE32: u16 = LEGACY & !CODE16;
const FLAT: u16 = ANY & !CODE16;
const UNPROTECTED: u16 = Mode::Real as u16 | Mode::Vm86 as u16;
const PROTECTED: u16 = ANY & !UNPROTECTED;
const PROT16: u16 = Mode::Prot16 as u16;
const PROT32: u16 = Mode::Prot32 as u16;
const PROT_KERNEL: u16 = PROTECTED & KERNEL;
const FLAT_KERNEL: u16 = FLAT & KERNEL;
const KERNEL64: u16 = Mode::Long as u16;
const KERNEL32: u16 = Mode::Prot32 as u16 | Mode::Compat as u16;

macro_rules! cases {
    ($($modes:expr, $what:literal, [$($byte:literal)*] $(, $set:expr)?;)*) => {
        /// The table.
        pub const CASES: &[super::Case] = &[$(super::Case {
            modes: $modes,
            what: $what,
            bytes: &[$($byte),*],
            set: cases!(@set $($set)?),
        },)*];
    };
    (@set) => { |_| () };
    (@set $set:expr) => { $set };
}
use cases;
