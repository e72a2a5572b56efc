// SPDX-License-Identifier: GPL-2.0

//! Bits of the architectural registers, by the SDM's names.
//!
//! SDM volume 3, "Control Registers", "System Flags and Fields in the EFLAGS Register", "Extended Feature Enable
//! Register", "Debug Registers".

/// Index of a general-purpose register in ModRM, REX and KVM order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the registers'
pub enum Gpr {
    Rax = 0,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// Segment registers, in the order of ModRM.reg; LDTR and TR follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the registers'
pub enum SegReg {
    Es = 0,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

impl SegReg {
    /// Code and data segments, in the order of ModRM.reg and of the TSS.
    pub const CODE_AND_DATA: [Self; 6] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs];
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
    ];
}

/// CR0 ("Control Registers").
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// All bits that the architecture defines.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 ("Control Registers").
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const VMXE: u64 = 1 << 13;
    pub const SMXE: u64 = 1 << 14;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const KL: u64 = 1 << 19;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
    pub const CET: u64 = 1 << 23;
    pub const PKS: u64 = 1 << 24;
    pub const UINTR: u64 = 1 << 25;
    pub const LAM_SUP: u64 = 1 << 28;
}

/// IA32_U_CET and IA32_S_CET ("Control-flow Enforcement Technology", "CET MSRs").
pub mod cet {
    /// Shadow stacks.
    pub const SH_STK_EN: u64 = 1 << 0;
    /// Indirect-branch tracking.
    pub const ENDBR_EN: u64 = 1 << 2;
    /// Pages that the bitmap marks as legacy code need no ENDBRANCH.
    pub const LEG_IW_EN: u64 = 1 << 3;
    /// The prefix 3EH exempts a branch from tracking.
    pub const NO_TRACK_EN: u64 = 1 << 4;
    /// A branch into legacy code does not suspend tracking.
    pub const SUPPRESS_DIS: u64 = 1 << 5;
    /// Tracking is suspended until the next ENDBRANCH.
    pub const SUPPRESS: u64 = 1 << 10;
    /// An indirect branch was taken: the next instruction has to be an ENDBRANCH.
    pub const TRACKER: u64 = 1 << 11;
    /// Linear address of the bitmap of legacy code pages.
    pub const EB_LEG_BITMAP_BASE: u64 = !0xfff;
}

/// IA32_EFER ("Extended Feature Enable Register").
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NX: u64 = 1 << 11;
}

/// RFLAGS ("System Flags and Fields in the EFLAGS Register").
#[allow(missing_docs)]
pub mod rflags {
    pub const CF: u64 = 1 << 0;
    /// Bit 1 always reads as one.
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
}

/// DR6 and DR7 ("Debug Registers").
#[allow(missing_docs)]
pub mod dr {
    /// DR6 with no condition recorded: the bits that read as one.
    pub const DR6_INIT: u64 = 0xffff_0ff0;
    pub const DR6_BD: u64 = 1 << 13;
    pub const DR6_BS: u64 = 1 << 14;
    pub const DR6_BT: u64 = 1 << 15;
    pub const DR6_RTM: u64 = 1 << 16;
    /// B0 to B3: a breakpoint was met.
    pub const DR6_BREAKPOINTS: u64 = 0xf;
    /// DR7 after reset: bit 10 reads as one.
    pub const DR7_INIT: u64 = 1 << 10;
    pub const DR7_GD: u64 = 1 << 13;

    /// The DR6 that a #DB with `conditions`, in the positive logic of VMX's pending debug exceptions, makes of `dr6`.
    ///
    /// B0 to B3 are those of this #DB; all else stays until software clears it.
    pub const fn with_conditions(dr6: u64, conditions: u64) -> u64 {
        const RAISED: u64 = DR6_BREAKPOINTS | DR6_BD | DR6_BS | DR6_BT;
        let raised = (dr6 & !DR6_BREAKPOINTS) | DR6_INIT | (conditions & RAISED);
        // Clear means that it happened.
        raised & !(conditions & DR6_RTM)
    }
}

/// Whether `address` is canonical for linear addresses of `bits` (48 or 57) bits.
#[inline]
pub const fn is_canonical(address: u64, bits: u32) -> bool {
    let shift = 64u32.saturating_sub(bits);
    let sign_extended = ((address.wrapping_shl(shift)) as i64).wrapping_shr(shift);
    sign_extended as u64 == address
}

#[cfg(test)]
mod tests {
    use super::dr::*;

    #[test]
    fn breakpoints_of_an_earlier_debug_exception_go() {
        let first = with_conditions(DR6_INIT, 1 << 0);
        assert_eq!(first, DR6_INIT | 1);
        let second = with_conditions(first, DR6_BS);
        assert_eq!(second, DR6_INIT | DR6_BS);
        assert_eq!(with_conditions(second, 1 << 3), DR6_INIT | DR6_BS | 1 << 3);
    }

    #[test]
    fn only_what_dr6_has_is_raised() {
        // Bit 12, "an enabled breakpoint was met", is not in DR6.
        assert_eq!(with_conditions(DR6_INIT, 1 << 12 | 1 << 40), DR6_INIT);
        assert_eq!(with_conditions(DR6_INIT, DR6_RTM), DR6_INIT & !DR6_RTM);
    }
}
