// SPDX-License-Identifier: GPL-2.0

//! What all CPUs may do with a local APIC, at any time and without a lock.

use super::{
    inbox::Status,
    lvt,
    reg::bit_of,
    Events,
    Inbox,
    Lvt,
    Posted,
    Reg,
    RegPage, //
};
use crate::irq::{
    map::Entry,
    DeliveryMode,
    Interrupt,
    Trigger, //
};

/// The shared half of a local APIC: register page, then inbox, each at the start of a page, because that is where
/// hardware wants its virtual-APIC page and (some of it) its posted-interrupt descriptor. All zero is a valid value.
#[repr(C, align(4096))]
#[derive(Default)]
pub struct Shared {
    /// The register page.
    pub regs: RegPage,
    /// What others post.
    pub inbox: Inbox,
}

impl Shared {
    /// The shared half of an APIC that does not exist yet: nothing is accepted before [`super::Lapic::new`].
    pub const fn new() -> Self {
        Self {
            regs: RegPage::new(),
            inbox: Inbox::new(),
        }
    }

    /// Whether the APIC is enabled in its base register and in SVR.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.inbox
            .status()
            .is(Status::HW_ENABLED | Status::SW_ENABLED)
    }

    /// Takes an interrupt message that is meant for this APIC. [`Posted::kicks`]: wake the vCPU or kick it.
    pub fn post(&self, irq: &Interrupt) -> Posted {
        match irq.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if irq.trigger == Trigger::Level && !irq.assert {
                    return Posted::Refused;
                }
                self.post_fixed(irq.vector, irq.trigger)
            }
            DeliveryMode::Smi => self.inbox.post(Events::SMI),
            DeliveryMode::RemoteRead => self.inbox.post(Events::UNHALT),
            DeliveryMode::Nmi => self.inbox.post_nmi(),
            DeliveryMode::Init => {
                if irq.trigger == Trigger::Level && !irq.assert {
                    // The de-assert form only synchronized arbitration ids on the P6.
                    return Posted::Refused;
                }
                self.inbox.post_init()
            }
            DeliveryMode::Startup => self.inbox.post_sipi(irq.vector),
            // The vector comes from the 8259A itself: see accepts_pic().
            DeliveryMode::ExtInt => Posted::Refused,
        }
    }

    /// Takes a vector.
    #[inline]
    pub fn post_fixed(&self, vector: u8, trigger: Trigger) -> Posted {
        if !self.is_enabled() {
            return Posted::Refused;
        }
        if vector < 16 {
            return match self.inbox.post(Events::ILLEGAL_VECTOR) {
                Posted::Kick => Posted::Error,
                _ => Posted::Refused,
            };
        }
        let reg = Reg::TMR.nth(u32::from(vector >> 5));
        let level = self.regs.get(reg) & bit_of(vector) != 0;
        match trigger {
            Trigger::Level if !level => {
                self.regs.or(reg, bit_of(vector));
            }
            Trigger::Edge if level => self.regs.clear(reg, bit_of(vector)),
            _ => {}
        }
        self.inbox.post_vector(vector)
    }

    /// A local interrupt source fires.
    pub fn fire(&self, lvt: Lvt) -> Posted {
        let entry = self.regs.get(lvt.reg());
        if entry & lvt::MASKED != 0 || !self.inbox.status().is(Status::HW_ENABLED) {
            return Posted::Refused;
        }
        let mode = match lvt {
            Lvt::Timer | Lvt::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits(entry >> 8),
        };
        let trigger = match lvt {
            Lvt::Lint0 | Lvt::Lint1 if entry & lvt::LEVEL != 0 => Trigger::Level,
            _ => Trigger::Edge,
        };
        match mode {
            DeliveryMode::Fixed => self.post_fixed(entry as u8, trigger),
            DeliveryMode::Smi => self.inbox.post(Events::SMI),
            DeliveryMode::Nmi => self.inbox.post_nmi(),
            DeliveryMode::Init => self.inbox.post_init(),
            _ => Posted::Refused,
        }
    }

    /// The PIT ticks while some guest uses it as an NMI watchdog (LINT0 in NMI mode, "virtual wire").
    pub fn pit_watchdog(&self) -> Posted {
        if self.lint0_is_nmi() {
            self.fire(Lvt::Lint0)
        } else {
            Posted::Refused
        }
    }

    /// Whether LINT0 is unmasked in NMI mode.
    #[inline]
    pub fn lint0_is_nmi(&self) -> bool {
        self.regs.get(Reg::LVT_LINT0) & (lvt::MODE | lvt::MASKED) == lvt::MODE_NMI
    }

    /// Whether the 8259A's output reaches this processor.
    #[inline]
    pub fn accepts_pic(&self) -> bool {
        !self.inbox.status().is(Status::HW_ENABLED)
            || self.regs.get(Reg::LVT_LINT0) & (lvt::MODE | lvt::MASKED) == lvt::MODE_EXTINT
    }

    /// Trigger mode of the last message with this vector.
    #[inline]
    pub fn trigger_of(&self, vector: u8) -> Trigger {
        if self.regs.test_vector(Reg::TMR, vector) {
            Trigger::Level
        } else {
            Trigger::Edge
        }
    }

    /// Whether `vector` waits for delivery or for its EOI. Posted vectors count.
    pub fn is_pending_or_in_service(&self, vector: u8) -> bool {
        self.inbox.is_posted(vector)
            || self.regs.test_vector(Reg::IRR, vector)
            || self.regs.test_vector(Reg::ISR, vector)
    }

    /// What the map of the VM's APICs has to know about this one.
    pub fn identity(&self) -> Entry {
        let status = self.inbox.status();
        let x2apic = status.is(Status::X2APIC);
        Entry {
            present: status.is(Status::HW_ENABLED),
            sw_enabled: status.is(Status::SW_ENABLED),
            x2apic,
            x2apic_id: self.inbox.x2apic_id(),
            xapic_id: (self.regs.get(Reg::ID) >> 24) as u8,
            ldr: self.regs.get(Reg::LDR),
            dfr: self.regs.get(Reg::DFR),
        }
    }
}
