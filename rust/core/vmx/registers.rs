// SPDX-License-Identifier: GPL-2.0

//! CR0, CR4 and EFER: what the guest may set, and what the processor gets for it.
//!
//! SDM volume 3, "Guest/Host Masks and Read Shadows for CR0 and CR4", "Restrictions on VMX Operation" and "Control
//! Registers".

use super::negotiate::{Features, Fixed};
use crate::regs::{cr0, cr4, efer};

/// CR0 bits that the guest may own with EPT: changing them needs nobody's help.
const CR0_GUEST_BITS_EPT: u64 = cr0::TS | cr0::WP;
/// CR4 bits that the guest may own with EPT.
const CR4_GUEST_BITS: u64 = cr4::PVI
    | cr4::DE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::PGE
    | cr4::TSD
    | cr4::FSGSBASE;

/// The CR0_GUEST_HOST_MASK: bits whose writes exit, and that read from the shadow.
pub const fn cr0_guest_host_mask(ept: bool) -> u64 {
    !(if ept { CR0_GUEST_BITS_EPT } else { cr0::TS })
}

/// The CR4_GUEST_HOST_MASK. `reserved` are the bits that this guest's CPUID does not allow: their writes have to exit
/// to fault. Without EPT a write of PGE flushes the shadow pages.
pub const fn cr4_guest_host_mask(ept: bool, reserved: u64) -> u64 {
    let owned = if ept {
        CR4_GUEST_BITS
    } else {
        CR4_GUEST_BITS & !cr4::PGE
    };
    !(owned & !reserved)
}

/// The GUEST_CR0 that runs a guest whose CR0 is `guest`.
pub const fn hw_cr0(guest: u64, fixed: Fixed, f: &Features) -> u64 {
    // Guest caching is never switched off by CR0; an unrestricted guest may also clear PE and PG.
    let wanted = guest & !(cr0::NW | cr0::CD);
    let must = if f.unrestricted_guest {
        fixed.must & !(cr0::PE | cr0::PG)
    } else {
        fixed.must
    };
    // Shadow paging depends on supervisor writes faulting.
    let shadow = if f.ept { 0 } else { cr0::WP };
    (wanted | must | shadow) & fixed.may
}

/// What decides GUEST_CR4 besides the guest's CR4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cr4Context {
    /// The guest's CR0.PG.
    pub guest_paging: bool,
    /// Real mode runs as vm86 (no unrestricted guest).
    pub vm86: bool,
}

/// The GUEST_CR4 that runs a guest whose CR4 is `guest`.
pub const fn hw_cr4(guest: u64, fixed: Fixed, f: &Features, ctx: &Cr4Context) -> u64 {
    // A machine check is the host's, whatever the guest says: without the bit it would shut the processor down.
    let mut hw = guest | cr4::MCE;
    if !f.unrestricted_guest {
        // The processor pages although the guest does not: by an identity map of 4 MiB pages with EPT, else by
        // shadow pages in PAE format.
        if !f.ept {
            hw |= cr4::PAE;
        } else if !ctx.guest_paging {
            hw = (hw & !cr4::PAE) | cr4::PSE;
        }
        if ctx.vm86 {
            hw |= cr4::VME;
        }
        if !ctx.guest_paging {
            hw &= !(cr4::SMEP | cr4::SMAP | cr4::PKE);
        }
    }
    (hw | fixed.must) & fixed.may
}

/// Rules for control registers that follow from the guest's CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterRules {
    /// CR4 bits that must be 0.
    pub cr4_reserved: u64,
    /// EFER bits that must be 0.
    pub efer_reserved: u64,
    /// CR3 bits that must be 0.
    pub cr3_reserved: u64,
}

/// The control registers of KVM_SET_SREGS that have to fit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// CS.L.
    pub cs_l: bool,
}

impl RegisterRules {
    /// Whether `value` may be in CR0 at all. Undefined low bits are ignored by a MOV, so they don't count.
    pub const fn cr0_valid(value: u64) -> bool {
        value >> 32 == 0
            && !(value & cr0::NW != 0 && value & cr0::CD == 0)
            && !(value & cr0::PG != 0 && value & cr0::PE == 0)
    }

    /// Whether `value` may be in CR4 of this guest.
    #[inline]
    pub const fn cr4_valid(&self, value: u64) -> bool {
        value & self.cr4_reserved == 0
    }

    /// Whether `value` may be in EFER of this guest.
    #[inline]
    pub const fn efer_valid(&self, value: u64) -> bool {
        value & self.efer_reserved == 0
    }

    /// Whether `value` may be in CR3 of this guest in IA-32e mode.
    #[inline]
    pub const fn cr3_valid(&self, value: u64) -> bool {
        value & self.cr3_reserved == 0
    }

    /// Whether KVM_SET_SREGS may set these together; else it is EINVAL.
    pub const fn sregs_valid(&self, s: &SystemState) -> bool {
        let long_mode = s.efer & efer::LME != 0 && s.cr0 & cr0::PG != 0;
        let mode = if long_mode {
            s.cr4 & cr4::PAE != 0 && s.efer & efer::LMA != 0 && self.cr3_valid(s.cr3)
        } else {
            s.efer & efer::LMA == 0 && !s.cs_l
        };
        mode && self.cr4_valid(s.cr4) && Self::cr0_valid(s.cr0) && self.efer_valid(s.efer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CR0: Fixed = Fixed {
        must: 0x8000_0021,
        may: 0xffff_ffff,
    };
    const CR4: Fixed = Fixed {
        must: 0x2000,
        may: 0xff_ffff,
    };
    const RULES: RegisterRules = RegisterRules {
        cr4_reserved: !0x7ff,
        efer_reserved: !(efer::SCE | efer::LME | efer::LMA | efer::NX),
        cr3_reserved: 0xffff_ff80_0000_0000,
    };

    fn features(ept: bool, unrestricted_guest: bool) -> Features {
        Features {
            ept,
            unrestricted_guest,
            ..Features::default()
        }
    }

    #[test]
    fn real_mode_on_an_unrestricted_guest_runs_as_it_is() {
        let f = features(true, true);
        assert_eq!(
            hw_cr0(cr0::ET | cr0::CD | cr0::NW, CR0, &f),
            cr0::ET | cr0::NE
        );
        assert_eq!(
            hw_cr4(0, CR4, &f, &Cr4Context::default()),
            cr4::VMXE | cr4::MCE
        );
    }

    #[test]
    fn without_it_paging_stays_on() {
        let f = features(true, false);
        let pg = cr0::PG | cr0::PE | cr0::NE;
        assert_eq!(hw_cr0(cr0::ET, CR0, &f) & pg, pg);
        let off = Cr4Context::default();
        let hw = hw_cr4(cr4::PAE | cr4::SMEP, CR4, &f, &off);
        assert_eq!(hw, cr4::PSE | cr4::VMXE | cr4::MCE);
        let shadow = features(false, false);
        assert_eq!(hw_cr0(0, CR0, &shadow) & cr0::WP, cr0::WP);
        assert_ne!(hw_cr4(0, CR4, &shadow, &off) & cr4::PAE, 0);
    }

    #[test]
    fn masks() {
        assert_eq!(!cr0_guest_host_mask(true), cr0::TS | cr0::WP);
        assert_eq!(!cr0_guest_host_mask(false), cr0::TS);
        assert_eq!(cr4_guest_host_mask(true, 0) & cr4::PGE, 0);
        assert_ne!(cr4_guest_host_mask(false, 0) & cr4::PGE, 0);
        assert_ne!(cr4_guest_host_mask(true, cr4::FSGSBASE) & cr4::FSGSBASE, 0);
    }

    #[test]
    fn cr0_combinations() {
        for (value, valid) in [
            (0x6000_0010, true),
            (0x2000_0010, false),
            (0x8000_0000, false),
            (0x8000_0011, true),
            (1 << 32, false),
        ] {
            assert_eq!(RegisterRules::cr0_valid(value), valid, "{value:x}");
        }
    }

    #[test]
    fn long_mode_needs_all_its_parts() {
        let long = SystemState {
            cr0: 0x8000_0011,
            cr3: 0x1000,
            cr4: cr4::PAE,
            efer: efer::LME | efer::LMA,
            cs_l: true,
        };
        assert!(RULES.sregs_valid(&long));
        assert!(!RULES.sregs_valid(&SystemState { cr4: 0, ..long }));
        assert!(!RULES.sregs_valid(&SystemState {
            efer: efer::LME,
            ..long
        }));
        assert!(!RULES.sregs_valid(&SystemState {
            cr3: 1 << 52,
            ..long
        }));
        assert!(!RULES.sregs_valid(&SystemState { cr0: 0x11, ..long }));
        let real = SystemState {
            cr0: 0x6000_0010,
            ..SystemState::default()
        };
        assert!(RULES.sregs_valid(&real));
        assert!(!RULES.sregs_valid(&SystemState { cs_l: true, ..real }));
        assert!(!RULES.sregs_valid(&SystemState {
            cr4: cr4::VMXE,
            ..real
        }));
        assert!(!RULES.sregs_valid(&SystemState {
            efer: 1 << 12,
            ..real
        }));
    }
}
