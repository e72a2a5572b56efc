// SPDX-License-Identifier: GPL-2.0

//! The first touch of guest pages.

use super::guest::Loop;
use super::{now, BATCHES};
use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::Mode;
use crate::{Outcome, PAGE};

const WINDOW: u64 = 0x4000_0000;
const PAGES: u64 = 128;
const SLOT: u32 = 1;

/// Ticks that the host alone takes for such a page: the VMM's own first touch, without a guest.
pub fn host_alone() -> Outcome<u64> {
    let len = PAGES as usize * PAGE;
    let window = Ram::new(WINDOW, len)?;
    window.advise(WINDOW, len, libc::MADV_NOHUGEPAGE)?;
    let mut least = u64::MAX;
    for _ in 0..BATCHES {
        window.advise(WINDOW, len, libc::MADV_DONTNEED)?;
        let from = now();
        (0..PAGES).for_each(|i| window.set32(WINDOW + i * PAGE as u64, 1));
        least = least.min(now() - from);
    }
    Ok(least / PAGES)
}

/// Ticks of a touch, of one page in `step`. The pages are small ones; before each batch their slot
/// is made anew, so that the guest has none of them, and the host has all (`present`) or none.
pub fn measure(dev: &Device, mode: Mode, step: u64, present: bool) -> Outcome<u64> {
    let mut guest = Loop::new(dev, mode, WINDOW, |a| {
        a.mov(dword_ptr(edi).gs(), eax)?;
        a.add(edi, (step * PAGE as u64) as u32)
    })?;
    let pages = PAGES * step;
    let len = pages as usize * PAGE;
    let window = Ram::new(WINDOW, len)?;
    window.advise(WINDOW, len, libc::MADV_NOHUGEPAGE)?;
    let (mut one, mut many) = (u64::MAX, u64::MAX);
    for batch in 0..2 * BATCHES {
        guest
            .vm
            .set_slot(SLOT, 0, WINDOW, len as u64, window.hva())?;
        if present {
            (0..pages).for_each(|i| window.set32(WINDOW + i * PAGE as u64, 1));
        } else {
            window.advise(WINDOW, len, libc::MADV_DONTNEED)?;
        }
        if batch % 2 == 0 {
            one = one.min(guest.batch(1)?);
        } else {
            many = many.min(guest.batch(PAGES)?);
        }
        guest.vm.delete_slot(SLOT)?;
    }
    Ok(many.saturating_sub(one) / (PAGES - 1))
}
