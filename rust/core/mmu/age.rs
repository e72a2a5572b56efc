// SPDX-License-Identifier: GPL-2.0

//! Restricting leaves in place: making pages old, read-only or clean.
//!
//! Each change is a compare-and-exchange of one leaf, so the **read** side of `mmu_lock` is enough, and flags that the
//! processor sets at the same time are not lost. No table comes or goes.

use super::entry::Entry;
use super::ept::{
    Budget,
    Ept,
    LeafSpot,
    Progress,
    Span, //
};
use super::level::Level;
use super::memory::{
    Pending,
    TableMemory, //
};
use crate::addr::Gfn;

impl<M: TableMemory> Ept<'_, M> {
    /// Whether a page of the range was accessed since it was made old (mmu_notifier `test_young`). Lock: read.
    pub fn test_young(&self, start: Gfn, end: Gfn) -> bool {
        let format = self.format();
        let mut young = false;
        let _all = self.visit(&mut Span::new(start, end), Budget::UNLIMITED, |leaf| {
            young |= leaf.entry.is_young(format);
        });
        young
    }

    /// Makes the pages of the range old and says whether one was young. A large page that is partly in the range ages as
    /// a whole.
    ///
    /// For `clear_young` nothing is flushed: a stale translation hides accesses for a while, which is all it does. For
    /// `clear_flush_young` flush if `true` was returned. Lock: read.
    pub fn clear_young(&self, start: Gfn, end: Gfn) -> bool {
        let format = self.format();
        let mut young = false;
        let _all = self.visit(&mut Span::new(start, end), Budget::UNLIMITED, |leaf| {
            let old = self.change(leaf, |entry| entry.aged(format));
            young |= old.is_some_and(|entry| entry.is_young(format));
        });
        young
    }

    /// Takes W from the leaves that meet the span, so that the next write is seen; from large ones as a whole, to be split
    /// by the next write fault if the slot then allows 4 KiB only. Lock: read.
    pub fn write_protect(
        &self,
        span: &mut Span,
        budget: Budget,
        pending: &mut Pending,
    ) -> Progress {
        self.visit(span, budget, |leaf| {
            let old = self.change(leaf, Entry::write_protected);
            // An access-tracked leaf has no W to lose, but a translation from before its aging, not flushed, may.
            if old.is_some_and(|e| e.0 & Entry::WRITE != 0 || e.is_access_tracked()) {
                pending.stale_entry();
            }
        })
    }

    /// Has the next write to each page that meets the span be seen while the processor logs where it sets dirty flags:
    /// pages of 4 KiB lose theirs, larger ones W, to be split by the next write. Only with A/D flags. Lock: read.
    pub fn watch_writes(&self, span: &mut Span, budget: Budget, pending: &mut Pending) -> Progress {
        self.visit(span, budget, |leaf| {
            let small = leaf.level == Level::Page4K;
            let old = self.change(leaf, |entry| {
                if small {
                    entry.clean()
                } else {
                    entry.write_protected()
                }
            });
            let lost = if small { Entry::DIRTY } else { Entry::WRITE };
            if old.is_some_and(|e| e.0 & lost != 0) {
                pending.stale_entry();
            }
        })
    }

    /// Exchanges a leaf for what `new` makes of it; returns the entry that was replaced, or `None` if there was nothing
    /// to change or no leaf any more.
    ///
    /// A failed exchange means that another party made progress: the processor set a flag (two at most), or a vCPU
    /// widened rights (once for each). Giving up is no choice, a page that keeps W would be missed by the log. If a vCPU has
    /// split the page, there is no leaf here any more, and the visit goes on to the smaller ones.
    fn change(&self, leaf: &LeafSpot<M::Table>, new: impl Fn(Entry) -> Entry) -> Option<Entry> {
        let mut old = leaf.entry;
        loop {
            let wanted = new(old);
            if !old.is_leaf(leaf.level) || wanted == old {
                // Even an unchanged entry can have a stale, wider translation: after aging without flags.
                return old.is_access_tracked().then_some(old);
            }
            match self
                .memory()
                .compare_exchange(leaf.table, leaf.index, old.0, wanted.0)
            {
                Ok(()) => return Some(old),
                Err(found) => old = Entry(found),
            }
        }
    }
}
