// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a slot: one bit a page (api.rst, "KVM_GET_DIRTY_LOG").
//!
//! While a slot logs, a page is writable in the EPT only if its bit is set. So a write to any other page faults, and the
//! fault sets the bit; reading the log clears bits and takes write access away again. Where the processor logs which
//! dirty flags it sets, reading the log takes the dirty flag only: the next write does not fault, it comes in that log.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::prelude::*;
use rkvm_core::{
    addr::Gfn,
    memslots::{
        Change,
        Region,
        USER_MEM_SLOTS, //
    },
    mmu::{
        age::WriteProtect,
        ept::{
            Budget,
            Progress,
            Span, //
        },
        memory::Pending, //
    },
};

use super::{
    tables::Tables,
    Mmu, //
};
use crate::{
    host::host,
    sys::uabi::UserArg,
    vcpu::requests::Request, //
};

const WORD_BITS: u64 = 64;

/// The bitmap.
pub(crate) struct DirtyLog {
    words: KVVec<AtomicU64>,
}

impl DirtyLog {
    /// All pages clean. ENOMEM.
    pub(super) fn new(pages: u64) -> Result<Self> {
        let n = (pages.saturating_add(WORD_BITS - 1) / WORD_BITS) as usize;
        let mut words = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            words.push(AtomicU64::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { words })
    }

    /// Sets the bit of a page, given by its index in the slot.
    #[inline]
    pub(super) fn mark(&self, page: u64) {
        if let Some(word) = self.words.get((page / WORD_BITS) as usize) {
            let bit = 1 << (page % WORD_BITS);
            // A page that is written often is marked already: reading keeps the cache line shared.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
    }
}

impl Mmu {
    /// KVM_GET_DIRTY_LOG: writes the bitmap of a slot to user space and starts again from a clean one.
    ///
    /// EINVAL for an id out of range, ENOENT if there is no such slot or it does not log.
    pub(crate) fn get_dirty_log(&self, slot: u32, to: UserArg) -> Result {
        if slot >= u32::from(USER_MEM_SLOTS) {
            return Err(EINVAL);
        }
        let writer = self.writer.lock();
        let slots = writer.as_ref().ok_or(EIO)?;
        let region = slots.table().find_id(slot as u16).ok_or(ENOENT)?.region;
        let log = slots.log(&region).ok_or(ENOENT)?;
        let mut snapshot = KVVec::with_capacity(log.words.len(), GFP_KERNEL_ACCOUNT)?;
        snapshot.resize(log.words.len(), 0u64, GFP_KERNEL_ACCOUNT)?;
        self.take_log(&region, log, &mut snapshot);
        to.write_slice(&snapshot)
    }

    /// Moves the bits to `snapshot` and has the next writes to their pages be seen.
    ///
    /// The bits are taken first: a write between the two goes through an entry that lets it pass unseen, to a page that
    /// the snapshot reports, and user space reads the page after the flush.
    fn take_log(&self, region: &Region, log: &DirtyLog, snapshot: &mut [u64]) {
        self.collect_processor_logs();
        let mut words = log.words.iter().zip(snapshot.iter_mut());
        let mut first = region.base_gfn;
        let mut done = false;
        while !done {
            let mut pending = Pending::new();
            let lock = self.lock.read();
            let tables = self.tables();
            done = true;
            for (word, taken) in words.by_ref() {
                let start = first;
                first = start.wrapping_add(WORD_BITS);
                if word.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                *taken = word.swap(0, Ordering::AcqRel);
                let end = Gfn(first.0.min(region.end_gfn().0));
                let mut span = Span::new(start, end);
                let _done = self.watch(&tables, &mut span, Budget::UNLIMITED, &mut pending);
                if lock.need_break() {
                    done = false;
                    break;
                }
            }
            let flushed = pending.flush(|| self.flush_remote_tlbs());
            drop(lock);
            flushed.free(&tables);
        }
    }

    /// Has the next write to all pages of a slot that has begun to log be seen.
    pub(super) fn begin_logging(&self, region: &Region) {
        let mut span = Span::new(region.base_gfn, region.end_gfn());
        loop {
            let mut pending = Pending::new();
            let lock = self.lock.read();
            let tables = self.tables();
            let progress = self.watch(&tables, &mut span, super::PORTION, &mut pending);
            let flushed = pending.flush(|| self.flush_remote_tlbs());
            drop(lock);
            flushed.free(&tables);
            drop(tables);
            if progress == Progress::Done {
                break;
            }
        }
    }

    /// A portion of pages, under mmu_lock, for the processor's log or for faults.
    fn watch(
        &self,
        tables: &Tables<'_>,
        span: &mut Span,
        budget: Budget,
        pending: &mut Pending,
    ) -> Progress {
        let ept = self.ept(tables);
        if host().vmcs.features.pml {
            ept.watch_writes(span, budget, pending)
        } else {
            ept.write_protect(span, WriteProtect::ForLogging, budget, pending)
        }
    }

    /// Whether some slot logs writes.
    pub(crate) fn logs_writes(&self) -> bool {
        self.logging_slots.load(Ordering::Acquire) != 0
    }

    /// Counts the slots that log after `change` was published. When this returns, no vCPU is in the guest with its log off
    /// while there is one.
    pub(super) fn count_logging(&self, change: &Change) {
        let logs = |r: &Region| r.logs_dirty_pages();
        let (before, after) = match change {
            Change::Create(new) => (false, logs(new)),
            Change::Delete(old) => (logs(old), false),
            Change::Move { old, new } | Change::FlagsOnly { old, new } => (logs(old), logs(new)),
            Change::Nothing => (false, false),
        };
        let switched = match (before, after) {
            (false, true) => self.logging_slots.fetch_add(1, Ordering::AcqRel) == 0,
            (true, false) => self.logging_slots.fetch_sub(1, Ordering::AcqRel) == 1,
            _ => false,
        };
        if !switched || !host().vmcs.features.pml {
            return;
        }
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(Request::DirtyLogging);
        }
        self.collect_processor_logs();
    }

    /// Gets every vCPU out of the guest for a moment: it empties its processor's log on the way.
    fn collect_processor_logs(&self) {
        if host().vmcs.features.pml {
            for vcpu in self.vcpus.iter() {
                vcpu.requests.kick_and_wait();
            }
        }
    }

    /// Records the frames that a processor has logged. Does not sleep.
    pub(crate) fn mark_logged(&self, frames: impl Iterator<Item = Gfn>) {
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        let mut hint = 0;
        for gfn in frames {
            // A slot that is gone needs no log.
            if let Some(slot) = slots.table().find_near(gfn, &mut hint) {
                slots.mark_dirty(&slot.region, gfn);
            }
        }
    }
}
