// SPDX-License-Identifier: GPL-2.0

//! IA32_APIC_BASE: the modes of a local APIC and the ways between them.
//!
//! SDM volume 3, "Enabling or Disabling the Local APIC", "x2APIC State Transitions".

use super::{
    access::Effects,
    Lapic,
    Reg,
    Shared, //
};
use crate::addr::Gpa;
use core::ops::Deref;

/// Bits of IA32_APIC_BASE.
#[allow(missing_docs)]
pub mod apic_base {
    pub const BSP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
    pub const ADDRESS: u64 = !0xfff;
    /// The base after reset.
    pub const DEFAULT: u64 = 0xfee0_0000;
    /// Always reserved; the bits above the guest's physical address width are too.
    pub const RESERVED: u64 = 0x2ff;
}

/// Mode of a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Off: as if the processor had none.
    Disabled,
    /// Registers in memory, 8-bit ids.
    XApic,
    /// Registers in MSRs, 32-bit ids.
    X2Apic,
}

impl Mode {
    /// The mode that a value of IA32_APIC_BASE selects; x2APIC without the enable bit is none.
    pub const fn of(base: u64) -> Option<Self> {
        match (
            base & apic_base::ENABLED != 0,
            base & apic_base::X2APIC != 0,
        ) {
            (false, false) => Some(Self::Disabled),
            (true, false) => Some(Self::XApic),
            (true, true) => Some(Self::X2Apic),
            (false, true) => None,
        }
    }

    /// The mode after `value` was written to IA32_APIC_BASE. `x2apic`: the processor has that mode.
    ///
    /// `reserved_gpa` are the address bits above the guest's width. User space (`host`) may change the mode in every
    /// direction, the guest only as the SDM allows.
    pub fn after(
        self,
        value: u64,
        x2apic: bool,
        reserved_gpa: u64,
        host: bool,
    ) -> Result<Self, BaseFault> {
        let mut reserved = reserved_gpa | apic_base::RESERVED;
        if !x2apic {
            reserved |= apic_base::X2APIC;
        }
        if value & reserved != 0 {
            return Err(BaseFault);
        }
        let new = Self::of(value).ok_or(BaseFault)?;
        let forbidden = matches!(
            (self, new),
            (Self::X2Apic, Self::XApic) | (Self::Disabled, Self::X2Apic)
        );
        if forbidden && !host {
            return Err(BaseFault);
        }
        Ok(new)
    }
}

/// Where a guest finds the registers of a local APIC, as far as the processor can help with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the page at [`apic_base::DEFAULT`].
    DefaultPage,
    /// In MSRs: x2APIC mode.
    Msrs,
    /// On another page, or nowhere because the APIC is off.
    Elsewhere,
}

/// A value that IA32_APIC_BASE does not take: #GP(0) for the guest, a refusal for KVM_SET_MSRS and KVM_SET_SREGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseFault;

/// The LDR that x2APIC derives from the id: cluster in the upper half, one bit of 16 in the lower.
pub(super) const fn x2apic_ldr(id: u32) -> u32 {
    ((id >> 4) << 16) | 1u32.wrapping_shl(id & 0xf)
}

impl<S: Deref<Target = Shared>> Lapic<S> {
    /// IA32_APIC_BASE.
    #[inline]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the register page lies in guest memory, in xAPIC mode.
    #[inline]
    pub fn mmio_base(&self) -> Option<Gpa> {
        match self.mode {
            Mode::XApic => Some(Gpa(self.base & apic_base::ADDRESS)),
            _ => None,
        }
    }

    /// Where the registers are.
    #[inline]
    pub fn place(&self) -> Place {
        match self.mode {
            Mode::XApic if self.base & apic_base::ADDRESS == apic_base::DEFAULT => {
                Place::DefaultPage
            }
            Mode::X2Apic => Place::Msrs,
            Mode::XApic | Mode::Disabled => Place::Elsewhere,
        }
    }

    /// Writes IA32_APIC_BASE, if [`Mode::after`] allows it.
    pub fn set_base(
        &mut self,
        value: u64,
        reserved_gpa: u64,
        host: bool,
    ) -> Result<Effects, BaseFault> {
        if value == self.base {
            return Ok(Effects::NONE);
        }
        let new = self
            .mode
            .after(value, self.config.x2apic, reserved_gpa, host)?;
        let old = self.place();
        self.base = value;
        let mut effects = self.change_mode(new);
        effects.place = self.place() != old;
        Ok(effects)
    }

    fn change_mode(&mut self, new: Mode) -> Effects {
        let old = core::mem::replace(&mut self.mode, new);
        if old == new {
            return Effects::NONE;
        }
        match new {
            Mode::Disabled => {}
            Mode::XApic => self.set_reg(Reg::ID, self.config.id.wrapping_shl(24)),
            Mode::X2Apic => {
                self.set_reg(Reg::ID, self.config.id);
                self.set_reg(Reg::LDR, x2apic_ldr(self.config.id));
            }
        }
        self.publish();
        Effects {
            map: true,
            mode: true,
            recheck: true,
            ..Effects::NONE
        }
    }
}
