// SPDX-License-Identifier: GPL-2.0

//! Event information: what VM entry injects, and what an exit interrupted or was caused by.
//!
//! SDM volume 3, "VM-Entry Controls for Event Injection", "Information for VM Exits Due to Vectored Events",
//! "Information for VM Exits That Occur During Event Delivery" and "Guest Non-Register State".

use crate::exception::{Exception, Vector};

/// Bits 10:8 of an event information field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventType {
    /// External interrupt.
    ExternalInterrupt = 0,
    /// Reserved by the SDM.
    Reserved = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Hardware exception.
    HardwareException = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedSoftwareException = 5,
    /// INT3 or INTO.
    SoftwareException = 6,
    /// Other event: a pending monitor trap flag, SYSCALL and SYSENTER under FRED.
    Other = 7,
}

impl EventType {
    const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::ExternalInterrupt,
            2 => Self::Nmi,
            3 => Self::HardwareException,
            4 => Self::SoftwareInterrupt,
            5 => Self::PrivilegedSoftwareException,
            6 => Self::SoftwareException,
            7 => Self::Other,
            _ => Self::Reserved,
        }
    }

    /// Whether VM entry needs the instruction length (the event pushes the RIP after the instruction).
    #[inline]
    pub const fn needs_instruction_length(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException
        )
    }
}

/// VM_ENTRY_INTR_INFO_FIELD, VM_EXIT_INTR_INFO or IDT_VECTORING_INFO_FIELD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct EventInfo(pub u32);

impl EventInfo {
    const ERROR_CODE: u32 = 1 << 11;
    const NMI_UNBLOCKED: u32 = 1 << 12;
    const VALID: u32 = 1 << 31;

    /// No event.
    pub const NONE: Self = Self(0);
    /// An NMI, for injection.
    pub const NMI: Self = Self::new(2, EventType::Nmi);

    /// An event without error code.
    #[inline]
    pub const fn new(vector: u8, kind: EventType) -> Self {
        Self(Self::VALID | (kind as u32) << 8 | vector as u32)
    }

    /// An external interrupt, for injection.
    #[inline]
    pub const fn interrupt(vector: u8) -> Self {
        Self::new(vector, EventType::ExternalInterrupt)
    }

    /// With an error code to push.
    #[inline]
    #[must_use]
    pub const fn with_error_code(self) -> Self {
        Self(self.0 | Self::ERROR_CODE)
    }

    /// An exception for injection, and its error code.
    pub const fn exception(e: &Exception, protected_mode: bool) -> (Self, u32) {
        let kind = match e.vector {
            Vector::Bp | Vector::Of => EventType::SoftwareException,
            _ => EventType::HardwareException,
        };
        let info = Self::new(e.vector as u8, kind);
        match e.error_code {
            Some(code) => info.with_error_code().for_entry(code, protected_mode),
            None => (info, 0),
        }
    }

    /// The event and its error code as VM entry insists on them: in real mode no exception pushes an error code, and most
    /// processors have 16 bits for it.
    #[inline]
    #[must_use]
    pub const fn for_entry(self, error_code: u32, protected_mode: bool) -> (Self, u32) {
        if protected_mode && self.has_error_code() {
            (self, error_code & 0xffff)
        } else {
            (Self(self.0 & !Self::ERROR_CODE), 0)
        }
    }

    /// Bit 31.
    #[inline(always)]
    pub const fn valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// The vector.
    #[inline(always)]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The type.
    #[inline(always)]
    pub const fn kind(self) -> EventType {
        EventType::from_bits(self.0 >> 8)
    }

    /// An error code comes with the event.
    #[inline(always)]
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE != 0
    }

    /// The fault hit an IRET that had unblocked NMIs (exit information only).
    #[inline(always)]
    pub const fn nmi_unblocked_by_iret(self) -> bool {
        self.0 & Self::NMI_UNBLOCKED != 0
    }

    /// The event as VM entry takes it to deliver it again: without the bits that only exits have.
    #[inline]
    #[must_use]
    pub const fn for_reinjection(self) -> Self {
        Self(self.0 & (Self::VALID | Self::ERROR_CODE | 0x7ff))
    }

    /// An exit for an NMI that the host has to take.
    #[inline(always)]
    pub const fn is_nmi(self) -> bool {
        self.valid() && matches!(self.kind(), EventType::Nmi)
    }

    /// An exit for the exception `vector`.
    #[inline(always)]
    pub const fn is_exception(self, vector: Vector) -> bool {
        self.valid()
            && self.vector() == vector as u8
            && matches!(
                self.kind(),
                EventType::HardwareException
                    | EventType::SoftwareException
                    | EventType::PrivilegedSoftwareException
            )
    }
}

/// Bits of GUEST_INTERRUPTIBILITY_INFO.
pub mod interruptibility {
    /// Blocking by STI.
    pub const STI: u32 = 1 << 0;
    /// Blocking by MOV SS and POP SS.
    pub const MOV_SS: u32 = 1 << 1;
    /// Blocking by SMI.
    pub const SMI: u32 = 1 << 2;
    /// Blocking by NMI.
    pub const NMI: u32 = 1 << 3;
    /// The exit came from inside an SGX enclave.
    pub const ENCLAVE: u32 = 1 << 4;
}

/// GUEST_ACTIVITY_STATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ActivityState {
    /// Executes instructions.
    Active = 0,
    /// After HLT.
    Hlt = 1,
    /// After a triple fault.
    Shutdown = 2,
    /// Waits for a start-up IPI.
    WaitForSipi = 3,
}

/// Bits of GUEST_PENDING_DBG_EXCEPTIONS beyond those of DR6's low half.
pub mod pending_debug {
    /// A single step is due.
    pub const BS: u64 = 1 << 14;
    /// At least one enabled breakpoint was met.
    pub const ENABLED_BREAKPOINT: u64 = 1 << 12;
    /// Inside an RTM region.
    pub const RTM: u64 = 1 << 16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gva;

    #[test]
    fn injected_exceptions() {
        let (info, code) = EventInfo::exception(&Exception::pf(Gva(0x1000), 7), true);
        assert_eq!((info.0, code), (0x8000_0b0e, 7));
        let (info, code) = EventInfo::exception(&Exception::GP0, false);
        assert_eq!((info.0, code), (0x8000_030d, 0));
        let (info, _) = EventInfo::exception(&Exception::BP, true);
        assert_eq!(info.0, 0x8000_0603);
        assert!(info.kind().needs_instruction_length());
    }

    #[test]
    fn error_codes_are_such_that_entry_takes_them() {
        let gp = EventInfo::new(13, EventType::HardwareException);
        let restored = gp.with_error_code();
        assert_eq!(restored.for_entry(0x1_0008, true), (restored, 8));
        assert_eq!(restored.for_entry(8, false), (gp, 0));
        assert_eq!(gp.for_entry(8, true), (gp, 0));
    }

    #[test]
    fn types_round_trip() {
        for bits in 0..8u32 {
            assert_eq!(EventInfo(1 << 31 | bits << 8).kind() as u32, bits);
        }
        assert!(EventInfo::NMI.is_nmi());
        assert_eq!(EventInfo::interrupt(0x30).0, 0x8000_0030);
    }

    #[test]
    fn reinjection_drops_what_entry_would_refuse() {
        let vectoring = EventInfo(0x8000_1b0e);
        assert!(vectoring.nmi_unblocked_by_iret());
        assert_eq!(vectoring.for_reinjection().0, 0x8000_0b0e);
        assert!(vectoring.is_exception(Vector::Pf) && !vectoring.is_exception(Vector::Gp));
    }
}
