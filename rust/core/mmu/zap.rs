// SPDX-License-Identifier: GPL-2.0

//! Taking mappings away: for the mmu_notifier, for slot deletion, and the whole at the end.
//!
//! Runs under the **write** side of `mmu_lock`. Leaves are cleared first; a table is unlinked when it is found empty,
//! on the way up, so no table with anything in it is ever cut off. Nothing is freed here: tables go into [`Pending`],
//! whose flush comes before the lock is dropped and whose freeing comes after the flush.

use super::cursor::{
    Cursor,
    Spot, //
};
use super::entry::Entry;
use super::ept::{
    Budget,
    Ept,
    Progress,
    Span, //
};
use super::level::{
    Index,
    Level, //
};
use super::memory::{
    Pending,
    TableMemory, //
};

/// Whether the tables that the cursor is in have been seen empty from their first entry on, a bit for each level.
#[derive(Clone, Copy)]
struct SeenEmpty(u8);

impl SeenEmpty {
    const fn bit(level: Level) -> u8 {
        1u8.wrapping_shl(level.number())
    }

    fn set(&mut self, level: Level, empty: bool) {
        if empty {
            self.0 |= Self::bit(level);
        } else {
            self.0 &= !Self::bit(level);
        }
    }

    const fn get(self, level: Level) -> bool {
        self.0 & Self::bit(level) != 0
    }
}

impl<M: TableMemory> Ept<'_, M> {
    /// Clears every entry that meets the span, MMIO entries too, and takes out the tables that span only frames of
    /// it. A large page that is partly in the span goes as a whole.
    ///
    /// Looks at `budget` entries at most. On [`Progress::More`] the caller may flush, drop the lock, take it again and
    /// go on; what was mapped behind the position in between stays. Lock: write.
    pub fn zap_range(
        &self,
        span: &mut Span,
        mut budget: Budget,
        pending: &mut Pending,
    ) -> Progress {
        let mut cursor = Cursor::new(self, span);
        let mut empty = SeenEmpty(0);
        loop {
            while let Some((child, spot)) = cursor.leave() {
                let below = spot.level.down();
                let seen = below.is_some_and(|level| empty.get(level));
                let covered = span.covers(spot.gfn, spot.level.pages());
                if covered && (seen || self.is_empty_table(child)) {
                    self.unlink(&spot, child, pending);
                } else {
                    empty.set(spot.level, false);
                }
            }
            let Some(spot) = cursor.spot() else {
                return span.finish();
            };
            let entry = self.entry(spot.table, spot.index);
            if entry.is_table(spot.level) {
                match (self.memory().table(entry.address()), spot.level.down()) {
                    (Some(child), Some(below)) => {
                        let at_start = cursor.descend(child);
                        empty.set(below, at_start);
                        continue;
                    }
                    _ => empty.set(spot.level, false),
                }
            }
            if !budget.spend() {
                return span.pause_at(cursor.position());
            }
            if !entry.is_table(spot.level) && entry != Entry::EMPTY {
                self.clear(&spot, pending);
            }
            cursor.advance();
        }
    }

    /// The end of an EPT that no vCPU can load any more: its root follows the tables, if all of it has been zapped.
    /// Says whether it has; if not, nothing is done. Lock: write.
    pub fn retire(self, pending: &mut Pending) -> bool {
        let empty = self.is_empty_table(self.root());
        if empty {
            pending.stale_table(self.memory(), self.root());
        }
        empty
    }

    fn is_empty_table(&self, table: M::Table) -> bool {
        Index::all().all(|index| self.entry(table, index) == Entry::EMPTY)
    }

    /// Clears an entry that is not a table.
    fn clear(&self, spot: &Spot<M::Table>, pending: &mut Pending) {
        // The processor may set flags up to this moment; the exchange loses none of them to a later write.
        let old = Entry(self.memory().swap(spot.table, spot.index, Entry::EMPTY.0));
        if old.is_present() {
            self.memory().account_leaves(spot.level, -1);
            pending.stale_entry();
        }
    }

    /// Unlinks a table that is empty.
    fn unlink(&self, spot: &Spot<M::Table>, child: M::Table, pending: &mut Pending) {
        self.memory().swap(spot.table, spot.index, Entry::EMPTY.0);
        pending.stale_table(self.memory(), child);
    }
}
