// SPDX-License-Identifier: GPL-2.0

//! The task priority, by CR8, by the APIC's page and by its MSR: what it holds back, and when that comes.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::KVM_EXIT_SET_TPR;

const APIC: u64 = 0xfee0_0000;
const APIC_BASE: u32 = 0x1b;
const X2APIC: u32 = 0x800;
const TPR: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ICR: u32 = 0x300;
const SELF: u32 = 1 << 18;
const HANDLERS: u64 = CODE + 0x1000;
/// Pairs of a vector and the step at which it came.
const LOG: u64 = DATA;
const READ_BACK: u64 = DATA + 0x800;
const STOP: u16 = 0x41;
const GP: u8 = 13;

/// How the guest sets its task priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Cr8,
    Page,
    Msr,
}

/// A register of the APIC is set, in the mode that `way` wants. Clobbers RAX, RCX, RDX.
fn set(a: &mut CodeAssembler, way: Way, register: u32, value: u32) -> Asm {
    if way == Way::Msr {
        a.mov(ecx, X2APIC + register / 16)?;
        a.mov(eax, value)?;
        a.xor(edx, edx)?;
        a.wrmsr()
    } else {
        a.mov(dword_ptr(rbx + register as i32), value)
    }
}

fn set_priority(a: &mut CodeAssembler, way: Way, value: u32) -> Asm {
    if way == Way::Cr8 {
        a.mov(eax, value >> 4)?;
        a.mov(cr8, rax)
    } else {
        set(a, way, TPR, value)
    }
}

fn send(a: &mut CodeAssembler, way: Way, vector: u8) -> Asm {
    set(a, way, ICR, SELF | u32::from(vector))
}

fn step(a: &mut CodeAssembler) -> Asm {
    a.inc(r12)
}

/// The APIC on, in the mode that `way` wants, interrupts on.
fn enable(a: &mut CodeAssembler, way: Way) -> Asm {
    a.mov(rbx, APIC)?;
    a.mov(r13, LOG)?;
    a.xor(r12, r12)?;
    if way == Way::Msr {
        a.mov(ecx, APIC_BASE)?;
        a.rdmsr()?;
        a.or(eax, 1 << 10)?;
        a.wrmsr()?;
    }
    set(a, way, SPURIOUS, 0x1ff)?;
    a.sti()
}

/// A handler that logs `vector` with the step, and ends the interrupt.
fn handler(way: Way, vector: u8, ip: u64) -> Vec<u8> {
    assemble(64, ip, |a| {
        a.mov(byte_ptr(r13), u32::from(vector))?;
        a.mov(byte_ptr(r13 + 1), r12b)?;
        a.add(r13, 2)?;
        if vector == GP {
            // Over the error code, and past MOV to CR8.
            a.add(rsp, 8)?;
            a.add(qword_ptr(rsp), 4)?;
            return a.iretq();
        }
        a.push(rax)?;
        a.push(rcx)?;
        a.push(rdx)?;
        set(a, way, EOI, 0)?;
        a.pop(rdx)?;
        a.pop(rcx)?;
        a.pop(rax)?;
        a.iretq()
    })
}

fn guest(vm: &Vm, way: Way, code: impl FnOnce(&mut CodeAssembler) -> Asm) -> Outcome<(Vcpu, Ram)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(code))?;
    for (i, vector) in (0..).zip([0x31, 0x41, 0x51, 0x61, GP]) {
        let ip = HANDLERS + i * 0x100;
        ram.write(ip, &handler(way, vector, ip));
        setup::gate(&ram, Mode::Long, vector, ip);
    }
    Ok((vcpu, ram))
}

/// What the guest has logged.
fn log(ram: &Ram) -> Vec<(u8, u8)> {
    let bytes = ram.read(LOG, 64);
    let pairs = bytes.chunks_exact(2).map(|p| (p[0], p[1]));
    pairs.take_while(|p| p.0 != 0).collect()
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    for way in [Way::Cr8, Way::Page, Way::Msr] {
        order(t, dev, way)?;
        user_space(t, dev, way)?;
    }
    aliases(t, dev)?;
    reserved(t, dev)?;
    in_user_space(t, dev)
}

/// Each interrupt comes right after the instruction that lets it through.
fn order(t: &mut Tap, dev: &Device, way: Way) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, way, |a| {
        enable(a, way)?;
        set_priority(a, way, 0x50)?;
        send(a, way, 0x31)?;
        step(a)?;
        send(a, way, 0x61)?;
        step(a)?;
        set_priority(a, way, 0x30)?;
        step(a)?;
        set_priority(a, way, 0x2f)?;
        step(a)?;
        set_priority(a, way, 0xf0)?;
        send(a, way, 0x41)?;
        send(a, way, 0x51)?;
        step(a)?;
        set_priority(a, way, 0x40)?;
        step(a)?;
        a.cli()?;
        set_priority(a, way, 0)?;
        step(a)?;
        a.sti()?;
        step(a)?;
        step(a)?;
        a.mov(eax, r12d)?;
        a.out(i32::from(STOP), al)
    })?;
    t.eq(
        format!("{way:?}: to the end"),
        vcpu.run()?,
        Exit::out8(STOP, 9),
    );
    t.eq(
        format!("{way:?}: what came, and when"),
        log(&ram),
        [(0x61, 1), (0x31, 3), (0x51, 5), (0x41, 8)],
    );
    Ok(())
}

/// User space sees the priority, and what it lets through.
fn user_space(t: &mut Tap, dev: &Device, way: Way) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, way, |a| {
        enable(a, way)?;
        set_priority(a, way, 0x60)?;
        send(a, way, 0x31)?;
        send(a, way, 0x51)?;
        step(a)?;
        a.out(i32::from(STOP), al)?;
        step(a)?;
        a.out(i32::from(STOP), al)?;
        step(a)?;
        a.mov(rax, cr8)?;
        a.out(i32::from(STOP), al)
    })?;
    vcpu.run()?;
    t.eq(format!("{way:?}: nothing yet"), log(&ram), []);
    t.eq(format!("{way:?}: kvm_run.cr8"), vcpu.shared().cr8, 6);
    t.eq(format!("{way:?}: CR8"), vcpu.fd.get_sregs()?.cr8, 6);
    let mut lapic = vcpu.fd.get_lapic()?;
    t.eq(
        format!("{way:?}: KVM_GET_LAPIC"),
        lapic.regs[TPR as usize] as u8,
        0x60,
    );
    vcpu.with_sregs(|s| s.cr8 = 4)?;
    vcpu.run()?;
    t.eq(
        format!("{way:?}: KVM_SET_SREGS lets one through"),
        log(&ram),
        [(0x51, 1)],
    );
    lapic = vcpu.fd.get_lapic()?;
    lapic.regs[TPR as usize] = 0x10;
    vcpu.fd.set_lapic(&lapic)?;
    t.eq(
        format!("{way:?}: KVM_SET_LAPIC"),
        vcpu.run()?,
        Exit::out8(STOP, 1),
    );
    t.eq(
        format!("{way:?}: lets the other through"),
        log(&ram),
        [(0x51, 1), (0x31, 2)],
    );
    Ok(())
}

/// CR8 is a part of the page's register.
fn aliases(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, Way::Page, |a| {
        enable(a, Way::Page)?;
        set_priority(a, Way::Page, 0x7b)?;
        a.mov(rax, cr8)?;
        a.mov(qword_ptr(READ_BACK), rax)?;
        set_priority(a, Way::Cr8, 0x50)?;
        a.mov(eax, dword_ptr(rbx + TPR as i32))?;
        a.mov(qword_ptr(READ_BACK + 8), rax)?;
        a.mov(eax, dword_ptr(rbx + 0xa0))?;
        a.mov(qword_ptr(READ_BACK + 16), rax)?;
        a.out(i32::from(STOP), al)
    })?;
    vcpu.run()?;
    t.eq("CR8 after TPR = 0x7b", ram.get64(READ_BACK), 7);
    t.eq("TPR after CR8 = 5", ram.get64(READ_BACK + 8), 0x50);
    t.eq("PPR after CR8 = 5", ram.get64(READ_BACK + 16), 0x50);
    Ok(())
}

fn reserved(t: &mut Tap, dev: &Device) -> Outcome {
    for (kind, vm) in [("in", Vm::with_irqchip(dev)?), ("no", Vm::new(dev)?)] {
        let (mut vcpu, ram) = guest(&vm, Way::Cr8, |a| {
            a.mov(r13, LOG)?;
            a.xor(r12, r12)?;
            step(a)?;
            a.mov(eax, 0x10)?;
            a.mov(cr8, rax)?;
            a.mov(rax, cr8)?;
            a.out(i32::from(STOP), al)
        })?;
        t.eq(
            format!("{kind} APIC in the kernel: CR8 is unchanged by 16"),
            vcpu.run()?,
            Exit::out8(STOP, 0),
        );
        t.eq(format!("{kind} APIC: #GP"), log(&ram), [(GP, 1)]);
    }
    Ok(())
}

/// Without an APIC in the kernel user space hears of a priority that falls.
fn in_user_space(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let (mut vcpu, _ram) = guest(&vm, Way::Cr8, |a| {
        set_priority(a, Way::Cr8, 0x90)?;
        set_priority(a, Way::Cr8, 0x30)?;
        a.mov(rax, cr8)?;
        a.out(i32::from(STOP), al)
    })?;
    t.eq(
        "a lower priority exits",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_SET_TPR),
    );
    t.eq("kvm_run.cr8", vcpu.shared().cr8, 3);
    t.eq("it reads back", vcpu.run()?, Exit::out8(STOP, 3));
    Ok(())
}
