// SPDX-License-Identifier: GPL-2.0

//! Segment registers between the VMCS and the form of `struct kvm_segment`.
//!
//! SDM volume 3, "Guest Register State". Which four fields belong to which register stands in one table, whose
//! encodings are checked against the register's number at compile time: a limit can't be written to another's base.

use super::fields::*;
use super::Vmcs;
use crate::regs::SegReg;

/// Access rights as the VMCS holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct AccessRights(pub u32);

impl AccessRights {
    /// The register holds a null selector.
    pub const UNUSABLE: Self = Self(1 << 16);
    /// Bits that must be 0.
    pub const RESERVED: u32 = 0xfffe_0f00;
}

/// A segment register with its hidden part: the fields of `struct kvm_segment`, with the same meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear address of byte 0.
    pub base: u64,
    /// Highest offset, in bytes.
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Type, 4 bits.
    pub kind: u8,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Default operand size 32 (code), big (stack).
    pub db: bool,
    /// Code or data; clear for system segments.
    pub s: bool,
    /// 64-bit code.
    pub l: bool,
    /// The limit counts in 4 KiB.
    pub g: bool,
    /// Free for software.
    pub avl: bool,
    /// Holds a null selector.
    pub unusable: bool,
}

impl Segment {
    /// The access rights for VMWRITE. What is not present is unusable, because VM entry insists on it.
    #[inline]
    pub const fn access_rights(&self) -> AccessRights {
        AccessRights(
            (self.kind & 0xf) as u32
                | (self.s as u32) << 4
                | ((self.dpl & 3) as u32) << 5
                | (self.present as u32) << 7
                | (self.avl as u32) << 12
                | (self.l as u32) << 13
                | (self.db as u32) << 14
                | (self.g as u32) << 15
                | ((self.unusable || !self.present) as u32) << 16,
        )
    }

    /// From the parts in the VMCS. Present means usable, so that user space that forgets `unusable` restores it right.
    #[inline]
    pub const fn from_parts(selector: u16, base: u64, limit: u32, ar: AccessRights) -> Self {
        let unusable = ar.0 & AccessRights::UNUSABLE.0 != 0;
        Self {
            base,
            limit,
            selector,
            kind: (ar.0 & 0xf) as u8,
            dpl: ((ar.0 >> 5) & 3) as u8,
            present: !unusable,
            db: ar.0 & (1 << 14) != 0,
            s: ar.0 & (1 << 4) != 0,
            l: ar.0 & (1 << 13) != 0,
            g: ar.0 & (1 << 15) != 0,
            avl: ar.0 & (1 << 12) != 0,
            unusable,
        }
    }

    /// The state after reset: CS at the reset vector, the others flat at 0 (SDM, "Processor State After Reset").
    pub const fn after_reset(reg: SegReg) -> Self {
        let (selector, base, kind, s) = match reg {
            SegReg::Cs => (0xf000, 0xffff_0000, 0xb, true),
            SegReg::Ldtr => (0, 0, 2, false),
            SegReg::Tr => (0, 0, 0xb, false),
            _ => (0, 0, 3, true),
        };
        Self {
            base,
            limit: 0xffff,
            selector,
            kind,
            dpl: 0,
            present: true,
            db: false,
            s,
            l: false,
            g: false,
            avl: false,
            unusable: false,
        }
    }
}

macro_rules! segments {
    ($($reg:ident: $selector:ident, $base:ident, $limit:ident, $ar:ident,)*) => {
        $(
            const _: () = {
                let n = SegReg::$reg as u32 * 2;
                assert!(<$selector as Field>::ENCODING == <GUEST_ES_SELECTOR as Field>::ENCODING + n);
                assert!(<$base as Field>::ENCODING == <GUEST_ES_BASE as Field>::ENCODING + n);
                assert!(<$limit as Field>::ENCODING == <GUEST_ES_LIMIT as Field>::ENCODING + n);
                assert!(<$ar as Field>::ENCODING == <GUEST_ES_AR_BYTES as Field>::ENCODING + n);
            };
        )*

        /// Reads a segment register: four VMREADs.
        pub fn read<V: Vmcs>(vmcs: &V, reg: SegReg) -> Segment {
            match reg {
                $(SegReg::$reg => Segment::from_parts(
                    vmcs.read($selector),
                    vmcs.read($base),
                    vmcs.read($limit),
                    AccessRights(vmcs.read($ar)),
                ),)*
            }
        }

        /// Writes a segment register: four VMWRITEs.
        pub fn write<V: Vmcs>(vmcs: &V, reg: SegReg, segment: &Segment) {
            match reg {
                $(SegReg::$reg => {
                    vmcs.write($selector, segment.selector);
                    vmcs.write($base, segment.base);
                    vmcs.write($limit, segment.limit);
                    vmcs.write($ar, segment.access_rights().0);
                })*
            }
        }

        /// Reads only the selector.
        pub fn selector<V: Vmcs>(vmcs: &V, reg: SegReg) -> u16 {
            match reg {
                $(SegReg::$reg => vmcs.read($selector),)*
            }
        }

        /// Reads only the base.
        pub fn base<V: Vmcs>(vmcs: &V, reg: SegReg) -> u64 {
            match reg {
                $(SegReg::$reg => vmcs.read($base),)*
            }
        }
    };
}

segments! {
    Es: GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_AR_BYTES,
    Cs: GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_AR_BYTES,
    Ss: GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_AR_BYTES,
    Ds: GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_AR_BYTES,
    Fs: GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_AR_BYTES,
    Gs: GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_AR_BYTES,
    Ldtr: GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_AR_BYTES,
    Tr: GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_AR_BYTES,
}

/// What an unrestricted guest needs fixed before VM entry: code and data segments, and the TSS, are always accessed.
///
/// User space of long standing resets them without the accessed bit, which fails the checks on guest segments.
#[inline]
pub const fn fix_accessed(reg: SegReg, segment: &mut Segment) {
    if !matches!(reg, SegReg::Ldtr) {
        segment.kind |= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct FakeVmcs(RefCell<BTreeMap<u32, u64>>);

    impl Vmcs for FakeVmcs {
        fn read<F: Readable>(&self, _: F) -> F::Value {
            F::Value::from_u64(self.0.borrow().get(&F::ENCODING).copied().unwrap_or(0))
        }

        fn write<F: Writable>(&self, _: F, value: F::Value) {
            self.0.borrow_mut().insert(F::ENCODING, value.to_u64());
        }
    }

    #[test]
    fn each_register_keeps_its_own() {
        let vmcs = FakeVmcs::default();
        let value = |i: u8| Segment {
            base: 0x1000 * u64::from(i),
            limit: 0x100 + u32::from(i),
            selector: 8 * u16::from(i),
            kind: i,
            dpl: i & 3,
            present: true,
            db: i & 1 != 0,
            s: i & 2 != 0,
            l: i & 4 != 0,
            g: i & 1 == 0,
            avl: i & 2 == 0,
            unusable: false,
        };
        for (i, reg) in SegReg::ALL.into_iter().enumerate() {
            write(&vmcs, reg, &value(i as u8));
        }
        assert_eq!(vmcs.0.borrow().len(), 32);
        for (i, reg) in SegReg::ALL.into_iter().enumerate() {
            assert_eq!(read(&vmcs, reg), value(i as u8));
            assert_eq!(base(&vmcs, reg), value(i as u8).base);
            assert_eq!(selector(&vmcs, reg), value(i as u8).selector);
        }
    }

    #[test]
    fn usual_descriptors() {
        let code64 = Segment {
            kind: 0xb,
            s: true,
            present: true,
            l: true,
            g: true,
            ..Segment::default()
        };
        assert_eq!(code64.access_rights().0, 0xa09b);
        assert_eq!(Segment::from_parts(0, 0, 0, AccessRights(0xa09b)), code64);
        assert_eq!(Segment::after_reset(SegReg::Cs).access_rights().0, 0x9b);
        assert_eq!(Segment::after_reset(SegReg::Tr).access_rights().0, 0x8b);
        assert_eq!(Segment::after_reset(SegReg::Ldtr).access_rights().0, 0x82);
    }

    #[test]
    fn not_present_is_unusable_and_the_other_way_round() {
        let absent = Segment {
            present: false,
            ..Segment::after_reset(SegReg::Ds)
        };
        assert_eq!(
            absent.access_rights().0 & AccessRights::UNUSABLE.0,
            AccessRights::UNUSABLE.0
        );
        let unusable = Segment::from_parts(0, 0, 0, AccessRights(0x1_0093));
        assert!(unusable.unusable && !unusable.present);
    }

    #[test]
    fn out_of_range_parts_stay_in_their_bits() {
        let odd = Segment {
            kind: 0xff,
            dpl: 0xff,
            present: true,
            ..Segment::default()
        };
        assert_eq!(odd.access_rights().0, 0xef);
        assert_eq!(odd.access_rights().0 & AccessRights::RESERVED, 0);
    }
}
