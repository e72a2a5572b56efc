// SPDX-License-Identifier: GPL-2.0

//! Vector, MMX and x87 registers of the guest whose FPU state is loaded in this task.

use super::bindings;

/// Reads the low 16, 32 or 64 bytes of a vector register (8 bytes: of the low half). `None` if the host has none.
pub(crate) fn read(number: u8, into: &mut [u8]) -> Option<()> {
    let mut all = [0u8; 64];
    // SAFETY: The helper writes at most 64 bytes and checks number and size.
    if !unsafe {
        bindings::rkvm_read_vector(number.into(), wide(number, into.len()), all.as_mut_ptr())
    } {
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
        wide(number, from.len())
    };
    // SAFETY: As for `read`.
    if !clear_rest && !unsafe { bindings::rkvm_read_vector(number.into(), size, all.as_mut_ptr()) }
    {
        return None;
    }
    for (to, from) in all.iter_mut().zip(from) {
        *to = *from;
    }
    let size = wide(number, from.len());
    // SAFETY: The helper reads at most 64 bytes and checks number and size.
    unsafe { bindings::rkvm_write_vector(number.into(), size, clear_rest, all.as_ptr()) }
        .then_some(())
}

/// The register width that holds `len` bytes; the upper 16 registers are moved in full.
fn wide(number: u8, len: usize) -> u32 {
    match len {
        0..=16 if number < 16 => 16,
        0..=32 if number < 16 => 32,
        _ => 64,
    }
}

/// Reads an opmask register; bits that the host has not are 0.
pub(crate) fn read_opmask(number: u8) -> Option<u64> {
    let mut value = 0;
    // SAFETY: The helper checks the number.
    unsafe { bindings::rkvm_read_opmask(number.into(), &mut value) }.then_some(value)
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

/// Bytes of an FXSAVE image.
const IMAGE: usize = 512;

/// FNINIT.
pub(crate) fn init_x87() {
    // SAFETY: Changes the guest's registers only.
    unsafe { bindings::rkvm_fninit() }
}

/// The x87 control word.
pub(crate) fn x87_control() -> u16 {
    // SAFETY: Changes nothing.
    unsafe { bindings::rkvm_fnstcw() }
}

/// The x87 status word.
pub(crate) fn x87_status() -> u16 {
    // SAFETY: Changes nothing.
    unsafe { bindings::rkvm_fnstsw() }
}

/// FXSAVE, in the format of 64-bit mode if `wide`. `None` if `image` is too short.
pub(crate) fn fxsave(image: &mut [u8], wide: bool) -> Option<()> {
    let image = image.get_mut(..IMAGE)?;
    // SAFETY: The helper writes `IMAGE` bytes, of any alignment.
    unsafe { bindings::rkvm_fxsave(image.as_mut_ptr(), wide) };
    Some(())
}

/// FXRSTOR; whether the processor took the image. `None` if `image` is too short.
pub(crate) fn fxrstor(image: &[u8], wide: bool) -> Option<bool> {
    let image = image.get(..IMAGE)?;
    // SAFETY: The helper reads `IMAGE` bytes, of any alignment; the processor checks what they say.
    Some(unsafe { bindings::rkvm_fxrstor(image.as_ptr(), wide) })
}
