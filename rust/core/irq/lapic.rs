// SPDX-License-Identifier: GPL-2.0

//! Local APIC, xAPIC and x2APIC.
//!
//! Two halves: [`Shared`] is what every CPU may touch without a lock (the register page and the inbox), [`Lapic`] is
//! what the vCPU thread alone owns. Others post into the inbox; the owner merges when it looks for work.
//!
//! SDM volume 3, "Local APIC", "Extended XAPIC (x2APIC)", "Interrupt Acceptance for Fixed Interrupts". Reached by
//! the APIC page, MSRs 0x1b, 0x6e0 and 0x800 to 0x8ff, CR8, KVM_GET_LAPIC and KVM_SET_LAPIC.

mod access;
mod base;
mod inbox;
mod reg;
mod shared;
mod state;
mod timer;

#[cfg(test)]
mod tests;

pub use self::{
    access::{
        is_identity,
        is_task_priority,
        Effects,
        Eoi,
        MsrFault, //
    },
    base::{
        apic_base,
        BaseFault,
        Mode,
        Place, //
    },
    inbox::{
        Events,
        Inbox,
        Posted, //
    },
    reg::{
        esr,
        lvt,
        svr,
        Lvt,
        Reg,
        RegPage,
        DFR_CLUSTER,
        DFR_FLAT, //
    },
    shared::Shared,
    state::{
        LapicState,
        WrongId, //
    },
    timer::{
        Alarm,
        Clock,
        TimerMode, //
    }, //
};

use self::{
    inbox::Status,
    reg::bit_of,
    timer::Timer, //
};
use core::ops::Deref;

/// What does not change while the APIC runs, or only by ioctls.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// APIC id, which is the vCPU id.
    pub id: u32,
    /// Whether this is the bootstrap processor.
    pub bsp: bool,
    /// Whether LVT_CMCI is there (MCG_CMCI_P).
    pub cmci: bool,
    /// Whether the guest's CPUID has x2APIC.
    pub x2apic: bool,
    /// Whether the guest's CPUID has the TSC-deadline timer.
    pub tsc_deadline: bool,
    /// Whether suppression of EOI broadcasts is advertised (split irqchip; KVM_CAP_X2APIC_API).
    pub suppress_eoi: bool,
    /// KVM_X2APIC_API_USE_32BIT_IDS: ids in KVM_GET/SET_LAPIC have 32 bits.
    pub x2apic_format: bool,
    /// LINT0 of the bootstrap processor comes out of reset as ExtINT (KVM_X86_QUIRK_LINT0_REENABLED).
    pub lint0_reenabled: bool,
    /// Duration of one APIC bus cycle in ns, not 0 (KVM_CAP_X86_APIC_BUS_CYCLES_NS).
    pub bus_cycle_ns: u32,
    /// The shortest period of a periodic timer in ns (module parameter min_timer_period_us).
    pub min_period_ns: u64,
}

impl Config {
    /// C KVM's defaults for a vCPU with this id.
    pub const fn new(id: u32, bsp: bool) -> Self {
        Self {
            id,
            bsp,
            cmci: false,
            x2apic: true,
            tsc_deadline: true,
            suppress_eoi: false,
            x2apic_format: false,
            lint0_reenabled: true,
            bus_cycle_ns: 1,
            min_period_ns: 200_000,
        }
    }
}

/// The owner's half of a local APIC.
///
/// `S` is a pointer to the half that all share, for instance a reference-counted one.
pub struct Lapic<S: Deref<Target = Shared>> {
    shared: S,
    config: Config,
    base: u64,
    mode: Mode,
    sw_enabled: bool,
    /// Which of the eight IRR and ISR registers have a bit set: makes the search for the highest vector O(1).
    irr_words: u8,
    isr_words: u8,
    timer: Timer,
}

impl<S: Deref<Target = Shared>> Lapic<S> {
    /// A local APIC after power-up.
    pub fn new(shared: S, config: Config) -> Self {
        let mut apic = Self {
            shared,
            config,
            base: 0,
            mode: Mode::Disabled,
            sw_enabled: false,
            irr_words: 0,
            isr_words: 0,
            timer: Timer::default(),
        };
        apic.reset(false);
        apic
    }

    /// RESET, or INIT (which keeps the APIC base and the id).
    ///
    /// The caller cancels its host timer and rebuilds the map.
    pub fn reset(&mut self, init: bool) {
        if !init {
            self.base = apic_base::DEFAULT | apic_base::ENABLED;
            if self.config.bsp {
                self.base |= apic_base::BSP;
            }
            self.mode = Mode::XApic;
            self.set_reg(Reg::ID, self.config.id.wrapping_shl(24));
        }
        self.update_version();
        for lvt in Lvt::ALL {
            self.set_reg(lvt.reg(), if self.has_lvt(lvt) { lvt::MASKED } else { 0 });
        }
        if self.config.bsp && self.config.lint0_reenabled {
            self.set_reg(Reg::LVT_LINT0, lvt::MODE_EXTINT);
        }
        self.set_reg(Reg::DFR, DFR_FLAT);
        self.set_reg(Reg::SVR, 0xff);
        if self.mode != Mode::X2Apic {
            self.set_reg(Reg::LDR, 0);
        }
        for reg in [
            Reg::TPR,
            Reg::ESR,
            Reg::ESR_FOUND,
            Reg::ICR,
            Reg::ICR_X2_HIGH,
            Reg::ICR2,
            Reg::TIMER_DIVIDE,
            Reg::TIMER_INITIAL,
            Reg::TIMER_CURRENT,
            Reg::TIMER_FIRED,
        ] {
            self.set_reg(reg, 0);
        }
        // What was posted before the reset is gone with it.
        self.shared.inbox.collect(|_, _| {});
        for n in 0..8 {
            for set in [Reg::IRR, Reg::ISR, Reg::TMR] {
                self.set_reg(set.nth(n), 0);
            }
        }
        self.irr_words = 0;
        self.isr_words = 0;
        self.stop_timer();
        self.timer.reset();
        self.sw_enabled = false;
        self.publish();
        self.update_ppr();
    }

    /// The half that all CPUs share.
    #[inline]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The configuration.
    #[inline]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// KVM_X2APIC_API_USE_32BIT_IDS: what KVM_GET_LAPIC and KVM_SET_LAPIC take for an id.
    pub fn use_32bit_ids(&mut self, on: bool) {
        self.config.x2apic_format = on;
    }

    /// Changes the configuration, after KVM_SET_CPUID2, KVM_X86_SETUP_MCE or KVM_ENABLE_CAP. The id stays.
    pub fn reconfigure(&mut self, config: Config) {
        let had_cmci = self.config.cmci;
        self.config = Config {
            id: self.config.id,
            ..config
        };
        if config.cmci && !had_cmci {
            self.set_reg(Reg::LVT_CMCI, lvt::MASKED);
        }
        self.update_version();
    }

    /// The highest vector that the processor priority lets through now, if any.
    ///
    /// With nothing pending this is two loads and two branches.
    #[inline]
    pub fn deliverable(&mut self) -> Option<u8> {
        if self.shared.inbox.has_vectors() {
            self.merge();
        }
        if self.irr_words == 0 {
            return None;
        }
        let vector = self.highest_irr()?;
        if vector & 0xf0 > self.ppr() && self.mode != Mode::Disabled {
            Some(vector)
        } else {
            None
        }
    }

    /// Takes `vector` from IRR into ISR: the processor starts to deliver it.
    pub fn accept(&mut self, vector: u8) {
        self.shared
            .regs
            .clear(Reg::IRR.nth(u32::from(vector >> 5)), bit_of(vector));
        self.irr_words = Self::summary(
            &self.shared.regs,
            Reg::IRR,
            self.irr_words,
            u32::from(vector >> 5),
        );
        self.shared
            .regs
            .or(Reg::ISR.nth(u32::from(vector >> 5)), bit_of(vector));
        self.isr_words |= 1u8.wrapping_shl(u32::from(vector >> 5));
        self.update_ppr();
    }

    /// Ends the highest interrupt in service. `None` if none is.
    pub fn eoi(&mut self) -> Option<Eoi> {
        let vector = self.highest_isr()?;
        let n = u32::from(vector >> 5);
        self.shared.regs.clear(Reg::ISR.nth(n), bit_of(vector));
        self.isr_words = Self::summary(&self.shared.regs, Reg::ISR, self.isr_words, n);
        self.update_ppr();
        Some(Eoi {
            vector,
            trigger: self.shared.trigger_of(vector),
            broadcast: self.reg(Reg::SVR) & svr::SUPPRESS_EOI_BROADCAST == 0,
        })
    }

    /// Moves posted vectors into IRR.
    pub fn merge(&mut self) {
        let regs = &self.shared.regs;
        let mut words = self.irr_words;
        self.shared.inbox.collect(|n, bits| {
            if bits != 0 {
                regs.or(Reg::IRR.nth(n), bits);
                words |= 1u8.wrapping_shl(n);
            }
        });
        self.irr_words = words;
    }

    /// Counts IRR and ISR anew, after the whole page was written.
    fn resync(&mut self) {
        let (mut irr, mut isr) = (0u8, 0u8);
        for n in 0..8 {
            let bit = 1u8.wrapping_shl(n);
            if self.reg(Reg::IRR.nth(n)) != 0 {
                irr |= bit;
            }
            if self.reg(Reg::ISR.nth(n)) != 0 {
                isr |= bit;
            }
        }
        self.irr_words = irr;
        self.isr_words = isr;
    }

    /// The highest vector in IRR; posted ones are in it after [`Self::merge`].
    #[inline]
    pub fn highest_irr(&self) -> Option<u8> {
        Self::highest(&self.shared.regs, Reg::IRR, self.irr_words)
    }

    /// The highest vector in service.
    #[inline]
    pub fn highest_isr(&self) -> Option<u8> {
        Self::highest(&self.shared.regs, Reg::ISR, self.isr_words)
    }

    /// The processor priority. It is worked out from TPR and ISR each time: with a TPR shadow the processor writes TPR.
    #[inline]
    pub fn ppr(&self) -> u8 {
        let tpr = self.reg(Reg::TPR) as u8;
        let isr = self.highest_isr().unwrap_or(0) & 0xf0;
        if tpr & 0xf0 >= isr {
            tpr
        } else {
            isr
        }
    }

    /// CR8: the class of the task priority.
    #[inline]
    pub fn cr8(&self) -> u64 {
        u64::from((self.reg(Reg::TPR) >> 4) & 0xf)
    }

    /// Writes CR8; bits above 3 are the caller's #GP. Look for a deliverable vector afterwards.
    #[inline]
    pub fn set_cr8(&mut self, value: u64) {
        self.set_reg(Reg::TPR, (value as u32 & 0xf) << 4);
        self.update_ppr();
    }

    /// Writes the task priority, all of it. Look for a deliverable vector afterwards.
    #[inline]
    pub fn set_tpr(&mut self, value: u8) {
        self.set_reg(Reg::TPR, value.into());
        self.update_ppr();
    }

    /// The word that a guest with KVM_SET_VAPIC_ADDR finds in its memory: the task priority in bits 7:0, the class of the
    /// highest vector in service in bits 15:8, the highest one that waits in bits 31:24.
    pub fn vapic_word(&mut self) -> u32 {
        if self.shared.inbox.has_vectors() {
            self.merge();
        }
        let tpr = self.reg(Reg::TPR) as u8;
        let class = self.highest_isr().unwrap_or(0) & 0xf0;
        u32::from_le_bytes([tpr, class, 0, self.highest_irr().unwrap_or(0)])
    }

    /// VMX's TPR threshold: the class of the pending vector that a lower TPR would let through, else 0.
    pub fn tpr_threshold(&mut self) -> u8 {
        if self.shared.inbox.has_vectors() {
            self.merge();
        }
        let class = self.highest_irr().unwrap_or(0) >> 4;
        if u64::from(class) > self.cr8() {
            0
        } else {
            class
        }
    }

    /// Whether this processor takes the 8259A's interrupts (through LINT0, or because the APIC is off).
    #[inline]
    pub fn accepts_pic(&self) -> bool {
        self.shared.accepts_pic()
    }

    /// Records an [`Events::ILLEGAL_VECTOR`].
    pub fn note_illegal_vector(&mut self) {
        self.error(esr::RECEIVED_ILLEGAL_VECTOR);
    }

    /// A local interrupt source fires. NMI, SMI and INIT come back as events of the inbox.
    pub fn fire(&mut self, lvt: Lvt) -> Posted {
        let posted = self.shared.fire(lvt);
        if lvt == Lvt::Perf && posted.is_taken() {
            // SDM, "Local Vector Table": the mask is set when the interrupt is delivered.
            self.shared.regs.or(Reg::LVT_PERF, lvt::MASKED);
        }
        posted
    }

    fn error(&mut self, bits: u32) {
        if self.shared.regs.or(Reg::ESR_FOUND, bits) & bits != bits {
            let _ = self.shared.fire(Lvt::Error);
        }
    }

    #[inline]
    fn reg(&self, reg: Reg) -> u32 {
        self.shared.regs.get(reg)
    }

    #[inline]
    fn set_reg(&self, reg: Reg, value: u32) {
        self.shared.regs.set(reg, value);
    }

    #[inline]
    fn update_ppr(&mut self) {
        self.set_reg(Reg::PPR, u32::from(self.ppr()));
    }

    fn update_version(&mut self) {
        let max_lvt = if self.config.cmci { 6u32 } else { 5 };
        let mut version = 0x14 | (max_lvt << 16);
        if self.config.suppress_eoi && self.config.x2apic {
            version |= reg::VERSION_SUPPRESS_EOI;
        }
        self.set_reg(Reg::VERSION, version);
    }

    fn publish(&self) {
        let mut bits = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => Status::HW_ENABLED,
            Mode::X2Apic => Status::HW_ENABLED | Status::X2APIC,
        };
        if self.sw_enabled {
            bits |= Status::SW_ENABLED;
        }
        self.shared.inbox.publish(bits, self.config.id);
    }

    #[inline]
    fn has_lvt(&self, lvt: Lvt) -> bool {
        lvt != Lvt::Cmci || self.config.cmci
    }

    #[inline]
    fn highest(regs: &RegPage, set: Reg, words: u8) -> Option<u8> {
        let n = words.checked_ilog2()?;
        let bit = regs.get(set.nth(n)).checked_ilog2()?;
        Some(((n << 5) | bit) as u8)
    }

    /// The summary after a bit was cleared in register `n`.
    #[inline]
    fn summary(regs: &RegPage, set: Reg, words: u8, n: u32) -> u8 {
        if regs.get(set.nth(n)) == 0 {
            words & !1u8.wrapping_shl(n)
        } else {
            words
        }
    }
}
