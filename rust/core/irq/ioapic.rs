// SPDX-License-Identifier: GPL-2.0

//! I/O APIC with 24 pins.
//!
//! Intel 82093AA datasheet, "Register Description". Reached by memory at 0xfec00000, KVM_IRQ_LINE, irqfds, EOIs of
//! local APICs, KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.

mod rtc;

#[cfg(test)]
mod tests;

use self::rtc::RtcTracking;
use super::{
    Deliver,
    Delivery,
    DeliveryMode,
    DestMode,
    Interrupt,
    IrqSource,
    LineState,
    Shorthand,
    Trigger,
    VcpuIndex, //
};
use crate::nospec;

/// Number of pins.
pub const PINS: usize = 24;
/// Default guest physical address of the registers.
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// The pin of the real-time clock: its interrupts are counted until their EOI.
pub const RTC_PIN: u8 = 8;
/// A level interrupt that is raised again in its EOI so often in a row is a storm: it is delayed.
const STORM: u32 = 10_000;

/// Bits of a redirection table entry.
#[allow(missing_docs)]
pub mod rte {
    pub const LOGICAL: u64 = 1 << 11;
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
}

/// `struct kvm_ioapic_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the names are the uapi's
pub struct IoapicState {
    pub base_address: u64,
    pub ioregsel: u32,
    pub id: u32,
    pub irr: u32,
    pub pad: u32,
    pub redirtbl: [u64; PINS],
}

/// What the caller has to do after a register write, when it has dropped the lock (`rescan`: before it drops the lock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// This pin was masked (true) or unmasked: tell the mask notifiers.
    pub mask_changed: Option<(u8, bool)>,
    /// This pin was unmasked while its request was pending, and a resampler can say whether it still is: signal it.
    pub resample: Option<u8>,
    /// An entry changed: which EOIs the vCPUs report is to be worked out anew before it sends anything.
    pub rescan: bool,
    /// The guest wrote this vector to the EOI register: do as for a level EOI of a local APIC.
    pub eoi: Option<u8>,
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct Ioapic {
    regs: IoapicState,
    /// Requests of edge pins that were sent, or that came while the pin could not send and are forgotten.
    done: u32,
    lines: [LineState; PINS],
    repeats: [u32; PINS],
    rtc: RtcTracking,
    has_eoi_register: bool,
}

impl Ioapic {
    /// After power-up: all pins masked. With `has_eoi_register` it is version 0x20, which guests need in order to
    /// suppress EOI broadcasts; without it is the 82093AA, version 0x11, as KVM's.
    pub const fn new(has_eoi_register: bool) -> Self {
        Self {
            regs: IoapicState {
                base_address: DEFAULT_BASE,
                ioregsel: 0,
                id: 0,
                irr: 0,
                pad: 0,
                redirtbl: [rte::MASKED; PINS],
            },
            done: 0,
            lines: [LineState(0); PINS],
            repeats: [0; PINS],
            rtc: RtcTracking::new(),
            has_eoi_register,
        }
    }

    /// A read at byte `offset` of the registers.
    pub fn read(&self, offset: u32) -> u32 {
        match offset & 0xff {
            0x00 => self.regs.ioregsel,
            0x10 => self.read_window(),
            _ => 0,
        }
    }

    fn read_window(&self) -> u32 {
        match self.regs.ioregsel {
            // The arbitration id follows the id.
            0 | 2 => (self.regs.id & 0xf) << 24,
            1 => {
                let version = if self.has_eoi_register { 0x20 } else { 0x11 };
                version | ((PINS as u32).wrapping_sub(1) << 16)
            }
            sel => {
                let pin = sel.wrapping_sub(0x10) >> 1;
                let entry = nospec::get(&self.regs.redirtbl, pin as usize).copied();
                let entry = entry.unwrap_or(u64::MAX);
                if sel & 1 == 0 {
                    entry as u32
                } else {
                    (entry >> 32) as u32
                }
            }
        }
    }

    /// A write at byte `offset` of the registers. `has_resampler` says whether an irqfd with a resample eventfd
    /// drives a pin.
    pub fn write(
        &mut self,
        offset: u32,
        value: u32,
        has_resampler: impl Fn(u8) -> bool,
        sink: &mut impl Deliver,
    ) -> Effects {
        let mut effects = Effects::default();
        match offset & 0xff {
            0x00 => self.regs.ioregsel = value & 0xff,
            0x10 => match self.regs.ioregsel {
                0 => self.regs.id = (value >> 24) & 0xf,
                1 | 2 => {}
                sel => {
                    let pin = sel.wrapping_sub(0x10) >> 1;
                    if (pin as usize) < PINS {
                        self.write_entry(
                            nospec::clamp(pin as usize, PINS) as u8,
                            sel & 1 != 0,
                            value,
                            has_resampler,
                            sink,
                            &mut effects,
                        );
                    }
                }
            },
            0x40 if self.has_eoi_register => effects.eoi = Some(value as u8),
            _ => {}
        }
        effects
    }

    fn write_entry(
        &mut self,
        pin: u8,
        high: bool,
        value: u32,
        has_resampler: impl Fn(u8) -> bool,
        sink: &mut impl Deliver,
        effects: &mut Effects,
    ) {
        const READ_ONLY: u64 = rte::REMOTE_IRR | rte::DELIVERY_STATUS;
        let old = self.entry(pin);
        let mut new = if high {
            old & 0xffff_ffff | (u64::from(value) << 32)
        } else {
            old & !0xffff_ffff | u64::from(value) & !READ_ONLY | old & READ_ONLY
        };
        if !is_level(new) {
            // Guests clear Remote IRR by a turn through edge mode, where the chip has no EOI register.
            new &= !rte::REMOTE_IRR;
        }
        self.set_entry(pin, new);
        effects.rescan = true;
        if (old ^ new) & rte::MASKED != 0 {
            effects.mask_changed = Some((pin, new & rte::MASKED != 0));
        }
        let bit = bit(pin);
        if is_level(new) {
            self.done &= !bit;
            let ready = new & (rte::MASKED | rte::REMOTE_IRR) == 0;
            if ready && self.regs.irr & bit != 0 {
                if has_resampler(pin) {
                    // The line may have fallen while the pin was masked. If it is still high, it will be raised again.
                    self.regs.irr &= !bit;
                    effects.resample = Some(pin);
                } else {
                    self.service(pin, false, sink);
                }
            }
        } else if new & rte::MASKED == 0 {
            // An edge that came while the pin was masked is not held.
            self.done |= self.regs.irr & bit;
        }
    }

    /// One source drives a pin. `line_status`: the caller is KVM_IRQ_LINE_STATUS, which wants to know whether an
    /// interrupt of the clock coalesced with one that the guest has not ended.
    pub fn set_line(
        &mut self,
        pin: u8,
        source: IrqSource,
        high: bool,
        line_status: bool,
        sink: &mut impl Deliver,
    ) -> Delivery {
        match self.lines.get_mut(usize::from(pin)) {
            Some(line) => {
                let high = line.drive(source, high);
                self.set_level(pin, high, line_status, sink)
            }
            None => Delivery::Ignored,
        }
    }

    fn set_level(
        &mut self,
        pin: u8,
        high: bool,
        line_status: bool,
        sink: &mut impl Deliver,
    ) -> Delivery {
        let bit = bit(pin);
        if !high {
            self.regs.irr &= !bit;
            self.done &= !bit;
            return Delivery::Accepted(1);
        }
        if pin == RTC_PIN && line_status && self.rtc.is_pending() {
            return Delivery::Coalesced;
        }
        let was = self.regs.irr & bit != 0;
        self.regs.irr |= bit;
        if !is_level(self.entry(pin)) && was {
            return Delivery::Coalesced;
        }
        self.service(pin, line_status, sink)
    }

    /// Sends the message of a pin, if the pin can.
    fn service(&mut self, pin: u8, line_status: bool, sink: &mut impl Deliver) -> Delivery {
        let entry = self.entry(pin);
        let level = is_level(entry);
        if entry & rte::MASKED != 0 || level && entry & rte::REMOTE_IRR != 0 {
            return Delivery::Ignored;
        }
        let irq = message(entry);
        if !level {
            self.done |= bit(pin);
        }
        let delivery = if pin == RTC_PIN && line_status {
            self.rtc.send(&irq, sink)
        } else {
            sink.deliver(&irq, None)
        };
        if irq.trigger == Trigger::Level && matches!(delivery, Delivery::Accepted(_)) {
            self.set_entry(pin, entry | rte::REMOTE_IRR);
        }
        delivery
    }

    /// The pins whose interrupts have this vector, as a bitmap. Tell their acknowledge notifiers, without the lock,
    /// before [`Self::eoi`].
    pub fn pins_of(&self, vector: u8) -> u32 {
        let mut pins = 0;
        for (entry, pin) in self.regs.redirtbl.iter().zip(0u8..) {
            if *entry as u8 == vector {
                pins |= bit(pin);
            }
        }
        pins
    }

    /// A local APIC ended `vector`. `broadcast` is false if it keeps its EOIs to itself.
    ///
    /// True: some pin is in a storm; call [`Self::service_delayed`] in 10 ms.
    #[must_use]
    pub fn eoi(
        &mut self,
        vcpu: VcpuIndex,
        vector: u8,
        trigger: Trigger,
        broadcast: bool,
        sink: &mut impl Deliver,
    ) -> bool {
        self.rtc.eoi(vcpu, vector);
        trigger == Trigger::Level && broadcast && self.eoi_level(vector, sink)
    }

    /// A level EOI, by broadcast or by the EOI register. The answer is that of [`Self::eoi`].
    #[must_use]
    pub fn eoi_level(&mut self, vector: u8, sink: &mut impl Deliver) -> bool {
        let mut storm = false;
        for pin in 0..PINS as u8 {
            let entry = self.entry(pin);
            if entry as u8 != vector || !is_level(entry) {
                continue;
            }
            self.set_entry(pin, entry & !rte::REMOTE_IRR);
            let again = entry & rte::MASKED == 0 && self.regs.irr & bit(pin) != 0;
            let Some(repeats) = self.repeats.get_mut(usize::from(pin)) else {
                continue;
            };
            *repeats = if again { repeats.wrapping_add(1) } else { 0 };
            if *repeats >= STORM {
                // Real hardware lets the guest go on a little before it interrupts again.
                *repeats = 0;
                storm = true;
            } else if again {
                self.service(pin, false, sink);
            }
        }
        storm
    }

    /// Sends what [`Self::eoi`] held back.
    pub fn service_delayed(&mut self, sink: &mut impl Deliver) {
        for pin in 0..PINS as u8 {
            if is_level(self.entry(pin)) && self.regs.irr & bit(pin) != 0 {
                self.service(pin, false, sink);
            }
        }
    }

    /// Calls `f` with each vector whose EOIs the I/O APIC has to hear of: those of level pins, of the clock, and of the
    /// pins in the bitmap `notified`.
    pub fn heard_vectors(&self, notified: u32, mut f: impl FnMut(u8)) {
        if let Some(vector) = self.rtc.awaited() {
            // The guest may have given the pin another vector since.
            f(vector);
        }
        for (entry, pin) in self.regs.redirtbl.iter().zip(0u8..) {
            if is_level(*entry) || pin == RTC_PIN || notified & bit(pin) != 0 {
                f(*entry as u8);
            }
        }
    }

    /// Where the clock's interrupts go: destination and vector.
    pub fn rtc_route(&self) -> (u32, DestMode, u8) {
        let irq = message(self.entry(RTC_PIN));
        (irq.dest, irq.dest_mode, irq.vector)
    }

    /// After KVM_SET_IRQCHIP or KVM_SET_LAPIC, for each vCPU that [`Self::rtc_route`] matches: whether its vector is
    /// pending or in service there.
    pub fn restore_rtc(&mut self, vcpu: VcpuIndex, pending: bool) {
        let vector = self.entry(RTC_PIN) as u8;
        self.rtc.restore(vcpu, vector, pending);
    }

    /// KVM_GET_IRQCHIP.
    pub fn state(&self) -> IoapicState {
        IoapicState {
            irr: self.regs.irr & !self.done,
            ..self.regs
        }
    }

    /// KVM_SET_IRQCHIP; requests in it are sent. The levels that sources drive stay.
    pub fn set_state(&mut self, state: &IoapicState, sink: &mut impl Deliver) {
        self.regs = IoapicState {
            ioregsel: state.ioregsel & 0xff,
            irr: 0,
            ..*state
        };
        self.done = 0;
        self.repeats = [0; PINS];
        self.rtc = RtcTracking::new();
        for pin in 0..PINS as u8 {
            let high = self
                .lines
                .get(usize::from(pin))
                .is_some_and(|l| l.is_high());
            if state.irr & bit(pin) != 0 {
                self.set_level(pin, true, true, sink);
            } else if high && !is_level(self.entry(pin)) {
                // The edge of this line was sent before the state was saved.
                self.regs.irr |= bit(pin);
                self.done |= bit(pin);
            }
        }
    }

    #[inline]
    fn entry(&self, pin: u8) -> u64 {
        let entry = self.regs.redirtbl.get(usize::from(pin)).copied();
        entry.unwrap_or(rte::MASKED)
    }

    #[inline]
    fn set_entry(&mut self, pin: u8, value: u64) {
        if let Some(entry) = self.regs.redirtbl.get_mut(usize::from(pin)) {
            *entry = value;
        }
    }
}

#[inline]
const fn bit(pin: u8) -> u32 {
    1u32.wrapping_shl(pin as u32)
}

const fn mode(entry: u64) -> DeliveryMode {
    DeliveryMode::from_bits((entry >> 8) as u32)
}

/// Whether an entry is level triggered. Datasheet, "I/O Redirection Table Registers": NMI, SMI and INIT are always edge,
/// whatever the entry says; nobody would send an EOI for them.
const fn is_level(entry: u64) -> bool {
    entry & rte::LEVEL != 0 && mode(entry).has_eoi()
}

/// The message of a redirection table entry.
fn message(entry: u64) -> Interrupt {
    Interrupt {
        dest: (entry >> 56) as u32,
        vector: entry as u8,
        mode: mode(entry),
        dest_mode: if entry & rte::LOGICAL != 0 {
            DestMode::Logical
        } else {
            DestMode::Physical
        },
        trigger: if is_level(entry) {
            Trigger::Level
        } else {
            Trigger::Edge
        },
        assert: true,
        shorthand: Shorthand::None,
        redirect_hint: false,
    }
}
