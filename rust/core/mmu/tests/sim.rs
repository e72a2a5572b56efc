// SPDX-License-Identifier: GPL-2.0

//! Simulated table memory that knows which tables a processor may still be in.

use crate::addr::*;
use crate::mmu::entry::*;
use crate::mmu::level::*;
use crate::mmu::memory::*;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

/// A handle: the position of a table in [`Sim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub usize);

type Page = Box<[Cell<u64>; 512]>;
type Hook<'h> = Box<dyn FnOnce() + 'h>;

/// All table pages, the processor's paging-structure caches (as the set of tables it may be in) and the statistics.
pub struct Sim {
    tables: RefCell<Vec<Option<Page>>>,
    unused: RefCell<Vec<usize>>,
    walkable: RefCell<BTreeSet<Table>>,
    pub leaves: [Cell<i64>; 6],
    pub allocated: Cell<usize>,
    /// Run just before the n-th compare-and-exchange from now.
    hook: RefCell<Option<(u32, Hook<'static>)>>,
    pub fail_table: Cell<bool>,
}

const FIRST_HPA: u64 = 0x8000_0000;

impl Sim {
    pub fn new() -> Self {
        Self {
            tables: RefCell::new(Vec::new()),
            unused: RefCell::new(Vec::new()),
            walkable: RefCell::new(BTreeSet::new()),
            leaves: Default::default(),
            allocated: Cell::new(0),
            hook: RefCell::new(None),
            fail_table: Cell::new(false),
        }
    }

    pub fn alloc(&self) -> Table {
        let page = Box::new([const { Cell::new(0) }; 512]);
        self.allocated.set(self.allocated.get() + 1);
        let mut tables = self.tables.borrow_mut();
        match self.unused.borrow_mut().pop() {
            Some(i) => {
                tables[i] = Some(page);
                Table(i)
            }
            None => {
                tables.push(Some(page));
                Table(tables.len() - 1)
            }
        }
    }

    fn cell<R>(&self, table: Table, index: Index, f: impl FnOnce(&Cell<u64>) -> R) -> R {
        let tables = self.tables.borrow();
        let page = tables[table.0].as_ref().expect("use of a freed table");
        f(&page[index.get()])
    }

    /// Another CPU does this at the `n`-th exchange from now.
    pub fn interfere(&self, n: u32, hook: Hook<'static>) {
        *self.hook.borrow_mut() = Some((n, hook));
    }

    pub fn no_interference(&self) {
        *self.hook.borrow_mut() = None;
    }

    /// The tables reachable from `root`, each seen once.
    pub fn reachable(&self, root: Table, level: Level) -> BTreeSet<Table> {
        let mut seen = BTreeSet::from([root]);
        let mut todo = vec![(root, level)];
        while let Some((table, level)) = todo.pop() {
            for i in Index::all() {
                let e = Entry(self.read(table, i));
                if e.is_table(level) {
                    let child = self.table(e.address()).expect("entry points nowhere");
                    assert!(seen.insert(child), "a table with two parents");
                    todo.push((child, level.down().unwrap()));
                }
            }
        }
        seen
    }

    /// The processor walks: from now on it may be in every table reachable.
    pub fn walk_all(&self, root: Table, level: Level) {
        let tables = self.reachable(root, level);
        self.walkable.borrow_mut().extend(tables);
    }

    /// INVEPT on all CPUs.
    pub fn flush(&self) {
        self.walkable.borrow_mut().clear();
    }

    pub fn set_bits(&self, table: Table, index: Index, bits: u64) {
        self.cell(table, index, |c| c.set(c.get() | bits));
    }
}

impl TableMemory for Sim {
    type Table = Table;

    fn hpa(&self, table: Table) -> Hpa {
        Hpa(FIRST_HPA + table.0 as u64 * 4096)
    }

    fn table(&self, hpa: Hpa) -> Option<Table> {
        if self.fail_table.get() {
            return None;
        }
        let i = usize::try_from(hpa.0.checked_sub(FIRST_HPA)? / 4096).ok()?;
        self.tables.borrow().get(i)?.as_ref()?;
        Some(Table(i))
    }

    fn read(&self, table: Table, index: Index) -> u64 {
        self.cell(table, index, Cell::get)
    }

    fn write(&self, table: Table, index: Index, value: u64) {
        assert!(
            !self.walkable.borrow().contains(&table),
            "plain write to a table that a processor may use"
        );
        self.cell(table, index, |c| c.set(value));
    }

    fn swap(&self, table: Table, index: Index, value: u64) -> u64 {
        self.cell(table, index, |c| c.replace(value))
    }

    fn compare_exchange(&self, table: Table, index: Index, old: u64, new: u64) -> Result<(), u64> {
        let hook = {
            let mut slot = self.hook.borrow_mut();
            match slot.take() {
                Some((0, hook)) => Some(hook),
                Some((n, hook)) => {
                    *slot = Some((n - 1, hook));
                    None
                }
                None => None,
            }
        };
        if let Some(hook) = hook {
            hook();
        }
        self.cell(table, index, |c| {
            let found = c.get();
            if found != old {
                return Err(found);
            }
            c.set(new);
            Ok(())
        })
    }

    fn free(&self, table: Table) {
        assert!(
            !self.walkable.borrow().contains(&table),
            "freed before the flush"
        );
        let page = self.tables.borrow_mut()[table.0].take();
        let page = page.expect("freed twice");
        for (i, cell) in page.iter().enumerate() {
            assert!(
                i == 0 || cell.get() == 0,
                "freed with something in it: {:#x}",
                cell.get()
            );
        }
        self.unused.borrow_mut().push(table.0);
        self.allocated.set(self.allocated.get() - 1);
    }

    fn account_leaves(&self, level: Level, change: i64) {
        let count = &self.leaves[level.number() as usize];
        count.set(count.get() + change);
    }
}

/// A vCPU's cache of tables.
pub struct Cache<'s> {
    pub sim: &'s Sim,
    pub tables: Vec<Table>,
}

impl<'s> Cache<'s> {
    pub fn new(sim: &'s Sim) -> Self {
        Self {
            sim,
            tables: Vec::new(),
        }
    }

    pub fn top_up(&mut self) {
        while self.tables.len() < 5 {
            self.tables.push(self.sim.alloc());
        }
    }
}

impl TableSource<Table> for Cache<'_> {
    fn take(&mut self) -> Option<Table> {
        self.tables.pop()
    }

    fn put_back(&mut self, table: Table) {
        for i in Index::all() {
            assert_eq!(self.sim.read(table, i), 0, "given back with entries");
        }
        self.tables.push(table);
    }
}
