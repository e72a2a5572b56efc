// SPDX-License-Identifier: GPL-2.0

//! The page-modification log: a page in which the processor writes down the addresses of pages whose EPT dirty flag it
//! sets.
//!
//! SDM volume 3, "Page-Modification Logging". The log fills from its end; the PML index says where the next address
//! goes, and has wrapped when the log is full. The counterpart of `vmx_flush_pml_buffer()`.

use crate::addr::{
    Gfn,
    Gpa, //
};
use core::ops::Range;

/// Addresses in the log.
pub const ENTRIES: u16 = 512;

/// The PML index of an empty log.
pub const EMPTY: u16 = ENTRIES - 1;

/// The words of the page that have been written when the PML index is `index`.
#[inline]
pub const fn written(index: u16) -> Range<usize> {
    let first = if index >= ENTRIES {
        0
    } else {
        index.wrapping_add(1)
    };
    first as usize..ENTRIES as usize
}

/// The frame that a word of the log names. Bits 11:0 of an address are 0.
#[inline]
pub const fn frame(word: u64) -> Gfn {
    Gpa(word).frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_fills_from_its_end() {
        assert_eq!(written(EMPTY).len(), 0);
        assert_eq!(written(510), 511..512);
        assert_eq!(written(0), 1..512);
        // After the last entry the index is 0xffff, and the next write exits.
        assert_eq!(written(0u16.wrapping_sub(1)), 0..512);
        for index in 0..=u16::MAX {
            assert!(written(index).end == 512 && written(index).start <= 512);
        }
        assert_eq!(frame(0x1234_5000), Gfn(0x1_2345));
    }
}
