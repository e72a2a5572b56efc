// SPDX-License-Identifier: GPL-2.0

//! Memory of paging structures: `rkvm_core::mmu::memory` over the pages of `sys::page`.
//!
//! A table is known by its physical address, as the entries know it. Each vCPU keeps a few spare tables, because none can
//! be allocated under mmu_lock.

use core::sync::atomic::Ordering;

use kernel::prelude::*;
use rkvm_core::{
    addr::Hpa,
    mmu::{
        level::{
            Index,
            Level, //
        },
        memory::{
            TableMemory,
            TableSource, //
        },
    },
    stats::VmStats,
};

use crate::sys::page::{
    count_table,
    free_table,
    TablePage,
    TableWalk, //
};

/// The tables of a VM during one operation.
pub(super) struct Tables<'a> {
    walk: TableWalk,
    stats: &'a VmStats,
}

impl<'a> Tables<'a> {
    #[inline]
    pub(super) fn new(stats: &'a VmStats) -> Self {
        Self {
            walk: TableWalk::new(),
            stats,
        }
    }
}

impl TableMemory for Tables<'_> {
    type Table = Hpa;

    #[inline]
    fn hpa(&self, table: Hpa) -> Hpa {
        table
    }

    #[inline]
    fn table(&self, hpa: Hpa) -> Option<Hpa> {
        self.walk.entry(hpa, 0).map(|_| hpa)
    }

    #[inline]
    fn read(&self, table: Hpa, index: Index) -> u64 {
        self.walk
            .entry(table, index.get())
            .map_or(0, |e| e.load(Ordering::Relaxed))
    }

    #[inline]
    fn write(&self, table: Hpa, index: Index, value: u64) {
        if let Some(entry) = self.walk.entry(table, index.get()) {
            entry.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn swap(&self, table: Hpa, index: Index, value: u64) -> u64 {
        self.walk
            .entry(table, index.get())
            .map_or(0, |e| e.swap(value, Ordering::SeqCst))
    }

    #[inline]
    fn compare_exchange(&self, table: Hpa, index: Index, old: u64, new: u64) -> Result<(), u64> {
        let entry = self.walk.entry(table, index.get()).ok_or(0u64)?;
        entry
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed)
            .map(|_| ())
    }

    fn free(&self, table: Hpa) {
        if self.table(table).is_some() {
            count(self.stats, table, -1);
            self.stats.mmu_shadow_zapped.add_shared(1);
            free_table(table);
        }
    }

    #[inline]
    fn account_leaves(&self, level: Level, change: i64) {
        let counter = match level {
            Level::Page4K => &self.stats.pages_4k,
            Level::Page2M => &self.stats.pages_2m,
            _ => &self.stats.pages_1g,
        };
        counter.add_shared(change as u64);
    }
}

/// A table comes into use (1) or goes out of use (-1): in the statistics of the VM and of the host.
#[inline]
fn count(stats: &VmStats, table: Hpa, change: i32) {
    stats.mmu_shadow_pages.add_shared(i64::from(change) as u64);
    count_table(table, change);
}

/// A new, empty table, counted in `stats`. ENOMEM. Sleeps.
pub(super) fn new_table(stats: &VmStats) -> Result<Hpa> {
    let table = TablePage::new()?.into_table().ok_or(EINVAL)?;
    count(stats, table, 1);
    Ok(table)
}

/// The end of a [`new_table`] whose VM, and its statistics with it, did not come to be.
#[cold]
pub(super) fn discard_table(table: Hpa) {
    count_table(table, -1);
    free_table(table);
}

/// Tables that one fault can need: one for each level below the root, of which there are at most four.
const NEEDED: usize = 4;
/// Room: what a fault gives back after it lost a race comes on top.
const ROOM: usize = 8;

/// Spare tables of a vCPU, zeroed.
pub(crate) struct TableCache {
    tables: [Hpa; ROOM],
    len: usize,
}

impl TableCache {
    pub(super) const fn new() -> Self {
        Self {
            tables: [Hpa(0); ROOM],
            len: 0,
        }
    }

    /// Makes sure that a fault finds enough. ENOMEM. Sleeps.
    #[inline]
    pub(super) fn top_up(&mut self) -> Result {
        if self.len >= NEEDED {
            return Ok(());
        }
        self.fill()
    }

    #[cold]
    fn fill(&mut self) -> Result {
        while self.len < ROOM {
            let table = TablePage::new().and_then(|p| p.into_table().ok_or(EINVAL));
            match table {
                Ok(table) => self.push(table),
                // Enough for this time.
                Err(_) if self.len >= NEEDED => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn push(&mut self, table: Hpa) {
        match self.tables.get_mut(self.len) {
            Some(place) => {
                *place = table;
                self.len = self.len.wrapping_add(1);
            }
            None => {
                free_table(table);
            }
        }
    }

    fn pop(&mut self) -> Option<Hpa> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        self.tables.get(last).copied()
    }

    /// As the source of tables for a VM with these statistics.
    #[inline]
    pub(super) fn source<'a>(&'a mut self, stats: &'a VmStats) -> Source<'a> {
        Source { cache: self, stats }
    }
}

impl Drop for TableCache {
    fn drop(&mut self) {
        while let Some(table) = self.pop() {
            free_table(table);
        }
    }
}

/// A [`TableCache`] that counts what is taken.
pub(super) struct Source<'a> {
    cache: &'a mut TableCache,
    stats: &'a VmStats,
}

impl TableSource<Hpa> for Source<'_> {
    #[inline]
    fn take(&mut self) -> Option<Hpa> {
        let table = self.cache.pop()?;
        count(self.stats, table, 1);
        Some(table)
    }

    #[inline]
    fn put_back(&mut self, table: Hpa) {
        count(self.stats, table, -1);
        self.cache.push(table);
    }
}
