// SPDX-License-Identifier: GPL-2.0

//! The VMX capability MSRs, read once at load.
//!
//! SDM volume 3, appendix "VMX Capability Reporting Facility".

use super::Missing;
use crate::vmx::controls::{Exit, Primary};

/// MSR numbers of the capability MSRs, with their names.
const IA32_VMX_BASIC: (u32, &str) = (0x480, "IA32_VMX_BASIC");
const PINBASED: (u32, &str) = (0x481, "IA32_VMX_PINBASED_CTLS");
const PROCBASED: (u32, &str) = (0x482, "IA32_VMX_PROCBASED_CTLS");
const EXIT: (u32, &str) = (0x483, "IA32_VMX_EXIT_CTLS");
const ENTRY: (u32, &str) = (0x484, "IA32_VMX_ENTRY_CTLS");
const IA32_VMX_MISC: (u32, &str) = (0x485, "IA32_VMX_MISC");
const CR0_FIXED0: (u32, &str) = (0x486, "IA32_VMX_CR0_FIXED0");
const CR0_FIXED1: (u32, &str) = (0x487, "IA32_VMX_CR0_FIXED1");
const CR4_FIXED0: (u32, &str) = (0x488, "IA32_VMX_CR4_FIXED0");
const CR4_FIXED1: (u32, &str) = (0x489, "IA32_VMX_CR4_FIXED1");
const PROCBASED2: (u32, &str) = (0x48b, "IA32_VMX_PROCBASED_CTLS2");
const EPT_VPID_CAP: (u32, &str) = (0x48c, "IA32_VMX_EPT_VPID_CAP");
const TRUE_PINBASED: (u32, &str) = (0x48d, "IA32_VMX_TRUE_PINBASED_CTLS");
const TRUE_PROCBASED: (u32, &str) = (0x48e, "IA32_VMX_TRUE_PROCBASED_CTLS");
const TRUE_EXIT: (u32, &str) = (0x48f, "IA32_VMX_TRUE_EXIT_CTLS");
const TRUE_ENTRY: (u32, &str) = (0x490, "IA32_VMX_TRUE_ENTRY_CTLS");
const PROCBASED3: (u32, &str) = (0x492, "IA32_VMX_PROCBASED_CTLS3");
const EXIT2: (u32, &str) = (0x493, "IA32_VMX_EXIT_CTLS2");

/// Bits of IA32_VMX_BASIC.
const BASIC_32BIT_ADDRESSES: u64 = 1 << 48;
const BASIC_TRUE_CTLS: u64 = 1 << 55;
const MEMORY_TYPE_WB: u64 = 6;

/// Bits of IA32_VMX_EPT_VPID_CAP.
pub mod ept_vpid {
    /// Execute-only translations.
    pub const EXECUTE_ONLY: u64 = 1 << 0;
    /// A page walk of length 4.
    pub const WALK_4: u64 = 1 << 6;
    /// A page walk of length 5.
    pub const WALK_5: u64 = 1 << 7;
    /// Paging structures in write-back memory.
    pub const WB: u64 = 1 << 14;
    /// 2 MiB pages.
    pub const PAGE_2M: u64 = 1 << 16;
    /// 1 GiB pages.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty bits.
    pub const AD: u64 = 1 << 21;
    /// INVEPT of a single context.
    pub const INVEPT_CONTEXT: u64 = 1 << 25;
    /// INVEPT of all contexts.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID.
    pub const INVVPID: u64 = 1 << 32;
    /// INVVPID of an address.
    pub const INVVPID_ADDR: u64 = 1 << 40;
    /// INVVPID of a single context.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// INVVPID of all contexts.
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// Bits of IA32_VMX_MISC.
pub mod misc {
    /// log2 of TSC ticks for each tick of the preemption timer.
    pub const PREEMPTION_TIMER_SHIFT: u64 = 0x1f;
    /// The activity state HLT.
    pub const ACTIVITY_HLT: u64 = 1 << 6;
}

/// Which bits of a register or control word must be 1, and which may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Bits that have to be 1.
    pub must: u64,
    /// Bits that are allowed to be 1.
    pub may: u64,
}

impl Fixed {
    /// A 32-bit control MSR: low half must, high half may.
    const fn from_ctls(raw: u64) -> Self {
        Self {
            must: raw & 0xffff_ffff,
            may: raw >> 32,
        }
    }

    /// Whether `value` keeps to both.
    #[inline]
    pub const fn permits(self, value: u64) -> bool {
        value & self.must == self.must && value & !self.may == 0
    }
}

/// What the capability MSRs say, the TRUE ones where they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityMsrs {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP, 0 where there is none.
    pub ept_vpid: u64,
    /// Pin-based controls.
    pub pin: Fixed,
    /// Primary processor-based controls.
    pub primary: Fixed,
    /// Secondary processor-based controls, none where there are none.
    pub secondary: Fixed,
    /// Tertiary processor-based controls, none where there are none.
    pub tertiary: Fixed,
    /// Primary VM-exit controls.
    pub exit: Fixed,
    /// Secondary VM-exit controls, none where there are none.
    pub exit2: Fixed,
    /// VM-entry controls.
    pub entry: Fixed,
    /// CR0 in VMX operation.
    pub cr0: Fixed,
    /// CR4 in VMX operation.
    pub cr4: Fixed,
}

impl CapabilityMsrs {
    /// Reads them by `rdmsr`, which answers `None` for an MSR that faults.
    ///
    /// # Errors
    ///
    /// [`Missing::Msr`] if one that must exist does not.
    pub fn read(mut rdmsr: impl FnMut(u32) -> Option<u64>) -> Result<Self, Missing> {
        let mut get = |msr: (u32, &'static str)| rdmsr(msr.0).ok_or(Missing::Msr(msr.1));
        let basic = get(IA32_VMX_BASIC)?;
        let exact = basic & BASIC_TRUE_CTLS != 0;
        let mut ctls = |true_msr, msr| -> Result<Fixed, Missing> {
            Ok(Fixed::from_ctls(get(if exact { true_msr } else { msr })?))
        };
        let pin = ctls(TRUE_PINBASED, PINBASED)?;
        let primary = ctls(TRUE_PROCBASED, PROCBASED)?;
        let exit = ctls(TRUE_EXIT, EXIT)?;
        let entry = ctls(TRUE_ENTRY, ENTRY)?;
        let may_primary = |b: Primary| primary.may & u64::from(b.0) != 0;
        let mut caps = Self {
            basic,
            misc: get(IA32_VMX_MISC)?,
            pin,
            primary,
            exit,
            entry,
            cr0: Fixed {
                must: get(CR0_FIXED0)?,
                may: get(CR0_FIXED1)?,
            },
            cr4: Fixed {
                must: get(CR4_FIXED0)?,
                may: get(CR4_FIXED1)?,
            },
            ..Self::default()
        };
        if may_primary(Primary::ACTIVATE_SECONDARY_CONTROLS) {
            caps.secondary = Fixed::from_ctls(get(PROCBASED2)?);
            // The SDM ties the MSR to the controls "enable EPT" and "enable VPID".
            if caps.secondary.may & 0x22 != 0 {
                caps.ept_vpid = get(EPT_VPID_CAP)?;
            }
        }
        if may_primary(Primary::ACTIVATE_TERTIARY_CONTROLS) {
            caps.tertiary.may = get(PROCBASED3)?;
        }
        if exit.may & u64::from(Exit::ACTIVATE_SECONDARY_CONTROLS.0) != 0 {
            caps.exit2.may = get(EXIT2)?;
        }
        Ok(caps)
    }

    /// The VMCS revision identifier.
    pub const fn revision_id(&self) -> u32 {
        (self.basic & 0x7fff_ffff) as u32
    }

    /// A VMCS region fits a page, is written back, and may lie anywhere.
    pub(super) const fn vmcs_region_usable(&self) -> bool {
        let size = (self.basic >> 32) & 0x1fff;
        let memory_type = (self.basic >> 50) & 0xf;
        size <= 4096 && memory_type == MEMORY_TYPE_WB && self.basic & BASIC_32BIT_ADDRESSES == 0
    }

    /// 512 times one more than the number in bits 27:25 of IA32_VMX_MISC.
    pub(super) const fn max_msr_list(&self) -> u32 {
        let n = ((self.misc >> 25) & 7) as u32;
        n.wrapping_add(1).wrapping_mul(512)
    }
}
