// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_X2APIC_API (api.rst): what a VM's user space knows of x2APIC, and what becomes of a suppressed EOI.

/// `KVM_X2APIC_API_USE_32BIT_IDS`.
const USE_32BIT_IDS: u32 = 1 << 0;
/// `KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK`.
const DISABLE_BROADCAST_QUIRK: u32 = 1 << 1;
/// `KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST`.
const ENABLE_SUPPRESS_EOI: u32 = 1 << 2;
/// `KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST`.
const DISABLE_SUPPRESS_EOI: u32 = 1 << 3;
const SUPPRESS_EOI: u32 = ENABLE_SUPPRESS_EOI | DISABLE_SUPPRESS_EOI;

/// The flags that are on.
///
/// With neither of the two for EOIs the guest of a split irqchip is told that it can suppress their broadcast, and they are
/// broadcast all the same; with the I/O APIC in the kernel, which has no EOI register, it is not told so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct X2apicApi(u32);

impl X2apicApi {
    /// The flags that KVM_CHECK_EXTENSION tells of; `split` of a VM whose I/O APIC is in user space.
    pub const fn known(split: bool) -> u32 {
        let always = USE_32BIT_IDS | DISABLE_BROADCAST_QUIRK | DISABLE_SUPPRESS_EOI;
        if split {
            always | ENABLE_SUPPRESS_EOI
        } else {
            always
        }
    }

    /// From [`Self::bits`].
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// As one word.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// KVM_ENABLE_CAP: what was on stays on; of the two for EOIs the last one counts. `None` for flags that there are not,
    /// and for both of these two at once.
    pub fn enable(self, flags: u64, split: bool) -> Option<Self> {
        let flags = u32::try_from(flags).ok()?;
        if flags & !Self::known(split) != 0 || flags & SUPPRESS_EOI == SUPPRESS_EOI {
            return None;
        }
        let kept = if flags & SUPPRESS_EOI == 0 {
            self.0
        } else {
            self.0 & !SUPPRESS_EOI
        };
        Some(Self(kept | flags))
    }

    /// APIC ids in messages and in KVM_GET_LAPIC have 32 bits.
    pub const fn has_32bit_ids(self) -> bool {
        self.0 & USE_32BIT_IDS != 0
    }

    /// 0xff is not a broadcast to APICs in x2APIC mode.
    pub const fn no_broadcast_quirk(self) -> bool {
        self.0 & DISABLE_BROADCAST_QUIRK != 0
    }

    /// The guest is told that it can suppress the broadcast of EOIs.
    pub const fn offers_suppression(self, split: bool) -> bool {
        match self.0 & SUPPRESS_EOI {
            0 => split,
            on => on == ENABLE_SUPPRESS_EOI,
        }
    }

    /// A suppressed EOI is not broadcast.
    pub const fn honours_suppression(self, split: bool) -> bool {
        match self.0 & SUPPRESS_EOI {
            0 => !split,
            on => on == ENABLE_SUPPRESS_EOI,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_can_be_enabled() {
        let none = X2apicApi::default();
        assert_eq!(none.enable(0x10, true), None);
        assert_eq!(none.enable(1 << 32, true), None);
        assert_eq!(none.enable(0xc, true), None);
        assert_eq!(none.enable(0x4, false), None);
        assert_eq!(none.enable(0x7, true), Some(X2apicApi(7)));
        assert_eq!(none.enable(0xb, false), Some(X2apicApi(0xb)));
        assert_eq!(
            (X2apicApi::known(true), X2apicApi::known(false)),
            (0xf, 0xb)
        );
    }

    #[test]
    fn of_the_two_for_eois_the_last_one_counts() {
        let on = X2apicApi::default().enable(0x5, true).unwrap();
        assert!(on.has_32bit_ids() && !on.no_broadcast_quirk());
        let off = on.enable(0x8, true).unwrap();
        assert_eq!(off.bits(), 0x9);
        assert_eq!(off.enable(0x2, true).unwrap().bits(), 0xb);
        assert_eq!(off.enable(0x4, true).unwrap().bits(), 0x5);
    }

    #[test]
    fn suppression_is_offered_and_honoured() {
        for (flags, split, offered, honoured) in [
            (0, true, true, false),
            (0, false, false, true),
            (4, true, true, true),
            (8, true, false, false),
            (8, false, false, false),
        ] {
            let api = X2apicApi::from_bits(flags);
            assert_eq!(api.offers_suppression(split), offered);
            assert_eq!(api.honours_suppression(split), honoured);
        }
    }
}
