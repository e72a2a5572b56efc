// SPDX-License-Identifier: GPL-2.0

//! The kernel's own accesses to guest memory, by guest physical address: through the slots and the VMM's mapping.
//!
//! All of them may sleep for a page, and need a thread of the VM's own process, which every ioctl has checked.

use rkvm_core::{
    addr::{
        Gfn,
        Gpa,
        Hva, //
    },
    memslots::Region,
};

use super::{
    slots::Slots,
    Mmu,
    NoMemory, //
};
use crate::sys::usermem::{
    self,
    Exchange,
    UserFault,
    UserScalar, //
};

/// What became of a [`Mmu::compare_exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// The old value was there; now the new one is.
    Done,
    /// Something else is there.
    Changed,
}

impl From<UserFault> for NoMemory {
    #[inline]
    fn from(_: UserFault) -> Self {
        NoMemory
    }
}

impl Slots {
    /// As [`Self::hva`], for a write.
    #[inline]
    fn hva_to_write(&self, gpa: Gpa) -> Result<(Hva, &Region), NoMemory> {
        let (hva, region) = self.hva(gpa).ok_or(NoMemory)?;
        if region.is_writable() {
            Ok((hva, region))
        } else {
            Err(NoMemory)
        }
    }

    pub(super) fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), NoMemory> {
        let (mut at, mut rest) = (gpa, to);
        while !rest.is_empty() {
            let n = rest.len().min(at.bytes_to_page_end() as usize);
            let (now, later) = rest.split_at_mut_checked(n).ok_or(NoMemory)?;
            let (hva, _) = self.hva(at).ok_or(NoMemory)?;
            usermem::copy_from(hva, now)?;
            at = at.wrapping_add(n as u64);
            rest = later;
        }
        Ok(())
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        let (mut at, mut rest) = (gpa, from);
        while !rest.is_empty() {
            let n = rest.len().min(at.bytes_to_page_end() as usize);
            let (now, later) = rest.split_at_checked(n).ok_or(NoMemory)?;
            let (hva, region) = self.hva_to_write(at)?;
            usermem::copy_to(hva, now)?;
            self.mark_stored(region, at.frame());
            at = at.wrapping_add(n as u64);
            rest = later;
        }
        Ok(())
    }

    /// Reads one integer that lies in one page.
    #[inline]
    pub(super) fn read_scalar<T: UserScalar>(&self, gpa: Gpa) -> Result<T, NoMemory> {
        let (hva, _) = self.hva(gpa).ok_or(NoMemory)?;
        Ok(usermem::read(hva)?)
    }

    /// As [`Self::read_scalar`], with a hint for the slot.
    #[inline]
    pub(super) fn read_scalar_near<T: UserScalar>(
        &self,
        gpa: Gpa,
        hint: &mut u16,
    ) -> Result<T, NoMemory> {
        let (hva, _) = self.hva_near(gpa, hint).ok_or(NoMemory)?;
        Ok(usermem::read(hva)?)
    }

    /// Exchanges one aligned integer.
    #[inline]
    pub(super) fn exchange<T: UserScalar>(
        &self,
        gpa: Gpa,
        old: T,
        new: T,
    ) -> Result<Swapped, NoMemory> {
        let (hva, region) = self.hva_to_write(gpa)?;
        let done = swapped(usermem::cmpxchg(hva, old, new)?);
        if done == Swapped::Done {
            self.mark_dirty(region, gpa.frame());
        }
        Ok(done)
    }

    fn exchange_u128(&self, gpa: Gpa, old: u128, new: u128) -> Result<Swapped, NoMemory> {
        let (hva, region) = self.hva_to_write(gpa)?;
        let done = swapped(usermem::cmpxchg_u128(hva, old, new)?);
        if done == Swapped::Done {
            self.mark_dirty(region, gpa.frame());
        }
        Ok(done)
    }

    /// Compares and exchanges an operand that lies in two cache lines: no other CPU is kept out, as on C KVM, which gives
    /// such an operand a plain write.
    fn exchange_split(
        &self,
        gpa: Gpa,
        bytes: usize,
        old: u128,
        new: u128,
    ) -> Result<Swapped, NoMemory> {
        let mut found = [0u8; 16];
        let found = found.get_mut(..bytes).ok_or(NoMemory)?;
        self.read(gpa, found)?;
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        if old.get(..bytes) != Some(&*found) {
            return Ok(Swapped::Changed);
        }
        self.write(gpa, new.get(..bytes).ok_or(NoMemory)?)?;
        Ok(Swapped::Done)
    }
}

#[inline]
fn swapped<T>(exchange: Exchange<T>) -> Swapped {
    match exchange {
        Exchange::Done => Swapped::Done,
        Exchange::Found(_) => Swapped::Changed,
    }
}

/// A page of the guest and the next one may lie anywhere in the VMM, so an address there is good up to the end of its page
/// only: behind the last page of a slot is memory of the VMM's own.
#[inline]
fn in_one_page<T>(gpa: Gpa) -> Result<(), NoMemory> {
    if size_of::<T>() as u64 <= gpa.bytes_to_page_end() {
        Ok(())
    } else {
        Err(NoMemory)
    }
}

impl Mmu {
    /// Reads guest memory; may cross pages.
    pub(crate) fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), NoMemory> {
        let guard = self.slots.srcu().read();
        self.slots.read(&guard).read(gpa, to)
    }

    /// Writes guest memory; may cross pages. What comes before a page that can't be written is written.
    pub(crate) fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        let guard = self.slots.srcu().read();
        self.slots.read(&guard).write(gpa, from)
    }

    /// Reads one integer in one access. One that crosses a page is in no memory.
    #[inline]
    pub(crate) fn read_scalar<T: UserScalar>(&self, gpa: Gpa) -> Result<T, NoMemory> {
        in_one_page::<T>(gpa)?;
        let guard = self.slots.srcu().read();
        self.slots.read(&guard).read_scalar(gpa)
    }

    /// Writes one integer in one access. One that crosses a page is in no memory.
    #[inline]
    pub(crate) fn write_scalar<T: UserScalar>(&self, gpa: Gpa, value: T) -> Result<(), NoMemory> {
        in_one_page::<T>(gpa)?;
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        let (hva, region) = slots.hva_to_write(gpa)?;
        usermem::write(hva, value)?;
        slots.mark_stored(region, gpa.frame());
        Ok(())
    }

    /// Replaces `old` by `new`, both of 1, 2, 4, 8 or 16 bytes, if `old` is there: one locked access if the operand is
    /// in one cache line and, of 16 bytes, aligned.
    pub(crate) fn compare_exchange(
        &self,
        gpa: Gpa,
        bytes: u8,
        old: u128,
        new: u128,
    ) -> Result<Swapped, NoMemory> {
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        if usermem::splits_line(gpa.0, bytes.into()) || (bytes == 16 && gpa.0 % 16 != 0) {
            return slots.exchange_split(gpa, usize::from(bytes), old, new);
        }
        match bytes {
            1 => slots.exchange(gpa, old as u8, new as u8),
            2 => slots.exchange(gpa, old as u16, new as u16),
            4 => slots.exchange(gpa, old as u32, new as u32),
            8 => slots.exchange(gpa, old as u64, new as u64),
            16 => slots.exchange_u128(gpa, old, new),
            _ => Err(NoMemory),
        }
    }

    /// Whether a slot answers an access to `gpa`, so that it is no MMIO.
    pub(crate) fn is_backed(&self, gpa: Gpa, write: bool) -> bool {
        self.gfn_to_hva(gpa.frame())
            .is_some_and(|(_, writable)| writable || !write)
    }

    /// Where a frame lies in the VMM, and whether the guest may write it.
    pub(crate) fn gfn_to_hva(&self, gfn: Gfn) -> Option<(Hva, bool)> {
        let guard = self.slots.srcu().read();
        let slots = self.slots.read(&guard);
        let (hva, region) = slots.hva(gfn.base())?;
        Some((hva, region.is_writable()))
    }
}
