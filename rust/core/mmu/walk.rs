// SPDX-License-Identifier: GPL-2.0

//! The walk of the guest's own page tables: guest virtual to guest physical, with the faults that the processor would
//! raise.
//!
//! SDM volume 3, "Paging"; the counterpart of C KVM's `mmu/paging_tmpl.h`, reached by the emulator, by KVM_TRANSLATE and
//! later by shadow paging. One loop serves all paging modes: what differs is in [`GuestPaging`], as data.

use crate::addr::{
    Gpa,
    Gva, //
};
use crate::exception::{
    pfec,
    Exception, //
};

mod paging;
mod permission;

pub use paging::{
    pdpte_is_valid,
    GuestPaging,
    PagingFeatures,
    PagingMode, //
};
pub use permission::{
    AccessKind,
    GuestAccess,
    PageRights,
    Privilege,
    ProtectionState, //
};

use paging::{
    ACCESSED,
    DIRTY,
    PRESENT, //
};

/// Width of a paging-structure entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PteSize {
    /// 32-bit paging.
    Four = 4,
    /// All other modes.
    Eight = 8,
}

/// What became of [`GuestMemory::compare_exchange_pte`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PteUpdate {
    /// Written. The glue has marked the page dirty in the log.
    Done,
    /// The entry had another value.
    Changed,
    /// The memory is read-only to the guest: the flag stays clear and the walk goes on, as in a ROM.
    ReadOnly,
    /// There is no memory any more.
    Unreachable,
}

/// Guest physical memory, as a walk needs it.
pub trait GuestMemory {
    /// Why a walk may have to stop that is no business of the guest's: the glue's own (a fatal error, "may not sleep").
    type Stop;

    /// Reads an entry, once and as a whole; `Ok(None)` if no memory is there, which the guest sees as not present.
    ///
    /// # Errors
    ///
    /// Ends the walk with [`WalkError::Stop`].
    fn read_pte(&mut self, gpa: Gpa, size: PteSize) -> Result<Option<u64>, Self::Stop>;

    /// Exchanges an entry if it has the value `old`, atomically to the guest and through the mapping of user space only.
    ///
    /// # Errors
    ///
    /// Ends the walk with [`WalkError::Stop`].
    fn compare_exchange_pte(
        &mut self,
        gpa: Gpa,
        size: PteSize,
        old: u64,
        new: u64,
    ) -> Result<PteUpdate, Self::Stop>;
}

/// Where a walk starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkRoot {
    /// CR3.
    pub cr3: u64,
    /// The PDPTE registers: used with PAE paging only.
    pub pdptrs: [u64; 4],
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest physical address of the byte.
    pub gpa: Gpa,
    /// Size of the page in bytes; 4096 without paging.
    pub page_bytes: u64,
    /// What the page allows.
    pub rights: PageRights,
    /// The dirty flag of the page is set: if not, a first write has to walk again.
    pub dirty: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError<S> {
    /// The guest gets this #PF.
    Fault(Exception),
    /// Other vCPUs keep changing the tables: let the guest run the instruction again.
    Raced,
    /// From [`GuestMemory`].
    Stop(S),
}

/// Walks that lose a flag update to another vCPU before [`WalkError::Raced`].
const MAX_WALKS: u32 = 16;

/// The leaf that a walk has come to.
struct Found {
    pte: u64,
    page_bytes: u64,
    rights: PageRights,
    /// The accessed flag is set on each level.
    accessed: bool,
}

/// Why a walk ended early.
enum Miss<S> {
    /// #PF with these bits for the cause.
    Code(u32),
    Stop(S),
}

/// An entry on the way, with where it is.
#[derive(Clone, Copy, Default)]
struct Passed {
    gpa: Gpa,
    pte: u64,
}

impl GuestPaging {
    /// Translates `gva` for `access`, checks rights and sets accessed and dirty flags as the processor does. The caller
    /// has checked that `gva` is canonical.
    ///
    /// # Errors
    ///
    /// [`WalkError`].
    pub fn translate<M: GuestMemory + ?Sized>(
        &self,
        memory: &mut M,
        root: &WalkRoot,
        state: &ProtectionState,
        gva: Gva,
        access: GuestAccess,
    ) -> Result<Translation, WalkError<M::Stop>> {
        if self.mode() == PagingMode::None {
            return Ok(Self::untranslated(gva));
        }
        for _ in 0..MAX_WALKS {
            let mut path = [Passed::default(); 5];
            let mut steps = path.iter_mut();
            let found = self.descend(memory, root, gva, |passed| {
                if let Some(step) = steps.next() {
                    *step = passed;
                }
            });
            let left = steps.len();
            let done = path.len().saturating_sub(left);
            let found = found.map_err(|miss| self.error(miss, gva, access))?;
            if let Err(code) = self.check(&found.rights, state, access) {
                return Err(self.error(Miss::Code(code), gva, access));
            }
            let flags_set = found.accessed && (!access.is_write() || found.pte & DIRTY != 0);
            if flags_set
                || self
                    .set_flags(memory, path.get(..done).unwrap_or(&[]), access)
                    .map_err(|miss| self.error(miss, gva, access))?
            {
                return Ok(self.translation(&found, gva, access.is_write()));
            }
        }
        Err(WalkError::Raced)
    }

    /// The light form: reads the entries and nothing else. `None` whenever there is more to do than that (a fault, a flag
    /// to set, memory that stops): [`translate`](Self::translate) then does it all from the start.
    pub fn probe<M: GuestMemory + ?Sized>(
        &self,
        memory: &mut M,
        root: &WalkRoot,
        state: &ProtectionState,
        gva: Gva,
        access: GuestAccess,
    ) -> Option<Translation> {
        if self.mode() == PagingMode::None {
            return Some(Self::untranslated(gva));
        }
        let found = self.descend(memory, root, gva, |_| ()).ok()?;
        self.check(&found.rights, state, access).ok()?;
        let flags_set = found.accessed && (!access.is_write() || found.pte & DIRTY != 0);
        flags_set.then(|| self.translation(&found, gva, access.is_write()))
    }

    /// Without paging a linear address is a physical one, 32 bits wide.
    fn untranslated(gva: Gva) -> Translation {
        Translation {
            gpa: Gpa(gva.0 & u64::from(u32::MAX)),
            page_bytes: crate::addr::PAGE_SIZE,
            rights: PageRights::ALL,
            dirty: true,
        }
    }

    fn translation(&self, found: &Found, gva: Gva, written: bool) -> Translation {
        Translation {
            gpa: self.leaf_address(found.pte, found.page_bytes, gva),
            page_bytes: found.page_bytes,
            rights: found.rights,
            dirty: written || found.pte & DIRTY != 0,
        }
    }

    /// From the root to the leaf; `passed` gets each entry that a flag could be set in.
    #[inline]
    fn descend<M: GuestMemory + ?Sized>(
        &self,
        memory: &mut M,
        root: &WalkRoot,
        gva: Gva,
        mut passed: impl FnMut(Passed),
    ) -> Result<Found, Miss<M::Stop>> {
        let Some(mut table) = self.first_table(root, gva) else {
            return Err(Miss::Code(0));
        };
        // What every entry on the way has, and what any has.
        let (mut all, mut any) = (u64::MAX, 0);
        for level in self.levels() {
            let gpa = self.entry_address(table, level, gva);
            let pte = match memory.read_pte(gpa, self.pte_size()) {
                Ok(Some(pte)) => pte,
                Ok(None) => return Err(Miss::Code(0)),
                Err(stop) => return Err(Miss::Stop(stop)),
            };
            if pte & PRESENT == 0 {
                return Err(Miss::Code(0));
            }
            let leaf = level.is_leaf(pte);
            if pte & level.reserved_bits(leaf) != 0 {
                return Err(Miss::Code(pfec::PRESENT | pfec::RSVD));
            }
            passed(Passed { gpa, pte });
            all &= pte;
            any |= pte;
            if leaf {
                return Ok(Found {
                    pte,
                    page_bytes: level.page_bytes(),
                    rights: PageRights::of_path(all, any, pte),
                    accessed: all & ACCESSED != 0,
                });
            }
            table = self.table_address(pte);
        }
        // The last level has leaves only; without paging there is no level, and nobody comes here.
        Err(Miss::Code(0))
    }

    /// Sets the accessed flags of the path and, for a write, the dirty flag of its last entry. `false` if an entry has
    /// changed since it was read: what it says now may be something else.
    fn set_flags<M: GuestMemory + ?Sized>(
        &self,
        memory: &mut M,
        path: &[Passed],
        access: GuestAccess,
    ) -> Result<bool, Miss<M::Stop>> {
        let mut rest = path.iter();
        while let Some(step) = rest.next() {
            let last = rest.len() == 0;
            let mut new = step.pte | ACCESSED;
            if last && access.is_write() {
                new |= DIRTY;
            }
            if new == step.pte {
                continue;
            }
            match memory.compare_exchange_pte(step.gpa, self.pte_size(), step.pte, new) {
                Ok(PteUpdate::Done | PteUpdate::ReadOnly) => (),
                Ok(PteUpdate::Changed) => return Ok(false),
                Ok(PteUpdate::Unreachable) => return Err(Miss::Code(0)),
                Err(stop) => return Err(Miss::Stop(stop)),
            }
        }
        Ok(true)
    }

    fn error<S>(&self, miss: Miss<S>, gva: Gva, access: GuestAccess) -> WalkError<S> {
        match miss {
            Miss::Code(cause) => {
                WalkError::Fault(Exception::pf(gva, cause | self.access_code(access)))
            }
            Miss::Stop(stop) => WalkError::Stop(stop),
        }
    }
}
