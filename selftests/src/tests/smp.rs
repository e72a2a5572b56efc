// SPDX-License-Identifier: GPL-2.0

//! Two vCPUs: INIT and SIPI through the local APIC, and interrupts from one to the other.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE, DATA, STACK};
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::thread;

const APIC: u64 = 0xfee0_0000;
const ICR_LOW: i32 = 0x300;
const ICR_HIGH: i32 = 0x310;
const DONE: u16 = 0x41;
/// Where SIPI starts the second processor: page 0x30.
const AP_PAGE: u64 = 0x3_0000;
const FLAG: u64 = DATA;
const ROUNDS: u32 = 50;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    init_sipi(t, dev)?;
    ping_pong(t, dev)
}

/// Runs an application processor until it made an exit of its own; as it waits for SIPI, KVM_RUN
/// answers EAGAIN when it was woken.
fn run_ap(vcpu: &mut Vcpu) -> Outcome<Exit> {
    loop {
        match vcpu.run() {
            Ok(exit) => return Ok(exit),
            Err(e) if e.0 == libc::EAGAIN => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn init_sipi(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut bsp = vm.vcpu(0)?;
    let ap = vm.vcpu(1)?;
    t.eq(
        "vCPU 0 is runnable",
        bsp.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_RUNNABLE,
    );
    t.eq(
        "vCPU 1 waits to be initialised",
        ap.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_UNINITIALIZED,
    );
    signals::catch()?;
    let (result, mut ap) = signals::interrupt_until_done(ap)?;
    t.ok(
        "a signal gets a waiting vCPU out",
        matches!(result, Err(e) if e.0 == libc::EINTR || e.0 == libc::EAGAIN),
    );

    let code = asm64(|a| {
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        // INIT, then SIPI twice, to APIC id 1.
        a.mov(dword_ptr(rbx + ICR_HIGH), 1u32 << 24)?;
        a.mov(dword_ptr(rbx + ICR_LOW), 0x4500u32)?;
        a.mov(dword_ptr(rbx + ICR_LOW), 0x4600 | (AP_PAGE >> 12) as u32)?;
        a.mov(dword_ptr(rbx + ICR_LOW), 0x4600 | (AP_PAGE >> 12) as u32)?;
        a.mov(al, 0)?;
        a.out(i32::from(DONE), al)?;
        a.hlt()
    });
    setup::start(&bsp, &ram, Mode::Long, &code)?;
    let ap_code = assemble(16, 0, |a| {
        a.mov(ax, cs)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x800), 0x5a5a)?;
        a.out(i32::from(DONE), ax)?;
        a.hlt()
    });
    ram.write(AP_PAGE, &ap_code);
    thread::scope(|s| -> Outcome {
        let runner = s.spawn(move || (run_ap(&mut ap), ap));
        t.eq(
            "the first processor sends INIT and SIPI",
            bsp.run()?,
            Exit::out8(DONE, 0),
        );
        let (exit, ap) = runner.join().map_err(|_| "the vCPU thread panicked")?;
        t.eq(
            "the second runs, CS from the vector",
            exit?,
            Exit::out16(DONE, (AP_PAGE >> 4) as u16),
        );
        t.eq(
            "it wrote memory",
            ram.read(AP_PAGE + 0x800, 2),
            vec![0x5a, 0x5a],
        );
        t.eq(
            "its state is runnable",
            ap.fd.get_mp_state()?.mp_state,
            KVM_MP_STATE_RUNNABLE,
        );
        let regs = ap.regs()?;
        let signature = vm
            .cpuid()
            .as_slice()
            .iter()
            .find(|e| e.function == 1)
            .map(|e| u64::from(e.eax));
        t.eq(
            "RDX after INIT is the processor's signature",
            Some(regs.rdx),
            signature,
        );
        Ok(())
    })
}

/// Each handler passes an interrupt on to the other processor, a fixed number of times.
fn ping_pong(t: &mut Tap, dev: &Device) -> Outcome {
    const VECTOR: u8 = 0x60;
    const HANDLER: u64 = CODE + 0x800;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut first = vm.vcpu(0)?;
    let mut second = vm.vcpu(1)?;
    // R15 is the APIC id of the other one, R14 the rounds to go.
    let code = asm64(|a| {
        let mut wait = a.create_label();
        let mut done = a.create_label();
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        a.shl(r15d, 24)?;
        a.lock().inc(dword_ptr(FLAG))?;
        // Both have to be ready before the first interrupt.
        let mut ready = a.create_label();
        a.set_label(&mut ready)?;
        a.sti()?;
        a.pause()?;
        a.cmp(dword_ptr(FLAG), 2)?;
        a.jb(ready)?;
        a.test(r13d, r13d)?;
        a.jz(wait)?;
        a.cli()?;
        a.mov(dword_ptr(rbx + ICR_HIGH), r15d)?;
        a.mov(dword_ptr(rbx + ICR_LOW), u32::from(VECTOR) | 0x4000)?;
        a.set_label(&mut wait)?;
        a.cli()?;
        a.test(r14d, r14d)?;
        a.jz(done)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut done)?;
        a.mov(eax, dword_ptr(FLAG + 8))?;
        a.out(i32::from(DONE), eax)?;
        a.hlt()
    });
    let handler = assemble(64, HANDLER, |a| {
        let mut last = a.create_label();
        a.lock().inc(dword_ptr(FLAG + 8))?;
        a.mov(dword_ptr(rbx + 0xb0), 0u32)?;
        a.dec(r14d)?;
        // The first processor began: it does not answer the last one.
        a.mov(eax, r14d)?;
        a.or(eax, r12d)?;
        a.jz(last)?;
        a.mov(dword_ptr(rbx + ICR_HIGH), r15d)?;
        a.mov(dword_ptr(rbx + ICR_LOW), u32::from(VECTOR) | 0x4000)?;
        a.set_label(&mut last)?;
        a.iretq()
    });
    setup::start(&first, &ram, Mode::Long, &code)?;
    setup::enter(&second, Mode::Long, CODE, STACK - 0x4000)?;
    second.fd.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })?;
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    // The first one starts (R13); the second one answers every time (R12).
    first.with_regs(|r| (r.r15, r.r14, r.r13, r.r12) = (1, u64::from(ROUNDS), 1, 0))?;
    second.with_regs(|r| (r.r15, r.r14, r.r13, r.r12) = (0, u64::from(ROUNDS), 0, 1))?;
    thread::scope(|s| -> Outcome {
        let runner = s.spawn(move || second.run());
        let exit = first.run()?;
        let other = runner.join().map_err(|_| "the vCPU thread panicked")??;
        t.eq(
            "the first one was sent all",
            exit,
            Exit::out32(DONE, 2 * ROUNDS),
        );
        t.ok(
            "the second one too",
            matches!(other, Exit::Out { port: DONE, .. }),
        );
        t.eq("interrupts handled", ram.get32(FLAG + 8), 2 * ROUNDS);
        Ok(())
    })
}
