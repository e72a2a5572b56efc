// SPDX-License-Identifier: GPL-2.0

//! How many frames a fault is worth: one, unless the vCPU goes through its memory in order.
//!
//! A guest that clears, copies or reads memory for the first time faults on one frame after the other. Each fault that is
//! where the last one ended doubles what is mapped at once, up to a limit; any other begins again with one frame. So a
//! guest that touches memory here and there never gets more than it asked for.

use crate::addr::Gfn;

/// Where a vCPU's faults have come to.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// The frame behind what the last fault mapped.
    next: Gfn,
    /// Frames that the last fault was allowed.
    frames: u32,
}

impl Ahead {
    /// No fault so far.
    pub const fn new() -> Self {
        Self {
            // Beyond every slot.
            next: Gfn(u64::MAX),
            frames: 1,
        }
    }

    /// The number of frames, from `gfn` on, that a fault at `gfn` should map: at least 1, at most `limit`.
    #[inline]
    pub fn frames(&mut self, gfn: Gfn, limit: u32) -> u32 {
        self.frames = if gfn == self.next {
            self.frames.saturating_mul(2).min(limit).max(1)
        } else {
            1
        };
        self.frames
    }

    /// The fault at `gfn` has mapped that many frames.
    #[inline]
    pub fn mapped(&mut self, gfn: Gfn, frames: u64) {
        self.next = gfn.wrapping_add(frames);
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The frames that each fault of `guest` maps, if all of them are to be had.
    fn faults(guest: impl Iterator<Item = u64>, limit: u32) -> Vec<u64> {
        let mut ahead = Ahead::new();
        let mut mapped = std::collections::BTreeSet::new();
        let mut sizes = Vec::new();
        for gfn in guest {
            if !mapped.contains(&gfn) {
                let n = u64::from(ahead.frames(Gfn(gfn), limit));
                mapped.extend(gfn..gfn + n);
                ahead.mapped(Gfn(gfn), n);
                sizes.push(n);
            }
        }
        sizes
    }

    #[test]
    fn in_order_it_doubles_up_to_the_limit() {
        assert_eq!(faults(100..147, 16), [1, 2, 4, 8, 16, 16]);
        assert_eq!(faults(100..110, 4), [1, 2, 4, 4]);
    }

    #[test]
    fn any_other_order_gets_one_frame_at_a_time() {
        assert_eq!(faults((0..100).step_by(2), 16), [1; 50]);
        assert_eq!(faults((0..50).rev(), 16), [1; 50]);
        assert_eq!(
            faults([5, 6, 9, 100, 101, 104].into_iter(), 16),
            [1, 2, 1, 1, 2, 1]
        );
    }

    #[test]
    fn a_limit_of_one_turns_it_off() {
        for limit in [0, 1] {
            assert_eq!(faults(0..5, limit), [1; 5]);
        }
    }

    #[test]
    fn a_fault_that_mapped_nothing_comes_again() {
        let mut ahead = Ahead::new();
        assert_eq!(ahead.frames(Gfn(3), 16), 1);
        assert_eq!(ahead.frames(Gfn(3), 16), 1);
        ahead.mapped(Gfn(3), 1);
        assert_eq!(ahead.frames(Gfn(4), 16), 2);
    }

    #[test]
    fn the_first_fault_is_never_in_order() {
        assert_eq!(Ahead::new().frames(Gfn(0), 16), 1);
        assert_eq!(Ahead::new().frames(Gfn(u64::MAX), 16), 2, "no slot has it");
    }
}
