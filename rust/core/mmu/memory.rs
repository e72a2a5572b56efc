// SPDX-License-Identifier: GPL-2.0

//! What the glue supplies: memory for tables. And what becomes of a table that was taken out.

use super::entry::Entry;
use super::level::{
    Index,
    Level, //
};
use crate::addr::Hpa;

/// The memory of paging structures.
///
/// Entries are shared with the processor and with other CPUs: every access is atomic, 64 bits wide and done once.
pub trait TableMemory {
    /// A 4 KiB page that holds a table.
    type Table: Copy;

    /// Where the table is for the processor.
    fn hpa(&self, table: Self::Table) -> Hpa;

    /// The table at `hpa`, an address that came out of an entry; `None` if there is none, which is a bug that the
    /// operation answers by leaving that entry alone.
    fn table(&self, hpa: Hpa) -> Option<Self::Table>;

    /// An entry (READ_ONCE).
    fn read(&self, table: Self::Table, index: Index) -> u64;

    /// Sets an entry of a table that is not linked, so that nobody else sees it (WRITE_ONCE).
    fn write(&self, table: Self::Table, index: Index, value: u64);

    /// Exchanges an entry, fully ordered; returns the old value.
    fn swap(&self, table: Self::Table, index: Index, value: u64) -> u64;

    /// Exchanges an entry if it has the value `old`, fully ordered on success; else returns the value found.
    ///
    /// # Errors
    ///
    /// The value found, if it is another than `old`.
    fn compare_exchange(
        &self,
        table: Self::Table,
        index: Index,
        old: u64,
        new: u64,
    ) -> Result<(), u64>;

    /// Gives the page of a table back. Only called when no processor can use it any more.
    fn free(&self, table: Self::Table);

    /// Pages of the size of `level` that came (or, if negative, went): for the statistics. Called by several CPUs.
    fn account_leaves(&self, level: Level, change: i64);
}

/// Where new tables come from while `mmu_lock` is held: a cache of zeroed pages of the vCPU, filled beforehand.
pub trait TableSource<T> {
    /// A zeroed table, or `None` when the cache is empty: the operation ends and is repeated after a top-up.
    fn take(&mut self) -> Option<T>;

    /// Takes a table back that was never linked, its entries zero again.
    fn put_back(&mut self, table: T);
}

/// Tables taken out, chained through entry 0 of each as a value that the processor takes for "not present".
#[derive(Debug, Default)]
struct Chain {
    head: Option<Hpa>,
    count: usize,
}

impl Chain {
    /// Complemented, so that the value is no address of anything to a processor with L1TF.
    fn link(next: Option<Hpa>) -> u64 {
        next.map_or(0, |hpa| !hpa.0 & Entry::ADDRESS)
    }

    fn next(link: u64) -> Option<Hpa> {
        (link != 0).then_some(Hpa(!link & Entry::ADDRESS))
    }

    fn push<M: TableMemory>(&mut self, memory: &M, table: M::Table) {
        memory.swap(table, Index::FIRST, Self::link(self.head));
        self.head = Some(memory.hpa(table));
        self.count = self.count.wrapping_add(1);
    }

    fn pop<M: TableMemory>(&mut self, memory: &M) -> Option<M::Table> {
        let table = memory.table(self.head?)?;
        self.head = Self::next(memory.read(table, Index::FIRST));
        self.count = self.count.wrapping_sub(1);
        Some(table)
    }
}

/// What an operation left for its caller: entries that processors may still have cached, and tables that they may
/// still walk.
///
/// The only way on is [`Pending::flush`], to be called **before** `mmu_lock` is dropped: else another CPU finds the
/// entry gone, believes that nobody uses the page, and it is freed under a stale translation.
#[derive(Debug, Default)]
#[must_use = "stale translations have to be flushed before the lock is dropped"]
pub struct Pending {
    chain: Chain,
    flush: bool,
}

impl Pending {
    /// Nothing to do so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether [`Pending::flush`] will call the flush.
    #[cfg(test)]
    pub fn needs_flush(&self) -> bool {
        self.flush
    }

    /// Tables waiting.
    #[cfg(test)]
    pub fn tables(&self) -> usize {
        self.chain.count
    }

    /// An entry that the processor could use was cleared or restricted.
    #[inline]
    pub(super) fn stale_entry(&mut self) {
        self.flush = true;
    }

    /// A table was unlinked: nobody can reach it from a root, but a processor may be in it.
    pub(super) fn stale_table<M: TableMemory>(&mut self, memory: &M, table: M::Table) {
        self.flush = true;
        self.chain.push(memory, table);
    }

    /// Calls `flush`, which has to invalidate the EPT translations of the VM on all CPUs and return when they are gone,
    /// if anything needs it.
    pub fn flush(self, flush: impl FnOnce()) -> Flushed {
        if self.flush {
            flush();
        }
        Flushed { chain: self.chain }
    }
}

/// Tables that no processor uses any more: to be freed, with or without `mmu_lock`.
#[derive(Debug)]
#[must_use = "the tables have to be freed"]
pub struct Flushed {
    chain: Chain,
}

impl Flushed {
    /// Frees the tables and says how many there were.
    pub fn free<M: TableMemory>(mut self, memory: &M) -> usize {
        let mut freed = 0usize;
        while let Some(table) = self.chain.pop(memory) {
            memory.free(table);
            freed = freed.wrapping_add(1);
        }
        freed
    }
}
