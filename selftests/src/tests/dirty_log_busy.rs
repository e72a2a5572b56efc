// SPDX-License-Identifier: GPL-2.0

//! The dirty log while two vCPUs write more pages than a processor's log has room for: a copy that follows the log is in
//! the end what the guest has.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA, STACK};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::*;
use std::thread;

const LOGGED: u64 = 0x80_0000;
const PAGES: usize = 1100;
const LEN: usize = PAGES * PAGE;
/// Where the guest looks whether it shall end.
const STOP: u64 = DATA;
const DONE: u16 = 0x41;
/// Logs with something in them, read while the guest writes.
const LOGS: usize = 12;

/// What a migration has of the guest's memory: the counters of each page.
struct Copy {
    pages: Vec<(u64, u64)>,
}

/// The counters in page `n`, as they are now.
fn counters(ram: &Ram, n: usize) -> (u64, u64) {
    let at = LOGGED + (n * PAGE) as u64;
    (ram.get64(at), ram.get64(at + 8))
}

impl Copy {
    fn whole(ram: &Ram) -> Self {
        Copy {
            pages: (0..PAGES).map(|n| counters(ram, n)).collect(),
        }
    }

    /// Reads the log, and the pages that it tells; answers how many.
    fn follow(&mut self, vm: &Vm, ram: &Ram) -> Outcome<usize> {
        let words = vm.fd.get_dirty_log(1, LEN)?;
        let mut told = 0;
        for (n, page) in self.pages.iter_mut().enumerate() {
            if words[n / 64] >> (n % 64) & 1 != 0 {
                *page = counters(ram, n);
                told += 1;
            }
        }
        Ok(told)
    }

    /// Pages that are not what the guest has.
    fn stale(&self, ram: &Ram) -> Vec<usize> {
        let differs = |n: &usize| self.pages[*n] != counters(ram, *n);
        (0..PAGES).filter(differs).collect()
    }
}

fn log(vm: &Vm, ram: &Ram, flags: u32) -> Outcome {
    Ok(vm.set_slot(1, flags, LOGGED, LEN as u64, ram.hva())?)
}

/// Runs both vCPUs while `host` does its part, then has them end.
fn meanwhile(ram: &Ram, vcpus: &mut [Vcpu], host: impl FnOnce() -> Outcome) -> Outcome<Vec<Exit>> {
    ram.set32(STOP, 0);
    thread::scope(|s| {
        let running: Vec<_> = vcpus
            .iter_mut()
            .map(|vcpu| s.spawn(move || vcpu.run()))
            .collect();
        let result = host();
        ram.set32(STOP, 1);
        let mut exits = Vec::new();
        for thread in running {
            exits.push(thread.join().map_err(|_| "the vCPU thread panicked")??);
        }
        result.map(|()| exits)
    })
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, LEN)?;
    let mut vcpus = vec![vm.vcpu(0)?, vm.vcpu(1)?];
    // Each vCPU counts at an offset of its own in each page, over and over.
    let code = asm64(|a| {
        let mut round = a.create_label();
        let mut page = a.create_label();
        // A processor that is emulated does not interrupt a guest that spins with interrupts off.
        a.sti()?;
        a.set_label(&mut round)?;
        a.mov(rdi, LOGGED)?;
        a.mov(ecx, PAGES as u32)?;
        a.set_label(&mut page)?;
        a.inc(qword_ptr(rdi + rsi))?;
        a.add(rdi, PAGE as i32)?;
        a.dec(ecx)?;
        a.jnz(page)?;
        a.cmp(dword_ptr(STOP), 0)?;
        a.jz(round)?;
        a.out(i32::from(DONE), al)?;
        a.jmp(round)
    });
    for (i, vcpu) in (0..).zip(&vcpus) {
        setup::start(vcpu, &ram, Mode::Long, &code)?;
        vcpu.fd.set_mp_state(kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        })?;
        vcpu.with_regs(|r| {
            r.rsi = i * 8;
            r.rsp = STACK - i * PAGE as u64;
        })?;
    }
    let ends = vec![Exit::out8(DONE, 0); 2];
    // All pages are mapped, writable, before there is a log.
    let exits = meanwhile(&ram, &mut vcpus, || Ok(()))?;
    t.eq("before logging", exits, ends.clone());

    for round in 1..=2 {
        log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
        let mut copy = Copy::whole(&logged);
        let mut first = 0;
        let exits = meanwhile(&ram, &mut vcpus, || {
            // One of them has come to the last page, and so has written all.
            while counters(&logged, PAGES - 1) == copy.pages[PAGES - 1] {}
            first = copy.follow(&vm, &logged)?;
            let mut told = 0;
            while told < LOGS {
                told += usize::from(copy.follow(&vm, &logged)? > 0);
            }
            // Something is left to be told.
            while copy.stale(&logged).is_empty() {}
            Ok(())
        })?;
        t.eq(format!("{round}: the guest ends"), exits, ends.clone());
        // Not all of them: what a vCPU has just left the guest with may be told next time.
        t.ok(format!("{round}: the first log has pages"), first > 0);
        t.ok(
            format!("{round}: the last log has pages"),
            copy.follow(&vm, &logged)? > 0,
        );
        t.eq(
            format!("{round}: no page was missed"),
            copy.stale(&logged),
            Vec::<usize>::new(),
        );
        t.eq(
            format!("{round}: nothing more is told"),
            copy.follow(&vm, &logged)?,
            0,
        );

        // The log ends and begins again while the guest writes.
        let exits = meanwhile(&ram, &mut vcpus, || {
            log(&vm, &logged, 0)?;
            log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
            copy = Copy::whole(&logged);
            while copy.follow(&vm, &logged)? == 0 {}
            Ok(())
        })?;
        t.eq(
            format!("{round}: the guest ends again"),
            exits,
            ends.clone(),
        );
        copy.follow(&vm, &logged)?;
        t.eq(
            format!("{round}: no page was missed since the log began anew"),
            copy.stale(&logged),
            Vec::<usize>::new(),
        );
        log(&vm, &logged, 0)?;
    }
    let first = counters(&logged, 0);
    t.ok(
        "each vCPU counted the same in each page",
        (1..PAGES).all(|n| counters(&logged, n) == first),
    );
    Ok(())
}
