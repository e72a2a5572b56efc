// SPDX-License-Identifier: GPL-2.0

//! Slots that are deleted, replaced and moved while the guest uses them in another thread.

use crate::device::Device;
use crate::ram::Ram;
use crate::tap::Tap;
use crate::vm::Vm;
use crate::watcher::{watch, Seen, EMPTY, STOP, WINDOW};
use crate::{Outcome, MIB, PAGE};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let first = vm.add_ram(1, WINDOW, PAGE)?;
    let second = Ram::new(WINDOW, PAGE)?;
    let vcpu = vm.vcpu(0)?;
    first.set32(WINDOW, 1);
    let steps = |seen: &Seen| -> Outcome {
        seen.next(t, "the guest sees the first memory", 1)?;
        for round in 0..5u32 {
            vm.delete_slot(1)?;
            seen.next(t, &format!("deleted under the guest, round {round}"), EMPTY)?;
            second.set32(WINDOW, 0x100 + round);
            vm.set_slot(1, 0, WINDOW, PAGE as u64, second.hva())?;
            seen.next(
                t,
                &format!("replaced under the guest, round {round}"),
                0x100 + round,
            )?;
        }
        vm.set_slot(1, 0, WINDOW + MIB as u64, PAGE as u64, second.hva())?;
        seen.next(t, "moved away under the guest", EMPTY)?;
        vm.set_slot(1, 0, WINDOW, PAGE as u64, second.hva())?;
        seen.next(t, "moved back", 0x104)?;
        Ok(())
    };
    watch(vcpu, &ram, steps, || stop(&vm, &second))?;
    t.ok("the vCPU thread came to its end", true);
    Ok(())
}

/// Shows the guest [`STOP`], whatever slot is there.
fn stop(vm: &Vm, memory: &Ram) -> Outcome {
    memory.set32(WINDOW, STOP);
    let put = || vm.set_slot(1, 0, WINDOW, PAGE as u64, memory.hva());
    // Fails when the slot is there with other memory: then it is replaced.
    if put().is_err() {
        vm.delete_slot(1)?;
        put()?;
    }
    Ok(())
}
