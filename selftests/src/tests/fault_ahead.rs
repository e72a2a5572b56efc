// SPDX-License-Identifier: GPL-2.0

//! A guest that goes through its memory in order, and guests that do not: which of their faults
//! bring what, and that nothing is mapped that may not be.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use std::fs;

const WINDOW: u64 = 0x4000_0000;
const PAGES: usize = 64;
const SLOT: u32 = 1;
const PORT: u16 = 0x40;
/// Most pages that one fault of rkvm maps.
const MOST: usize = 16;

const fn page(n: usize) -> u64 {
    WINDOW + (n * PAGE) as u64
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    orders(t, dev)?;
    ends(t, dev)?;
    protected(t, dev)?;
    logged(t, dev)?;
    taken_away(t, dev)?;
    read_first(t, dev)
}

/// What the guest does to the first word of each page.
#[derive(Clone, Copy)]
enum Touch {
    Increment,
    /// Adds it to ESI.
    Read,
}

/// A VM with a window of small pages, none of which is there.
struct Guest {
    vm: Vm,
    vcpu: Vcpu,
    window: Ram,
    _ram: Ram,
}

impl Guest {
    /// The window's first `slot` of [`PAGES`] pages are the guest's.
    fn new(dev: &Device, touch: Touch, slot: usize, flags: u32) -> Outcome<Self> {
        let vm = Vm::new(dev)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let window = Ram::new(WINDOW, PAGES * PAGE)?;
        window.advise(WINDOW, PAGES * PAGE, libc::MADV_NOHUGEPAGE)?;
        vm.set_slot(SLOT, flags, WINDOW, (slot * PAGE) as u64, window.hva())?;
        let vcpu = vm.vcpu(0)?;
        let code = asm64(|a| {
            let mut next = a.create_label();
            a.set_label(&mut next)?;
            match touch {
                Touch::Increment => a.inc(dword_ptr(rbx))?,
                Touch::Read => a.add(esi, dword_ptr(rbx))?,
            }
            a.add(rbx, rdx)?;
            a.dec(ecx)?;
            a.jnz(next)?;
            a.out(i32::from(PORT), al)?;
            a.jmp(next)
        });
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        Ok(Guest {
            vm,
            vcpu,
            window,
            _ram: ram,
        })
    }

    /// Touches `count` pages, `step` apart, from page `first` on.
    fn touch(&mut self, first: usize, count: usize, step: i64) -> Result<Exit, Errno> {
        let mut regs = self.vcpu.fd.get_regs()?;
        regs.rbx = page(first);
        regs.rcx = count as u64;
        regs.rdx = (step * PAGE as i64) as u64;
        regs.rsi = 0;
        self.vcpu.fd.set_regs(&regs)?;
        self.vcpu.run()
    }

    fn values(&self) -> Vec<u32> {
        (0..PAGES).map(|n| self.window.get32(page(n))).collect()
    }

    /// The pages that are in memory, by number. To be asked before [`Self::values`], which brings all.
    fn resident(&self) -> Outcome<Vec<usize>> {
        let there = self.window.resident(WINDOW, PAGES * PAGE)?;
        Ok((0..PAGES).filter(|n| there[*n]).collect())
    }

    /// Faults that mapped something.
    fn faults(&self) -> Outcome<u64> {
        Ok(super::stats::of(self.vcpu.raw())?["pf_fixed"])
    }
}

fn is_rkvm() -> bool {
    fs::exists("/sys/module/rkvm").unwrap_or(false)
}

fn done() -> Exit {
    Exit::out8(PORT, 0)
}

/// Values 1 at these pages, 0 at all others.
fn ones(at: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut all = vec![0; PAGES];
    at.for_each(|n| all[n] = 1);
    all
}

fn orders(t: &mut Tap, dev: &Device) -> Outcome {
    let mut all = Guest::new(dev, Touch::Increment, PAGES, 0)?;
    t.eq("the first page", all.touch(0, 1, 1)?, done());
    let before = all.faults()?;
    t.eq("every other in turn", all.touch(1, PAGES - 1, 1)?, done());
    let faults = all.faults()? - before;
    // 2, 4, 8, three times 16 pages, and the last one; a few more where a table of the host ends.
    let fits = if is_rkvm() {
        faults <= 10
    } else {
        faults >= 63
    };
    t.ok(format!("which takes {faults} faults"), fits);
    t.eq("each is written once", all.values(), vec![1; PAGES]);

    let mut some = Guest::new(dev, Touch::Increment, PAGES, 0)?;
    t.eq("the first ten", some.touch(0, 10, 1)?, done());
    let resident = some.resident()?;
    t.ok(
        format!("bring not many more: {} pages", resident.len()),
        resident == (0..resident.len()).collect::<Vec<_>>()
            && (10..10 + MOST).contains(&resident.len()),
    );
    t.eq("which are empty", some.values(), ones(0..10));

    let mut apart = Guest::new(dev, Touch::Increment, PAGES, 0)?;
    t.eq("every other page", apart.touch(0, 32, 2)?, done());
    t.eq(
        "brings no other",
        apart.resident()?,
        (0..64).step_by(2).collect::<Vec<_>>(),
    );
    t.eq("every third, backwards", apart.touch(63, 21, -3)?, done());

    let mut back = Guest::new(dev, Touch::Increment, PAGES, 0)?;
    t.eq("backwards", back.touch(40, 20, -1)?, done());
    t.eq(
        "brings no other",
        back.resident()?,
        (21..41).collect::<Vec<_>>(),
    );
    Ok(())
}

/// The memory of the VMM goes on where the slot ends, and so do its pages.
fn ends(t: &mut Tap, dev: &Device) -> Outcome {
    let mut guest = Guest::new(dev, Touch::Increment, 20, 0)?;
    t.eq("up to the end of the slot", guest.touch(0, 20, 1)?, done());
    t.eq(
        "nothing behind it is brought",
        guest.resident()?,
        (0..20).collect::<Vec<_>>(),
    );
    for n in 20..PAGES {
        guest.window.set32(page(n), 7);
    }
    let exit = guest.touch(10, 11, 1)?;
    t.ok(
        format!("nor mapped: {exit:?}"),
        matches!(exit, Exit::MmioRead { gpa, .. } if gpa == page(20)),
    );
    Ok(())
}

fn protected(t: &mut Tap, dev: &Device) -> Outcome {
    for (what, prot) in [
        ("read-only", libc::PROT_READ),
        ("inaccessible", libc::PROT_NONE),
    ] {
        let mut guest = Guest::new(dev, Touch::Increment, PAGES, 0)?;
        for n in 0..PAGES {
            guest.window.set32(page(n), 0);
        }
        guest.window.protect(page(30), PAGE, prot)?;
        t.errno(
            format!("in order into a page that user space made {what}"),
            guest.touch(0, PAGES, 1),
            libc::EFAULT,
        );
        let all = libc::PROT_READ | libc::PROT_WRITE;
        guest.window.protect(page(30), PAGE, all)?;
        t.eq(
            format!("{what}: everything before it is written, nothing behind"),
            guest.values(),
            ones(0..30),
        );
        t.eq(
            format!("{what}: it goes on when that has ended"),
            guest.vcpu.run()?,
            done(),
        );
        t.eq(format!("{what}: all"), guest.values(), vec![1; PAGES]);
    }
    Ok(())
}

/// A page that was not written is not in the log, whatever was mapped with its neighbours.
fn logged(t: &mut Tap, dev: &Device) -> Outcome {
    let mut guest = Guest::new(dev, Touch::Increment, PAGES, KVM_MEM_LOG_DIRTY_PAGES)?;
    t.eq("in order, with a dirty log", guest.touch(0, 21, 1)?, done());
    let log = guest.vm.fd.get_dirty_log(SLOT, PAGES * PAGE)?;
    t.eq("the log tells these", log, vec![(1 << 21) - 1]);
    guest
        .vm
        .set_slot(SLOT, 0, WINDOW, (PAGES * PAGE) as u64, guest.window.hva())?;
    t.eq("all of them, without", guest.touch(0, PAGES, 1)?, done());
    guest.vm.set_slot(
        SLOT,
        KVM_MEM_LOG_DIRTY_PAGES,
        WINDOW,
        (PAGES * PAGE) as u64,
        guest.window.hva(),
    )?;
    t.eq("some, with a log again", guest.touch(40, 3, 1)?, done());
    let log = guest.vm.fd.get_dirty_log(SLOT, PAGES * PAGE)?;
    t.eq("the log tells these three", log, vec![7 << 40]);
    Ok(())
}

/// What was mapped with its neighbours goes when the host takes it, touched or not.
fn taken_away(t: &mut Tap, dev: &Device) -> Outcome {
    let mut guest = Guest::new(dev, Touch::Increment, PAGES, 0)?;
    for n in 0..PAGES {
        guest.window.set32(page(n), 100);
    }
    t.eq("in order", guest.touch(0, 20, 1)?, done());
    guest
        .window
        .advise(page(10), 30 * PAGE, libc::MADV_DONTNEED)?;
    t.eq("on, over new pages", guest.touch(20, 20, 1)?, done());
    let mut want = vec![100; PAGES];
    want[..10].fill(101);
    want[10..20].fill(0);
    want[20..40].fill(1);
    t.eq("no write goes to the old ones", guest.values(), want);
    Ok(())
}

/// Pages that are only read are those of the host's one page of zeros; a write makes each its own.
fn read_first(t: &mut Tap, dev: &Device) -> Outcome {
    let mut guest = Guest::new(dev, Touch::Read, PAGES, 0)?;
    t.eq("reads in order", guest.touch(0, PAGES, 1)?, done());
    t.eq("find zeros", guest.vcpu.fd.get_regs()?.rsi, 0);
    for n in 0..PAGES {
        guest.window.set32(page(n), n as u32);
    }
    t.eq(
        "again, after user space's writes",
        guest.touch(0, PAGES, 1)?,
        done(),
    );
    let sum = (0..PAGES as u64).sum::<u64>();
    t.eq("find what is there now", guest.vcpu.fd.get_regs()?.rsi, sum);
    Ok(())
}
