// SPDX-License-Identifier: GPL-2.0

//! What a local APIC says of a message that it can't take: the error interrupt and ESR.

use crate::asm::*;
use crate::device::Device;
use crate::tap::Tap;
use crate::tests::{signals, stats};
use crate::vm::Vm;
use crate::waiter::{self, taken, waiting, End, APIC};
use crate::Outcome;
use kvm_bindings::kvm_msi;
use std::thread;
use std::time::Duration;

const LVT_ERROR: u64 = 0x370;
const ERROR_VECTOR: u8 = 0x61;
/// Vectors below 16 are the exceptions'.
const ILLEGAL_VECTOR: u32 = 5;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let mut vcpu = vm.vcpu(0)?;
    let ram = waiter::start(&vm, &vcpu, |a| {
        a.mov(rbx, APIC + LVT_ERROR)?;
        a.mov(dword_ptr(rbx), u32::from(ERROR_VECTOR))
    })?;
    waiter::handle(&ram, ERROR_VECTOR, End::Eoi);
    signals::catch()?;
    t.eq("the guest waits", vcpu.run()?, waiting());

    let raw = vcpu.raw();
    let blocks = || stats::of(raw).is_ok_and(|all| all.get("blocking") == Some(&1));
    let until = |seen: &dyn Fn() -> bool| {
        for _ in 0..500 {
            if seen() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    let mut sent = None;
    // Signals end the wait if the error interrupt does not.
    let (result, mut vcpu) = signals::interrupt_after(vcpu, || {
        until(&blocks);
        sent = Some(vm.fd.signal_msi(kvm_msi {
            address_lo: APIC as u32,
            data: ILLEGAL_VECTOR,
            ..Default::default()
        }));
        until(&|| !blocks());
    })?;
    t.eq(
        "nobody takes a message with an illegal vector",
        sent.map(|s| s.map_err(|e| e.errno())),
        Some(Ok(0)),
    );
    t.eq(
        "the error interrupt wakes the vCPU",
        result,
        Ok(taken(ERROR_VECTOR)),
    );
    t.eq("it comes once", vcpu.run()?, waiting());
    Ok(())
}
