// SPDX-License-Identifier: GPL-2.0

//! What happens to guest mappings when the host changes the VMM's memory (Documentation/mmu.rst, "The life of
//! an invalidation").

use core::sync::atomic::Ordering;

use rkvm_core::{
    addr::{
        Gfn,
        Hva, //
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
    Guarded,
    Mmu,
    PORTION, //
};
use crate::sys::{
    mmu_notifier::{
        HvaRange,
        NotifierOps,
        WouldBlock, //
    },
    rwlock::WriteGuard, //
};

/// The frames whose memory is in `range`, over all slots.
fn frames(slots: &Slots, range: HvaRange) -> impl Iterator<Item = (Gfn, Gfn)> + '_ {
    slots
        .table()
        .in_hva_range(range.start, range.end)
        .map(|(_, first, end)| (first, end))
}

impl Mmu {
    /// Whether `look`, on any range of frames of `range`, says that the guest used it.
    fn any_young(&self, range: HvaRange, look: impl Fn(Gfn, Gfn) -> bool) -> bool {
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        frames(slots, range).fold(false, |young, (first, end)| look(first, end) | young)
    }
}

impl NotifierOps for Mmu {
    fn invalidate_start(&self, range: HvaRange, may_block: bool) -> Result<(), WouldBlock> {
        let guard = self.slots.srcu().read();
        let slots = {
            let mut lock = self.lock.write();
            // Under the lock, so that a slot which appears is seen here, or sees that this has begun.
            let slots = self.slots.read(&guard);
            lock.invalidations.begin(frames(slots, range));
            slots
        };
        for (first, end) in frames(slots, range) {
            if may_block {
                self.zap(first, end);
            } else {
                self.zap_at_once(first, end);
            }
        }
        Ok(())
    }

    fn invalidate_end(&self, _range: HvaRange) {
        let balanced = {
            let mut lock = self.lock.write();
            let balanced = lock.invalidations.end();
            self.sequence
                .store(lock.invalidations.sample().0, Ordering::Release);
            balanced
        };
        if !balanced {
            self.kill("an invalidation ended that had not begun");
        }
    }

    fn clear_flush_young(&self, range: HvaRange) -> bool {
        self.any_young(range, |first, end| {
            let lock = self.lock.read();
            let young = self.ept(&self.tables()).clear_young(first, end);
            if young {
                self.flush_remote_tlbs();
            }
            drop(lock);
            young
        })
    }

    fn clear_young(&self, range: HvaRange) -> bool {
        self.any_young(range, |first, end| {
            let _lock = self.lock.read();
            self.ept(&self.tables()).clear_young(first, end)
        })
    }

    fn test_young(&self, hva: Hva) -> bool {
        let range = HvaRange {
            start: hva,
            end: hva.wrapping_add(1),
        };
        self.any_young(range, |first, end| {
            let _lock = self.lock.read();
            self.ept(&self.tables()).test_young(first, end)
        })
    }

    fn release(&self) {
        self.zap_all();
    }
}

impl Mmu {
    /// Takes the mappings of a range of frames away, and makes that take effect on all CPUs. May sleep between portions.
    pub(super) fn zap(&self, first: Gfn, end: Gfn) {
        let mut span = Span::new(first, end);
        let mut lock = self.lock.write();
        while !self.zap_portion(&mut lock, &mut span, PORTION) {
            lock.cond_resched();
        }
    }

    /// As [`Self::zap`], without a break.
    fn zap_at_once(&self, first: Gfn, end: Gfn) {
        let mut lock = self.lock.write();
        self.zap_portion(&mut lock, &mut Span::new(first, end), Budget::UNLIMITED);
    }

    /// As [`Self::zap`], everything.
    pub(super) fn zap_all(&self) {
        self.zap(Gfn(0), Gfn(self.format.root.table_pages()));
    }

    /// One portion of a zap: clear, flush, free. Says whether it was the last.
    fn zap_portion(
        &self,
        _lock: &mut WriteGuard<'_, Guarded>,
        span: &mut Span,
        budget: Budget,
    ) -> bool {
        let mut pending = Pending::new();
        let tables = self.tables();
        let progress = self.ept(&tables).zap_range(span, budget, &mut pending);
        pending.flush(|| self.flush_remote_tlbs()).free(&tables);
        progress == Progress::Done
    }
}
