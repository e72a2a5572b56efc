// SPDX-License-Identifier: GPL-2.0

//! Memory-type range registers: storage only, as the types that count are EPT's.
//!
//! SDM volume 3, "Memory Type Range Registers (MTRRs)".

use super::number::*;
use super::MsrError;
use crate::nospec;

/// Variable ranges.
const VARIABLE: usize = 8;

/// The MTRRs of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mtrrs {
    variable: [u64; VARIABLE * 2],
    fix64k: u64,
    fix16k: [u64; 2],
    fix4k: [u64; 8],
    def_type: u64,
}

/// IA32_MTRRCAP: 8 variable ranges, fixed ranges, write-combining.
const CAPABILITY: u64 = 0x500 | VARIABLE as u64;

impl Mtrrs {
    /// Whether `msr` is one of them.
    pub const fn holds(msr: u32) -> bool {
        matches!(
            msr,
            MTRR_CAP
                | MTRR_PHYS_BASE0..=MTRR_PHYS_LAST
                | MTRR_FIX64K_00000
                | MTRR_FIX16K_80000..=MTRR_FIX16K_A0000
                | MTRR_FIX4K_C0000..=MTRR_FIX4K_F8000
                | MTRR_DEF_TYPE
        )
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] if it is not one of them.
    pub fn get(&self, msr: u32) -> Result<u64, MsrError> {
        if msr == MTRR_CAP {
            return Ok(CAPABILITY);
        }
        let mut copy = *self;
        copy.slot(msr).map(|v| *v).ok_or(MsrError::Invalid)
    }

    /// Writes one. `reserved` are the bits that no guest physical address has.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] for a reserved bit, a type that is none, or IA32_MTRRCAP.
    pub fn set(&mut self, msr: u32, value: u64, reserved: u64) -> Result<(), MsrError> {
        let valid = match msr {
            MTRR_DEF_TYPE => value & !0xcff == 0 && type_valid(value),
            MTRR_PHYS_BASE0..=MTRR_PHYS_LAST if msr & 1 == 0 => {
                value & (reserved | 0xf00) == 0 && type_valid(value)
            }
            MTRR_PHYS_BASE0..=MTRR_PHYS_LAST => value & (reserved | 0x7ff) == 0,
            _ => value
                .to_le_bytes()
                .iter()
                .all(|t| type_valid(u64::from(*t))),
        };
        let slot = self.slot(msr).filter(|_| valid).ok_or(MsrError::Invalid)?;
        *slot = value;
        Ok(())
    }

    fn slot(&mut self, msr: u32) -> Option<&mut u64> {
        let at = |first: u32| msr.wrapping_sub(first) as usize;
        match msr {
            MTRR_PHYS_BASE0..=MTRR_PHYS_LAST => {
                nospec::get_mut(&mut self.variable, at(MTRR_PHYS_BASE0))
            }
            MTRR_FIX64K_00000 => Some(&mut self.fix64k),
            MTRR_FIX16K_80000..=MTRR_FIX16K_A0000 => {
                nospec::get_mut(&mut self.fix16k, at(MTRR_FIX16K_80000))
            }
            MTRR_FIX4K_C0000..=MTRR_FIX4K_F8000 => {
                nospec::get_mut(&mut self.fix4k, at(MTRR_FIX4K_C0000))
            }
            MTRR_DEF_TYPE => Some(&mut self.def_type),
            _ => None,
        }
    }
}

/// UC, WC, WT, WP, WB.
const fn type_valid(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}
