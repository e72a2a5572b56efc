// SPDX-License-Identifier: GPL-2.0

//! What the emulator asks of the vCPU: one object-safe trait, so that the emulator's code is compiled once, in core.
//!
//! The counterpart in C KVM is `struct x86_emulate_ops`. The implementation translates linear addresses through the
//! guest's page tables, knows which physical addresses are memory, and reads and writes the VMCS; it never sees an
//! instruction.

use crate::addr::{Gpa, Gva};
use crate::exception::Exception;
use crate::regs::{cr4, dr, SegReg};

use super::cet::Cet;
use super::state::{Cr, Mode, Segment, TableKind, TableReg};

/// What an access to linear memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Data read of a read-modify-write: the translation must permit the write too.
    Modify,
}

/// An access to linear memory, as the page walk has to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Read, write or both.
    pub kind: AccessKind,
    /// Supervisor whatever the CPL: descriptor tables, TSS, I/O bitmap (SDM, "implicit supervisor-mode access").
    pub implicit_supervisor: bool,
    /// A shadow-stack access: shadow-stack pages are what it needs, and its faults say so (SDM, "Shadow-Stack Access").
    pub shadow_stack: bool,
}

impl Access {
    /// An ordinary data read.
    pub const READ: Self = Self::of(AccessKind::Read, false);
    /// An ordinary data write.
    pub const WRITE: Self = Self::of(AccessKind::Write, false);
    /// The read of an ordinary read-modify-write.
    pub const MODIFY: Self = Self::of(AccessKind::Modify, false);
    /// A read of a system structure.
    pub const SYSTEM_READ: Self = Self::of(AccessKind::Read, true);
    /// A write of a system structure.
    pub const SYSTEM_WRITE: Self = Self::of(AccessKind::Write, true);
    /// A read of the shadow stack.
    pub const SHADOW_READ: Self = Self::READ.of_shadow_stack();
    /// A write to the shadow stack.
    pub const SHADOW_WRITE: Self = Self::WRITE.of_shadow_stack();

    const fn of(kind: AccessKind, implicit_supervisor: bool) -> Self {
        Self {
            kind,
            implicit_supervisor,
            shadow_stack: false,
        }
    }

    const fn of_shadow_stack(self) -> Self {
        Self {
            shadow_stack: true,
            ..self
        }
    }
}

/// What a linear address turned out to be backed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Guest memory: the access is done.
    Ram,
    /// No memory there: nothing was done, the emulator continues with `mmio_read()` or `mmio_write()` on the
    /// guest physical address that the first byte translates to.
    Mmio(Gpa),
}

/// The answer to an atomic compare-and-exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Memory held the expected value and was replaced.
    Done,
    /// Memory held something else: nothing was written.
    Changed,
    /// No memory there: the emulator continues with a plain write, as C KVM does.
    Mmio(Gpa),
}

/// The answer of a device access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoReply {
    /// A device in the kernel did it.
    Done,
    /// Only user space can: the emulator ends with [`super::Outcome::Exit`].
    User,
}

/// Why an instruction does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest gets an exception; its state is as before the instruction.
    Fault(Exception),
    /// The instruction or one of its operands is beyond the emulator.
    Unhandled,
    /// Run the instruction again from the start: something changed underneath.
    Retry,
    /// User space has to answer (MMIO or PIO read, MSR); the emulator keeps what it needs.
    User,
    /// The guest is to be shut down (triple fault).
    Shutdown,
}

impl From<Exception> for Stop {
    #[inline]
    fn from(e: Exception) -> Self {
        Self::Fault(e)
    }
}

/// The result of whatever the vCPU is asked.
pub type Reply<T = ()> = Result<T, Stop>;

/// Instruction set extensions that CPUID gates and the emulator has to look up before it executes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are CPUID's
pub enum Feature {
    Sysenter,
    Syscall,
    Cx8,
    Cx16,
    Movbe,
    Popcnt,
    Lzcnt,
    Bmi1,
    Bmi2,
    Adx,
    Sse42,
    Rdpid,
    Rdtscp,
    Movdiri,
    Movdir64b,
    Fsgsbase,
    Invpcid,
    Smap,
    Clflushopt,
    Clwb,
    Fxsr,
    Xsave,
    Sse,
    Sse2,
    Sse3,
    Sse41,
    Avx,
    Avx2,
    Avx512f,
    Avx512vl,
    Avx512bw,
    Avx512dq,
    Avx512fp16,
    Serialize,
    Vmcall,
}

/// Effects of instructions that are no plain register or memory change. Asked for last, when no fault can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// HLT: stop until an interrupt.
    Halt,
    /// INVLPG of a linear address.
    Invlpg(Gva),
    /// INVPCID of a type with its 128-bit descriptor.
    Invpcid {
        /// The type operand.
        kind: u64,
        /// PCID in the low 12 bits.
        pcid: u64,
        /// Linear address for type 0.
        address: Gva,
    },
    /// INVD and WBINVD.
    FlushCaches,
    /// VMCALL or VMMCALL: the implementation does the hypercall on the registers that follow commit.
    Hypercall,
    /// RSM.
    LeaveSmm,
    /// IRET: NMIs are no longer blocked.
    UnblockNmi,
}

/// What is asked of the x87 unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X87 {
    /// FNINIT; the answer is of no interest.
    Init,
    /// The control word.
    ControlWord,
    /// The status word.
    StatusWord,
}

/// The vCPU as the emulator sees it.
///
/// Linear addresses are canonical or truncated to 32 bits already, segmentation is done. A slice never crosses a
/// 4 KiB page and is at most 64 bytes long, except where a method says otherwise.
pub trait VcpuOps {
    /// An instruction was decoded and is about to be executed. `single_operand`: it touches memory through one operand
    /// of one address and nothing else, so an address that hardware gave for the access is that operand's.
    fn decoded(&mut self, single_operand: bool) {
        let _ = single_operand;
    }
    /// Reads up to `buf.len()` instruction bytes at a linear address, not past the end of its page; the number
    /// read, at least 1.
    fn fetch(&mut self, at: Gva, buf: &mut [u8]) -> Reply<usize>;
    /// Reads guest memory. `buf` may be up to a page for string instructions.
    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply<Backing>;
    /// Writes guest memory. `data` may be up to a page for string instructions.
    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Reply<Backing>;
    /// Checks that an access would not fault, without doing it; what is there.
    fn probe(&mut self, at: Gva, access: Access) -> Reply<Backing>;
    /// Atomically replaces the `bytes` (1, 2, 4, 8 or 16) at `at`, aligned to them, if they equal `old`.
    fn cmpxchg(&mut self, at: Gva, bytes: u8, old: u128, new: u128, access: Access) -> Reply<Swap>;

    /// Reads 1 to 8 bytes from a device.
    fn mmio_read(&mut self, at: Gpa, buf: &mut [u8]) -> IoReply;
    /// Writes 1 to 8 bytes to a device.
    fn mmio_write(&mut self, at: Gpa, data: &[u8]) -> IoReply;
    /// Reads `buf.len() / size` elements of `size` (1, 2 or 4) bytes from a port.
    fn pio_in(&mut self, port: u16, size: u8, buf: &mut [u8]) -> IoReply;
    /// Writes `data.len() / size` elements of `size` (1, 2 or 4) bytes to a port.
    fn pio_out(&mut self, port: u16, size: u8, data: &[u8]) -> IoReply;

    /// The mode that code runs in.
    fn mode(&mut self) -> Mode;
    /// Current privilege level, 0 to 3; 3 in virtual-8086 mode, 0 in real mode.
    fn cpl(&mut self) -> u8;
    /// A segment register with all its parts.
    fn segment(&mut self, which: SegReg) -> Segment;
    /// Only the base of a segment register.
    fn segment_base(&mut self, which: SegReg) -> u64 {
        self.segment(which).base
    }
    /// Replaces a segment register. For SS and CS the CPL follows SS.DPL.
    fn set_segment(&mut self, which: SegReg, value: &Segment);
    /// GDTR or IDTR.
    fn table(&mut self, which: TableKind) -> TableReg;
    /// Replaces GDTR or IDTR.
    fn set_table(&mut self, which: TableKind, value: TableReg);

    /// A control register as the guest sees it.
    fn cr(&mut self, which: Cr) -> u64;
    /// Replaces a control register with all the checks and side effects of MOV to CR.
    fn set_cr(&mut self, which: Cr, value: u64) -> Reply;
    /// The state of control-flow enforcement at the current privilege, `None` if CR4.CET is clear. Not asked for in real
    /// and virtual-8086 mode. [`Stop::Unhandled`] if it is not known: then no instruction is emulated.
    fn cet(&mut self) -> Reply<Option<Cet>> {
        if self.cr(Cr::Cr4) & cr4::CET == 0 {
            return Ok(None);
        }
        Err(Stop::Unhandled)
    }
    /// Replaces what [`Self::cet()`] has given.
    fn set_cet(&mut self, value: &Cet) {
        let _ = value;
    }
    /// A debug register by number, 0 to 3, 6 or 7.
    fn dr(&mut self, number: u8) -> u64;
    /// Replaces a debug register, 0 to 3, 6 or 7; reserved bits are the implementation's to check.
    fn set_dr(&mut self, number: u8, value: u64) -> Reply;
    /// Whether MOV to and from debug registers raises #DB: DR7.GD of whoever has the debug registers, the guest or a
    /// debugger in user space.
    fn general_detect(&mut self) -> bool {
        self.dr(7) & dr::DR7_GD != 0
    }
    /// IA32_EFER.
    fn efer(&mut self) -> u64;
    /// RDMSR with all its checks. [`Stop::User`] asks for [`super::UserExit::ReadMsr`].
    fn read_msr(&mut self, index: u32) -> Reply<u64>;
    /// WRMSR with all its checks. [`Stop::User`] asks for [`super::UserExit::WriteMsr`].
    fn write_msr(&mut self, index: u32, value: u64) -> Reply;
    /// An MSR that an instruction reads as a part of what it does, as SYSCALL does. User space does not hear of it, and
    /// its filter does not apply.
    fn implied_msr(&mut self, index: u32) -> Reply<u64>;
    /// Replaces such an MSR.
    fn set_implied_msr(&mut self, index: u32, value: u64) -> Reply;
    /// RDPMC with all its checks.
    fn read_pmc(&mut self, index: u32) -> Reply<u64>;
    /// The guest's time-stamp counter.
    fn tsc(&mut self) -> u64;
    /// EAX, EBX, ECX, EDX of CPUID.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Whether CPUID instructions fault for CPL above 0 (MSR_MISC_FEATURES_ENABLES).
    fn cpuid_faulting(&mut self) -> bool {
        false
    }
    /// Whether the guest's CPUID has an extension.
    fn has(&mut self, feature: Feature) -> bool;
    /// Extended control register 0.
    fn xcr0(&mut self) -> u64;
    /// XSETBV.
    fn set_xcr(&mut self, index: u32, value: u64) -> Reply;
    /// One of the effects that are no register or memory change.
    fn effect(&mut self, effect: Effect) -> Reply;

    /// Reads `into.len()` (8, 16, 32 or 64) low bytes of a vector register 0 to 31.
    fn read_vector(&mut self, number: u8, into: &mut [u8]) -> Reply;
    /// Replaces the low `from.len()` bytes of a vector register 0 to 31; the rest is cleared if `clear_rest`
    /// (VEX and EVEX forms) or kept.
    fn write_vector(&mut self, number: u8, from: &[u8], clear_rest: bool) -> Reply;
    /// Opmask register k0 to k7.
    fn read_opmask(&mut self, number: u8) -> Reply<u64>;
    /// An MMX register 0 to 7; a pending x87 exception is #MF.
    fn read_mmx(&mut self, number: u8) -> Reply<u64>;
    /// Replaces an MMX register 0 to 7; a pending x87 exception is #MF.
    fn write_mmx(&mut self, number: u8, value: u64) -> Reply;
    /// FNINIT, or one of the x87 words.
    fn x87(&mut self, _what: X87) -> Reply<u16> {
        Err(Stop::Unhandled)
    }
    /// FXSAVE of the guest's state into `image` (512 bytes, in the format of 64-bit mode if `wide`).
    fn fxsave(&mut self, _image: &mut [u8], _wide: bool) -> Reply {
        Err(Stop::Unhandled)
    }
    /// FXRSTOR from `image`, with the checks that give #GP(0).
    fn fxrstor(&mut self, _image: &[u8], _wide: bool) -> Reply {
        Err(Stop::Unhandled)
    }
}
