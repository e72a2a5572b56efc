// SPDX-License-Identifier: GPL-2.0

//! Mapping a page or an MMIO frame: the end of an EPT violation.
//!
//! Runs under the **read** side of `mmu_lock`, on several vCPUs at once. Whatever it does is one compare-and-exchange
//! that nobody needs to flush for: it fills empty entries, widens the rights of a leaf for the same page, and puts a
//! table of equal smaller leaves in the place of a leaf. It never takes anything away; what would need that is a
//! [`MapOutcome::Conflict`], for which the caller takes the write side and zaps.

use super::entry::{
    Access,
    Entry,
    Leaf,
    MemoryType, //
};
use super::ept::Ept;
use super::level::{
    Index,
    Level, //
};
use super::memory::{
    TableMemory,
    TableSource, //
};
use crate::addr::{
    Gfn,
    Pfn, //
};

/// What to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The frame that was accessed.
    pub gfn: Gfn,
    /// The host frame of `gfn` itself, whatever the level.
    pub pfn: Pfn,
    /// The largest page to map ([`fault_level`](super::huge::fault_level)); smaller if tables are already there.
    pub level: Level,
    /// What slot and policy allow.
    pub access: Access,
    /// The host page was got for writing.
    pub host_writable: bool,
    /// What the access needs; nothing for a prefetch, which is content with whatever is there.
    pub fault: Access,
    /// Memory type of the page.
    pub memory_type: MemoryType,
    /// The guest's PAT has no say.
    pub ignore_pat: bool,
}

/// What became of it. But for [`Installed`](Self::Installed) and [`Spurious`](Self::Spurious) the guest can't go on yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum MapOutcome {
    /// The entry is in place. If it has [`Access::W`] and the slot logs writes, the caller marks the frame dirty.
    Installed {
        /// Its level.
        level: Level,
        /// As written.
        entry: Entry,
    },
    /// An entry that allows the access was already there: another vCPU was faster, or the TLB entry was old.
    Spurious,
    /// The tables kept changing: let the guest try again.
    Raced,
    /// The source of tables is empty: top it up and repeat.
    OutOfTables,
    /// A live entry for something else, or with rights that the new one lacks: zap `gfn` under the write side,
    /// flush, and let the guest try again.
    Conflict,
    /// `gfn` is beyond what this EPT maps.
    OutOfRange,
}

/// Entries to change or lose until [`MapOutcome::Raced`]: a table on each of four levels, a leaf, and some races lost.
const MAX_STEPS: u32 = 16;

impl<M: TableMemory> Ept<'_, M> {
    /// Maps a page. Lock: read, with the notifier's sequence checked after it was taken.
    pub fn map(&self, request: &MapRequest, source: &mut impl TableSource<M::Table>) -> MapOutcome {
        let format = self.format();
        let top = if format.small_code && request.fault.contains(Access::X) {
            Level::Page4K
        } else {
            request.level.min(format.max_leaf).min(Level::Page1G)
        };
        let mut leaf = Leaf {
            pfn: request.pfn,
            access: request.access,
            host_writable: request.host_writable,
            accessed: request.fault != Access::NONE,
            memory_type: request.memory_type,
            ignore_pat: request.ignore_pat,
        };
        self.install(request.gfn, top, source, |level, old| {
            if old.is_leaf(level) {
                let pfn = Pfn(request.pfn.0 & !level.offset_mask());
                if old.pfn() != pfn {
                    return Target::Conflict;
                }
                if old.permits(request.fault) || request.fault == Access::NONE {
                    return Target::Spurious;
                }
            }
            if level > top {
                return Target::Below;
            }
            leaf.pfn = Pfn(request.pfn.0 & !level.offset_mask());
            let new = Entry::leaf(&leaf, level, format);
            if !old.is_leaf(level) {
                Target::Set(new)
            } else if new.widens(old) {
                Target::Set(new.with_flags_of(old))
            } else {
                Target::Conflict
            }
        })
    }

    /// Maps the frames behind `request.gfn`, a 4 KiB page that [`Self::map`] has just mapped, to `pages`: each with its host
    /// frame, and whether that was got for writing. Only empty entries of the same table are filled, so nothing that is there
    /// changes; the first that is not empty, and the first that another vCPU fills meanwhile, is the end. The frames were not
    /// accessed yet. Returns how many were mapped.
    ///
    /// Lock: read, and no invalidation of these frames in progress.
    pub fn map_ahead(&self, request: &MapRequest, pages: impl Iterator<Item = (Pfn, bool)>) -> u64 {
        let Some(table) = self.table_of(request.gfn) else {
            return 0;
        };
        let first = Level::Page4K.index(request.gfn).get();
        let mut mapped: u64 = 0;
        for (index, (pfn, host_writable)) in Index::all().skip(first.wrapping_add(1)).zip(pages) {
            let leaf = Leaf {
                pfn,
                access: request.access,
                host_writable,
                accessed: false,
                memory_type: request.memory_type,
                ignore_pat: request.ignore_pat,
            };
            let new = Entry::leaf(&leaf, Level::Page4K, self.format());
            let empty = self.entry(table, index) == Entry::EMPTY;
            if !empty || !self.exchange(table, index, Entry::EMPTY, new) {
                break;
            }
            mapped = mapped.wrapping_add(1);
        }
        if mapped != 0 {
            self.memory().account_leaves(Level::Page4K, mapped as i64);
        }
        mapped
    }

    /// The table that maps `gfn` by 4 KiB, if there is one.
    fn table_of(&self, gfn: Gfn) -> Option<M::Table> {
        let mut table = self.root();
        let mut level = self.format().root;
        while level > Level::Page4K {
            let entry = self.entry(table, level.index(gfn));
            if !entry.is_table(level) {
                return None;
            }
            table = self.memory().table(entry.address())?;
            level = level.down()?;
        }
        Some(table)
    }

    /// Puts an MMIO entry ([`MmioFormat::encode`](super::mmio::MmioFormat::encode)) at `gfn`, never over a page that is
    /// mapped. Lock: read.
    pub fn map_mmio(
        &self,
        gfn: Gfn,
        entry: Entry,
        source: &mut impl TableSource<M::Table>,
    ) -> MapOutcome {
        self.install(gfn, Level::Page4K, source, |level, old| {
            if old.is_leaf(level) {
                Target::Conflict
            } else if level > Level::Page4K {
                Target::Below
            } else if old == entry {
                Target::Spurious
            } else {
                Target::Set(entry)
            }
        })
    }

    /// Goes down to the entry for `gfn` that `decide` wants to set, making tables on the way.
    fn install(
        &self,
        gfn: Gfn,
        top: Level,
        source: &mut impl TableSource<M::Table>,
        mut decide: impl FnMut(Level, Entry) -> Target,
    ) -> MapOutcome {
        if gfn >= self.end() {
            return MapOutcome::OutOfRange;
        }
        let mut table = self.root();
        let mut level = self.format().root;
        for _ in 0..MAX_STEPS {
            let mut index = level.index(gfn);
            let mut old = self.entry(table, index);
            // A table where a large page could be is not taken out here: smaller pages go into it.
            while old.is_table(level) {
                let (Some(child), Some(below)) = (self.memory().table(old.address()), level.down())
                else {
                    return MapOutcome::Raced;
                };
                (table, level) = (child, below);
                index = level.index(gfn);
                old = self.entry(table, index);
            }
            let target = if level > top && !old.is_present() {
                Target::Below
            } else {
                decide(level, old)
            };
            match target {
                Target::Set(new) => {
                    if self.exchange(table, index, old, new) {
                        if !old.is_present() && new.is_present() {
                            self.memory().account_leaves(level, 1);
                        }
                        return MapOutcome::Installed { level, entry: new };
                    }
                }
                Target::Below => {
                    if !self.link_table(table, index, level, old, source) {
                        return MapOutcome::OutOfTables;
                    }
                }
                Target::Spurious => return MapOutcome::Spurious,
                Target::Conflict => return MapOutcome::Conflict,
            }
        }
        MapOutcome::Raced
    }

    /// The one way in which an entry changes under the read side.
    #[inline]
    fn exchange(&self, table: M::Table, index: Index, old: Entry, new: Entry) -> bool {
        self.memory()
            .compare_exchange(table, index, old.0, new.0)
            .is_ok()
    }

    /// Tries to put a table in the place of `old`, which is empty, an MMIO entry or a leaf; a leaf is split. Whether it
    /// won or lost, the entry is to be read again. `false` if there is no table to be had.
    ///
    /// A split needs no flush: every address keeps its translation and rights, only in smaller pages.
    fn link_table(
        &self,
        table: M::Table,
        index: Index,
        level: Level,
        old: Entry,
        source: &mut impl TableSource<M::Table>,
    ) -> bool {
        let Some(below) = level.down() else {
            return false;
        };
        let Some(child) = source.take() else {
            return false;
        };
        let memory = self.memory();
        let split = old.is_leaf(level);
        if split {
            for i in Index::all() {
                memory.write(child, i, old.split(i, below).0);
            }
        }
        if self.exchange(table, index, old, Entry::table(memory.hpa(child))) {
            if split {
                memory.account_leaves(level, -1);
                memory.account_leaves(below, Index::COUNT as i64);
            }
            return true;
        }
        if split {
            for i in Index::all() {
                memory.write(child, i, Entry::EMPTY.0);
            }
        }
        source.put_back(child);
        true
    }
}

/// What to do with an entry that is not a table.
enum Target {
    /// Exchange it for this one.
    Set(Entry),
    /// Put a table there and go on below.
    Below,
    /// Leave it: it serves.
    Spurious,
    /// Leave it: it is in the way.
    Conflict,
}
