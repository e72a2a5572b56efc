// SPDX-License-Identifier: GPL-2.0

//! The two 8259A interrupt controllers of a PC, with the edge/level registers of the PIIX.
//!
//! Intel 8259A datasheet, "Programming the 8259A". Reached by ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0 and 0x4d1,
//! KVM_IRQ_LINE, irqfds, KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.

mod chip;

#[cfg(test)]
mod tests;

pub use self::chip::PicState;

use super::{
    Delivery,
    IrqSource,
    LineState, //
};

/// Number of pins of both chips.
pub const PINS: usize = 16;
/// The pin of the master that the slave drives.
const CASCADE: u8 = 2;

/// What the caller has to do after an access, when it has dropped the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// The output to the processors rose: wake or kick the one that takes the PIC's interrupts.
    pub wake: bool,
    /// Pins (0 to 15) whose interrupt was ended: tell their acknowledge notifiers.
    pub acked: u16,
    /// Pins whose mask changed: tell their mask notifiers.
    pub mask_changed: u16,
}

/// Both chips.
#[derive(Clone, Debug)]
pub struct Pic {
    master: PicState,
    slave: PicState,
    lines: [LineState; PINS],
    output: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// After power-up.
    pub const fn new() -> Self {
        Self {
            master: PicState::new(0xf8),
            slave: PicState::new(0xde),
            lines: [LineState(0); PINS],
            output: false,
        }
    }

    /// The output to the processors.
    #[inline]
    pub fn output(&self) -> bool {
        self.output
    }

    /// Masks of all pins, slave in the upper half.
    pub fn masks(&self) -> u16 {
        u16::from_le_bytes([self.master.imr, self.slave.imr])
    }

    /// One source drives a pin. The cascade pin has no input.
    pub fn set_line(&mut self, pin: u8, source: IrqSource, high: bool) -> (Delivery, Effects) {
        if pin == CASCADE {
            return (Delivery::Ignored, Effects::default());
        }
        let Some(line) = self.lines.get_mut(usize::from(pin)) else {
            return (Delivery::Ignored, Effects::default());
        };
        let high = line.drive(source, high);
        let delivery = if pin < 8 {
            self.master.set_line(pin, high)
        } else {
            self.slave.set_line(pin & 7, high)
        };
        (delivery, self.update(0))
    }

    /// A byte read from a port of the PIC; other ports read as zero.
    pub fn read(&mut self, port: u16) -> (u8, Effects) {
        match port {
            0x20 | 0x21 => {
                let (value, acked) = self.master.read(port & 1 != 0, true);
                (value, self.update(acked.into()))
            }
            0xa0 | 0xa1 => {
                let (value, acked) = self.slave.read(port & 1 != 0, false);
                (value, self.update(u16::from(acked) << 8))
            }
            0x4d0 => (self.master.elcr, Effects::default()),
            0x4d1 => (self.slave.elcr, Effects::default()),
            _ => (0, Effects::default()),
        }
    }

    /// A byte write to a port of the PIC.
    pub fn write(&mut self, port: u16, value: u8) -> Effects {
        let masks = self.masks();
        let acked = match port {
            0x20 | 0x21 => self.master.write(port & 1 != 0, value).into(),
            0xa0 | 0xa1 => u16::from(self.slave.write(port & 1 != 0, value)) << 8,
            0x4d0 => {
                self.master.elcr = value & self.master.elcr_mask;
                0
            }
            0x4d1 => {
                self.slave.elcr = value & self.slave.elcr_mask;
                0
            }
            _ => 0,
        };
        Effects {
            mask_changed: masks ^ self.masks(),
            ..self.update(acked)
        }
    }

    /// The INTA cycle: the processor takes the interrupt and gets its vector.
    ///
    /// If the request has gone since the output rose, that is the vector of pin 7, as on hardware.
    pub fn read_irq(&mut self) -> (u8, Effects) {
        let mut acked = 0u16;
        let (vector, pin) = self.master.acknowledge(true);
        acked |= u16::from(pin.acked);
        let vector = if pin.taken == Some(CASCADE) {
            let (vector, pin) = self.slave.acknowledge(false);
            acked |= u16::from(pin.acked) << 8;
            vector
        } else {
            vector
        };
        self.output = false;
        (vector, self.update(acked))
    }

    /// KVM_GET_IRQCHIP of the master (false) or the slave (true).
    pub fn state(&self, slave: bool) -> PicState {
        if slave {
            self.slave
        } else {
            self.master
        }
    }

    /// KVM_SET_IRQCHIP. The levels that sources drive stay.
    pub fn set_state(&mut self, slave: bool, state: &PicState) -> Effects {
        if slave {
            self.slave = *state;
        } else {
            self.master = *state;
        }
        self.update(0)
    }

    /// Passes the slave's output to the master, and the master's to the processors.
    fn update(&mut self, acked: u16) -> Effects {
        let cascade = 1u8 << CASCADE;
        if self.slave.request(false).is_some() {
            self.master.irr |= cascade;
        } else {
            self.master.irr &= !cascade;
        }
        let before = self.output;
        self.output = self.master.request(true).is_some();
        Effects {
            wake: self.output && !before,
            acked,
            mask_changed: 0,
        }
    }
}
