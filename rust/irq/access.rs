// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to the chips: whose a port or an address is.

use rkvm_core::addr::Gpa;

use super::chips::Chips;
use crate::vm::Vm;

/// The chips that have ports.
enum PortChip {
    Pic,
    Pit,
}

impl PortChip {
    /// Whose all of these ports are.
    #[inline]
    fn of(port: u16, size: u8) -> Option<Self> {
        let (chip, end) = match port {
            0x20..0x22 => (Self::Pic, 0x22),
            0x40..0x44 => (Self::Pit, 0x44),
            // One register with four ports.
            0x61 => (Self::Pit, 0x65),
            0xa0..0xa2 => (Self::Pic, 0xa2),
            0x4d0..0x4d2 => (Self::Pic, 0x4d2),
            _ => return None,
        };
        (port.wrapping_add(size.into()) <= end).then_some(chip)
    }
}

impl Vm {
    /// IN from PIC or interval timer; `None` if the ports are not theirs. Interrupts may be off.
    #[inline]
    pub(crate) fn chip_port_read(&self, port: u16, size: u8) -> Option<u32> {
        match PortChip::of(port, size)? {
            PortChip::Pic => self.pic_port_read(port, size).map(u32::from),
            PortChip::Pit => self.pit_read(port).map(u32::from),
        }
    }

    #[inline(never)]
    fn pic_port_read(&self, port: u16, size: u8) -> Option<u8> {
        let chips = self.irq.chips()?;
        // They take bytes; what is wider reads as zero.
        if size == 1 {
            Some(self.irq.with_pic(chips, |pic| pic.read(port)))
        } else {
            Some(0)
        }
    }

    /// OUT to PIC or interval timer; false if the ports are not theirs. Interrupts may be off.
    #[inline]
    pub(crate) fn chip_port_write(&self, port: u16, size: u8, value: u32) -> bool {
        match PortChip::of(port, size) {
            Some(PortChip::Pic) => self.pic_port_write(port, size, value),
            Some(PortChip::Pit) => self.pit_write(port, value as u8),
            None => false,
        }
    }

    #[inline(never)]
    fn pic_port_write(&self, port: u16, size: u8, value: u32) -> bool {
        let Some(chips) = self.irq.chips() else {
            return false;
        };
        if size == 1 {
            self.irq
                .with_pic(chips, |pic| ((), pic.write(port, value as u8)));
        }
        true
    }

    /// Which byte of the I/O APIC's registers an address is, if it is one.
    fn ioapic_register(&self, gpa: Gpa) -> Option<(&Chips, u32)> {
        let chips = self.irq.chips()?;
        Some((chips, chips.ioapic_offset(gpa)?))
    }

    /// A read of the I/O APIC; false if the address is not its. Interrupts may be off.
    pub(crate) fn chip_mmio_read(&self, gpa: Gpa, data: &mut [u8]) -> bool {
        let Some((chips, offset)) = self.ioapic_register(gpa) else {
            return false;
        };
        let value = u64::from(chips.ioapic.lock().read(offset));
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        true
    }

    /// A write to the I/O APIC; false if the address is not its. Interrupts may be off.
    pub(crate) fn chip_mmio_write(&self, gpa: Gpa, data: &[u8]) -> bool {
        let Some((chips, offset)) = self.ioapic_register(gpa) else {
            return false;
        };
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let storm = self
            .irq
            .write_ioapic(chips, offset, u32::from_le_bytes(bytes));
        self.hold_back(storm);
        true
    }
}
