// SPDX-License-Identifier: GPL-2.0

//! The two pages of a local APIC that other CPUs, and the processor itself, may touch.
//!
//! The registers are at the start of a page, because that is where the processor wants its virtual-APIC page (SDM,
//! "Virtualizing Memory-Mapped APIC Accesses").

use core::mem::size_of;
use core::ops::Deref;
use core::ptr::NonNull;

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::addr::Hpa;
use rkvm_core::irq::lapic::Shared;

use super::page::TablePage;

const ORDER: u32 = 1;
const _: () = assert!(size_of::<Shared>() == 4096 << ORDER);

/// The shared half of a local APIC, counted by reference.
///
/// # Invariants
///
/// `shared` points to the pages that `pages` owns, which were zeroed when they were made.
#[derive(Clone)]
pub(crate) struct ApicPages {
    shared: NonNull<Shared>,
    pages: Arc<TablePage>,
}

// SAFETY: `Shared` is made of atomic words, and the pages are counted.
unsafe impl Send for ApicPages {}
// SAFETY: As above.
unsafe impl Sync for ApicPages {}

impl ApicPages {
    /// Those of an APIC that does not exist yet. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let pages = Arc::new(TablePage::with_order(ORDER)?, GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: Fresh pages of the size of a `Shared`, aligned to their own size.
        Ok(Self {
            shared: NonNull::new(pages.as_ptr().cast()).ok_or(ENOMEM)?,
            pages,
        })
    }

    /// Where the register page is, for the processor.
    #[inline]
    pub(crate) fn registers(&self) -> Hpa {
        self.pages.hpa()
    }
}

impl Deref for ApicPages {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        // SAFETY: By the type invariant. Zero is a valid `Shared`, and it is only changed by atomic accesses.
        unsafe { self.shared.as_ref() }
    }
}
