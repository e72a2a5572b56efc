// SPDX-License-Identifier: GPL-2.0

//! Vector and MMX registers of the guest whose FPU state is loaded in this task.

use super::bindings;

/// Reads the low 16, 32 or 64 bytes of a vector register (8 bytes: of the low half). `None` if the host has none.
pub(crate) fn read(number: u8, into: &mut [u8]) -> Option<()> {
    let mut all = [0u8; 64];
    // SAFETY: The helper writes at most 64 bytes and checks number and size.
    if !unsafe { bindings::rkvm_read_vector(number.into(), wide(into.len()), all.as_mut_ptr()) } {
        return None;
    }
    for (to, from) in into.iter_mut().zip(all) {
        *to = from;
    }
    Some(())
}

/// Replaces the low bytes of a vector register; the rest up to the host's width is cleared or kept.
pub(crate) fn write(number: u8, from: &[u8], clear_rest: bool) -> Option<()> {
    let mut all = [0u8; 64];
    // A register that keeps its rest is merged in the width that the host has.
    let size = if clear_rest || from.len() < 16 {
        16
    } else {
        wide(from.len())
    };
    // SAFETY: As for `read`.
    if !clear_rest && !unsafe { bindings::rkvm_read_vector(number.into(), size, all.as_mut_ptr()) }
    {
        return None;
    }
    for (to, from) in all.iter_mut().zip(from) {
        *to = *from;
    }
    let size = wide(from.len());
    // SAFETY: The helper reads at most 64 bytes and checks number and size.
    unsafe { bindings::rkvm_write_vector(number.into(), size, clear_rest, all.as_ptr()) }
        .then_some(())
}

/// The register width that holds `len` bytes.
fn wide(len: usize) -> u32 {
    match len {
        0..=16 => 16,
        17..=32 => 32,
        _ => 64,
    }
}

/// Reads an MMX register.
pub(crate) fn read_mmx(number: u8) -> Option<u64> {
    let mut value = 0;
    // SAFETY: The helper checks the number.
    unsafe { bindings::rkvm_read_mmx(number.into(), &mut value) }.then_some(value)
}

/// Replaces an MMX register.
pub(crate) fn write_mmx(number: u8, value: u64) -> Option<()> {
    // SAFETY: As above.
    unsafe { bindings::rkvm_write_mmx(number.into(), value) }.then_some(())
}
