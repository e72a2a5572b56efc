// SPDX-License-Identifier: GPL-2.0

//! Exit qualifications, taken apart once.
//!
//! SDM volume 3, "Exit Qualification" under "Basic VM-Exit Information".

use crate::regs::Gpr;

/// The register that the low four bits of `raw` number.
#[inline]
pub const fn gpr(raw: u64) -> Gpr {
    match raw & 0xf {
        0 => Gpr::Rax,
        1 => Gpr::Rcx,
        2 => Gpr::Rdx,
        3 => Gpr::Rbx,
        4 => Gpr::Rsp,
        5 => Gpr::Rbp,
        6 => Gpr::Rsi,
        7 => Gpr::Rdi,
        8 => Gpr::R8,
        9 => Gpr::R9,
        10 => Gpr::R10,
        11 => Gpr::R11,
        12 => Gpr::R12,
        13 => Gpr::R13,
        14 => Gpr::R14,
        _ => Gpr::R15,
    }
}

/// A control-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to CR`cr` from the register.
    MovTo {
        /// Number of the control register.
        cr: u8,
        /// Where the value comes from.
        gpr: Gpr,
    },
    /// MOV from CR`cr` to the register.
    MovFrom {
        /// Number of the control register.
        cr: u8,
        /// Where the value goes.
        gpr: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW of this value.
    Lmsw(u16),
}

impl CrAccess {
    /// Takes an exit qualification apart.
    #[inline]
    pub const fn decode(q: u64) -> Self {
        let cr = (q & 0xf) as u8;
        match (q >> 4) & 3 {
            0 => Self::MovTo {
                cr,
                gpr: gpr(q >> 8),
            },
            1 => Self::MovFrom {
                cr,
                gpr: gpr(q >> 8),
            },
            2 => Self::Clts,
            _ => Self::Lmsw((q >> 16) as u16),
        }
    }
}

/// A MOV to or from a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrAccess {
    /// Number of the debug register, 0 to 7.
    pub dr: u8,
    /// The guest reads the debug register.
    pub read: bool,
    /// The general-purpose register at the other end.
    pub gpr: Gpr,
}

impl DrAccess {
    /// Takes an exit qualification apart.
    #[inline]
    pub const fn decode(q: u64) -> Self {
        Self {
            dr: (q & 7) as u8,
            read: q & (1 << 4) != 0,
            gpr: gpr(q >> 8),
        }
    }
}

/// An I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// The port is an immediate operand (else it is DX).
    pub immediate: bool,
}

impl IoAccess {
    /// Takes an exit qualification apart.
    #[inline]
    pub const fn decode(q: u64) -> Self {
        Self {
            port: (q >> 16) as u16,
            // The field is one less; of its values 0, 1 and 3 are defined.
            size: (q as u8 & 3).wrapping_add(1),
            input: q & (1 << 3) != 0,
            string: q & (1 << 4) != 0,
            rep: q & (1 << 5) != 0,
            immediate: q & (1 << 6) != 0,
        }
    }
}

/// An EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct EptViolation(pub u64);

macro_rules! ept_bits {
    ($($(#[$doc:meta])* $name:ident = $n:literal,)*) => {
        impl EptViolation {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub const fn $name(self) -> bool {
                    self.0 & (1 << $n) != 0
                }
            )*
        }
    };
}

ept_bits! {
    /// The access was a data read.
    read = 0,
    /// The access was a data write (with A/D bits, also the walk of guest page tables).
    write = 1,
    /// The access was an instruction fetch.
    fetch = 2,
    /// EPT allowed reads of the address.
    was_readable = 3,
    /// EPT allowed writes.
    was_writable = 4,
    /// EPT allowed fetches.
    was_executable = 5,
    /// EPT allowed fetches from user-mode addresses (mode-based execution).
    was_user_executable = 6,
    /// GUEST_LINEAR_ADDRESS is valid.
    linear_address_valid = 7,
    /// The access was to the translation of the linear address; else to a guest paging structure.
    translated = 8,
    /// With advanced information: the linear address is a user-mode address.
    user_address = 9,
    /// With advanced information: the guest's paging makes it writable.
    guest_writable = 10,
    /// With advanced information: the guest's paging forbids execution.
    guest_no_execute = 11,
    /// NMIs were unblocked by IRET; the blocking has to be set again.
    nmi_unblocked_by_iret = 12,
    /// A shadow-stack access.
    shadow_stack = 13,
}

impl EptViolation {
    /// Whether any translation was there, whatever its permissions.
    #[inline(always)]
    pub const fn present(self) -> bool {
        self.0 & 0x78 != 0
    }
}

/// What started a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitchReason {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    Gate,
}

/// A task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// Selector of the TSS that the guest switches to.
    pub selector: u16,
    /// What started it.
    pub reason: TaskSwitchReason,
}

impl TaskSwitch {
    /// Takes an exit qualification apart.
    #[inline]
    pub const fn decode(q: u64) -> Self {
        Self {
            selector: q as u16,
            reason: match (q >> 30) & 3 {
                0 => TaskSwitchReason::Call,
                1 => TaskSwitchReason::Iret,
                2 => TaskSwitchReason::Jmp,
                _ => TaskSwitchReason::Gate,
            },
        }
    }
}

/// How the guest touched the APIC-access page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAccessType {
    /// A data read by an instruction.
    Read,
    /// A data write by an instruction.
    Write,
    /// An instruction fetch.
    Fetch,
    /// During delivery of an event.
    Event,
    /// By a guest-physical address, during delivery of an event.
    PhysicalEvent,
    /// By a guest-physical address, for an instruction or its fetch.
    PhysicalInstruction,
    /// By a guest-physical address, by processor trace or monitoring.
    PhysicalOther,
    /// A type that the SDM does not define.
    Other,
}

/// An access to the APIC-access page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicAccess {
    /// Offset in the page; not given (0) for guest-physical accesses.
    pub offset: u16,
    /// What kind.
    pub kind: ApicAccessType,
}

impl ApicAccess {
    /// Takes an exit qualification apart.
    #[inline]
    pub const fn decode(q: u64) -> Self {
        Self {
            offset: (q & 0xfff) as u16,
            kind: match (q >> 12) & 0xf {
                0 => ApicAccessType::Read,
                1 => ApicAccessType::Write,
                2 => ApicAccessType::Fetch,
                3 => ApicAccessType::Event,
                10 => ApicAccessType::PhysicalEvent,
                11 => ApicAccessType::PhysicalOther,
                15 => ApicAccessType::PhysicalInstruction,
                _ => ApicAccessType::Other,
            },
        }
    }
}

/// VMX_INSTRUCTION_INFO of INVEPT, INVVPID, INVPCID and the descriptor-table instructions: the memory operand
/// (SDM, "VM-Instruction Information" tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Scaling of the index: shift left by this.
    pub scale: u8,
    /// Address size in bits: 16, 32 or 64.
    pub address_bits: u8,
    /// Number of the segment register, in ModRM order.
    pub segment: u8,
    /// The index register, if one is used.
    pub index: Option<Gpr>,
    /// The base register, if one is used.
    pub base: Option<Gpr>,
    /// The second operand, a register.
    pub register: Gpr,
}

impl MemoryOperand {
    /// Takes the instruction information apart.
    #[inline]
    pub const fn decode(info: u32) -> Self {
        let info = info as u64;
        Self {
            scale: (info & 3) as u8,
            address_bits: match (info >> 7) & 7 {
                0 => 16,
                1 => 32,
                _ => 64,
            },
            segment: ((info >> 15) & 7) as u8,
            index: if info & (1 << 22) != 0 {
                None
            } else {
                Some(gpr(info >> 18))
            },
            base: if info & (1 << 27) != 0 {
                None
            } else {
                Some(gpr(info >> 23))
            },
            register: gpr(info >> 28),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_registers() {
        assert_eq!(
            CrAccess::decode(0x0103),
            CrAccess::MovTo {
                cr: 3,
                gpr: Gpr::Rcx
            }
        );
        assert_eq!(
            CrAccess::decode(0x0f18),
            CrAccess::MovFrom {
                cr: 8,
                gpr: Gpr::R15
            }
        );
        assert_eq!(CrAccess::decode(0x20), CrAccess::Clts);
        assert_eq!(CrAccess::decode(0xfff1_0030), CrAccess::Lmsw(0xfff1));
    }

    #[test]
    fn debug_registers() {
        let to = DrAccess::decode(0x307);
        assert_eq!(
            to,
            DrAccess {
                dr: 7,
                read: false,
                gpr: Gpr::Rbx
            }
        );
        assert!(DrAccess::decode(0x16).read);
    }

    #[test]
    fn ports() {
        let io = IoAccess::decode(0x03f8_0000);
        assert_eq!(
            (io.port, io.size, io.input, io.string),
            (0x3f8, 1, false, false)
        );
        let ins = IoAccess::decode(0x01f0_003b);
        assert_eq!((ins.port, ins.size), (0x1f0, 4));
        assert!(ins.input && ins.string && ins.rep && !ins.immediate);
        assert!(IoAccess::decode(0x0080_0040).immediate);
    }

    #[test]
    fn ept_violations() {
        let absent_write = EptViolation(0x182);
        assert!(absent_write.write() && !absent_write.present() && absent_write.translated());
        assert!(EptViolation(0x18a).was_readable() && EptViolation(0x18a).present());
    }

    #[test]
    fn task_switches_and_apic_accesses() {
        let gate = TaskSwitch::decode(0xc000_0028);
        assert_eq!(
            gate,
            TaskSwitch {
                selector: 0x28,
                reason: TaskSwitchReason::Gate
            }
        );
        let eoi = ApicAccess::decode(0x10b0);
        assert_eq!(
            eoi,
            ApicAccess {
                offset: 0xb0,
                kind: ApicAccessType::Write
            }
        );
    }

    #[test]
    fn memory_operands() {
        // [rax + rcx*4], 64-bit, DS, register RDX.
        let info = 2 | 2 << 7 | 3 << 15 | 1 << 18 | 2 << 28;
        let operand = MemoryOperand::decode(info);
        assert_eq!(
            (operand.scale, operand.address_bits, operand.segment),
            (2, 64, 3)
        );
        assert_eq!(operand.index, Some(Gpr::Rcx));
        assert_eq!(operand.base, Some(Gpr::Rax));
        assert_eq!(operand.register, Gpr::Rdx);
        assert_eq!(MemoryOperand::decode(info | 1 << 22 | 1 << 27).index, None);
        assert_eq!(MemoryOperand::decode(info | 1 << 27).base, None);
    }
}
