// SPDX-License-Identifier: GPL-2.0

//! The guest's own page tables: guest virtual to guest physical, for the emulator and for KVM_TRANSLATE.

use core::convert::Infallible;

use rkvm_core::{
    addr::{
        Gpa,
        Gva, //
    },
    cpuid::{
        features,
        guest::GuestCaps, //
    },
    memslots::Generation,
    mmu::walk::{
        GuestAccess,
        GuestMemory,
        GuestPaging,
        PagingFeatures,
        PagingMode,
        ProtectionState,
        PteSize,
        PteUpdate,
        Translation,
        WalkError,
        WalkRoot, //
    },
    regs::{
        cr0,
        rflags, //
    },
    vmx::{
        fields::*,
        Vmcs, //
    }, //
};

use super::{
    access::Swapped,
    slots::Slots, //
};
use crate::{
    sys::{
        uabi::kvm_translation,
        usermem, //
    },
    vcpu::Running, //
};

/// Bytes that are read of code at once: more than the longest instruction.
const CODE_BYTES: u64 = 16;

/// Guest memory during a walk: the slots, held by SRCU, and where the last page table was found.
struct Tables<'a> {
    slots: &'a Slots,
    hint: u16,
}

impl GuestMemory for Tables<'_> {
    type Stop = Infallible;

    #[inline]
    fn read_pte(&mut self, gpa: Gpa, size: PteSize) -> Result<Option<u64>, Infallible> {
        Ok(match size {
            PteSize::Eight => self.slots.read_scalar_near::<u64>(gpa, &mut self.hint).ok(),
            PteSize::Four => self
                .slots
                .read_scalar_near::<u32>(gpa, &mut self.hint)
                .ok()
                .map(u64::from),
        })
    }

    fn compare_exchange_pte(
        &mut self,
        gpa: Gpa,
        size: PteSize,
        old: u64,
        new: u64,
    ) -> Result<PteUpdate, Infallible> {
        let done = match size {
            PteSize::Eight => self.slots.exchange(gpa, old, new),
            PteSize::Four => self.slots.exchange(gpa, old as u32, new as u32),
        };
        Ok(match done {
            Ok(Swapped::Done) => PteUpdate::Done,
            Ok(Swapped::Changed) => PteUpdate::Changed,
            Err(_) if self.slots.hva(gpa).is_some_and(|(_, r)| !r.is_writable()) => {
                PteUpdate::ReadOnly
            }
            Err(_) => PteUpdate::Unreachable,
        })
    }
}

impl Tables<'_> {
    /// The 16 bytes from `gpa` on, which lie in one page.
    #[inline]
    fn load16(&mut self, gpa: Gpa) -> Option<u128> {
        let (hva, _) = self.slots.hva_near(gpa, &mut self.hint)?;
        usermem::read16(hva).ok()
    }

    /// Copies up to 16 bytes that lie in one page.
    #[inline]
    fn copy16(&mut self, gpa: Gpa, to: &mut [u8]) -> bool {
        let Some(bytes) = self.load16(gpa) else {
            return false;
        };
        for (to, from) in to.iter_mut().zip(bytes.to_le_bytes()) {
            *to = from;
        }
        true
    }
}

/// The guest's paging mode as it was computed last, and for which registers.
pub(crate) struct PagingCache {
    made_for: (u64, u64, u64),
    paging: Option<GuestPaging>,
}

impl PagingCache {
    pub(super) const fn new() -> Self {
        Self {
            made_for: (0, 0, 0),
            paging: None,
        }
    }

    /// CPUID has changed.
    pub(super) fn forget(&mut self) {
        self.paging = None;
    }

    #[inline]
    fn get(&mut self, registers: (u64, u64, u64), caps: &GuestCaps) -> &GuestPaging {
        if self.made_for != registers {
            self.paging = None;
            self.made_for = registers;
        }
        let (cr0, cr4, efer) = registers;
        self.paging
            .get_or_insert_with(|| GuestPaging::new(cr0, cr4, efer, &paging_features(caps)))
    }
}

fn paging_features(caps: &GuestCaps) -> PagingFeatures {
    PagingFeatures {
        max_phys_bits: caps.maxphyaddr,
        gb_pages: caps.has(features::GBPAGES),
        pse36: caps.has(features::PSE36),
    }
}

impl Running<'_> {
    /// Translates a canonical linear address as the processor would, accessed and dirty flags included.
    pub(crate) fn translate(
        &mut self,
        gva: Gva,
        access: GuestAccess,
    ) -> Result<Translation, WalkError<Infallible>> {
        self.with_paging(|paging, memory, root, state| {
            paging.translate(memory, root, state, gva, access)
        })
    }

    /// Fetches up to 16 instruction bytes at a canonical linear address that do not cross a page; returns how many, 0 if
    /// there is no memory.
    pub(crate) fn fetch_code(
        &mut self,
        at: Gva,
        access: GuestAccess,
        to: &mut [u8],
    ) -> Result<usize, WalkError<Infallible>> {
        let room = (at.bytes_to_page_end() as usize).min(to.len());
        self.with_paging(|paging, memory, root, state| {
            let gpa = paging.translate(memory, root, state, at, access)?.gpa;
            let done = if room >= 8 && at.bytes_to_page_end() >= 16 {
                // The common case in two loads: a copy byte by byte costs more than the decode.
                memory.copy16(gpa, to)
            } else {
                to.get_mut(..room)
                    .is_some_and(|to| memory.slots.read(gpa, to).is_ok())
            };
            Ok(if done { room.min(16) } else { 0 })
        })
    }

    /// As [`Self::fetch_code`], with interrupts off and no lock: the bytes, the first in the lowest bits, and how many.
    /// `None` if there is anything to do besides reading (to wait for a page, to set an accessed flag, to raise a fault),
    /// or if `slots` is given and the slots are of another generation.
    pub(crate) fn peek_code(
        &mut self,
        at: Gva,
        access: GuestAccess,
        slots: Option<Generation>,
    ) -> Option<(u128, u8)> {
        // The 16 bytes that end with the page, if the page ends before.
        let before = CODE_BYTES.saturating_sub(at.bytes_to_page_end());
        usermem::without_waiting(|| {
            self.with_paging(|paging, memory, root, state| {
                if slots.is_some_and(|g| g != memory.slots.generation()) {
                    return None;
                }
                let gpa = paging.probe(memory, root, state, at, access)?.gpa;
                let code = memory.load16(Gpa(gpa.0.wrapping_sub(before)))?;
                let missing = before as u32;
                Some((
                    code.wrapping_shr(missing.wrapping_mul(8)),
                    CODE_BYTES.wrapping_sub(before) as u8,
                ))
            })
        })
    }

    /// KVM_TRANSLATE, answered as C KVM does: rights are not told, only whether there is a translation.
    pub(crate) fn translate_for_user(&mut self, t: &mut kvm_translation) {
        let gva = Gva(t.linear_address);
        let gpa = if self.arch.cr0 & cr0::PG == 0 {
            // An address is its own translation then, whatever its width. But for one, which stands for none.
            Some(gva.0).filter(|gpa| *gpa != u64::MAX)
        } else {
            let found = self.translate(gva, GuestAccess::SUPERVISOR_READ);
            found.ok().map(|t| t.gpa.0)
        };
        t.physical_address = gpa.unwrap_or(u64::MAX);
        t.valid = gpa.is_some().into();
        t.writeable = 1;
        t.usermode = 0;
    }

    fn with_paging<R>(
        &mut self,
        walk: impl FnOnce(&GuestPaging, &mut Tables<'_>, &WalkRoot, &ProtectionState) -> R,
    ) -> R {
        let hw = self.hw;
        let arch = &mut *self.arch;
        // Of the bits that paging depends on, WP alone is the guest's to change without an exit.
        let write_protect = hw.read(GUEST_CR0) & cr0::WP;
        let registers = ((arch.cr0 & !cr0::WP) | write_protect, arch.cr4, arch.efer);
        let paging = arch.mmu.paging.get(registers, &arch.caps);
        let mode = paging.mode();
        let mut root = WalkRoot::default();
        let mut state = ProtectionState::default();
        if mode != PagingMode::None {
            root.cr3 = hw.read(GUEST_CR3);
            state.ac = hw.read(GUEST_RFLAGS) & rflags::AC != 0;
            state.pkru = hw.pkru();
        }
        if mode == PagingMode::Pae {
            root.pdptrs = [
                hw.read(GUEST_PDPTR0),
                hw.read(GUEST_PDPTR1),
                hw.read(GUEST_PDPTR2),
                hw.read(GUEST_PDPTR3),
            ];
        }
        let memory = &self.vm.memory;
        let guard = memory.slots.srcu().read();
        walk(
            paging,
            &mut Tables {
                slots: memory.slots.read(&guard),
                hint: 0,
            },
            &root,
            &state,
        )
    }
}
