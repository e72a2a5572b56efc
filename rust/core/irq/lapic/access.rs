// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of the registers of a local APIC, by memory (xAPIC) and by MSR (x2APIC).

use super::{
    base::Mode,
    esr,
    lvt,
    reg,
    svr,
    timer::Clock,
    Lapic,
    Lvt,
    Reg,
    Shared, //
};
use crate::irq::{
    DeliveryMode,
    DestMode,
    Interrupt,
    Shorthand,
    Trigger, //
};
use core::ops::Deref;

/// An interrupt was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eoi {
    /// Its vector.
    pub vector: u8,
    /// Level: the IOAPIC is to be told. Edge: only those who registered for the vector are.
    pub trigger: Trigger,
    /// False if the guest suppresses EOI broadcasts (and writes the IOAPIC's own EOI register instead).
    pub broadcast: bool,
}

/// What the caller has to do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// Deliver this message, with this vCPU as its source.
    pub ipi: Option<Interrupt>,
    /// Tell the IOAPIC.
    pub eoi: Option<Eoi>,
    /// The identity of the APIC changed: rebuild the VM's map.
    pub map: bool,
    /// The mode changed: CPUID follows.
    pub mode: bool,
    /// [`Lapic::place`] changed: what the processor virtualizes follows.
    pub place: bool,
    /// [`Lapic::alarm`] changed: arm the host timer anew.
    pub timer: bool,
    /// Look for a deliverable interrupt before the next entry.
    pub recheck: bool,
}

impl Effects {
    /// Nothing to do.
    pub const NONE: Self = Self {
        ipi: None,
        eoi: None,
        map: false,
        mode: false,
        place: false,
        timer: false,
        recheck: false,
    };
}

/// The access raises #GP(0); x2APIC and MSRs only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// Why a register write did nothing.
enum Refused {
    ReadOnly,
    Reserved,
}

const ICR_BUSY: u32 = 1 << 12;
const ICR_RESERVED_X2: u64 = 0xfff0_0000 | (3 << 16) | (1 << 13);
const ICR_SELF: u32 = 1 << 18;
const PAGE_BYTES: u32 = 0x1000;

impl<S: Deref<Target = Shared>> Lapic<S> {
    /// A read of `len` bytes at byte `offset` of the register page. What crosses a register reads as zero.
    pub fn mmio_read(&mut self, offset: u32, len: u32, clock: &impl Clock) -> u64 {
        let byte = offset & 0xf;
        if offset >= PAGE_BYTES || byte.saturating_add(len) > 4 {
            return 0;
        }
        let reg = Reg::at(offset as u16);
        if !self.is_readable(reg) {
            if !Self::is_known(reg) || reg == Reg::SELF_IPI {
                self.error(esr::ILLEGAL_REGISTER);
            }
            return 0;
        }
        let value = u64::from(self.read(reg, clock)).wrapping_shr(byte.wrapping_mul(8));
        value & 1u64.wrapping_shl(len.wrapping_mul(8)).wrapping_sub(1)
    }

    /// A write at byte `offset` of the register page. Only aligned accesses of 4 bytes do something.
    pub fn mmio_write(&mut self, offset: u32, len: u32, value: u32, clock: &impl Clock) -> Effects {
        if offset >= PAGE_BYTES || len != 4 || offset & 0xf != 0 {
            return Effects::NONE;
        }
        let reg = Reg::at(offset as u16);
        match self.write(reg, value, clock) {
            Ok(effects) => effects,
            Err(Refused::ReadOnly) => Effects::NONE,
            Err(Refused::Reserved) => {
                self.error(esr::ILLEGAL_REGISTER);
                Effects {
                    recheck: true,
                    ..Effects::NONE
                }
            }
        }
    }

    /// RDMSR of 0x800 to 0x8ff.
    pub fn msr_read(&mut self, msr: u32, clock: &impl Clock) -> Result<u64, MsrFault> {
        let reg = Reg::of_msr(msr).ok_or(MsrFault)?;
        if self.mode != Mode::X2Apic || !self.is_readable(reg) {
            return Err(MsrFault);
        }
        let low = u64::from(self.read(reg, clock));
        if reg == Reg::ICR {
            Ok(low | (u64::from(self.reg(Reg::ICR_X2_HIGH)) << 32))
        } else {
            Ok(low)
        }
    }

    /// WRMSR to 0x800 to 0x8ff.
    pub fn msr_write(
        &mut self,
        msr: u32,
        value: u64,
        clock: &impl Clock,
    ) -> Result<Effects, MsrFault> {
        let reg = Reg::of_msr(msr).ok_or(MsrFault)?;
        if self.mode != Mode::X2Apic {
            return Err(MsrFault);
        }
        if reg == Reg::ICR {
            return self.write_icr_x2(value);
        }
        if value >> 32 != 0 {
            return Err(MsrFault);
        }
        self.write(reg, value as u32, clock).map_err(|_| MsrFault)
    }

    fn is_readable(&self, reg: Reg) -> bool {
        match reg {
            Reg::EOI | Reg::SELF_IPI => false,
            Reg::APR | Reg::RRD | Reg::DFR | Reg::ICR2 => self.mode != Mode::X2Apic,
            Reg::LVT_CMCI => self.config.cmci,
            _ => Self::is_known(reg),
        }
    }

    fn is_known(reg: Reg) -> bool {
        matches!(
            reg.offset(),
            0x20 | 0x30
                | 0x80..=0x280
                | 0x2f0
                | 0x300..=0x390
                | 0x3e0
                | 0x3f0
        )
    }

    fn read(&mut self, reg: Reg, clock: &impl Clock) -> u32 {
        match reg {
            // Arbitration and remote read belong to buses that are gone.
            Reg::APR | Reg::RRD => 0,
            Reg::TIMER_CURRENT => self.timer_current(clock),
            Reg::PPR => {
                self.update_ppr();
                self.reg(reg)
            }
            _ => {
                if self.shared.inbox.has_vectors() {
                    self.merge();
                }
                self.reg(reg)
            }
        }
    }

    fn write(&mut self, reg: Reg, value: u32, clock: &impl Clock) -> Result<Effects, Refused> {
        let x2apic = self.mode == Mode::X2Apic;
        let mut effects = Effects::NONE;
        match reg {
            Reg::EOI => {
                effects.eoi = self.eoi();
                // Mostly nothing waits behind the interrupt that was ended.
                effects.recheck = self.deliverable().is_some();
            }
            Reg::TPR => {
                self.set_tpr(value as u8);
                effects.recheck = true;
            }
            Reg::ICR if !x2apic => {
                let icr = value & !ICR_BUSY;
                self.set_reg(Reg::ICR, icr);
                let dest = self.reg(Reg::ICR2) >> 24;
                return Ok(self.send(icr, dest));
            }
            Reg::ICR2 if !x2apic => self.set_reg(Reg::ICR2, value & 0xff00_0000),
            Reg::TIMER_INITIAL => effects.timer = self.write_initial_count(value, clock),
            Reg::TIMER_DIVIDE => effects.timer = self.write_divide(value, clock),
            Reg::LVT_TIMER => effects.timer = self.write_lvt_timer(value),
            Reg::SVR => return Ok(self.write_svr(value)),
            Reg::ESR => {
                if x2apic && value != 0 {
                    return Err(Refused::Reserved);
                }
                // SDM, "Error Handling": a write makes the errors found since the last one visible.
                let found = self.reg(Reg::ESR_FOUND);
                self.set_reg(Reg::ESR, found);
                self.set_reg(Reg::ESR_FOUND, 0);
            }
            Reg::SELF_IPI if x2apic && value & !0xff == 0 => {
                return Ok(self.send(ICR_SELF | value, 0))
            }
            Reg::ID if !x2apic => {
                self.set_reg(Reg::ID, value & 0xff00_0000);
                effects.map = true;
            }
            Reg::LDR if !x2apic => {
                self.set_reg(Reg::LDR, value & 0xff00_0000);
                effects.map = true;
            }
            Reg::DFR if !x2apic => {
                self.set_reg(Reg::DFR, value | DFR_ONES);
                effects.map = true;
            }
            _ => return self.write_lvt(reg, value),
        }
        Ok(effects)
    }

    fn write_lvt(&mut self, reg: Reg, value: u32) -> Result<Effects, Refused> {
        for lvt in Lvt::ALL {
            if lvt.reg() == reg && self.has_lvt(lvt) {
                let masked = if self.sw_enabled { 0 } else { lvt::MASKED };
                self.set_reg(reg, (value | masked) & lvt.writable());
                // LINT0 may have opened the way of the 8259A.
                return Ok(Effects {
                    recheck: lvt == Lvt::Lint0,
                    ..Effects::NONE
                });
            }
        }
        if Self::is_known(reg) && reg != Reg::SELF_IPI {
            Err(Refused::ReadOnly)
        } else {
            Err(Refused::Reserved)
        }
    }

    fn write_svr(&mut self, value: u32) -> Effects {
        let mut writable = 0xff | svr::ENABLED | svr::FOCUS_DISABLED;
        if self.reg(Reg::VERSION) & reg::VERSION_SUPPRESS_EOI != 0 {
            writable |= svr::SUPPRESS_EOI_BROADCAST;
        }
        self.set_reg(Reg::SVR, value & writable);
        let enabled = value & svr::ENABLED != 0;
        let map = enabled != self.sw_enabled;
        self.sw_enabled = enabled;
        self.publish();
        if !enabled {
            for lvt in Lvt::ALL {
                if self.has_lvt(lvt) {
                    self.shared.regs.or(lvt.reg(), lvt::MASKED);
                }
            }
        }
        Effects {
            map,
            recheck: true,
            ..Effects::NONE
        }
    }

    /// The 64-bit ICR of x2APIC mode.
    fn write_icr_x2(&mut self, value: u64) -> Result<Effects, MsrFault> {
        if value & ICR_RESERVED_X2 != 0 {
            return Err(MsrFault);
        }
        let icr = value as u32 & !ICR_BUSY;
        let dest = (value >> 32) as u32;
        self.set_reg(Reg::ICR, icr);
        self.set_reg(Reg::ICR_X2_HIGH, dest);
        Ok(self.send(icr, dest))
    }

    /// The message that an ICR value asks for.
    fn send(&mut self, icr: u32, dest: u32) -> Effects {
        let irq = Interrupt {
            dest,
            vector: icr as u8,
            mode: DeliveryMode::from_bits(icr >> 8),
            dest_mode: if icr & (1 << 11) != 0 {
                DestMode::Logical
            } else {
                DestMode::Physical
            },
            trigger: if icr & (1 << 15) != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            },
            assert: icr & (1 << 14) != 0,
            shorthand: match (icr >> 18) & 3 {
                0 => Shorthand::None,
                1 => Shorthand::SelfOnly,
                2 => Shorthand::All,
                _ => Shorthand::AllButSelf,
            },
            redirect_hint: false,
        };
        if irq.vector < 16 && matches!(irq.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
        {
            self.error(esr::SEND_ILLEGAL_VECTOR);
            return Effects {
                recheck: true,
                ..Effects::NONE
            };
        }
        Effects {
            ipi: Some(irq),
            ..Effects::NONE
        }
    }
}

/// Whether an access of `len` bytes at byte `offset` of the register page reads or writes the task priority.
pub fn is_task_priority(offset: u32, len: usize, write: bool) -> bool {
    let tpr = u32::from(Reg::TPR.offset());
    if write {
        offset == tpr && len == 4
    } else {
        let bytes = tpr..tpr.saturating_add(4);
        bytes.contains(&offset) && offset.saturating_add(len as u32) <= bytes.end
    }
}

/// Whether a write at byte `offset` of the register page may have [`Effects::map`].
#[inline]
pub fn is_identity(offset: u32) -> bool {
    matches!(
        Reg::at(offset as u16),
        Reg::ID | Reg::LDR | Reg::DFR | Reg::SVR
    )
}

/// The bits of DFR that always read as one.
const DFR_ONES: u32 = 0x0fff_ffff;
