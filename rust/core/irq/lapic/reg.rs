// SPDX-License-Identifier: GPL-2.0

//! The register page of a local APIC: offsets, bits, and the storage that all CPUs can see.
//!
//! SDM volume 3, "The Local APIC Block Diagram" (the register address map).

use core::sync::atomic::{
    AtomicU32,
    Ordering::Relaxed, //
};

/// A register, by its byte offset in the xAPIC page. The x2APIC MSR is 0x800 + offset / 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(u16);

#[allow(missing_docs)] // the names are the SDM's
impl Reg {
    pub const ID: Self = Self(0x20);
    pub const VERSION: Self = Self(0x30);
    pub const TPR: Self = Self(0x80);
    pub const APR: Self = Self(0x90);
    pub const PPR: Self = Self(0xa0);
    pub const EOI: Self = Self(0xb0);
    pub const RRD: Self = Self(0xc0);
    pub const LDR: Self = Self(0xd0);
    pub const DFR: Self = Self(0xe0);
    pub const SVR: Self = Self(0xf0);
    pub const ISR: Self = Self(0x100);
    pub const TMR: Self = Self(0x180);
    pub const IRR: Self = Self(0x200);
    pub const ESR: Self = Self(0x280);
    /// Not architectural: errors found since the last write to ESR. Guests can't reach it; KVM_GET_LAPIC carries it.
    pub(super) const ESR_FOUND: Self = Self(0x284);
    pub const LVT_CMCI: Self = Self(0x2f0);
    pub const ICR: Self = Self(0x300);
    /// The upper half of the 64-bit ICR of x2APIC mode, where VMX virtualization has it too.
    pub(super) const ICR_X2_HIGH: Self = Self(0x304);
    pub const ICR2: Self = Self(0x310);
    pub const LVT_TIMER: Self = Self(0x320);
    pub const LVT_THERMAL: Self = Self(0x330);
    pub const LVT_PERF: Self = Self(0x340);
    pub const LVT_LINT0: Self = Self(0x350);
    pub const LVT_LINT1: Self = Self(0x360);
    pub const LVT_ERROR: Self = Self(0x370);
    pub const TIMER_INITIAL: Self = Self(0x380);
    pub const TIMER_CURRENT: Self = Self(0x390);
    /// Not architectural: set by KVM_GET_LAPIC when the count has ended.
    pub(super) const TIMER_FIRED: Self = Self(0x394);
    pub const TIMER_DIVIDE: Self = Self(0x3e0);
    pub const SELF_IPI: Self = Self(0x3f0);

    /// The register at byte `offset` of the page, which is rounded down to 16 bytes.
    #[inline]
    pub const fn at(offset: u16) -> Self {
        Self(offset & 0xff0)
    }

    /// The word at byte `offset` of the page, also between the registers.
    #[inline]
    pub(super) const fn word_at(offset: u16) -> Self {
        Self(offset & 0xffc)
    }

    /// The register of an x2APIC MSR (0x800 to 0x8ff), or `None` for another MSR.
    #[inline]
    pub const fn of_msr(msr: u32) -> Option<Self> {
        match msr {
            0x800..=0x8ff => Some(Self(((msr & 0xff) << 4) as u16)),
            _ => None,
        }
    }

    /// Byte offset in the page.
    #[inline]
    pub const fn offset(self) -> u16 {
        self.0
    }

    /// The `n`th (0 to 7) of eight registers that form a 256-bit set.
    #[inline]
    pub(super) const fn nth(self, n: u32) -> Self {
        Self(self.0 | ((n & 7) << 4) as u16)
    }
}

/// Local interrupt sources (SDM, "Local Vector Table").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Lvt {
    Timer,
    Thermal,
    Perf,
    Lint0,
    Lint1,
    Error,
    Cmci,
}

impl Lvt {
    /// All entries; CMCI is last because not every APIC has it.
    pub const ALL: [Self; 7] = [
        Self::Timer,
        Self::Thermal,
        Self::Perf,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
        Self::Cmci,
    ];

    /// Its register.
    #[inline]
    pub const fn reg(self) -> Reg {
        match self {
            Self::Timer => Reg::LVT_TIMER,
            Self::Thermal => Reg::LVT_THERMAL,
            Self::Perf => Reg::LVT_PERF,
            Self::Lint0 => Reg::LVT_LINT0,
            Self::Lint1 => Reg::LVT_LINT1,
            Self::Error => Reg::LVT_ERROR,
            Self::Cmci => Reg::LVT_CMCI,
        }
    }

    /// The bits that a write can set. The timer's mode bits depend on the CPU and are added by the caller.
    pub(super) const fn writable(self) -> u32 {
        const PLAIN: u32 = lvt::MASKED | lvt::SEND_PENDING | 0xff;
        match self {
            Self::Timer | Self::Error => PLAIN,
            Self::Thermal | Self::Perf | Self::Cmci => PLAIN | lvt::MODE,
            Self::Lint0 | Self::Lint1 => {
                PLAIN | lvt::MODE | lvt::POLARITY | lvt::REMOTE_IRR | lvt::LEVEL
            }
        }
    }
}

/// Bits of a local vector table entry.
#[allow(missing_docs)]
pub mod lvt {
    pub const MODE: u32 = 7 << 8;
    pub const SEND_PENDING: u32 = 1 << 12;
    pub const POLARITY: u32 = 1 << 13;
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const MASKED: u32 = 1 << 16;
    pub const TIMER_PERIODIC: u32 = 1 << 17;
    pub const TIMER_TSC_DEADLINE: u32 = 2 << 17;
    pub const MODE_NMI: u32 = 4 << 8;
    pub const MODE_EXTINT: u32 = 7 << 8;
}

/// Bits of the spurious-interrupt vector register.
#[allow(missing_docs)]
pub mod svr {
    pub const ENABLED: u32 = 1 << 8;
    pub const FOCUS_DISABLED: u32 = 1 << 9;
    pub const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
}

/// Bits of the error status register.
#[allow(missing_docs)]
pub mod esr {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Version register: support of EOI-broadcast suppression.
pub(super) const VERSION_SUPPRESS_EOI: u32 = 1 << 24;
/// Destination format register: flat model.
pub const DFR_FLAT: u32 = 0xffff_ffff;
/// Destination format register: cluster model.
pub const DFR_CLUSTER: u32 = 0x0fff_ffff;

const WORDS: usize = 1024;

/// The 4 KiB register page. Its layout is the guest's, so that it can become VMX's virtual-APIC page; the words are
/// atomics because other CPUs read identities from it and set trigger modes in it. All zero is a valid value.
#[repr(C, align(4096))]
pub struct RegPage([AtomicU32; WORDS]);

impl Default for RegPage {
    fn default() -> Self {
        Self::new()
    }
}

impl RegPage {
    /// A page of zeros. [`super::Lapic::new`] puts the reset values in.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    #[inline]
    fn word(&self, reg: Reg) -> Option<&AtomicU32> {
        self.0.get(usize::from(reg.0 >> 2))
    }

    /// Reads a register as stored.
    #[inline]
    pub fn get(&self, reg: Reg) -> u32 {
        self.word(reg).map_or(0, |w| w.load(Relaxed))
    }

    /// Stores a register; only the vCPU that owns the APIC does that.
    #[inline]
    pub(super) fn set(&self, reg: Reg, value: u32) {
        if let Some(w) = self.word(reg) {
            w.store(value, Relaxed);
        }
    }

    /// Atomically sets bits; answers those that were set before.
    #[inline]
    pub(super) fn or(&self, reg: Reg, bits: u32) -> u32 {
        self.word(reg).map_or(0, |w| w.fetch_or(bits, Relaxed))
    }

    /// Atomically clears bits.
    #[inline]
    pub(super) fn clear(&self, reg: Reg, bits: u32) {
        if let Some(w) = self.word(reg) {
            w.fetch_and(!bits, Relaxed);
        }
    }

    /// Whether `vector` is in the 256-bit set that starts at `base`.
    #[inline]
    pub(super) fn test_vector(&self, base: Reg, vector: u8) -> bool {
        self.get(base.nth(u32::from(vector >> 5))) & bit_of(vector) != 0
    }
}

/// The bit of `vector` in its 32-bit register.
#[inline]
pub(super) const fn bit_of(vector: u8) -> u32 {
    1u32.wrapping_shl(vector as u32 & 31)
}
