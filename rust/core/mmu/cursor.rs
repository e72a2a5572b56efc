// SPDX-License-Identifier: GPL-2.0

//! A position in a paging structure that moves over a range of frames: no recursion, a fixed stack.

use super::ept::{
    Ept,
    Span, //
};
use super::level::{
    Index,
    Level, //
};
use super::memory::TableMemory;
use crate::addr::Gfn;

/// An entry in its table.
pub(super) struct Spot<T> {
    pub(super) table: T,
    pub(super) index: Index,
    pub(super) level: Level,
    /// The first frame that the entry spans.
    pub(super) gfn: Gfn,
}

/// A table on the way from the root, with the first frame it spans.
struct Step<T> {
    table: T,
    base: u64,
}

/// The position.
///
/// # Invariants
///
/// `path` has the tables from `root` down to `level`, each the child of the one above at the current position when it
/// was entered.
pub(super) struct Cursor<T> {
    path: [Option<Step<T>>; 5],
    root: Level,
    level: Level,
    gfn: u64,
    end: u64,
}

const fn slot(level: Level) -> usize {
    level.number().wrapping_sub(1) as usize
}

impl<T: Copy> Cursor<T> {
    /// At the position of `span` in the root table, to move up to its end.
    pub(super) fn new<M: TableMemory<Table = T>>(ept: &Ept<'_, M>, span: &Span) -> Self {
        let mut cursor = Self {
            path: [const { None }; 5],
            root: ept.format().root,
            level: ept.format().root,
            gfn: span.position().0,
            end: span.end().0.min(ept.format().root.table_pages()),
        };
        cursor.put(ept.root());
        cursor
    }

    fn put(&mut self, table: T) {
        let span = self.level.table_pages();
        if let Some(step) = self.path.get_mut(slot(self.level)) {
            *step = Some(Step {
                table,
                base: self.gfn & !span.wrapping_sub(1),
            });
        }
    }

    /// Where the range goes on.
    pub(super) fn position(&self) -> Gfn {
        Gfn(self.gfn)
    }

    /// The entry at the position, or `None` past the end.
    #[inline]
    pub(super) fn spot(&self) -> Option<Spot<T>> {
        if self.gfn >= self.end {
            return None;
        }
        self.spot_of(Gfn(self.gfn))
    }

    fn spot_of(&self, gfn: Gfn) -> Option<Spot<T>> {
        let step = self.path.get(slot(self.level))?.as_ref()?;
        Some(Spot {
            table: step.table,
            index: self.level.index(gfn),
            level: self.level,
            gfn: self.level.base(gfn),
        })
    }

    /// Into the table that the entry at the position points to. Says whether the position is at the table's start.
    pub(super) fn descend(&mut self, table: T) -> bool {
        let Some(level) = self.level.down() else {
            return false;
        };
        self.level = level;
        self.put(table);
        self.gfn & level.table_pages().wrapping_sub(1) == 0
    }

    /// Past the entry at the position.
    #[inline]
    pub(super) fn advance(&mut self) {
        let next = Gfn(self.gfn).wrapping_add(self.level.pages());
        self.gfn = self.level.base(next).0;
    }

    /// If the position has left the current table, goes up one level, and returns the table left and the entry that
    /// points to it. To be called until it returns `None`.
    #[inline]
    pub(super) fn leave(&mut self) -> Option<(T, Spot<T>)> {
        let step = self.path.get(slot(self.level))?.as_ref()?;
        let table_end = step.base.wrapping_add(self.level.table_pages());
        if self.level == self.root || (self.gfn < table_end && self.gfn < self.end) {
            return None;
        }
        let (table, base) = (step.table, step.base);
        self.level = self.level.up()?;
        Some((table, self.spot_of(Gfn(base))?))
    }
}
