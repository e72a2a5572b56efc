// SPDX-License-Identifier: GPL-2.0

//! Bounds that hold in speculation, too (Spectre variant 1; Documentation/admin-guide/hw-vuln/spectre.rst).
//!
//! A processor that guesses the outcome of a bounds check reads beyond the table before it knows better, and what it read
//! can be told from the caches. So where the guest or user space chooses the place in a table, the check is followed by
//! arithmetic that no guess skips. C KVM's counterpart is `array_index_nospec()`.

use core::hint::black_box;

/// `index` if that is below `len`, else 0, without a branch. `len` is that of a slice.
#[inline(always)]
pub fn clamp(index: usize, len: usize) -> usize {
    // The compiler may not conclude from a check before that nothing is left to do.
    let index = black_box(index);
    // The uppermost bit is set if the index is too high, by the subtraction or by itself.
    let outside = index | len.wrapping_sub(1).wrapping_sub(index);
    // Nor may it make a choice of this, for which there could be a branch.
    index & black_box(!((outside as isize) >> (usize::BITS - 1)) as usize)
}

/// As [`slice::get`], for an index that somebody else has chosen.
#[inline(always)]
pub fn get<T>(table: &[T], index: usize) -> Option<&T> {
    if index < table.len() {
        table.get(clamp(index, table.len()))
    } else {
        None
    }
}

/// As [`get`], for a table whose length is a power of two, which costs less.
#[inline(always)]
pub fn get_masked<T, const LEN: usize>(table: &[T; LEN], index: usize) -> Option<&T> {
    const { assert!(LEN.is_power_of_two()) };
    if index < LEN {
        table.get(black_box(index) & LEN.wrapping_sub(1))
    } else {
        None
    }
}

/// As [`slice::get_mut`], for an index that somebody else has chosen.
#[inline(always)]
pub fn get_mut<T>(table: &mut [T], index: usize) -> Option<&mut T> {
    if index < table.len() {
        let index = clamp(index, table.len());
        table.get_mut(index)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{clamp, get, get_masked, get_mut};

    const PLACES: [usize; 9] = [
        0,
        1,
        2,
        23,
        24,
        63,
        u32::MAX as usize,
        isize::MAX as usize,
        usize::MAX,
    ];

    #[test]
    fn an_index_within_stays_and_any_other_is_the_first() {
        for len in [0, 1, 2, 24, 64, isize::MAX as usize] {
            for index in PLACES {
                let expected = if index < len { index } else { 0 };
                assert_eq!(clamp(index, len), expected, "{index} of {len}");
            }
        }
    }

    #[test]
    fn a_mask_is_as_good_where_the_length_allows() {
        let table: [usize; 64] = core::array::from_fn(|n| n + 100);
        for index in PLACES {
            assert_eq!(get_masked(&table, index), table.get(index));
            assert_eq!(get_masked(&[7usize], index), [7].get(index));
        }
    }

    #[test]
    fn as_the_slice_methods() {
        let mut table: [usize; 24] = core::array::from_fn(|n| n + 100);
        for len in [0, 1, 2, 24] {
            for index in PLACES {
                let part = &mut table[..len];
                assert_eq!(get(part, index), part.get(index));
                let expected = part.get(index).copied();
                assert_eq!(get_mut(part, index).copied(), expected);
            }
        }
    }
}
