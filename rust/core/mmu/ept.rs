// SPDX-License-Identifier: GPL-2.0

//! An EPT: a root table, its format and the memory it lies in. Lookups and visits of leaves are here; changes are in
//! [`map`](super::map), [`zap`](super::zap) and [`age`](super::age).

use super::cursor::Cursor;
use super::entry::{
    Entry,
    Format, //
};
use super::level::{
    Index,
    Level, //
};
use super::memory::TableMemory;
use crate::addr::Gfn;

/// A view of one EPT. Made anew for each operation; it holds nothing but references.
///
/// The caller holds `mmu_lock`, in the mode that the operation names, for as long as the operation runs.
#[derive(Debug)]
pub struct Ept<'m, M: TableMemory> {
    memory: &'m M,
    root: M::Table,
    format: &'m Format,
}

impl<M: TableMemory> Clone for Ept<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: TableMemory> Copy for Ept<'_, M> {}

/// What is at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The level of the entry.
    pub level: Level,
    /// A leaf, an MMIO entry, or the absent entry at which the walk ended.
    pub entry: Entry,
}

/// A half-open range of frames, and how far an operation over it has come. Kept by the caller from one portion to the
/// next, so that a portion knows what the whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: Gfn,
    end: Gfn,
    position: Gfn,
}

impl Span {
    /// From `start` up to, but without, `end`.
    #[inline]
    pub const fn new(start: Gfn, end: Gfn) -> Self {
        Self {
            start,
            end,
            position: start,
        }
    }

    /// Where the next portion begins.
    #[inline]
    pub const fn position(&self) -> Gfn {
        self.position
    }

    #[inline]
    pub(super) const fn end(&self) -> Gfn {
        self.end
    }

    /// Whether `pages` frames from `first` on are all in the range.
    #[inline]
    pub(super) fn covers(&self, first: Gfn, pages: u64) -> bool {
        first >= self.start && first.wrapping_add(pages) <= self.end
    }

    #[inline]
    pub(super) fn pause_at(&mut self, position: Gfn) -> Progress {
        self.position = position;
        Progress::More
    }

    #[inline]
    pub(super) fn finish(&mut self) -> Progress {
        self.position = self.end;
        Progress::Done
    }
}

/// How far a portion of an operation over a [`Span`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// To the end.
    Done,
    /// The budget is used up. The caller may flush, drop the lock, take it again and go on with the same span.
    More,
}

/// Entries to look at before an operation over a span pauses; at least 1, or it never ends. Going down into a table
/// is free, so every portion gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub u32);

impl Budget {
    /// No pause: for operations that must not drop the lock.
    pub const UNLIMITED: Self = Self(u32::MAX);

    /// Takes one unit; `false` if there is none left.
    #[inline]
    pub(super) fn spend(&mut self) -> bool {
        if self.0 == u32::MAX {
            return true;
        }
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

/// A leaf that a visit has come to.
pub(super) struct LeafSpot<T> {
    pub(super) table: T,
    pub(super) index: Index,
    pub(super) level: Level,
    #[cfg(test)]
    pub(super) gfn: Gfn,
    pub(super) entry: Entry,
}

impl<'m, M: TableMemory> Ept<'m, M> {
    /// The EPT with this root table, whose level is `format.root`.
    #[inline]
    pub const fn new(memory: &'m M, root: M::Table, format: &'m Format) -> Self {
        Self {
            memory,
            root,
            format,
        }
    }

    /// The root table.
    #[inline]
    pub fn root(&self) -> M::Table {
        self.root
    }

    /// The format.
    #[inline]
    pub fn format(&self) -> &'m Format {
        self.format
    }

    /// All frames.
    #[cfg(test)]
    pub fn whole(&self) -> Span {
        Span::new(Gfn(0), self.end())
    }

    /// The table memory.
    #[inline]
    pub(super) fn memory(&self) -> &'m M {
        self.memory
    }

    /// The first frame that this EPT can't map.
    #[inline]
    pub fn end(&self) -> Gfn {
        Gfn(self.format.root.table_pages())
    }

    #[inline]
    pub(super) fn entry(&self, table: M::Table, index: Index) -> Entry {
        Entry(self.memory.read(table, index))
    }

    /// The entry that decides about `gfn`, or `None` past [`Ept::end`]. Lock: read.
    pub fn lookup(&self, gfn: Gfn) -> Option<Lookup> {
        if gfn >= self.end() {
            return None;
        }
        let mut table = self.root;
        let mut level = self.format.root;
        loop {
            let entry = self.entry(table, level.index(gfn));
            if !entry.is_table(level) {
                return Some(Lookup { level, entry });
            }
            table = self.memory.table(entry.address())?;
            level = level.down()?;
        }
    }

    /// Calls `leaf` for each leaf that meets the span. Lock: that of `leaf`. If that is the read side, a fault may split a
    /// large page at any moment: then `leaf` is called for the smaller ones, too, so that none is missed.
    pub(super) fn visit(
        &self,
        span: &mut Span,
        mut budget: Budget,
        mut leaf: impl FnMut(&LeafSpot<M::Table>),
    ) -> Progress {
        let mut cursor = Cursor::new(self, span);
        loop {
            while cursor.leave().is_some() {}
            let Some(spot) = cursor.spot() else {
                return span.finish();
            };
            let entry = self.entry(spot.table, spot.index);
            if entry.is_table(spot.level) {
                if let Some(child) = self.memory.table(entry.address()) {
                    cursor.descend(child);
                    continue;
                }
            }
            if !budget.spend() {
                return span.pause_at(cursor.position());
            }
            if entry.is_leaf(spot.level) {
                leaf(&LeafSpot {
                    table: spot.table,
                    index: spot.index,
                    level: spot.level,
                    #[cfg(test)]
                    gfn: spot.gfn,
                    entry,
                });
                let large = spot.level > Level::Page4K;
                if large && self.entry(spot.table, spot.index).is_table(spot.level) {
                    continue;
                }
            }
            cursor.advance();
        }
    }

    /// Calls `leaf` with the first frame, the level and the entry of each leaf that meets the span, in order.
    #[cfg(test)]
    pub fn leaves(
        &self,
        span: &mut Span,
        budget: Budget,
        mut leaf: impl FnMut(Gfn, Level, Entry),
    ) -> Progress {
        self.visit(span, budget, |l| leaf(l.gfn, l.level, l.entry))
    }
}
