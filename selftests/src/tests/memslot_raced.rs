// SPDX-License-Identifier: GPL-2.0

//! Two vCPUs write to a frame where no memory is, without a break, while a slot appears there and goes: both find out at
//! the same time that it is no device any more. An ioeventfd takes the writes, so that neither leaves the kernel.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{eventfd, Vm};
use crate::{Outcome, MIB, PAGE};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

const WINDOW: u64 = 0x100_0000;
/// The guests go on until there is something else than 0.
const STOP: u64 = DATA;
const PORT: u16 = 0x40;
const ROUNDS: u32 = 200;
/// Time for the guests to see each state.
const AWHILE: Duration = Duration::from_micros(300);

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let memory = Ram::new(WINDOW, PAGE)?;
    let event = eventfd()?;
    vm.ioeventfd(event.as_raw_fd(), WINDOW, 4, 0, 0)?;
    let code = asm64(|a| {
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dword_ptr(WINDOW), eax)?;
        a.cmp(dword_ptr(STOP), 0)?;
        a.je(again)?;
        a.out(i32::from(PORT), al)
    });
    let vcpus = [vm.vcpu(0)?, vm.vcpu(1)?];
    for vcpu in &vcpus {
        setup::start(vcpu, &ram, Mode::Long, &code)?;
    }
    thread::scope(|s| -> Outcome {
        let writers = vcpus.map(|mut vcpu: Vcpu| s.spawn(move || vcpu.run()));
        let rounds = rounds(&vm, &memory);
        ram.set32(STOP, 1);
        for (n, writer) in writers.into_iter().enumerate() {
            let end = writer.join().map_err(|_| "a vCPU thread panicked")?;
            t.eq(
                format!("vCPU {n} writes to the end"),
                end,
                Ok(Exit::out8(PORT, 0)),
            );
        }
        rounds
    })
}

/// The slot appears and goes.
fn rounds(vm: &Vm, memory: &Ram) -> Outcome {
    for _ in 0..ROUNDS {
        vm.set_slot(1, 0, WINDOW, PAGE as u64, memory.hva())?;
        thread::sleep(AWHILE);
        vm.delete_slot(1)?;
        thread::sleep(AWHILE);
    }
    Ok(())
}
