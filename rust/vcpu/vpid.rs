// SPDX-License-Identifier: GPL-2.0

//! Virtual-processor identifiers: one for each vCPU of this host, so that entries and exits keep the TLB
//! (SDM, "Virtual-Processor Identifiers").

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

const WORDS: usize = 65536 / 64;

/// A bit for each VPID in use. VPID 0 is the host's.
static IN_USE: [AtomicU64; WORDS] = {
    let mut map = [const { AtomicU64::new(0) }; WORDS];
    map[0] = AtomicU64::new(1);
    map
};

/// A VPID, given back on drop.
pub(crate) struct Vpid(u16);

impl Vpid {
    /// The lowest free one; `None` when all 65535 are in use, and then the vCPU runs without.
    pub(crate) fn allocate() -> Option<Self> {
        for (i, word) in IN_USE.iter().enumerate() {
            let mut old = word.load(Ordering::Relaxed);
            while old != u64::MAX {
                let bit = old.trailing_ones();
                match word.compare_exchange_weak(
                    old,
                    old | 1 << bit,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        return Some(Self((i as u32).wrapping_mul(64).wrapping_add(bit) as u16))
                    }
                    Err(now) => old = now,
                }
            }
        }
        None
    }

    /// The number for the VMCS.
    pub(crate) fn number(&self) -> u16 {
        self.0
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        if let Some(word) = IN_USE.get(usize::from(self.0 / 64)) {
            word.fetch_and(!(1 << (self.0 % 64)), Ordering::Release);
        }
    }
}
