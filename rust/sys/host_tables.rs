// SPDX-License-Identifier: GPL-2.0

//! What the host's page tables map in the memory of the VM's owner, read without taking a reference to a page.
//!
//! [`mapped`] reads them under the MMU lock, which holds up the mmu_notifier: what it finds is the VMM's for as long, and
//! is installed at once. From then on the mmu_notifier says when the mapping must go. What it does not find
//! ([`HostPages`] says why) comes by [`super::gup`].

use super::addr::{Hva, Pfn};
use super::bindings;
use kernel::page::PAGE_SHIFT;

/// How much the host maps at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostLevel {
    /// 4 KiB.
    K4,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

impl HostLevel {
    /// From `RKVM_HOST_4K` and so on.
    #[inline]
    const fn from_raw(level: u32) -> Self {
        match level {
            bindings::RKVM_HOST_1G => Self::G1,
            bindings::RKVM_HOST_2M => Self::M2,
            _ => Self::K4,
        }
    }
}

/// Most pages that [`mapped`] looks up at once.
pub(crate) const MOST_PAGES: u32 = 16;

/// Pages that the host maps one after another, as its page tables had them when [`mapped`] looked.
///
/// Only ordinary memory: anonymous, shared or huge pages. Neither what the VMM itself may not touch just so (PROT_NONE, NUMA
/// hinting, protection keys), nor device memory, nor files that a file system wants to be asked for before each write.
pub(crate) struct HostPages {
    pages: [u64; MOST_PAGES as usize],
    found: u32,
}

impl HostPages {
    /// All of them, in order, the one at the address first.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = MappedPage> + Clone + '_ {
        let found = self.pages.get(..self.found as usize).unwrap_or(&[]);
        found.iter().copied().map(MappedPage)
    }
}

/// A page of [`HostPages`].
#[derive(Clone, Copy)]
pub(crate) struct MappedPage(u64);

impl MappedPage {
    /// The frame to map: that of the address, also inside a large page.
    #[inline]
    pub(crate) fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Whether the guest may be given write access.
    #[inline]
    pub(crate) fn writable(self) -> bool {
        self.0 & u64::from(bindings::RKVM_HOST_WRITABLE) != 0
    }

    /// How much the host maps at once here.
    #[inline]
    pub(crate) fn level(self) -> HostLevel {
        HostLevel::from_raw((self.0 & u64::from(bindings::RKVM_HOST_LEVEL)) as u32)
    }

    /// Tells the host that the guest uses the page, and that it can write it from now on. Under the MMU lock under which
    /// the page was found, because after an invalidation it may be too late to mark a page.
    #[inline]
    pub(crate) fn note_use(self, accessed: bool, dirty: bool) {
        // SAFETY: The frame was that of ordinary memory, which has a `struct page` for ever.
        unsafe { bindings::rkvm_note_use(self.pfn().0, accessed, dirty) };
    }
}

/// The pages from `hva` on in the memory map of the calling thread: `count` at most, up to the first that is not there or
/// is not ordinary memory, all in one table. They are the VMM's as long as the caller holds the MMU lock, if no
/// invalidation of them was in progress when it got it. Does not sleep.
#[inline]
pub(crate) fn mapped(hva: Hva, count: u32) -> HostPages {
    let mut pages = [0; MOST_PAGES as usize];
    let count = count.min(MOST_PAGES);
    // SAFETY: There is room for `count`; the function checks the address.
    let found = unsafe { bindings::rkvm_host_pages(hva.0 as usize, pages.as_mut_ptr(), count) };
    HostPages { pages, found }
}

/// How much the host maps at once around `hva` in the calling thread's memory map: the upper limit for the guest's
/// mapping. Right as long as no invalidation begins: under the MMU lock, after the sequence check. Does not sleep.
#[inline]
pub(crate) fn mapping_level(hva: Hva) -> HostLevel {
    // SAFETY: No requirements.
    HostLevel::from_raw(unsafe { bindings::rkvm_host_mapping_level(hva.0 as usize) })
}
