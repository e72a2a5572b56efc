// SPDX-License-Identifier: GPL-2.0

//! The sequence that keeps a page fault and an invalidation by the host from missing each other.
//!
//! A fault takes a [`Sample`], looks the host page up without a lock, takes the MMU lock and asks
//! [`InvalidateSeq::must_retry`] before it installs anything. An invalidation calls [`InvalidateSeq::begin`] under the
//! lock before it zaps, and [`InvalidateSeq::end`] under the lock when the host's page tables have their new state. So a
//! page that was looked up before or during an invalidation of its range is never installed after it. C KVM's
//! counterpart is `mmu_invalidate_retry_gfn()`.

use core::sync::atomic::{fence, AtomicU64, Ordering};

/// The state of the sequence when a fault began. Sampled before the page is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sample is to be checked under the MMU lock"]
pub struct Sample(u64);

/// Completed invalidations, and the range of those in progress. The unit of the range (frames, bytes) is the caller's,
/// and the same for all calls.
///
/// [`Self::begin`] and [`Self::end`] are called with the MMU lock held alone, [`Self::must_retry`] with it held.
#[derive(Debug, Default)]
pub struct InvalidateSeq {
    sequence: AtomicU64,
    in_progress: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

impl InvalidateSeq {
    /// No invalidation yet.
    pub const fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            in_progress: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
        }
    }

    /// Before the host page is looked up; without the lock.
    #[inline]
    pub fn sample(&self) -> Sample {
        let sample = Sample(self.sequence.load(Ordering::Acquire));
        // What follows, the lookup, is not to be done before the load.
        fence(Ordering::Acquire);
        sample
    }

    /// An invalidation of `start` up to, not including, `end` begins. Several that overlap in time are treated as one
    /// of the range that spans them all.
    #[inline]
    pub fn begin(&self, start: u64, end: u64) {
        let before = self.in_progress.load(Ordering::Relaxed);
        let (start, end) = if before == 0 {
            (start, end)
        } else {
            (
                start.min(self.start.load(Ordering::Relaxed)),
                end.max(self.end.load(Ordering::Relaxed)),
            )
        };
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.in_progress
            .store(before.wrapping_add(1), Ordering::Release);
    }

    /// One of the invalidations is over. Answers `false` if none was in progress: a bug of the caller.
    #[inline]
    #[must_use]
    pub fn end(&self) -> bool {
        let Some(left) = self.in_progress.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        // The sequence first: who sees the count fall must see that something has happened.
        let sequence = self.sequence.load(Ordering::Relaxed).wrapping_add(1);
        self.sequence.store(sequence, Ordering::Release);
        self.in_progress.store(left, Ordering::Release);
        true
    }

    /// Whether what was looked up after `sample` for `at` may be stale: not to be installed, fault again.
    #[inline]
    pub fn must_retry(&self, sample: Sample, at: u64) -> bool {
        self.in_progress_at(at) || self.sequence.load(Ordering::Acquire) != sample.0
    }

    /// Whether `at` is being invalidated now. Without the lock a hint only: a fault that sees it saves itself the
    /// lookup.
    #[inline]
    pub fn in_progress_at(&self, at: u64) -> bool {
        self.in_progress.load(Ordering::Acquire) != 0
            && at >= self.start.load(Ordering::Relaxed)
            && at < self.end.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undisturbed_fault_installs() {
        let seq = InvalidateSeq::new();
        let sample = seq.sample();
        assert!(!seq.must_retry(sample, 5));
    }

    #[test]
    fn fault_during_an_invalidation_retries_inside_its_range_only() {
        let seq = InvalidateSeq::new();
        let sample = seq.sample();
        seq.begin(4, 6);
        assert!(!seq.must_retry(sample, 3));
        assert!(seq.must_retry(sample, 4));
        assert!(seq.must_retry(sample, 5));
        assert!(!seq.must_retry(sample, 6));
    }

    #[test]
    fn lookup_before_a_completed_invalidation_is_stale_everywhere() {
        let seq = InvalidateSeq::new();
        let sample = seq.sample();
        seq.begin(4, 6);
        assert!(seq.end());
        assert!(seq.must_retry(sample, 5));
        assert!(seq.must_retry(sample, 100));
        assert!(!seq.must_retry(seq.sample(), 5));
    }

    #[test]
    fn sample_taken_inside_an_invalidation_is_stale_after_it() {
        let seq = InvalidateSeq::new();
        seq.begin(4, 6);
        let sample = seq.sample();
        assert!(seq.must_retry(sample, 4));
        assert!(seq.end());
        assert!(seq.must_retry(sample, 4));
    }

    #[test]
    fn overlapping_invalidations_span_their_ranges_until_the_last_ends() {
        let seq = InvalidateSeq::new();
        seq.begin(10, 12);
        seq.begin(2, 4);
        let sample = seq.sample();
        assert!(seq.must_retry(sample, 7));
        assert!(seq.end());
        let sample = seq.sample();
        assert!(seq.must_retry(sample, 11));
        assert!(seq.end());
        assert!(!seq.must_retry(seq.sample(), 11));
        // A range that came later starts afresh.
        seq.begin(20, 21);
        assert!(!seq.in_progress_at(11));
        assert!(seq.in_progress_at(20));
    }

    #[test]
    fn end_without_begin_is_told() {
        let seq = InvalidateSeq::new();
        let sample = seq.sample();
        assert!(!seq.end());
        assert!(!seq.must_retry(sample, 0));
    }
}
