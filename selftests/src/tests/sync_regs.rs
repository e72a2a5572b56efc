// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_SYNC_REGS: registers and events that travel in `kvm_run`.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::ptr::addr_of_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const REGS: u64 = KVM_SYNC_X86_REGS as u64;
const SREGS: u64 = KVM_SYNC_X86_SREGS as u64;
const EVENTS: u64 = KVM_SYNC_X86_EVENTS as u64;
const ALL: u64 = REGS | SREGS | EVENTS;
/// The guest tells of each round with a port; a handler with another one.
const ROUND: u16 = 0x41;
const TAKEN: u16 = 0x42;
const VECTOR: u8 = 0x60;
const HANDLER: u64 = CODE + 0x800;
const CR4_PAE: u64 = 1 << 5;
const IF: u64 = 1 << 9;
/// Runs beside a thread that writes to `kvm_run`.
const RACES: u32 = 200;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    t.eq("KVM_CAP_SYNC_REGS", dev.cap(KVM_CAP_SYNC_REGS), ALL as i32);
    start(&vcpu, &ram)?;
    unknown(t, &mut vcpu)?;
    told(t, &mut vcpu)?;
    taken(t, &mut vcpu)?;
    refused(t, &mut vcpu)?;
    without_running(t, &mut vcpu)?;
    races(t, &mut vcpu, &ram)
}

/// A guest that counts its rounds in RBX.
fn start(vcpu: &Vcpu, ram: &Ram) -> Result<(), Errno> {
    let code = asm64(|a| {
        forever(a, |a| {
            a.out(i32::from(ROUND), al)?;
            a.inc(rbx)
        })
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        a.out(i32::from(TAKEN), al)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(ram, Mode::Long, VECTOR, HANDLER);
    Ok(())
}

fn ask(vcpu: &mut Vcpu, valid: u64, dirty: u64) {
    let run = vcpu.shared();
    (run.kvm_valid_regs, run.kvm_dirty_regs) = (valid, dirty);
}

fn synced(vcpu: &mut Vcpu) -> &mut kvm_sync_regs {
    // SAFETY: the other member is padding, and any bytes are integers.
    unsafe { &mut vcpu.shared().s.regs }
}

fn unknown(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    let before = vcpu.regs()?;
    for bits in [1 << 3, 1 << 31 | ALL, 1 << 63] {
        ask(vcpu, bits, 0);
        t.errno(
            format!("kvm_valid_regs {bits:#x}"),
            vcpu.run(),
            libc::EINVAL,
        );
        ask(vcpu, 0, bits);
        t.errno(
            format!("kvm_dirty_regs {bits:#x}"),
            vcpu.run(),
            libc::EINVAL,
        );
    }
    ask(vcpu, 0, 0);
    t.eq("the guest has not run", vcpu.regs()?, before);
    Ok(())
}

/// What user space wants to find after KVM_RUN.
fn told(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    ask(vcpu, ALL, 0);
    t.eq("a round", vcpu.run()?, Exit::out8(ROUND, 0));
    let told = *synced(vcpu);
    t.eq("the registers", told.regs, vcpu.regs()?);
    t.eq("the special registers", told.sregs, vcpu.fd.get_sregs()?);
    t.eq("the events", told.events, vcpu.fd.get_vcpu_events()?);

    for (name, set) in [("registers", REGS), ("sregs", SREGS), ("events", EVENTS)] {
        *synced(vcpu) = kvm_sync_regs::default();
        ask(vcpu, set, 0);
        vcpu.run()?;
        let now = *synced(vcpu);
        let empty = kvm_sync_regs::default();
        let changed = (
            now.regs != empty.regs,
            now.sregs != empty.sregs,
            now.events != empty.events,
        );
        t.eq(
            format!("{name} alone"),
            changed,
            (set == REGS, set == SREGS, set == EVENTS),
        );
    }

    synced(vcpu).regs.rbx = 0x5555;
    ask(vcpu, 0, 0);
    vcpu.run()?;
    t.eq("nothing is told unasked", synced(vcpu).regs.rbx, 0x5555);
    t.ok("nor taken", vcpu.regs()?.rbx < 0x5555);
    Ok(())
}

/// What user space has put there before KVM_RUN.
fn taken(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    ask(vcpu, ALL, 0);
    vcpu.run()?;
    synced(vcpu).regs.rbx = 0x1000;
    synced(vcpu).sregs.cr2 = 0x7000;
    ask(vcpu, REGS, REGS | SREGS);
    t.eq("a round", vcpu.run()?, Exit::out8(ROUND, 0));
    t.eq("a register", synced(vcpu).regs.rbx, 0x1001);
    t.eq("is in the vCPU, too", vcpu.regs()?.rbx, 0x1001);
    t.eq("a special register", vcpu.fd.get_sregs()?.cr2, 0x7000);
    t.eq("both are done", vcpu.shared().kvm_dirty_regs, 0);

    vcpu.with_regs(|r| r.rflags |= IF)?;
    synced(vcpu).events = kvm_vcpu_events::default();
    synced(vcpu).events.interrupt.injected = 1;
    synced(vcpu).events.interrupt.nr = VECTOR;
    ask(vcpu, 0, EVENTS);
    t.eq("an event", vcpu.run()?, Exit::out8(TAKEN, 0));
    t.eq("is done", vcpu.shared().kvm_dirty_regs, 0);
    t.eq("the guest goes on", vcpu.run()?, Exit::out8(ROUND, 0));
    Ok(())
}

/// What can't be set ends KVM_RUN; what comes before it is set.
fn refused(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    ask(vcpu, ALL, 0);
    vcpu.run()?;
    let good = *synced(vcpu);
    synced(vcpu).regs.rbx = 0x2000;
    synced(vcpu).sregs.cr4 &= !CR4_PAE;
    ask(vcpu, REGS, ALL);
    t.errno("long mode without PAE", vcpu.run(), libc::EINVAL);
    t.eq("the registers are set", vcpu.regs()?.rbx, 0x2000);
    t.eq("and told", synced(vcpu).regs.rbx, 0x2000);
    t.eq(
        "CR4 is not",
        vcpu.fd.get_sregs()?.cr4 & CR4_PAE,
        good.sregs.cr4 & CR4_PAE,
    );
    t.eq(
        "the rest still waits",
        vcpu.shared().kvm_dirty_regs,
        SREGS | EVENTS,
    );
    *synced(vcpu) = good;
    synced(vcpu).events.exception.injected = 1;
    synced(vcpu).events.exception.nr = 32;
    ask(vcpu, 0, EVENTS);
    t.errno("an exception that there is not", vcpu.run(), libc::EINVAL);
    ask(vcpu, 0, 0);
    t.eq("the guest goes on", vcpu.run()?, Exit::out8(ROUND, 0));
    Ok(())
}

/// KVM_RUN that only completes an exit takes and tells them, too.
fn without_running(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    ask(vcpu, ALL, 0);
    vcpu.run()?;
    let at = synced(vcpu).regs.rip;
    vcpu.shared().immediate_exit = 1;
    t.errno("immediate_exit", vcpu.run(), libc::EINTR);
    t.ok("the completed exit is told", synced(vcpu).regs.rip > at);
    synced(vcpu).regs.rbx = 0x3000;
    ask(vcpu, 0, REGS);
    t.errno("immediate_exit", vcpu.run(), libc::EINTR);
    vcpu.shared().immediate_exit = 0;
    t.eq("a register is taken", vcpu.regs()?.rbx, 0x3000);
    Ok(())
}

/// Writes to `kvm_run` until it is dropped.
struct Racer<'a> {
    stop: &'a AtomicBool,
}

impl Drop for Racer<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The shared page, in another thread.
struct Page(*mut kvm_run);

// SAFETY: written by volatile accesses only, while the vCPU lives; that KVM reads meanwhile is what is tested.
unsafe impl Send for Page {}

impl Page {
    fn dirty(&self, sets: u64) {
        // SAFETY: the page is mapped as long as the vCPU is there.
        unsafe { addr_of_mut!((*self.0).kvm_dirty_regs).write_volatile(sets) };
    }

    fn regs(&self) -> *mut kvm_sync_regs {
        // SAFETY: as above; nothing is read here.
        unsafe { addr_of_mut!((*self.0).s.regs) }
    }

    fn cr4(&self, value: u64) {
        // SAFETY: as above.
        unsafe { addr_of_mut!((*self.regs()).sregs.cr4).write_volatile(value) };
    }

    fn exception(&self, nr: u8, injected: u8, pending: u8) {
        // SAFETY: as above.
        unsafe {
            let events = addr_of_mut!((*self.regs()).events);
            addr_of_mut!((*events).flags).write_volatile(0);
            addr_of_mut!((*events).exception.nr).write_volatile(nr);
            addr_of_mut!((*events).exception.injected).write_volatile(injected);
            addr_of_mut!((*events).exception.pending).write_volatile(pending);
        }
    }
}

/// Values that change between the check and the use of them: KVM_RUN takes them or fails, and the vCPU stays whole.
fn races(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    race(t, vcpu, ram, "CR4.PAE", |page, pae| {
        page.dirty(SREGS);
        page.cr4(pae);
        page.cr4(pae & !CR4_PAE);
    })?;
    race(t, vcpu, ram, "an exception's number", |page, _| {
        page.dirty(EVENTS);
        page.exception(6, 0, 1);
        page.exception(255, 1, 1);
    })?;
    race(t, vcpu, ram, "pending and injected", |page, _| {
        page.dirty(EVENTS);
        page.exception(6, 1, 0);
        page.exception(6, 1, 1);
    })
}

fn race(
    t: &mut Tap,
    vcpu: &mut Vcpu,
    ram: &Ram,
    what: &str,
    write: impl Fn(&Page, u64) + Sync,
) -> Outcome {
    start(vcpu, ram)?;
    ask(vcpu, ALL, 0);
    vcpu.run()?;
    ask(vcpu, 0, 0);
    let pae = synced(vcpu).sregs.cr4;
    let page = Page(vcpu.shared());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let racer = Racer { stop: &stop };
        scope.spawn(|| {
            let page = page;
            while !stop.load(Ordering::Relaxed) {
                write(&page, pae);
                thread::yield_now();
            }
        });
        for _ in 0..RACES {
            let result = vcpu.run();
            if result == Ok(Exit::Shutdown) {
                start(vcpu, ram)?;
            } else if !matches!(result, Ok(_) | Err(Errno(libc::EINVAL))) {
                t.eq("a run", result, Ok(Exit::Hlt));
            }
            thread::yield_now();
            let mut translation = kvm_translation::default();
            sys::ioctl_mut(vcpu.raw(), sys::KVM_TRANSLATE, &mut translation)?;
        }
        drop(racer);
        Ok::<_, Errno>(())
    })?;
    ask(vcpu, 0, 0);
    start(vcpu, ram)?;
    vcpu.fd.set_vcpu_events(&kvm_vcpu_events::default())?;
    t.eq(
        format!("after a race for {what} the guest runs"),
        vcpu.run()?,
        Exit::out8(ROUND, 0),
    );
    Ok(())
}
