// SPDX-License-Identifier: GPL-2.0

//! The local APIC timer: one-shot, periodic, TSC deadline.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

const VECTOR: u8 = 0x60;
const HANDLER: u64 = CODE + 0x800;
const DONE: u16 = 0x41;
const APIC: u64 = 0xfee0_0000;
const LVT_TIMER: i32 = 0x320;
const INITIAL: i32 = 0x380;
const CURRENT: i32 = 0x390;
const DIVIDE: i32 = 0x3e0;
const BY_ONE: u32 = 0xb;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE: u32 = 0x6e0;
/// Ticks of the TSC that no test waits for: half an hour or more.
const FAR: u64 = 1 << 42;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    one_shot(t, dev)?;
    periodic(t, dev)?;
    masked(t, dev)?;
    switched_off(t, dev)?;
    deadline(t, dev)
}

/// Enables the APIC with RBX at its registers; the handler counts in R15.
fn enable(a: &mut CodeAssembler) -> Asm {
    a.xor(r15, r15)?;
    a.mov(rbx, APIC)?;
    a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
    a.mov(dword_ptr(rbx + DIVIDE), BY_ONE)
}

/// Waits until R15 is at least `count`, then tells it.
fn wait(a: &mut CodeAssembler, count: i32) -> Asm {
    let mut again = a.create_label();
    let mut enough = a.create_label();
    a.set_label(&mut again)?;
    a.cli()?;
    a.cmp(r15, count)?;
    a.jae(enough)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(again)?;
    a.set_label(&mut enough)?;
    a.mov(eax, r15d)?;
    a.out(i32::from(DONE), al)
}

fn guest(vm: &Vm, code: impl FnOnce(&mut CodeAssembler) -> Asm) -> Outcome<(Vcpu, Ram)> {
    let (vcpu, ram) = setup::guest(vm, Mode::Long, &asm64(code))?;
    let handler = assemble(64, HANDLER, |a| {
        a.inc(r15)?;
        a.mov(dword_ptr(rbx + 0xb0), 0u32)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    Ok((vcpu, ram))
}

fn one_shot(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        enable(a)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR))?;
        a.mov(dword_ptr(rbx + INITIAL), 10_000u32)?;
        wait(a, 1)?;
        // It has run down, and does not begin again.
        a.mov(r14d, dword_ptr(rbx + CURRENT))?;
        a.mov(r13d, dword_ptr(rbx + INITIAL))?;
        // A long one counts down.
        a.mov(dword_ptr(rbx + INITIAL), 0x7fff_ffffu32)?;
        a.mov(r12d, dword_ptr(rbx + CURRENT))?;
        a.mov(r11d, dword_ptr(rbx + CURRENT))?;
        // Writing 0 stops it.
        a.mov(dword_ptr(rbx + INITIAL), 0u32)?;
        a.mov(r10d, dword_ptr(rbx + CURRENT))?;
        a.mov(al, 0)?;
        a.out(i32::from(DONE), al)
    })?;
    t.eq("one interrupt", vcpu.run()?, Exit::out8(DONE, 1));
    t.eq("the rest of the program", vcpu.run()?, Exit::out8(DONE, 0));
    let r = vcpu.regs()?;
    t.eq("no other interrupt came", r.r15, 1);
    t.eq("the current count is 0 after it fired", r.r14, 0);
    t.eq("the initial count stays readable", r.r13, 10_000);
    t.ok(
        "a running count goes down",
        r.r12 < 0x7fff_ffff && r.r11 < r.r12,
    );
    t.eq("a stopped one reads 0", r.r10, 0);
    Ok(())
}

fn periodic(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        enable(a)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR) | PERIODIC)?;
        a.mov(dword_ptr(rbx + INITIAL), 1_000_000u32)?;
        wait(a, 3)?;
        a.mov(dword_ptr(rbx + INITIAL), 0u32)?;
        a.mov(al, 0)?;
        a.out(i32::from(DONE), al)
    })?;
    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => t.ok("three interrupts from one start", data[0] >= 3),
        other => t.eq("three interrupts", other, Exit::out8(DONE, 3)),
    };
    t.eq("it can be stopped", vcpu.run()?, Exit::out8(DONE, 0));
    Ok(())
}

fn masked(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        enable(a)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR) | MASKED)?;
        a.mov(dword_ptr(rbx + INITIAL), 1000u32)?;
        let mut running = a.create_label();
        a.sti()?;
        a.set_label(&mut running)?;
        a.mov(eax, dword_ptr(rbx + CURRENT))?;
        a.test(eax, eax)?;
        a.jnz(running)?;
        a.mov(eax, r15d)?;
        a.out(i32::from(DONE), al)?;
        // Unmasked and started again it comes.
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR))?;
        a.mov(dword_ptr(rbx + INITIAL), 1000u32)?;
        wait(a, 1)
    })?;
    t.eq(
        "a masked timer runs down and makes no interrupt",
        vcpu.run()?,
        Exit::out8(DONE, 0),
    );
    match vcpu.run()? {
        // The expiry of the first may still be on its way when the second is unmasked.
        Exit::Out {
            port: DONE, data, ..
        } => t.ok("an unmasked one does", matches!(data[0], 1 | 2)),
        other => t.eq("an unmasked one does", other, Exit::out8(DONE, 1)),
    };
    Ok(())
}

/// An APIC that is switched off in SVR masks its timer and does not stop it.
fn switched_off(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        enable(a)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR) | PERIODIC)?;
        a.mov(dword_ptr(rbx + INITIAL), 1_000_000u32)?;
        wait(a, 1)?;
        a.mov(dword_ptr(rbx + 0xf0), 0xffu32)?;
        a.mov(eax, dword_ptr(rbx + LVT_TIMER))?;
        a.out(i32::from(DONE), eax)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR) | PERIODIC)?;
        a.inc(r15)?;
        wait(a, 3)
    })?;
    // In a guest of a slow host more than one period may pass before the guest looks.
    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => t.ok("a periodic timer", data[0] >= 1),
        other => t.eq("a periodic timer", other, Exit::out8(DONE, 1)),
    };
    t.eq(
        "it is masked while the APIC is switched off",
        vcpu.run()?,
        Exit::out32(DONE, u32::from(VECTOR) | PERIODIC | MASKED),
    );
    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => t.ok("and goes on afterwards", data[0] >= 3),
        other => t.eq("and goes on afterwards", other, Exit::out8(DONE, 3)),
    };
    Ok(())
}

fn deadline(t: &mut Tap, dev: &Device) -> Outcome {
    if dev.cap(KVM_CAP_TSC_DEADLINE_TIMER) <= 0 {
        t.skip("the TSC deadline", "no KVM_CAP_TSC_DEADLINE_TIMER");
        return Ok(());
    }
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        enable(a)?;
        a.mov(dword_ptr(rbx + LVT_TIMER), u32::from(VECTOR) | DEADLINE)?;
        a.mfence()?;
        let arm = |a: &mut CodeAssembler, ticks: u64| -> Asm {
            a.rdtsc()?;
            a.shl(rdx, 32)?;
            a.or(rax, rdx)?;
            a.mov(rdx, ticks)?;
            a.add(rax, rdx)?;
            a.mov(r14, rax)?;
            a.mov(rdx, rax)?;
            a.shr(rdx, 32)?;
            a.mov(ecx, TSC_DEADLINE)?;
            a.wrmsr()
        };
        arm(a, 100_000)?;
        wait(a, 1)?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rdx, rax)?;
        a.mov(r13, rdx)?;
        // It is disarmed when it fired.
        a.mov(ecx, TSC_DEADLINE)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.mov(r12, rax)?;
        // A far one can be read, and disarmed by 0.
        arm(a, FAR)?;
        a.mov(r11, r14)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.mov(r10, rax)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.mov(r9, rax)?;
        // One in the past fires at once.
        arm(a, 0)?;
        wait(a, 2)
    })?;
    let mut list = vm.cpuid().clone();
    for e in list.as_mut_slice() {
        if e.function == 1 {
            e.ecx |= 1 << 24;
        }
    }
    vcpu.fd.set_cpuid2(&list)?;
    t.eq("the deadline's interrupt", vcpu.run()?, Exit::out8(DONE, 1));
    t.eq("one in the past", vcpu.run()?, Exit::out8(DONE, 2));
    let r = vcpu.regs()?;
    t.eq("the MSR reads 0 after it fired", r.r12, 0);
    t.eq("an armed one reads back", r.r10, r.r11);
    t.eq("and can be disarmed", r.r9, 0);
    Ok(())
}
