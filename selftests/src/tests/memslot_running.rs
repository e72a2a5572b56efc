// SPDX-License-Identifier: GPL-2.0

//! Slots that are deleted, replaced and moved while the guest uses them in another thread.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

const WINDOW: u64 = 0x100_0000;
/// What user space answers where there is no slot.
const EMPTY: u32 = 0xe0e0_e0e0;
/// The value that tells the vCPU thread to stop.
const STOP: u32 = 0x5705_7057;

/// Runs the vCPU and tells each value the guest saw, until it sees [`STOP`].
fn watch(mut vcpu: Vcpu, tell: &Sender<u32>) -> Outcome {
    loop {
        match vcpu.run()? {
            Exit::MmioRead {
                gpa: WINDOW,
                len: 4,
            } => vcpu.reply(&EMPTY.to_le_bytes()),
            Exit::Out {
                port: 0x40,
                size: 4,
                data,
            } => {
                let value = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
                tell.send(value)?;
                if value == STOP {
                    return Ok(());
                }
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
}

fn see(t: &mut Tap, seen: &Receiver<u32>, what: &str, want: u32) -> Outcome {
    let got = seen.recv().map_err(|_| "the vCPU thread ended")?;
    t.eq(what, got, want);
    Ok(())
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let first = vm.add_ram(1, WINDOW, PAGE)?;
    let second = Ram::new(WINDOW, PAGE)?;
    let vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        a.xor(ebx, ebx)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, dword_ptr(WINDOW))?;
        a.cmp(eax, ebx)?;
        a.je(again)?;
        a.mov(ebx, eax)?;
        a.out(0x40, eax)?;
        a.jmp(again)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    first.set32(WINDOW, 1);
    let (tell, seen) = mpsc::channel();
    thread::scope(|s| -> Outcome {
        let runner = s.spawn(move || watch(vcpu, &tell));
        let steps = || -> Outcome {
            see(t, &seen, "the guest sees the first memory", 1)?;
            for round in 0..5u32 {
                vm.delete_slot(1)?;
                see(
                    t,
                    &seen,
                    &format!("deleted under the guest, round {round}"),
                    EMPTY,
                )?;
                second.set32(WINDOW, 0x100 + round);
                vm.set_slot(1, 0, WINDOW, PAGE as u64, second.hva())?;
                see(
                    t,
                    &seen,
                    &format!("replaced under the guest, round {round}"),
                    0x100 + round,
                )?;
            }
            vm.set_slot(1, 0, WINDOW + MIB as u64, PAGE as u64, second.hva())?;
            see(t, &seen, "moved away under the guest", EMPTY)?;
            vm.set_slot(1, 0, WINDOW, PAGE as u64, second.hva())?;
            see(t, &seen, "moved back", 0x104)?;
            Ok(())
        };
        let result = steps_then_stop(steps, &vm, &second);
        runner.join().map_err(|_| "the vCPU thread panicked")??;
        result
    })?;
    t.ok("the vCPU thread came to its end", true);
    Ok(())
}

/// Whatever the steps gave, the guest is shown [`STOP`] so that its thread ends.
fn steps_then_stop(steps: impl FnOnce() -> Outcome, vm: &Vm, memory: &Ram) -> Outcome {
    let result = steps();
    memory.set32(WINDOW, STOP);
    // Fails when the slot is there with other memory: then it is replaced.
    if vm
        .set_slot(1, 0, WINDOW, PAGE as u64, memory.hva())
        .is_err()
    {
        vm.delete_slot(1)?;
        vm.set_slot(1, 0, WINDOW, PAGE as u64, memory.hva())?;
    }
    result
}
