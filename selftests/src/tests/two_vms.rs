// SPDX-License-Identifier: GPL-2.0

//! Two VMs at once: in turn on one thread, and each in a thread of its own. Same guest-physical
//! addresses, same ports, different memory.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use std::thread;

const STEPS: u64 = 100;

fn machine(dev: &Device, mode: Mode, step: u32) -> Outcome<(Vm, Ram, Vcpu)> {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let code = |a: &mut CodeAssembler| -> Asm {
        forever(a, |a| {
            a.add(dword_ptr(DATA as u32), step)?;
            a.mov(eax, dword_ptr(DATA as u32))?;
            a.out(0x40, eax)
        })
    };
    let bytes = if mode == Mode::Long {
        asm64(code)
    } else {
        asm32(code)
    };
    setup::start(&vcpu, &ram, mode, &bytes)?;
    Ok((vm, ram, vcpu))
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let (_vm1, ram1, mut one) = machine(dev, Mode::Long, 1)?;
    let (vm2, ram2, mut two) = machine(dev, Mode::Paging32, 1000)?;
    let mut wrong = 0;
    for i in 1..=STEPS as u32 {
        wrong += u32::from(one.run()? != Exit::out32(0x40, i));
        wrong += u32::from(two.run()? != Exit::out32(0x40, 1000 * i));
    }
    t.eq("in turn, each counts its own", wrong, 0);
    t.eq(
        "in its own memory",
        (ram1.get32(DATA), ram2.get32(DATA)),
        (100, 100_000),
    );
    t.eq(
        "registers are their own",
        (one.regs()?.rax, two.regs()?.rax),
        (STEPS, 1000 * STEPS),
    );
    t.ok(
        "so are control registers",
        one.fd.get_sregs()?.cr4 != two.fd.get_sregs()?.cr4,
    );

    let both = thread::scope(|s| -> Outcome<_> {
        let go = |mut vcpu: Vcpu, step: u32| {
            move || -> Outcome<(u32, Vcpu)> {
                let mut wrong = 0;
                for i in 1..=STEPS as u32 {
                    let want = Exit::out32(0x40, step * (STEPS as u32 + i));
                    wrong += u32::from(vcpu.run()? != want);
                }
                Ok((wrong, vcpu))
            }
        };
        let first = s.spawn(go(one, 1));
        let second = s.spawn(go(two, 1000));
        let panicked = |_| "a vCPU thread panicked";
        Ok((
            first.join().map_err(panicked)??,
            second.join().map_err(panicked)??,
        ))
    })?;
    let ((wrong1, mut one), (wrong2, two)) = both;
    t.eq(
        "in two threads, each counts its own",
        (wrong1, wrong2),
        (0, 0),
    );

    drop(two);
    drop(vm2);
    drop(ram2);
    t.eq(
        "the first goes on when the second is gone",
        one.run()?,
        Exit::out32(0x40, 2 * STEPS as u32 + 1),
    );
    Ok(())
}
