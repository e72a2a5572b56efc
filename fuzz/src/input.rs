// SPDX-License-Identifier: GPL-2.0

//! Arbitrary bytes, taken piece by piece.

/// Bytes that are left of an input. Behind its end everything is zero, so that each input means something.
#[derive(Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Whether all bytes are taken.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let n = self.0.len().min(N);
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..n].copy_from_slice(taken);
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn long(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn quad(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
