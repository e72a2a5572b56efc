// SPDX-License-Identifier: GPL-2.0

//! Faults that the *guest* sees. Never an errno: what goes wrong between user space and rkvm is another type.
//!
//! SDM volume 3, "Interrupt and Exception Handling".

use crate::addr::Gva;

/// Exception vectors as the SDM names them ("Protected-Mode Exceptions and Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the SDM's
pub enum Vector {
    De = 0,
    Db = 1,
    Nmi = 2,
    Bp = 3,
    Of = 4,
    Br = 5,
    Ud = 6,
    Nm = 7,
    Df = 8,
    Ts = 10,
    Np = 11,
    Ss = 12,
    Gp = 13,
    Pf = 14,
    Mf = 16,
    Ac = 17,
    Mc = 18,
    Xm = 19,
    Ve = 20,
    Cp = 21,
}

impl Vector {
    /// The exception with this number, if the architecture has one.
    pub const fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::De,
            1 => Self::Db,
            2 => Self::Nmi,
            3 => Self::Bp,
            4 => Self::Of,
            5 => Self::Br,
            6 => Self::Ud,
            7 => Self::Nm,
            8 => Self::Df,
            10 => Self::Ts,
            11 => Self::Np,
            12 => Self::Ss,
            13 => Self::Gp,
            14 => Self::Pf,
            16 => Self::Mf,
            17 => Self::Ac,
            18 => Self::Mc,
            19 => Self::Xm,
            20 => Self::Ve,
            21 => Self::Cp,
            _ => return None,
        })
    }

    /// Whether delivery pushes an error code in protected and long mode.
    #[inline]
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::Df | Self::Ts | Self::Np | Self::Ss | Self::Gp | Self::Pf | Self::Ac | Self::Cp
        )
    }
}

/// Bits of a page-fault error code (SDM, "Page-Fault Exceptions").
pub mod pfec {
    /// The translation exists; a permission was missing.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a paging-structure entry.
    pub const RSVD: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
    /// A protection key forbade the access.
    pub const PK: u32 = 1 << 5;
    /// A shadow-stack access.
    pub const SS: u32 = 1 << 6;
}

/// Error codes of #CP (SDM, "Control Protection Exception").
pub mod cpec {
    /// The return address of a near RET is not what the shadow stack holds.
    pub const NEAR_RET: u32 = 1;
    /// No ENDBRANCH at the target of an indirect branch.
    pub const ENDBRANCH: u32 = 3;
}

/// What comes with an exception besides its vector (KVM calls it the payload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    None,
    /// The linear address for CR2 (#PF).
    Cr2(Gva),
    /// The bits to set in DR6 (#DB), in the positive-logic form of VMX's pending debug exceptions.
    Dr6(u64),
}

/// An exception to be delivered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// The error code, for those vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 or DR6.
    pub payload: Payload,
}

impl Exception {
    /// #UD, invalid opcode.
    pub const UD: Self = Self::plain(Vector::Ud);
    /// #DE, divide error.
    pub const DE: Self = Self::plain(Vector::De);
    /// #NM, device not available.
    pub const NM: Self = Self::plain(Vector::Nm);
    /// #BP, breakpoint.
    pub const BP: Self = Self::plain(Vector::Bp);
    /// #OF, overflow.
    pub const OF: Self = Self::plain(Vector::Of);
    /// #BR, bound range exceeded.
    pub const BR: Self = Self::plain(Vector::Br);
    /// #MF, x87 floating-point error.
    pub const MF: Self = Self::plain(Vector::Mf);
    /// #XM, SIMD floating-point error.
    pub const XM: Self = Self::plain(Vector::Xm);
    /// #GP(0), by far the most common form.
    pub const GP0: Self = Self::gp(0);

    /// An exception without error code or payload.
    #[inline]
    pub const fn plain(vector: Vector) -> Self {
        Self {
            vector,
            error_code: None,
            payload: Payload::None,
        }
    }

    /// An exception with an error code.
    #[inline]
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            payload: Payload::None,
        }
    }

    /// #GP with a selector or zero.
    #[inline]
    pub const fn gp(code: u16) -> Self {
        Self::with_code(Vector::Gp, code as u32)
    }

    /// #SS with a selector or zero.
    #[inline]
    pub const fn ss(code: u16) -> Self {
        Self::with_code(Vector::Ss, code as u32)
    }

    /// #AC(0), alignment check.
    pub const AC: Self = Self::with_code(Vector::Ac, 0);

    /// #CP with one of the codes of [`cpec`].
    #[inline]
    pub const fn cp(code: u32) -> Self {
        Self::with_code(Vector::Cp, code)
    }

    /// #PF at `address` with the `pfec` bits `code`.
    #[inline]
    pub const fn pf(address: Gva, code: u32) -> Self {
        Self {
            vector: Vector::Pf,
            error_code: Some(code),
            payload: Payload::Cr2(address),
        }
    }

    /// #DB with the given DR6 bits (positive logic).
    #[inline]
    pub const fn db(dr6: u64) -> Self {
        Self {
            vector: Vector::Db,
            error_code: None,
            payload: Payload::Dr6(dr6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn numbers_name_the_exceptions_that_there_are() {
        let known: Vec<u8> = (0..=255)
            .filter_map(Vector::from_number)
            .map(|v| v as u8)
            .collect();
        let all: Vec<u8> = (0..9).chain(10..15).chain(16..22).collect();
        assert_eq!(known, all);
    }
}
