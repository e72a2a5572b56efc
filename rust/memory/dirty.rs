// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a slot: one bit a page (api.rst, "KVM_GET_DIRTY_LOG").
//!
//! While a slot logs, a page is writable in the EPT only if its bit is set. So a write to any other page faults, and the
//! fault sets the bit; reading the log clears bits and takes write access away again.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::prelude::*;
use rkvm_core::{
    addr::Gfn,
    memslots::{
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

use super::Mmu;
use crate::sys::uabi::UserArg;

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

    /// Moves the bits to `snapshot` and write-protects their pages.
    ///
    /// The bits are taken first: a write between the two goes through an entry that is writable still, to a page that
    /// the snapshot reports, and user space reads the page after the flush.
    fn take_log(&self, region: &Region, log: &DirtyLog, snapshot: &mut [u64]) {
        let mut words = log.words.iter().zip(snapshot.iter_mut());
        let mut first = region.base_gfn;
        let mut done = false;
        while !done {
            let mut pending = Pending::new();
            let lock = self.lock.read();
            let tables = self.tables();
            let ept = self.ept(&tables);
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
                let _done = ept.write_protect(
                    &mut span,
                    WriteProtect::ForLogging,
                    Budget::UNLIMITED,
                    &mut pending,
                );
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

    /// Takes write access from all pages of a slot that has begun to log.
    pub(super) fn begin_logging(&self, region: &Region) {
        let mut span = Span::new(region.base_gfn, region.end_gfn());
        loop {
            let mut pending = Pending::new();
            let lock = self.lock.read();
            let tables = self.tables();
            let progress = self.ept(&tables).write_protect(
                &mut span,
                WriteProtect::ForLogging,
                super::PORTION,
                &mut pending,
            );
            let flushed = pending.flush(|| self.flush_remote_tlbs());
            drop(lock);
            flushed.free(&tables);
            drop(tables);
            if progress == Progress::Done {
                break;
            }
        }
    }
}
