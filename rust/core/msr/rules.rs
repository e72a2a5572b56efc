// SPDX-License-Identifier: GPL-2.0

//! What may be written: checks that more than one part of the vCPU needs.

use super::{MsrError, Origin};
use crate::cpuid::features::{self, Feature};
use crate::cpuid::guest::GuestCaps;
use crate::irq::lapic::Mode;
use crate::regs::{efer, is_canonical};

/// Whether `value` may be in an MSR that holds a linear address.
///
/// WRMSR checks the width that the processor supports, not the one that CR4.LA57 selects (SDM, "Canonicality Checking"), nor
/// the one that the guest's CPUID tells: the guest writes most of these registers without an exit.
#[inline]
pub fn canonical_for_msr(value: u64, caps: &GuestCaps) -> bool {
    is_canonical(value, linear_address_bits(caps))
}

/// Bits of a linear address in an MSR.
fn linear_address_bits(caps: &GuestCaps) -> u32 {
    if caps.could_have(features::LA57) {
        57
    } else {
        48
    }
}

/// The value that SYSENTER_ESP or SYSENTER_EIP gets for `value`. On processors of AMD's the upper half does not count, and
/// state of theirs, which user space restores, may have anything there.
///
/// # Errors
///
/// [`MsrError::Invalid`] if the guest writes what is not canonical.
pub fn sysenter_address(value: u64, caps: &GuestCaps, origin: Origin) -> Result<u64, MsrError> {
    match origin {
        Origin::Guest => linear_address(value, caps),
        Origin::User => {
            let shift = 64u32.saturating_sub(linear_address_bits(caps));
            Ok((value.wrapping_shl(shift) as i64).wrapping_shr(shift) as u64)
        }
    }
}

/// Checks a write of a linear address.
///
/// # Errors
///
/// [`MsrError::Invalid`] if it is not canonical.
#[inline]
pub fn linear_address(value: u64, caps: &GuestCaps) -> Result<u64, MsrError> {
    if canonical_for_msr(value, caps) {
        Ok(value)
    } else {
        Err(MsrError::Invalid)
    }
}

/// Whether each of the eight fields of a PAT is a memory type (SDM, "IA32_PAT MSR").
pub const fn pat_valid(pat: u64) -> bool {
    // Types 0, 1, 4, 5, 6, 7: no high bits, and bit 1 only together with bit 2.
    pat & 0xf8f8_f8f8_f8f8_f8f8 == 0 && (pat & 0x0202_0202_0202_0202) << 1 & !pat == 0
}

/// IA32_DEBUGCTL: bits that a guest may ask for in vain (LBR, BTF); they read back as 0.
const DEBUGCTL_IGNORED: u64 = 1 << 0 | 1 << 1;
/// Debug exceptions inside transactions.
const DEBUGCTL_RTM: u64 = 1 << 15;

/// The IA32_DEBUGCTL that a write of `value` leaves.
///
/// # Errors
///
/// [`MsrError::Invalid`] for bits that this guest does not have.
pub fn debugctl(value: u64, caps: &GuestCaps, origin: Origin) -> Result<u64, MsrError> {
    let has_rtm = match origin {
        Origin::Guest => caps.has(features::RTM),
        Origin::User => caps.could_have(features::RTM),
    };
    let supported = if has_rtm { DEBUGCTL_RTM } else { 0 };
    if value & !(supported | DEBUGCTL_IGNORED) == 0 {
        Ok(value & supported)
    } else {
        Err(MsrError::Invalid)
    }
}

/// The EFER that a write of `value` leaves. LMA is never written, it follows CR0.PG.
///
/// # Errors
///
/// [`MsrError::Invalid`] for bits that are not there, or a change of LME while the guest pages.
pub const fn efer_write(
    old: u64,
    value: u64,
    paging: bool,
    caps: &GuestCaps,
    origin: Origin,
) -> Result<u64, MsrError> {
    const KNOWN: u64 = efer::SCE | efer::LME | efer::LMA | efer::NX;
    if value & !KNOWN != 0 {
        return Err(MsrError::Invalid);
    }
    // User space may restore MSRs before CPUID.
    if matches!(origin, Origin::Guest)
        && (!caps.rules.efer_valid(value) || (paging && (old ^ value) & efer::LME != 0))
    {
        return Err(MsrError::Invalid);
    }
    Ok((value & !efer::LMA) | (old & efer::LMA))
}

/// Whether IA32_APIC_BASE may change from `old` to `value`, for a vCPU whose APIC is in user space.
pub fn apic_base_valid(old: u64, value: u64, caps: &GuestCaps, origin: Origin) -> bool {
    Mode::of(old).is_some_and(|old| {
        let x2apic = caps.has(features::X2APIC);
        let reserved = caps.reserved_gpa_bits();
        old.after(value, x2apic, reserved, origin == Origin::User)
            .is_ok()
    })
}

/// IA32_SPEC_CTRL bits that this guest may set; 0 means that the guest has no such MSR.
pub fn spec_ctrl_bits(caps: &GuestCaps) -> u64 {
    spec_ctrl_bits_by(|feature| caps.has(feature))
}

/// IA32_SPEC_CTRL bits that user space may restore, also before it sets CPUID.
pub fn restorable_spec_ctrl_bits(caps: &GuestCaps) -> u64 {
    spec_ctrl_bits_by(|feature| caps.could_have(feature))
}

fn spec_ctrl_bits_by(has: impl Fn(Feature) -> bool) -> u64 {
    let bit = |feature, bits: u64| if has(feature) { bits } else { 0 };
    bit(features::SPEC_CTRL, 1)
        | bit(features::STIBP, 1 << 1)
        | bit(features::SSBD, 1 << 2)
        | bit(features::IPRED_CTRL, 3 << 3)
        | bit(features::RRSBA_CTRL, 3 << 5)
        | bit(features::PSFD, 1 << 7)
        | bit(features::DDPD_U, 1 << 8)
        | bit(features::BHI_CTRL, 1 << 10)
}

/// Bit 0 of PRED_CMD: an indirect branch prediction barrier.
pub const PRED_CMD_IBPB: u64 = 1 << 0;
/// Bit 0 of FLUSH_CMD: write back and invalidate the L1 data cache.
pub const FLUSH_CMD_L1D: u64 = 1 << 0;

/// Checks a write to a command MSR whose only command is `command`, which `feature` tells of. `Ok(true)` means: do it on the
/// processor.
///
/// # Errors
///
/// [`MsrError::Invalid`] if there is no such command here.
pub fn command(
    value: u64,
    command: u64,
    feature: Feature,
    caps: &GuestCaps,
    origin: Origin,
) -> Result<bool, MsrError> {
    let has = match origin {
        Origin::Guest => caps.has(feature),
        Origin::User => caps.could_have(feature),
    };
    if !has || value & !command != 0 {
        Err(MsrError::Invalid)
    } else {
        Ok(value != 0)
    }
}

/// ARCH_CAPABILITIES bits that may be passed on: each says that the processor lacks a weakness, or how to work round it.
const ARCH_CAP_SUPPORTED: u64 = 1 << 0
    | 1 << 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 17
    | 1 << 19
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 28
    | 1 << 62;
const ARCH_CAP_TAA_NO: u64 = 1 << 8;
/// "No machine check on page-size change": concerns whoever maps huge pages for guests, and no guest has VMX.
const ARCH_CAP_PSCHANGE_MC_NO: u64 = 1 << 6;

/// The ARCH_CAPABILITIES that a guest is offered on a processor whose MSR reads `host` (0 where there is none). `absent`:
/// bits of it for weaknesses that the processor lacks, though it may not say so.
///
/// TSX_CTRL is left out: the MSR is not virtualised. TAA_NO is the kernel's to say: a host that has switched RTM off says nothing
/// to guests that could find it on elsewhere.
pub const fn arch_capabilities(host: u64, absent: u64) -> u64 {
    (((host & !ARCH_CAP_TAA_NO) | absent) & ARCH_CAP_SUPPORTED) | ARCH_CAP_PSCHANGE_MC_NO
}
