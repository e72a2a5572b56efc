// SPDX-License-Identifier: GPL-2.0

//! Machine-check banks.
//!
//! SDM volume 3, "Machine-Check MSRs"; api.rst, KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SETUP_MCE.

use super::number::*;
use super::{MsrError, Origin};
use crate::nospec;

/// Banks that a vCPU can have.
pub const MAX_BANKS: usize = 32;
/// MCG_CTL exists.
pub const MCG_CTL_P: u64 = 1 << 8;
/// Corrected machine checks can interrupt.
pub const MCG_CMCI_P: u64 = 1 << 10;
/// Software error recovery.
pub const MCG_SER_P: u64 = 1 << 24;
/// Local machine checks.
pub const MCG_LMCE_P: u64 = 1 << 27;
/// KVM_X86_GET_MCE_CAP_SUPPORTED.
pub const SUPPORTED: u64 = MCG_CTL_P | MCG_CMCI_P | MCG_SER_P | MCG_LMCE_P;

const STATUS_VAL: u64 = 1 << 63;
const STATUS_OVER: u64 = 1 << 62;
const STATUS_UC: u64 = 1 << 61;
const STATUS_PCC: u64 = 1 << 57;
const STATUS_S: u64 = 1 << 56;
const STATUS_AR: u64 = 1 << 55;
const MCG_STATUS_MCIP: u64 = 1 << 2;
const CTL2_CMCI_EN: u64 = 1 << 30;

/// A machine check that user space reports to a vCPU (KVM_X86_SET_MCE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub struct Report {
    pub bank: u8,
    pub status: u64,
    pub addr: u64,
    pub misc: u64,
    pub mcg_status: u64,
}

impl Report {
    /// Uncorrected, no action required: told by interrupt, not by exception.
    const fn is_ucna(&self) -> bool {
        self.mcg_status == 0
            && self.status & (STATUS_PCC | STATUS_S | STATUS_AR) == 0
            && self.status & STATUS_VAL != 0
            && self.status & STATUS_UC != 0
    }
}

/// How the vCPU hears of a machine check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Not at all: the banks tell when it looks.
    Silent,
    /// By the interrupt of LVT CMCI.
    Cmci,
    /// By #MC.
    Exception,
    /// It can't take it and shuts down.
    TripleFault,
}

/// The banks of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mce {
    cap: u64,
    status: u64,
    ctl: u64,
    ext_ctl: u64,
    /// CTL, STATUS, ADDR, MISC of each bank.
    banks: [u64; MAX_BANKS * 4],
    ctl2: [u64; MAX_BANKS],
}

impl Default for Mce {
    fn default() -> Self {
        Self {
            cap: MAX_BANKS as u64,
            status: 0,
            ctl: 0,
            ext_ctl: 0,
            banks: [0; MAX_BANKS * 4],
            ctl2: [0; MAX_BANKS],
        }
    }
}

impl Mce {
    /// KVM_X86_SETUP_MCE with this MCG_CAP.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] (EINVAL) for no banks, too many, or a capability that is not supported.
    pub fn setup(&mut self, cap: u64) -> Result<(), MsrError> {
        let banks = (cap & 0xff) as usize;
        // Bits 23:16 count extended state registers, and are the VMM's own affair.
        if banks == 0 || banks > MAX_BANKS || cap & !(SUPPORTED | 0xff_00ff) != 0 {
            return Err(MsrError::Invalid);
        }
        *self = Self {
            cap,
            ctl: if cap & MCG_CTL_P != 0 { !0 } else { self.ctl },
            ..*self
        };
        for bank in self.banks.chunks_exact_mut(4).take(banks) {
            if let Some(ctl) = bank.first_mut() {
                *ctl = !0;
            }
        }
        if cap & MCG_CMCI_P != 0 {
            self.ctl2 = [0; MAX_BANKS];
        }
        Ok(())
    }

    /// Records `report` in its bank and says what the vCPU notices (SDM, "Machine-Check Architecture"). `cr4_mce`: the
    /// guest has CR4.MCE set.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] (EINVAL) for a bank that this vCPU does not have, or a status that is not valid.
    pub fn report(&mut self, report: &Report, cr4_mce: bool) -> Result<Delivery, MsrError> {
        let number = usize::from(report.bank);
        let exists = number < self.bank_count() && report.status & STATUS_VAL != 0;
        let number = nospec::clamp(number, self.bank_count());
        let ctl2 = self.ctl2.get(number).copied().unwrap_or(0);
        let Some([ctl, status, addr, misc]) = self
            .banks
            .chunks_exact_mut(4)
            .nth(number)
            .filter(|_| exists)
        else {
            return Err(MsrError::Invalid);
        };
        let uncorrected = report.status & STATUS_UC != 0;
        let overflow = if *status & STATUS_VAL != 0 {
            STATUS_OVER
        } else {
            0
        };
        let ucna = report.is_ucna();
        if !ucna && uncorrected {
            // Reporting that is not fully switched on is off.
            let disabled = (self.cap & MCG_CTL_P != 0 && self.ctl != !0) || *ctl != !0;
            if disabled {
                return Ok(Delivery::Silent);
            }
            if self.status & MCG_STATUS_MCIP != 0 || !cr4_mce {
                return Ok(Delivery::TripleFault);
            }
        } else if !ucna && *status & STATUS_VAL != 0 && *status & STATUS_UC != 0 {
            // What is there is worse, and stays.
            *status |= STATUS_OVER;
            return Ok(Delivery::Silent);
        }
        *status = report.status | if ucna { 0 } else { overflow };
        *addr = report.addr;
        *misc = report.misc;
        if ucna || uncorrected {
            self.status = report.mcg_status;
        }
        Ok(if !ucna && uncorrected {
            Delivery::Exception
        } else if ucna && self.cap & MCG_CMCI_P != 0 && ctl2 & CTL2_CMCI_EN != 0 {
            Delivery::Cmci
        } else {
            Delivery::Silent
        })
    }

    /// MCG_CAP.
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// Whether `msr` is one of them.
    pub const fn holds(msr: u32) -> bool {
        matches!(
            msr,
            P5_MC_ADDR
                | P5_MC_TYPE
                | MCG_CAP
                | MCG_STATUS
                | MCG_CTL
                | MCG_EXT_CTL
                | MC0_CTL..=MC31_MISC
                | MC0_CTL2..=MC31_CTL2
        )
    }

    fn bank_count(&self) -> usize {
        (self.cap & 0xff) as usize
    }

    fn bank_slot(&mut self, msr: u32) -> Option<&mut u64> {
        let banks = self.bank_count();
        let n = msr.wrapping_sub(MC0_CTL) as usize;
        nospec::get_mut(&mut self.banks, n).filter(|_| n >> 2 < banks)
    }

    fn ctl2_slot(&mut self, msr: u32) -> Option<&mut u64> {
        let banks = self.bank_count();
        let n = msr.wrapping_sub(MC0_CTL2) as usize;
        nospec::get_mut(&mut self.ctl2, n).filter(|_| n < banks)
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] for banks and registers that this vCPU does not have.
    pub fn get(&self, msr: u32, origin: Origin) -> Result<u64, MsrError> {
        let user = origin == Origin::User;
        let banks = self.bank_count();
        let value = match msr {
            P5_MC_ADDR | P5_MC_TYPE => Some(0),
            MCG_CAP => Some(self.cap),
            MCG_STATUS => Some(self.status),
            MCG_CTL => (self.cap & MCG_CTL_P != 0 || user).then_some(self.ctl),
            MCG_EXT_CTL => Some(self.ext_ctl),
            MC0_CTL2..=MC31_CTL2 => {
                let n = msr.wrapping_sub(MC0_CTL2) as usize;
                let has = self.cap & MCG_CMCI_P != 0 || user;
                nospec::get(&self.ctl2, n)
                    .filter(|_| n < banks && has)
                    .copied()
            }
            _ => {
                let n = msr.wrapping_sub(MC0_CTL) as usize;
                nospec::get(&self.banks, n)
                    .filter(|_| n >> 2 < banks)
                    .copied()
            }
        };
        value.ok_or(MsrError::Invalid)
    }

    /// Writes one.
    ///
    /// # Errors
    ///
    /// [`MsrError::Invalid`] for what is not there or not writable.
    pub fn set(&mut self, msr: u32, value: u64, origin: Origin) -> Result<(), MsrError> {
        let user = origin == Origin::User;
        // A register that is absent can be restored to the zero that it reads as.
        let absent_ok = user && value == 0;
        let slot = match msr {
            MCG_STATUS => Some(&mut self.status),
            MCG_CTL => {
                let has = self.cap & MCG_CTL_P != 0 || absent_ok;
                Some(&mut self.ctl).filter(|_| has && (value == 0 || value == !0))
            }
            MCG_EXT_CTL => Some(&mut self.ext_ctl).filter(|_| value & !1 == 0),
            MC0_CTL2..=MC31_CTL2 => {
                // CMCI_EN and the threshold.
                let has = self.cap & MCG_CMCI_P != 0 || absent_ok;
                self.ctl2_slot(msr)
                    .filter(|_| has && value & !(1 << 30 | 0x7fff) == 0)
            }
            MC0_CTL..=MC31_MISC => {
                let valid = match msr & 3 {
                    // Old kernels leave single bits of CTL off to work round errata.
                    0 => value == 0 || value | 1 << 10 | 1 == !0,
                    1 => user || value == 0,
                    _ => true,
                };
                self.bank_slot(msr).filter(|_| valid)
            }
            _ => None,
        };
        *slot.ok_or(MsrError::Invalid)? = value;
        Ok(())
    }
}
