// SPDX-License-Identifier: GPL-2.0

//! Vector registers as an array of bytes: what tests of the emulator have for a processor.

/// ZMM0 to ZMM31.
pub type Vectors = [[u8; 64]; 32];

/// The lowest bytes of register `number`: [`VcpuOps::read_vector()`](super::ops::VcpuOps::read_vector).
pub fn read(vectors: &Vectors, number: u8, into: &mut [u8]) {
    if let Some(register) = vectors.get(usize::from(number)) {
        for (to, from) in into.iter_mut().zip(register) {
            *to = *from;
        }
    }
}

/// Sets them, and clears the rest of the register or leaves it: [`VcpuOps::write_vector()`](super::ops::VcpuOps::write_vector).
pub fn write(vectors: &mut Vectors, number: u8, from: &[u8], clear_rest: bool) {
    if let Some(register) = vectors.get_mut(usize::from(number)) {
        for (i, to) in register.iter_mut().enumerate() {
            match from.get(i) {
                Some(byte) => *to = *byte,
                None if clear_rest => *to = 0,
                None => {}
            }
        }
    }
}
