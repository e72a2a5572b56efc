// SPDX-License-Identifier: GPL-2.0

//! One 8259A. Its registers are kept in the form of the uapi; user space may set every field to every value.

use crate::irq::Delivery;

/// `struct kvm_pic_state`, and the registers of one chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the names are the uapi's
pub struct PicState {
    /// Levels of the pins, to find edges.
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    /// The pin of highest priority.
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    /// 0: ready; 1, 2, 3: waits for ICW2, ICW3, ICW4.
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    /// ICW1 announced an ICW4.
    pub init4: u8,
    pub elcr: u8,
    /// Pins that can be level triggered.
    pub elcr_mask: u8,
}

/// What an INTA cycle did.
pub(super) struct Acknowledged {
    /// The pin taken; `None` for a request that has gone.
    pub(super) taken: Option<u8>,
    /// The pin, as a bit, if automatic EOI ended it at once.
    pub(super) acked: u8,
}

#[inline]
const fn bit(pin: u8) -> u8 {
    1u8.wrapping_shl(pin as u32 & 7)
}

impl PicState {
    pub(super) const fn new(elcr_mask: u8) -> Self {
        Self {
            last_irr: 0,
            irr: 0,
            imr: 0,
            isr: 0,
            priority_add: 0,
            irq_base: 0,
            read_reg_select: 0,
            poll: 0,
            special_mask: 0,
            init_state: 0,
            auto_eoi: 0,
            rotate_on_auto_eoi: 0,
            special_fully_nested_mode: 0,
            init4: 0,
            elcr: 0,
            elcr_mask,
        }
    }

    pub(super) fn set_line(&mut self, pin: u8, high: bool) -> Delivery {
        let bit = bit(pin);
        let pending = self.irr & bit != 0;
        let rises = high && self.last_irr & bit == 0;
        let level = self.elcr & bit != 0;
        if high {
            self.last_irr |= bit;
        } else {
            self.last_irr &= !bit;
        }
        if level && high || rises {
            self.irr |= bit;
        } else if level {
            self.irr &= !bit;
        }
        if self.imr & bit != 0 {
            Delivery::Ignored
        } else if pending && high && (level || rises) {
            Delivery::Coalesced
        } else {
            Delivery::Accepted(1)
        }
    }

    /// How far the most urgent pin in `pins` is from the top; 8 if there is none.
    #[inline]
    fn priority(&self, pins: u8) -> u32 {
        pins.rotate_right(u32::from(self.priority_add) & 7)
            .trailing_zeros()
    }

    #[inline]
    fn pin_at(&self, priority: u32) -> u8 {
        u32::from(self.priority_add).wrapping_add(priority) as u8 & 7
    }

    /// The pin that the chip would signal now.
    pub(super) fn request(&self, is_master: bool) -> Option<u8> {
        let priority = self.priority(self.irr & !self.imr);
        let mut busy = self.isr;
        if self.special_mask != 0 {
            // A masked pin in service does not hold back the others.
            busy &= !self.imr;
        }
        if self.special_fully_nested_mode != 0 && is_master {
            // The slave may interrupt its own handler by a pin of higher priority.
            busy &= !bit(super::CASCADE);
        }
        if priority < self.priority(busy) {
            Some(self.pin_at(priority))
        } else {
            None
        }
    }

    /// An INTA cycle: answers the vector.
    pub(super) fn acknowledge(&mut self, is_master: bool) -> (u8, Acknowledged) {
        let taken = self.request(is_master);
        let acked = taken.map_or(0, |pin| self.take(pin));
        let vector = (self.irq_base & 0xf8) | taken.unwrap_or(7);
        (vector, Acknowledged { taken, acked })
    }

    /// Puts a pin in service; answers its bit if automatic EOI ends it at once.
    fn take(&mut self, pin: u8) -> u8 {
        if self.elcr & bit(pin) == 0 {
            self.irr &= !bit(pin);
        }
        if self.auto_eoi == 0 {
            self.isr |= bit(pin);
            return 0;
        }
        if self.rotate_on_auto_eoi != 0 {
            self.priority_add = pin.wrapping_add(1) & 7;
        }
        bit(pin)
    }

    /// Reads A0 = 0 or A0 = 1; answers the value and the pins that were ended.
    pub(super) fn read(&mut self, a0: bool, is_master: bool) -> (u8, u8) {
        if self.poll != 0 {
            self.poll = 0;
            // The read after a poll command is an INTA cycle that tells the pin.
            return match self.request(is_master) {
                Some(pin) => {
                    let acked = self.take(pin);
                    (0x80 | pin, acked)
                }
                None => (7, 0),
            };
        }
        let value = if a0 {
            self.imr
        } else if self.read_reg_select != 0 {
            self.isr
        } else {
            self.irr
        };
        (value, 0)
    }

    /// Writes A0 = 0 or A0 = 1; answers the pins that were ended.
    pub(super) fn write(&mut self, a0: bool, value: u8) -> u8 {
        match (a0, value & 0x18) {
            (true, _) => {
                self.write_data(value);
                0
            }
            (false, 0x10 | 0x18) => self.icw1(value),
            (false, 0x08) => {
                self.ocw3(value);
                0
            }
            (false, _) => self.ocw2(value),
        }
    }

    /// OCW1, or the initialization words that follow ICW1.
    fn write_data(&mut self, value: u8) {
        match self.init_state {
            1 => {
                self.irq_base = value & 0xf8;
                self.init_state = 2;
            }
            // ICW3 says how the chips are wired; that is fixed here.
            2 => self.init_state = if self.init4 != 0 { 3 } else { 0 },
            3 => {
                self.special_fully_nested_mode = (value >> 4) & 1;
                self.auto_eoi = (value >> 1) & 1;
                self.init_state = 0;
            }
            _ => self.imr = value,
        }
    }

    /// ICW1. Edges that are pending are forgotten, and count as ended.
    fn icw1(&mut self, value: u8) -> u8 {
        let edges = self.irr & !self.elcr;
        self.last_irr = 0;
        self.irr &= self.elcr;
        self.isr &= !edges;
        self.imr = 0;
        self.priority_add = 0;
        self.special_mask = 0;
        self.read_reg_select = 0;
        self.init4 = value & 1;
        if self.init4 == 0 {
            self.special_fully_nested_mode = 0;
            self.auto_eoi = 0;
        }
        self.init_state = 1;
        edges
    }

    /// OCW2: end of interrupt and rotation.
    fn ocw2(&mut self, value: u8) -> u8 {
        let pin = value & 7;
        let rotate = value & 0x80 != 0;
        match value >> 5 {
            0 | 4 => {
                self.rotate_on_auto_eoi = value >> 7;
                0
            }
            1 | 5 => {
                let mut busy = self.isr;
                if self.special_mask != 0 {
                    // Datasheet: a non-specific EOI does not clear a bit that is masked in special mask mode.
                    busy &= !self.imr;
                }
                match self.priority(busy) {
                    8.. => 0,
                    priority => self.end(self.pin_at(priority), rotate),
                }
            }
            3 | 7 => self.end(pin, rotate),
            6 => {
                self.priority_add = pin.wrapping_add(1) & 7;
                0
            }
            _ => 0,
        }
    }

    fn end(&mut self, pin: u8, rotate: bool) -> u8 {
        self.isr &= !bit(pin);
        if rotate {
            self.priority_add = pin.wrapping_add(1) & 7;
        }
        bit(pin)
    }

    /// OCW3: poll, register select, special mask mode.
    fn ocw3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = 1;
        }
        if value & 0x02 != 0 {
            self.read_reg_select = value & 1;
        }
        if value & 0x40 != 0 {
            self.special_mask = (value >> 5) & 1;
        }
    }
}
