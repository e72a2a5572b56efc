// SPDX-License-Identifier: GPL-2.0

//! The guest in which an instruction is executed: descriptor tables with one descriptor of each kind, page tables with
//! one page of each kind, and a register state for each mode.
//!
//! | address | what                                                                       |
//! |---------|----------------------------------------------------------------------------|
//! | 0x00000 | real-mode vectors                                                          |
//! | 0x01000 | GDT                                                                        |
//! | 0x02000 | IDT                                                                        |
//! | 0x03000 | TSS, with an I/O bitmap that permits port 0x40 and forbids the rest        |
//! | 0x04000 | LDT                                                                        |
//! | 0x08000 | page tables                                                                |
//! | 0x10000 | code: HLT everywhere; the instruction at [`AT`], handlers from [`HANDLERS`] |
//! | 0x20000 | data: two ordinary pages, [`READ_ONLY`], [`ABSENT`], [`SUPERVISOR`]        |
//! | 0x70000 | the stack, then that of privilege level 0                                  |

mod memory;
mod registers;

use crate::ram::Ram;
use kvm_bindings::*;
pub use memory::{Change, Image};
pub use registers::load;

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const LDT: u64 = 0x4000;
/// Offset of the interrupt redirection bitmap in the TSS. It overlaps what only task switches use.
pub const REDIRECTION: u64 = 0x48;
const TABLES: u64 = 0x8000;
const PAE_ROOT: u64 = 0xc000;
pub const CODE: u64 = 0x1_0000;
/// Offset of the instruction in the code page.
pub const AT: u64 = 0x100;
/// Offset of the handler of vector 0; that of each vector is one HLT.
pub const HANDLERS: u64 = 0x800;
pub const DATA: u64 = 0x2_0000;
/// Offset in the data that the pointer registers start with.
pub const POINTER: u64 = 0x100;
pub const READ_ONLY: u64 = 0x2_2000;
pub const ABSENT: u64 = 0x2_3000;
pub const SUPERVISOR: u64 = 0x2_4000;
pub const STACK: u64 = 0x7_0000;
/// Offset of the top of the stack.
pub const TOP: u64 = 0x800;
const STACK0: u64 = 0x7_1800;

/// What a run may change.
pub const REGIONS: [(u64, usize); 5] = [
    (0, 0x5000),
    (TABLES, 0x5000),
    (CODE, 0x1000),
    (DATA, 0x5000),
    (STACK, 0x2000),
];

/// Selectors of the GDT.
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const TR: u16 = 0x18;
    pub const CODE32: u16 = 0x28;
    pub const CODE16: u16 = 0x30;
    pub const DATA16: u16 = 0x38;
    pub const USER_CODE32: u16 = 0x43;
    pub const USER_DATA: u16 = 0x4b;
    pub const USER_CODE64: u16 = 0x53;
    pub const READ_ONLY: u16 = 0x58;
    pub const ABSENT: u16 = 0x60;
    pub const CONFORMING: u16 = 0x68;
    pub const EXECUTE_ONLY: u16 = 0x70;
    pub const EXPAND_DOWN: u16 = 0x78;
    pub const LDT: u16 = 0x80;
    pub const GATE: u16 = 0x90;
    pub const FREE_TSS: u16 = 0xa0;
    pub const NOT_ACCESSED: u16 = 0xb0;
    pub const ABSENT_CODE: u16 = 0xb8;
    pub const ABSENT_GATE: u16 = 0xc0;
    pub const STACK16: u16 = 0xd0;
    pub const USER_GATE: u16 = 0xe0;
    /// The data segment of the LDT.
    pub const LOCAL: u16 = 0x0c;
    pub const LIMIT: u16 = 0xff;
}

pub const CF: u64 = 1 << 0;
pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const IOPL3: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const VM: u64 = 1 << 17;
pub const VIF: u64 = 1 << 19;
pub const AC: u64 = 1 << 18;

pub const PE: u64 = 1 << 0;
pub const TS: u64 = 1 << 3;
pub const AM: u64 = 1 << 18;
pub const PG: u64 = 1 << 31;

pub const CR4_VME: u64 = 1 << 0;
pub const CR4_TSD: u64 = 1 << 2;
pub const CR4_DE: u64 = 1 << 3;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_PGE: u64 = 1 << 7;
pub const CR4_UMIP: u64 = 1 << 11;
pub const CR4_FSGSBASE: u64 = 1 << 16;

/// The modes that code runs in, each with its privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Mode {
    /// Real mode.
    Real = 1 << 0,
    /// Virtual-8086 mode.
    Vm86 = 1 << 1,
    /// 16-bit code of protected mode, level 0, segments based at their memory.
    Prot16 = 1 << 2,
    /// 32-bit code of protected mode with PAE paging, level 0, flat.
    Prot32 = 1 << 3,
    /// The same at level 3.
    User32 = 1 << 4,
    /// Compatibility mode, level 0.
    Compat = 1 << 5,
    /// Compatibility mode, level 3.
    UserCompat = 1 << 6,
    /// 64-bit mode, level 0.
    Long = 1 << 7,
    /// 64-bit mode, level 3.
    UserLong = 1 << 8,
}

impl Mode {
    pub const ALL: [Mode; 9] = [
        Mode::Real,
        Mode::Vm86,
        Mode::Prot16,
        Mode::Prot32,
        Mode::User32,
        Mode::Compat,
        Mode::UserCompat,
        Mode::Long,
        Mode::UserLong,
    ];

    /// Code size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Mode::Real | Mode::Vm86 | Mode::Prot16 => 16,
            Mode::Long | Mode::UserLong => 64,
            _ => 32,
        }
    }

    fn ia32e(self) -> bool {
        matches!(
            self,
            Mode::Compat | Mode::UserCompat | Mode::Long | Mode::UserLong
        )
    }

    pub fn user(self) -> bool {
        matches!(
            self,
            Mode::Vm86 | Mode::User32 | Mode::UserCompat | Mode::UserLong
        )
    }

    /// Segments are based at their memory, pointers are offsets.
    pub fn based(self) -> bool {
        self.bits() == 16
    }

    /// Selector of the code segment.
    pub fn cs(self) -> u16 {
        match self {
            Mode::Real | Mode::Vm86 => (CODE >> 4) as u16,
            Mode::Prot16 => sel::CODE16,
            Mode::Prot32 | Mode::Compat => sel::CODE32,
            Mode::User32 | Mode::UserCompat => sel::USER_CODE32,
            Mode::Long => sel::CODE64,
            Mode::UserLong => sel::USER_CODE64,
        }
    }
}

/// A register state and memory, in the making.
pub struct Guest<'a> {
    pub mode: Mode,
    pub ram: &'a Ram,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub debug: kvm_debugregs,
    pub xcr0: u64,
    /// x87 control word, status word above it.
    pub x87: u32,
}

impl<'a> Guest<'a> {
    /// The registers that `mode` starts with. `fresh` is the state of a new vCPU.
    pub fn new(mode: Mode, ram: &'a Ram, fresh: &kvm_sregs) -> Self {
        let mut guest = Guest {
            mode,
            ram,
            regs: kvm_regs::default(),
            sregs: *fresh,
            debug: kvm_debugregs {
                dr6: 0xffff_0ff0,
                dr7: 0x400,
                ..Default::default()
            },
            xcr0: 7,
            x87: 0x37f,
        };
        guest.registers();
        guest
    }

    /// The address of `linear` in the code segment (for `CODE`), data or stack segment, whichever it belongs to.
    pub fn offset(&self, linear: u64) -> u64 {
        match self.mode.based() {
            true => linear & 0xffff,
            false => linear,
        }
    }

    /// Writes values of `size` bytes to the stack, the first at its top.
    pub fn stack(&self, size: usize, values: &[u64]) {
        for (i, v) in values.iter().enumerate() {
            let at = STACK + TOP + (i * size) as u64;
            self.ram.write(at, &v.to_le_bytes()[..size]);
        }
    }

    /// Writes to where the pointer registers point to.
    pub fn operand(&self, bytes: &[u8]) {
        self.ram.write(DATA + POINTER, bytes);
    }

    /// Points the pointer registers to `linear`.
    pub fn point(&mut self, linear: u64) {
        let at = match self.mode.based() {
            true => linear.wrapping_sub(DATA),
            false => linear,
        };
        (self.regs.rbx, self.regs.rdi) = (at, at);
    }

    /// Turns AVX-512 on, if the machine has it.
    pub fn wide(&mut self) {
        if wide_vectors() {
            self.xcr0 = 0xe7;
        }
    }

    /// Moves the pointer registers on.
    pub fn advance(&mut self, bytes: u64) {
        self.regs.rbx += bytes;
        self.regs.rdi += bytes;
    }
}

/// Whether the machine has AVX-512.
pub fn wide_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}
