// SPDX-License-Identifier: GPL-2.0

//! A vCPU sleeps in HLT with a far TSC deadline, is interrupted, and sleeps on with a TSC that is past it.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE};
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;
const APIC: u64 = 0xfee0_0000;
const LVT_TIMER: i32 = 0x320;
const DEADLINE_MODE: u32 = 2 << 17;
const VECTOR: u8 = 0x60;
const HANDLER: u64 = CODE + 0x800;
const DONE: u16 = 0x41;
/// Ticks that no test waits for: half an hour or more.
const FAR: u64 = 1 << 42;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    if dev.cap(KVM_CAP_TSC_DEADLINE_TIMER) <= 0 {
        t.skip("the deadline", "no KVM_CAP_TSC_DEADLINE_TIMER");
        return Ok(());
    }
    let vm = Vm::with_irqchip(dev)?;
    let mut list = vm.cpuid().clone();
    for e in list.as_mut_slice() {
        if e.function == 1 {
            e.ecx |= 1 << 24;
        }
    }
    let code = asm64(|a| {
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        a.mov(
            dword_ptr(rbx + LVT_TIMER),
            DEADLINE_MODE | u32::from(VECTOR),
        )?;
        a.mfence()?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.mov(rdx, FAR)?;
        a.add(rax, rdx)?;
        a.mov(r14, rax)?;
        a.mov(rdx, rax)?;
        a.shr(rdx, 32)?;
        a.mov(ecx, TSC_DEADLINE)?;
        a.wrmsr()?;
        a.mov(al, 1)?;
        a.out(i32::from(DONE), al)?;
        a.sti()?;
        a.hlt()?;
        a.mov(al, 2)?;
        a.out(i32::from(DONE), al)
    });
    let (mut vcpu, ram) = setup::guest(&vm, Mode::Long, &code)?;
    vcpu.fd.set_cpuid2(&list)?;
    let handler = assemble(64, HANDLER, |a| {
        a.mov(dword_ptr(rbx + 0xb0), 0u32)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);

    t.eq("the timer is armed", vcpu.run()?, Exit::out8(DONE, 1));
    signals::catch()?;
    let (result, mut vcpu) = signals::interrupt_in_hlt(vcpu)?;
    t.errno("the guest sleeps", result, libc::EINTR);
    t.eq(
        "in HLT",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    let deadline = vcpu.regs()?.r14;
    t.ok(
        "the TSC is set past the deadline",
        vcpu.set_msr(TSC, deadline + 1)?,
    );
    t.eq("its interrupt ends HLT", vcpu.run()?, Exit::out8(DONE, 2));
    Ok(())
}
