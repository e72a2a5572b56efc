// SPDX-License-Identifier: GPL-2.0

//! Binary search in sorted tables.

/// Index of the first element that is not `below`; those that are come first. As the slice method, whose additions the
/// kernel's build would check for overflow.
#[inline]
pub(crate) fn partition_point<T>(table: &[T], below: impl Fn(&T) -> bool) -> usize {
    let mut low = 0usize;
    let mut size = table.len();
    while size > 0 {
        let half = size / 2;
        let middle = low.wrapping_add(half);
        if table.get(middle).is_some_and(&below) {
            low = middle.wrapping_add(1);
            size = size.wrapping_sub(half).wrapping_sub(1);
        } else {
            size = half;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::partition_point;

    #[test]
    fn as_the_slice_method() {
        let table: [u32; 9] = [1, 1, 2, 3, 5, 8, 13, 21, 34];
        for len in 0..=table.len() {
            for limit in 0..40 {
                let part = &table[..len];
                let expected = part.partition_point(|n| *n < limit);
                assert_eq!(partition_point(part, |n| *n < limit), expected);
            }
        }
    }
}
