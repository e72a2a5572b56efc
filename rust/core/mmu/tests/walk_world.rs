// SPDX-License-Identifier: GPL-2.0

//! Guest memory and registers, as a walk of the guest's page tables sees them, also random ones.

use crate::addr::*;
use crate::mmu::walk::*;
use crate::regs::*;
use std::vec;
use std::vec::Vec;

/// Pages of guest memory.
pub const PAGES: u64 = 12;

/// Guest memory from address 0 on. `None` beyond.
#[derive(Clone, PartialEq, Eq)]
pub struct Ram {
    pub bytes: Vec<u8>,
    pub read_only_page: Option<u64>,
    /// Before the first exchange, this entry gets this value: another vCPU.
    pub rival: Option<(u64, u64)>,
    pub reads: u32,
    pub stop_at_read: Option<u32>,
}

impl Ram {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; (PAGES * 4096) as usize],
            read_only_page: None,
            rival: None,
            reads: 0,
            stop_at_read: None,
        }
    }

    pub fn get(&self, gpa: u64, size: usize) -> Option<u64> {
        let at = usize::try_from(gpa).ok()?;
        let mut raw = [0; 8];
        raw[..size].copy_from_slice(self.bytes.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(raw))
    }

    pub fn set(&mut self, gpa: u64, size: usize, value: u64) {
        let at = gpa as usize;
        self.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

impl GuestMemory for Ram {
    type Stop = &'static str;

    fn read_pte(&mut self, gpa: Gpa, size: PteSize) -> Result<Option<u64>, Self::Stop> {
        self.reads += 1;
        if self.stop_at_read == Some(self.reads) {
            return Err("stop");
        }
        Ok(self.get(gpa.0, size as usize))
    }

    fn compare_exchange_pte(
        &mut self,
        gpa: Gpa,
        size: PteSize,
        old: u64,
        new: u64,
    ) -> Result<PteUpdate, Self::Stop> {
        if let Some((at, value)) = self.rival.take() {
            self.set(at, size as usize, value);
        }
        if self.read_only_page == Some(gpa.0 >> 12) {
            return Ok(PteUpdate::ReadOnly);
        }
        match self.get(gpa.0, size as usize) {
            None => Ok(PteUpdate::Unreachable),
            Some(found) if found != old => Ok(PteUpdate::Changed),
            Some(_) => {
                self.set(gpa.0, size as usize, new);
                Ok(PteUpdate::Done)
            }
        }
    }
}

/// Everything that a translation depends on.
#[derive(Clone, Debug)]
pub struct Guest {
    pub cr0: u64,
    pub cr4: u64,
    pub efer: u64,
    pub features: PagingFeatures,
    pub root: WalkRoot,
    pub state: ProtectionState,
}

impl Guest {
    pub fn paging(&self) -> GuestPaging {
        GuestPaging::new(self.cr0, self.cr4, self.efer, &self.features)
    }

    pub fn on(&self, bit: u64) -> bool {
        self.cr4 & bit != 0
    }
}

/// Cheap random numbers for the many details of a case (xorshift64*).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    pub fn word(&mut self) -> u64 {
        self.roll(1 << 22) << 44 | self.roll(1 << 22) << 22 | self.roll(1 << 22)
    }

    /// An entry that is mostly sane.
    pub fn pte(&mut self) -> u64 {
        let mut e = self.roll(PAGES + 1) << 12;
        for (bit, one_in) in [(0, 20), (1, 5), (2, 5), (5, 2), (6, 2)] {
            if !self.one_in(one_in) {
                e |= 1 << bit;
            }
        }
        if self.one_in(5) {
            e |= 1 << 7;
            if !self.one_in(4) {
                e &= !0x3f_e000;
            }
        }
        if self.one_in(8) {
            e |= 1 << 63;
        }
        if self.one_in(3) {
            e |= self.roll(16) << 59;
        }
        if self.one_in(10) {
            // The ends of reserved ranges more often than their middles.
            let ends = [8, 13, 20, 21, 29, 30, 51, 52, 62];
            e |= match self.roll(2) {
                0 => 1 << (12 + self.roll(40)),
                _ => 1 << ends[self.roll(9) as usize],
            };
        }
        e
    }
}

pub fn random_guest(d: &mut Dice) -> Guest {
    let mut cr4 = 0;
    for b in [
        cr4::PSE,
        cr4::PAE,
        cr4::SMEP,
        cr4::SMAP,
        cr4::PKE,
        cr4::PKS,
        cr4::LA57,
    ] {
        if d.one_in(2) {
            cr4 |= b;
        }
    }
    let mut efer = if d.one_in(4) { 0 } else { efer::NX };
    if d.one_in(2) {
        efer |= efer::LMA | efer::LME;
        cr4 |= cr4::PAE;
    }
    let mut cr0 = cr0::PE;
    if !d.one_in(30) {
        cr0 |= cr0::PG;
    }
    if !d.one_in(3) {
        cr0 |= cr0::WP;
    }
    let pointer = |d: &mut Dice| d.roll(PAGES) << 12;
    Guest {
        cr0,
        cr4,
        efer,
        features: PagingFeatures {
            max_phys_bits: 36 + d.roll(17) as u32,
            gb_pages: !d.one_in(4),
            pse36: d.one_in(2),
        },
        root: WalkRoot {
            cr3: pointer(d) | d.roll(32),
            pdptrs: core::array::from_fn(|_| pointer(d) | u64::from(!d.one_in(6))),
        },
        state: ProtectionState {
            ac: d.one_in(2),
            pkru: d.word() as u32 & d.word() as u32,
            pkrs: d.word() as u32 & d.word() as u32,
        },
    }
}

pub fn random_access(d: &mut Dice) -> GuestAccess {
    let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
    let privileges = [
        Privilege::User,
        Privilege::Supervisor,
        Privilege::ImplicitSupervisor,
    ];
    GuestAccess {
        kind: kinds[d.roll(3) as usize],
        privilege: privileges[d.roll(3) as usize],
    }
}
