// SPDX-License-Identifier: GPL-2.0

//! The mmu_notifier's sequence: what keeps a fault from mapping a page that the host has just taken away.
//!
//! A fault that looks the page up under `mmu_lock` asks [`Invalidations::blocks`] first: one that is going on may be
//! about to take the page away, and none begins before the lock is free.
//!
//! A fault that has to get the page without the lock (which may sleep) takes a [`Sample`], gets the page, takes `mmu_lock`
//! and asks [`Invalidations::must_retry`] before it maps. The sample is taken **before** the page is looked up, so whatever
//! the host invalidates after the look-up is seen: either it is still going on, or the sequence has moved.

use crate::addr::Gfn;

/// The state of the sequence at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Sample(pub u64);

/// Invalidations of a VM. Changed under the write side of `mmu_lock`, asked under either.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    sequence: u64,
    in_progress: u32,
    /// Half-open range that covers all invalidations in progress.
    range: Option<(Gfn, Gfn)>,
    /// Half-open range of a slot that goes.
    leaving: Option<(Gfn, Gfn)>,
}

impl Invalidations {
    /// None so far.
    pub const fn new() -> Self {
        Self {
            sequence: 0,
            in_progress: 0,
            range: None,
            leaving: None,
        }
    }

    /// The sequence, for the glue to publish (store-release) where a fault samples it without the lock (load-acquire).
    #[inline]
    pub const fn sample(&self) -> Sample {
        Sample(self.sequence)
    }

    /// `invalidate_range_start`: nothing is to be mapped in `ranges` (half-open, those of all slots that it meets; none is
    /// fine) until the matching [`end`](Self::end). The caller zaps them then. Lock: write.
    pub fn begin(&mut self, ranges: impl Iterator<Item = (Gfn, Gfn)>) {
        if self.in_progress == 0 {
            self.range = None;
        }
        self.in_progress = self.in_progress.saturating_add(1);
        for (start, end) in ranges {
            // One range for all: those of different callers may be far apart, which only makes some faults wait.
            self.range = Some(match self.range {
                Some((s, e)) => (s.min(start), e.max(end)),
                None => (start, end),
            });
        }
    }

    /// A slot with these frames (half-open) appears. An invalidation in progress did not see it and may be of its memory, so
    /// nothing is mapped in it before that has ended. Lock: write, until the slot is visible.
    pub fn slot_appears(&mut self, start: Gfn, end: Gfn) {
        if self.in_progress != 0 {
            self.range = Some(match self.range {
                Some((s, e)) => (s.min(start), e.max(end)),
                None => (start, end),
            });
        }
    }

    /// The slot with these frames (half-open) goes. From when it is no longer visible an invalidation does not find it, while
    /// faults that found it before still run: nothing is mapped in it until [`slot_left`](Self::slot_left), and the caller
    /// zaps it **before** it disappears. One slot at a time. Lock: write.
    pub fn slot_leaves(&mut self, start: Gfn, end: Gfn) {
        self.leaving = Some((start, end));
    }

    /// No fault knows the slot any more, or it stays after all. Lock: write.
    pub fn slot_left(&mut self) {
        self.leaving = None;
    }

    /// `invalidate_range_end`. Says whether the count was balanced; if not, the VM is to be marked dead. Lock: write.
    #[must_use]
    pub fn end(&mut self) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        match self.in_progress.checked_sub(1) {
            Some(left) => {
                self.in_progress = left;
                true
            }
            None => false,
        }
    }

    /// Whether one that is going on, or a slot that goes, meets the `pages` frames from `gfn` on: what the host has there is
    /// not to be relied upon. While the lock is held, nothing else begins. Lock: either side.
    #[inline]
    pub fn blocks(&self, gfn: Gfn, pages: u64) -> bool {
        let meets = |(s, e): (Gfn, Gfn)| gfn < e && gfn.0.saturating_add(pages) > s.0;
        (self.in_progress != 0 && self.range.is_some_and(meets)) || self.leaving.is_some_and(meets)
    }

    /// Whether a fault on the `pages` frames from `gfn` on, whose host page was looked up after `sample`, has to start
    /// again. Lock: either side.
    #[inline]
    pub fn must_retry(&self, sample: Sample, gfn: Gfn, pages: u64) -> bool {
        self.blocks(gfn, pages) || self.sequence != sample.0
    }
}
