// SPDX-License-Identifier: GPL-2.0

//! A slot that goes while a vCPU waits for a page of another one, so that the change can't end. The memory of the slot is
//! given back to the host meanwhile: no guest may be left with it.

use super::*;
use crate::setup::{CODE, DATA, STACK};
use std::fs;
use std::sync::mpsc;
use std::time::Duration;

/// Where the slot is that goes, and how many bytes it has.
const LEAVING: u64 = 0x200_0000;
const BYTES: usize = 2 * PAGE;
/// What the guest reads: the second page.
const READ: u64 = LEAVING + PAGE as u64;
/// What is there at first.
const OLD: u32 = 0x01d_01d0;
/// What is in the first page at last.
const NEW: u32 = 0x0e_0e0e;
/// The guest waits until there is something else than 0.
const GO: u64 = DATA;

/// How often a thread is looked at, and how often in a row it has to sleep.
const LOOK: Duration = Duration::from_millis(1);
const ASLEEP: u32 = 20;
/// Time for a guest to show what it has.
const AWHILE: Duration = Duration::from_millis(50);

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let empty = Exit::MmioRead { gpa: READ, len: 4 };
    goes(t, dev, "deleted", |vm, _| vm.delete_slot(2), empty.clone())?;
    goes(t, dev, "moved", |vm, m| to(vm, m, MIB), empty)?;
    let there = Exit::out32(PORT, NEW);
    goes(t, dev, "moved by a page", |vm, m| to(vm, m, PAGE), there)
}

/// Moves the slot upwards.
fn to(vm: &Vm, memory: &Ram, by: usize) -> Result<(), Errno> {
    vm.set_slot(2, 0, LEAVING + by as u64, BYTES as u64, memory.hva())
}

/// The slot is changed by `change`, after which the guest makes `exit`.
fn goes(
    t: &mut Tap,
    dev: &Device,
    how: &str,
    change: impl FnOnce(&Vm, &Ram) -> Result<(), Errno> + Send,
    exit: Exit,
) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    uffd.register(&window, Faults::Missing)?;
    let leaving = vm.add_ram(2, LEAVING, BYTES)?;
    leaving.set32(READ, OLD);

    let (ram, waiter) = guest(&vm, &asm64(|a| read_and_tell(a, 0)))?;
    let reader = reader(&vm, &ram)?;

    let reads = Running::start(reader)?;
    let want = fault(&window, 0, 0);
    let waits = Running::start(waiter)?;
    t.eq("a vCPU waits for a page", waits.fault(&uffd)?, Some(want));
    thread::scope(|s| -> Outcome {
        let (tell, thread) = mpsc::channel();
        let (vm, memory) = (&vm, &leaving);
        let changed = s.spawn(move || {
            // SAFETY: no requirements.
            let _ = tell.send(unsafe { libc::gettid() });
            change(vm, memory)
        });
        t.ok(format!("a slot is being {how}"), sleeps(thread.recv()?));
        leaving.advise(LEAVING, BYTES, libc::MADV_DONTNEED)?;
        leaving.set32(LEAVING, NEW);
        ram.set32(GO, 1);
        thread::sleep(AWHILE);
        uffd.zero_page(want.address)?;
        let changed = changed.join().map_err(|_| "the thread panicked")?;
        t.eq("and then it is", changed, Ok(()));
        Ok(())
    })?;
    let (_reader, read) = reads.end()?;
    let what = "its memory was not read after it was given back";
    t.eq(what, read, Ok(exit));
    let (_waiter, told) = waits.end()?;
    t.eq("the vCPU got its page", told, Ok(Exit::out32(PORT, 0)));
    Ok(())
}

/// A vCPU that reads the page all the time, and tells what it reads as soon as it may.
fn reader(vm: &Vm, ram: &Ram) -> Outcome<Vcpu> {
    let at = CODE + PAGE as u64;
    let code = assemble(64, at, |a| {
        let mut again = a.create_label();
        // The host takes interrupts only from a guest that takes them.
        a.sti()?;
        a.mov(rbx, READ)?;
        a.set_label(&mut again)?;
        a.mov(ecx, dword_ptr(GO))?;
        a.mov(eax, dword_ptr(rbx))?;
        a.test(ecx, ecx)?;
        a.jz(again)?;
        a.out(i32::from(PORT), eax)
    });
    ram.write(at, &code);
    let vcpu = vm.vcpu(1)?;
    setup::enter(&vcpu, Mode::Long, at, STACK)?;
    Ok(vcpu)
}

/// Whether thread `id` comes to sleep in the kernel for good.
fn sleeps(id: i32) -> bool {
    let mut asleep = 0;
    for _ in 0..1000 {
        thread::sleep(LOOK);
        let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap_or_default();
        // "id (name) state ..."
        let waits = stat.rsplit(')').next().is_some_and(|s| s.starts_with(" D"));
        asleep = if waits { asleep + 1 } else { 0 };
        if asleep == ASLEEP {
            return true;
        }
    }
    false
}
