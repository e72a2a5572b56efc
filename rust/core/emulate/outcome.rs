// SPDX-License-Identifier: GPL-2.0

//! How an emulation ends, as the glue has to act on it.

use crate::addr::Gpa;
use crate::exception::Exception;

use super::insn::MAX_LENGTH;

/// Blocking of events for one instruction (SDM, "Guest Non-Register State").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shadow {
    /// None: an old one ends with this instruction.
    #[default]
    None,
    /// STI set IF.
    Sti,
    /// MOV SS or POP SS.
    MovSs,
}

/// What the glue has to take over besides [`super::Regs`] when an instruction (or some iterations of a string
/// instruction) has been committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// General registers that changed, a bit each.
    pub gprs: u16,
    /// RFLAGS changed.
    pub rflags: bool,
    /// The interrupt shadow from now on.
    pub shadow: Shadow,
    /// DR6 bits (positive logic) of a #DB trap to deliver after the instruction, or 0.
    pub trap: u64,
    /// A string instruction is not over: RIP still points to it. Enter the guest or start again, after looking
    /// for events and signals.
    pub more: bool,
}

/// A software interrupt, to be injected at VM entry as such (SDM, "VM-Entry Controls for Event Injection").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftInterrupt {
    /// Vector.
    pub vector: u8,
    /// INT n, or one of INT3/INTO, or INT1.
    pub kind: SoftKind,
    /// Instruction length in bytes, for VM_ENTRY_INSTRUCTION_LEN; RIP still points to the instruction.
    pub length: u8,
}

/// The interruption type of a software interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftKind {
    /// INT n: software interrupt.
    Int,
    /// INT3 and INTO: software exception.
    Exception,
    /// INT1: privileged software exception.
    Privileged,
}

/// A request to user space. Reads leave the instruction uncommitted until [`super::Emulator::resume()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// KVM_EXIT_MMIO, is_write 0: put `len` bytes (1 to 8) into [`super::Emulator::data_mut()`].
    MmioRead {
        /// Guest physical address.
        gpa: Gpa,
        /// Bytes.
        len: u8,
    },
    /// KVM_EXIT_MMIO, is_write 1.
    MmioWrite {
        /// Guest physical address.
        gpa: Gpa,
        /// Bytes, 1 to 8.
        len: u8,
        /// The value, little endian.
        data: [u8; 8],
    },
    /// KVM_EXIT_IO, KVM_EXIT_IO_IN: put `size * count` bytes into [`super::Emulator::data_mut()`].
    PioIn {
        /// Port.
        port: u16,
        /// Bytes of an element: 1, 2 or 4.
        size: u8,
        /// Elements.
        count: u32,
    },
    /// KVM_EXIT_IO, KVM_EXIT_IO_OUT: the bytes are in [`super::Emulator::data()`].
    PioOut {
        /// Port.
        port: u16,
        /// Bytes of an element: 1, 2 or 4.
        size: u8,
        /// Elements.
        count: u32,
    },
    /// KVM_EXIT_X86_RDMSR: put the value as 8 bytes into [`super::Emulator::data_mut()`], or call
    /// [`super::Emulator::cancel()`] and inject #GP.
    ReadMsr {
        /// MSR index.
        index: u32,
    },
    /// KVM_EXIT_X86_WRMSR: resume when it succeeded, or [`super::Emulator::cancel()`] and inject #GP.
    WriteMsr {
        /// MSR index.
        index: u32,
        /// Value.
        value: u64,
    },
}

/// The bytes of an instruction that could not be emulated, for KVM_INTERNAL_ERROR_EMULATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// How many of `bytes` are valid.
    pub len: u8,
    /// The instruction stream at RIP.
    pub bytes: [u8; MAX_LENGTH],
}

/// How an emulation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The registers are committed: take them over with what [`Completed`] says.
    Completed(Completed),
    /// User space is needed. With a [`Completed`] the registers are committed already (the exit is a write) and are
    /// to be taken over before the exit; else nothing has changed. Call [`super::Emulator::resume()`] afterwards.
    Exit(UserExit, Option<Completed>),
    /// The user exits of an instruction that was committed before are over.
    Drained,
    /// Deliver this exception; nothing has changed (of a string instruction: the iterations before are committed).
    Inject(Exception, Option<Completed>),
    /// Inject a software interrupt; nothing has changed.
    Soft(SoftInterrupt),
    /// Enter the guest again: the instruction has to be fetched anew.
    Retry,
    /// Triple fault.
    Shutdown,
    /// KVM_INTERNAL_ERROR_EMULATION with these bytes.
    Unhandled(Bytes),
}
