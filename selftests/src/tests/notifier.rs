// SPDX-License-Identifier: GPL-2.0

//! The host takes, moves and replaces the pages behind guest memory while the guest runs.
//!
//! The guest tells every change it sees of a word; each step is checked by the value that only
//! the new page has.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::watcher::{watch, Seen, STOP, WINDOW};
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_EXIT_IO;

const PAGES: usize = 16;
const ALL: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    running(t, dev)?;
    written(t, dev)?;
    gone(t, dev)?;
    swapped(t, dev)
}

fn running(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    window.set32(WINDOW, 1);
    let steps = |seen: &Seen| changes(t, &window, seen);
    watch(vm.vcpu(0)?, &ram, steps, || {
        window.set32(WINDOW, STOP);
        Ok(())
    })
}

fn changes(t: &mut Tap, window: &Ram, seen: &Seen) -> Outcome {
    seen.next(t, "the guest sees the first page", 1)?;
    window.advise(WINDOW, PAGE, libc::MADV_DONTNEED)?;
    seen.next(t, "MADV_DONTNEED: a page of zeros", 0)?;
    window.set32(WINDOW, 2);
    seen.next(t, "and what is written to it", 2)?;

    let other = Ram::new(0, PAGES * PAGE)?;
    other.set32(0, 3);
    window.move_pages_from(WINDOW, &other, 0, PAGE)?;
    seen.next(t, "mremap over it: the moved page", 3)?;
    window.set32(WINDOW, 4);
    seen.next(t, "and what is written to it", 4)?;

    window.remap(WINDOW, PAGE, ALL)?;
    seen.next(t, "mmap over it: a page of zeros", 0)?;
    window.set32(WINDOW, 5);
    seen.next(t, "and what is written to it", 5)?;

    for value in 8..11 {
        // Without swap the page stays, which is as good for this step.
        window.advise(WINDOW, PAGE, libc::MADV_PAGEOUT)?;
        window.set32(WINDOW, value);
        seen.next(
            t,
            &format!("paged out under the guest, then {value} is written"),
            value,
        )?;
    }
    copy_on_write(t, window, seen)
}

/// After fork() the first write of the parent makes a new page: the guest has to follow.
fn copy_on_write(t: &mut Tap, window: &Ram, seen: &Seen) -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(Errno::last().into());
    }
    // SAFETY: the child only makes system calls, on descriptors it owns, then ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::close(ends[1]);
            let mut byte = 0u8;
            libc::read(ends[0], (&mut byte as *mut u8).cast(), 1);
            libc::_exit(0);
        }
    }
    if child < 0 {
        return Err(Errno::last().into());
    }
    window.set32(WINDOW, 6);
    seen.next(t, "a write while a forked child shares the page", 6)?;
    // SAFETY: our own descriptors and child.
    unsafe {
        libc::close(ends[0]);
        libc::close(ends[1]);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    window.set32(WINDOW, 7);
    seen.next(t, "a write after the child is gone", 7)
}

/// Pages the guest wrote are dropped: it writes to fresh ones, and no write goes to the old.
fn written(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        let mut next = a.create_label();
        a.mov(edx, 1)?;
        forever(a, |a| {
            a.mov(rbx, WINDOW)?;
            a.mov(ecx, PAGES as u32)?;
            a.set_label(&mut next)?;
            a.add(dword_ptr(rbx), edx)?;
            a.add(rbx, 0x1000)?;
            a.dec(ecx)?;
            a.jnz(next)?;
            a.out(0x40, al)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let values = |w: &Ram| {
        (0..PAGES as u64)
            .map(|i| w.get32(WINDOW + i * PAGE as u64))
            .collect::<Vec<_>>()
    };
    vcpu.run()?;
    vcpu.run()?;
    t.eq("two rounds of additions", values(&window), vec![2; PAGES]);
    window.advise(WINDOW, PAGES * PAGE / 2, libc::MADV_DONTNEED)?;
    vcpu.run()?;
    let mut want = vec![1; PAGES / 2];
    want.extend(vec![3; PAGES / 2]);
    t.eq("half of the pages began anew", values(&window), want);
    window.protect(WINDOW, PAGE, libc::PROT_READ)?;
    t.errno(
        "a write to memory that user space made read-only",
        vcpu.run(),
        libc::EFAULT,
    );
    window.protect(WINDOW, PAGE, ALL)?;
    t.eq(
        "goes on when it may be written again",
        vcpu.run()?,
        Exit::out8(0x40, 0),
    );
    t.eq("and is done once", window.get32(WINDOW), 2);
    Ok(())
}

/// Memory that is unmapped under the guest is EFAULT for KVM_RUN, not a crash of anything.
fn gone(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        forever(a, |a| {
            a.mov(eax, dword_ptr(WINDOW))?;
            a.out(0x40, eax)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    window.set32(WINDOW, 0x77);
    t.eq("the guest reads", vcpu.run()?, Exit::out32(0x40, 0x77));
    window.unmap(WINDOW, PAGES * PAGE)?;
    t.errno("unmapped: KVM_RUN fails", vcpu.run(), libc::EFAULT);
    t.ok(
        "and does not tell of the exit before",
        vcpu.shared().exit_reason != KVM_EXIT_IO,
    );
    t.errno("and again", vcpu.run(), libc::EFAULT);
    window.remap(WINDOW, PAGES * PAGE, ALL)?;
    t.eq("mapped again: zeros", vcpu.run()?, Exit::out32(0x40, 0));
    Ok(())
}

/// Pages go to swap and come back with what they held. Needs swap.
fn swapped(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        let mut next = a.create_label();
        forever(a, |a| {
            a.mov(rbx, WINDOW)?;
            a.mov(ecx, PAGES as u32)?;
            a.xor(eax, eax)?;
            a.set_label(&mut next)?;
            a.inc(dword_ptr(rbx))?;
            a.add(eax, dword_ptr(rbx))?;
            a.add(rbx, 0x1000)?;
            a.dec(ecx)?;
            a.jnz(next)?;
            a.out(0x40, eax)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    for i in 0..PAGES as u64 {
        window.set32(WINDOW + i * PAGE as u64, 100 * i as u32);
    }
    let base: u32 = (0..PAGES as u32).map(|i| 100 * i).sum();
    t.eq(
        "the guest's first round",
        vcpu.run()?,
        Exit::out32(0x40, base + PAGES as u32),
    );
    window.advise(WINDOW, PAGES * PAGE, libc::MADV_PAGEOUT)?;
    let out = window
        .resident(WINDOW, PAGES * PAGE)?
        .iter()
        .filter(|r| !**r)
        .count();
    if out == 0 {
        t.skip(
            "swapped pages keep what they hold",
            "nothing was swapped out: no swap here",
        );
        return Ok(());
    }
    t.diag(format!("{out} of {PAGES} pages were swapped out"));
    t.eq(
        "swapped pages keep what they hold",
        vcpu.run()?,
        Exit::out32(0x40, base + 2 * PAGES as u32),
    );
    let inside = window
        .resident(WINDOW, PAGES * PAGE)?
        .iter()
        .filter(|r| **r)
        .count();
    t.eq("the guest brought them back", inside, PAGES);
    Ok(())
}
