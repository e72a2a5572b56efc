// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a slot: one bit a page (api.rst, "KVM_GET_DIRTY_LOG").
//!
//! While a slot logs, a page is writable in the EPT only if its bit is set. So a write to any other page faults, and the
//! fault sets the bit, as does one by a read that maps what the host has writable; reading the log clears bits and takes write access away again. Where the processor logs which
//! dirty flags it sets, reading the log takes the dirty flag only: the next write does not fault, it comes in that log.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    addr::Gfn,
    memslots::{
        Change,
        Region,
        USER_MEM_SLOTS, //
    },
    mmu::{
        ept::{
            Budget,
            Progress,
            Span, //
        },
        memory::Pending, //
    },
};

use super::{
    slots::Slots,
    tables::Tables,
    Mmu, //
};
use crate::{
    host::host,
    sys::uabi::UserArg,
    vcpu::requests::Request, //
};

const WORD_BITS: u64 = 64;

/// KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: reading the log leaves it as it is, KVM_CLEAR_DIRTY_LOG starts again.
pub(crate) const MANUAL_PROTECT: u32 = 1 << 0;
/// KVM_DIRTY_LOG_INITIALLY_SET: in a new log all pages are dirty, so none has to be watched before its bit is cleared.
pub(crate) const INITIALLY_SET: u32 = 1 << 1;

/// Words of a bitmap of so many pages.
fn words_for(pages: u64) -> usize {
    pages.div_ceil(WORD_BITS) as usize
}

/// The bitmap.
pub(crate) struct DirtyLog {
    words: KVVec<AtomicU64>,
    /// It began with all pages dirty.
    began_full: bool,
}

impl DirtyLog {
    /// All pages clean, or all dirty. ENOMEM.
    pub(super) fn new(pages: u64, full: bool) -> Result<Self> {
        let n = words_for(pages);
        let mut words = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        let first = if full { u64::MAX } else { 0 };
        for _ in 0..n {
            words.push(AtomicU64::new(first), GFP_KERNEL_ACCOUNT)?;
        }
        // The last word may have bits of no page.
        let used = pages % WORD_BITS;
        if let (Some(last), 1..) = (words.last_mut(), used) {
            *last.get_mut() = first & ((1 << used) - 1);
        }
        Ok(Self {
            words,
            began_full: full,
        })
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

/// A slot and its log. EINVAL for an id out of range, ENOENT if there is no such slot or it does not log.
fn logging(slots: Option<&Slots>, slot: u32) -> Result<(Region, &Arc<DirtyLog>)> {
    if slot >= u32::from(USER_MEM_SLOTS) {
        return Err(EINVAL);
    }
    let slots = slots.ok_or(EIO)?;
    let region = slots.table().find_id(slot as u16).ok_or(ENOENT)?.region;
    let log = slots.log(&region).ok_or(ENOENT)?;
    Ok((region, log))
}

impl Mmu {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, from the next call on.
    pub(crate) fn set_dirty_log_mode(&self, mode: u32) {
        self.dirty_log_mode.store(mode, Ordering::Relaxed);
    }

    fn dirty_log_mode(&self, flag: u32) -> bool {
        self.dirty_log_mode.load(Ordering::Relaxed) & flag != 0
    }

    /// The log that a slot needs: the one it has, or a new one. ENOMEM.
    pub(super) fn log_for(
        &self,
        new: &Region,
        old: Option<&Arc<DirtyLog>>,
    ) -> Result<Option<Arc<DirtyLog>>> {
        match old {
            _ if !new.logs_dirty_pages() => Ok(None),
            Some(log) => Ok(Some(log.clone())),
            None => {
                let log = DirtyLog::new(new.npages, self.dirty_log_mode(INITIALLY_SET))?;
                Ok(Some(Arc::new(log, GFP_KERNEL_ACCOUNT)?))
            }
        }
    }

    /// KVM_GET_DIRTY_LOG: writes the bitmap of a slot to user space and, if it is not left to user space, starts again from
    /// a clean one.
    ///
    /// EINVAL for an id out of range, ENOENT if there is no such slot or it does not log.
    pub(crate) fn get_dirty_log(&self, slot: u32, to: UserArg) -> Result {
        let writer = self.writer.lock();
        let (region, log) = logging(writer.as_deref(), slot)?;
        let mut snapshot = KVVec::with_capacity(log.words.len(), GFP_KERNEL_ACCOUNT)?;
        snapshot.resize(log.words.len(), u64::MAX, GFP_KERNEL_ACCOUNT)?;
        if self.dirty_log_mode(MANUAL_PROTECT) {
            self.collect_processor_logs();
            for (word, copy) in log.words.iter().zip(snapshot.iter_mut()) {
                *copy = word.load(Ordering::Relaxed);
            }
        } else {
            self.take_log(&region, log, 0, &mut snapshot);
        }
        to.write_slice(&snapshot)
    }

    /// KVM_CLEAR_DIRTY_LOG: clears the bits of some pages that the bitmap of user space has, and sees the next writes to them.
    ///
    /// `first` and, up to the end of the slot, `pages` are multiples of 64, or it is EINVAL. Other errors are those of
    /// [`Self::get_dirty_log`].
    pub(crate) fn clear_dirty_log(
        &self,
        slot: u32,
        first: u64,
        pages: u64,
        from: UserArg,
    ) -> Result {
        let writer = self.writer.lock();
        if slot >= u32::from(USER_MEM_SLOTS) || first % WORD_BITS != 0 {
            return Err(EINVAL);
        }
        let (region, log) = logging(writer.as_deref(), slot)?;
        let left = region.npages.checked_sub(first).ok_or(EINVAL)?;
        if pages > left || (pages < left && pages % WORD_BITS != 0) {
            return Err(EINVAL);
        }
        let mut wanted = from.read_vec::<u64>(words_for(pages))?;
        self.take_log(&region, log, first, &mut wanted);
        Ok(())
    }

    /// Moves the bits that `snapshot` has, from that of page `page` on, to `snapshot` and has the next writes to their pages
    /// be seen. A slot's last word may be asked for bits of no page, which are not set.
    ///
    /// The bits are taken first: a write between the two goes through an entry that lets it pass unseen, to a page that
    /// the snapshot reports, and user space reads the page after the flush.
    fn take_log(&self, region: &Region, log: &DirtyLog, page: u64, snapshot: &mut [u64]) {
        self.collect_processor_logs();
        let words = log.words.iter().skip((page / WORD_BITS) as usize);
        let mut words = words.zip(snapshot.iter_mut());
        let mut first = region.base_gfn.wrapping_add(page);
        let mut done = false;
        while !done {
            let mut pending = Pending::new();
            let lock = self.lock.read();
            let tables = self.tables();
            done = true;
            for (word, taken) in words.by_ref() {
                let start = first;
                first = start.wrapping_add(WORD_BITS);
                let wanted = *taken;
                *taken = if word.load(Ordering::Relaxed) & wanted == 0 {
                    0
                } else if wanted == u64::MAX {
                    word.swap(0, Ordering::AcqRel)
                } else {
                    word.fetch_and(!wanted, Ordering::AcqRel) & wanted
                };
                if *taken == 0 {
                    continue;
                }
                let from = start.wrapping_add(taken.trailing_zeros().into());
                let end = start.wrapping_add(WORD_BITS - u64::from(taken.leading_zeros()));
                let mut span = Span::new(from, end);
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

    /// Has the next write to all pages of a slot that has begun to log be seen, unless they are dirty as it is.
    pub(super) fn begin_logging(&self, region: &Region, log: &DirtyLog) {
        if log.began_full {
            return;
        }
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
            ept.write_protect(span, budget, pending)
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
