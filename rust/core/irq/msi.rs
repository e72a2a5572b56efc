// SPDX-License-Identifier: GPL-2.0

//! Message-signalled interrupts.
//!
//! SDM volume 3, "Message Signalled Interrupts". Reached by KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING and irqfds.

use super::{
    DeliveryMode,
    DestMode,
    Interrupt,
    Shorthand,
    Trigger, //
};

/// An MSI as a device writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Lower half of the address.
    pub address_lo: u32,
    /// Upper half of the address; bits 31 to 8 of the destination are in it with 32-bit ids.
    pub address_hi: u32,
    /// Data.
    pub data: u32,
}

/// The message has bits that 32-bit destination ids do not allow. EINVAL (api.rst, KVM_CAP_X2APIC_API).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiInvalid;

impl MsiMessage {
    /// The interrupt that it stands for. `x2apic_format` is KVM_X2APIC_API_USE_32BIT_IDS.
    pub const fn decode(&self, x2apic_format: bool) -> Result<Interrupt, MsiInvalid> {
        let mut dest = (self.address_lo >> 12) & 0xff;
        if x2apic_format {
            if self.address_hi & 0xff != 0 {
                return Err(MsiInvalid);
            }
            dest |= self.address_hi;
        }
        Ok(Interrupt {
            dest,
            vector: self.data as u8,
            mode: DeliveryMode::from_bits(self.data >> 8),
            dest_mode: if self.address_lo & (1 << 2) != 0 {
                DestMode::Logical
            } else {
                DestMode::Physical
            },
            trigger: if self.data & (1 << 15) != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            },
            // KVM has no de-assert messages: a level MSI is always an assertion.
            assert: true,
            shorthand: Shorthand::None,
            redirect_hint: self.address_lo & (1 << 3) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_sdm() {
        let msi = MsiMessage {
            address_lo: 0xfee1_500c,
            address_hi: 0x0012_3400,
            data: 0xc931,
        };
        let irq = msi.decode(false).unwrap();
        assert_eq!((irq.dest, irq.vector), (0x15, 0x31));
        assert_eq!(irq.mode, DeliveryMode::LowestPriority);
        assert_eq!(
            (irq.dest_mode, irq.trigger),
            (DestMode::Logical, Trigger::Level)
        );
        assert!(irq.redirect_hint && irq.assert);
        assert_eq!(msi.decode(true).unwrap().dest, 0x0012_3415);
        let plain = MsiMessage {
            address_lo: 0xfee0_0000,
            address_hi: 1,
            data: 0x0040,
        };
        let irq = plain.decode(false).unwrap();
        assert_eq!(
            (irq.dest_mode, irq.trigger),
            (DestMode::Physical, Trigger::Edge)
        );
        assert!(!irq.is_lowest_priority());
        assert_eq!(plain.decode(true), Err(MsiInvalid));
    }
}
