// SPDX-License-Identifier: GPL-2.0

//! The MSR bitmap: which RDMSR and WRMSR do not exit.
//!
//! SDM volume 3, "MSR-Bitmap Address": four bitmaps of 1 KiB, reads of low and high MSRs, writes of low and high MSRs.

use super::number::*;
use super::rules;
use crate::cpuid::features;
use crate::cpuid::guest::GuestCaps;

/// 64-bit words of the bitmap.
pub const WORDS: usize = 512;

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// A bit of the bitmap: clear it to pass the access through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// Which 64-bit word.
    pub word: usize,
    /// Which bit of it.
    pub mask: u64,
}

/// Where the bit of an access is; `None` for MSRs outside the bitmaps, which always exit.
pub const fn bit(msr: u32, direction: Direction) -> Option<Bit> {
    let half = match msr {
        0..=0x1fff => 0u32,
        0xc000_0000..=0xc000_1fff => 0x2000,
        _ => return None,
    };
    let side = match direction {
        Direction::Read => 0u32,
        Direction::Write => 0x4000,
    };
    let n = side | half | (msr & 0x1fff);
    Some(Bit {
        word: (n >> 6) as usize,
        mask: 1u64.wrapping_shl(n & 63),
    })
}

/// What decides the bitmap besides the guest's CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The control "virtualize x2APIC mode" is set.
    pub x2apic: bool,
    /// APICv is active.
    pub apicv: bool,
    /// The guest has written IA32_SPEC_CTRL: it is switched at each entry and exit, so it may as well be passed through.
    pub spec_ctrl_used: bool,
}

/// Calls `pass` for each access that need not exit. All others must have their bit set.
///
/// x2APIC registers have no MSR filter; every other bit has to be filtered by the VM's MSR filter before it is cleared.
pub fn passed_through(caps: &GuestCaps, shape: &Shape, mut pass: impl FnMut(u32, Direction)) {
    use Direction::{Read, Write};
    let mut both = |msr| {
        pass(msr, Read);
        pass(msr, Write);
    };
    // These live in the VMCS, or in the processor while the vCPU is loaded; WRMSR itself checks them.
    for msr in [
        FS_BASE,
        GS_BASE,
        KERNEL_GS_BASE,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
    ] {
        both(msr);
    }
    if shape.spec_ctrl_used && rules::spec_ctrl_bits(caps) != 0 {
        both(SPEC_CTRL);
    }
    if shape.x2apic {
        both(X2APIC_TPR);
    }
    // RDMSR of the TSC applies the offset and the multiplier.
    pass(TSC, Read);
    if caps.has(features::SPEC_CTRL) {
        pass(PRED_CMD, Write);
    }
    if caps.has(features::FLUSH_L1D) {
        pass(FLUSH_CMD, Write);
    }
    if shape.x2apic && shape.apicv {
        for register in 0..64 {
            if X2APIC_READABLE & 1u64.wrapping_shl(register) != 0 {
                pass(X2APIC_FIRST | register, Read);
            }
        }
        pass(X2APIC_EOI, Write);
        pass(X2APIC_SELF_IPI, Write);
    }
}

/// x2APIC registers that the processor may read from the virtual-APIC page, as bits: all that can be read, but the
/// timer's current count, which is computed, and the CMCI entry, which not every guest has.
const X2APIC_READABLE: u64 = 1 << 0x02
    | 1 << 0x03
    | 1 << 0x0a
    | 1 << 0x0d
    | 1 << 0x0f
    | 0x00ff_ffff << 0x10
    | 1 << 0x28
    | 1 << 0x30
    | 0x7f << 0x32
    | 1 << 0x3e;

/// The whole bitmap, with `allowed` as the VM's MSR filter.
pub fn compute(
    bitmap: &mut [u64; WORDS],
    caps: &GuestCaps,
    shape: &Shape,
    mut allowed: impl FnMut(u32, Direction) -> bool,
) {
    bitmap.fill(!0);
    passed_through(caps, shape, |msr, direction| {
        let x2apic = (X2APIC_FIRST..=X2APIC_LAST).contains(&msr);
        if !x2apic && !allowed(msr, direction) {
            return;
        }
        if let Some(bit) = bit(msr, direction) {
            if let Some(word) = bitmap.get_mut(bit.word) {
                *word &= !bit.mask;
            }
        }
    });
}
