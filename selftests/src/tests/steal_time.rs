// SPDX-License-Identifier: GPL-2.0

//! MSR_KVM_STEAL_TIME: how long a vCPU's thread has waited for a CPU.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

const STEAL_TIME: u32 = 0x4b56_4d03;
const FEATURES: u32 = 0x4000_0001;
const FEATURE: u32 = 1 << 5;

/// What this thread has waited for a CPU, in ns.
fn waited() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let field = text.split_whitespace().nth(1);
    Ok(field.ok_or("no run delay")?.parse()?)
}

fn steal(ram: &Ram) -> u64 {
    ram.get64(DATA)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let mut entries = vm.cpuid().as_slice().iter();
    t.ok(
        "CPUID has it",
        entries.any(|e| e.function == FEATURES && e.eax & FEATURE != 0),
    );
    t.ok("reserved bits", !vcpu.set_msr(STEAL_TIME, DATA | 3)?);
    t.ok("an address", vcpu.set_msr(STEAL_TIME, DATA | 1)?);
    t.eq("it reads back", vcpu.msr(STEAL_TIME)?, Some(DATA | 1));
    let code = asm64(|a| forever(a, |a| a.out(0x40, al)));
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    ram.write(DATA, &[0; 64]);
    // What the kernel writes to preempted is over when the guest runs.
    ram.write(DATA + 16, &[1]);
    let before = waited()?;
    vcpu.run()?;
    let after = waited()?;
    t.ok(
        "all that the thread has waited",
        (before..=after).contains(&steal(&ram)),
    );
    let version = ram.get32(DATA + 8);
    t.ok("a version", version != 0 && version % 2 == 0);
    // One that has lost its CPU on its way to user space is, until it runs again.
    let mut preempted = ram.read(DATA + 16, 1)[0];
    for _ in 0..10 {
        if preempted != 0 {
            vcpu.run()?;
            preempted = ram.read(DATA + 16, 1)[0];
        }
    }
    t.eq("the guest is not preempted", preempted, 0);

    let first = waited()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        // More threads than CPUs: this one has to wait in between.
        for _ in 0..3 * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut result = waited();
        while matches!(result, Ok(now) if now < first + 20_000_000) {
            result = waited();
        }
        done.store(true, Relaxed);
        result.map(|_| ())
    })?;
    let before = waited()?;
    vcpu.run()?;
    let after = waited()?;
    t.ok("it has waited for others", before > first);
    t.ok(
        "the guest is told of that, no more and no less",
        (before..=after).contains(&steal(&ram)),
    );

    t.ok("no address any more", vcpu.set_msr(STEAL_TIME, 0)?);
    let version = ram.get32(DATA + 8);
    t.eq("the guest runs", vcpu.run()?, Exit::out8(0x40, 0));
    t.eq("nothing is written", ram.get32(DATA + 8), version);
    Ok(())
}
