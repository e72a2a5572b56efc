// SPDX-License-Identifier: GPL-2.0

//! Single steps over a MOV that accesses a device, by the debugger and by the guest's own trap flag, and a breakpoint on
//! the instruction behind it.
//!
//! Each is done when the page of the device was accessed before, and when not: a kernel may have two ways to do it.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

/// Answered in the kernel.
const IOAPIC: u64 = 0xfec0_0000;
/// Where no slot is.
const USER: u64 = 0xd000_0000;
const PORT: u16 = 0x80;
const HANDLER: u64 = CODE + 0x800;
const DB: u32 = 1;
/// Bytes of `mov eax, [rbx]`.
const MOV: u64 = 2;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    for device in [IOAPIC, USER] {
        by_the_debugger(t, &mut vcpu, &ram, device)?;
        by_the_guest(t, &mut vcpu, &ram, device)?;
        breakpoint(t, &mut vcpu, &ram, device)?;
    }
    Ok(())
}

fn name(device: u64) -> &'static str {
    if device == USER {
        "user space"
    } else {
        "the kernel"
    }
}

/// Runs on; reads for user space are answered with 5, 0, 0, 0.
fn go(vcpu: &mut Vcpu) -> Result<Exit, crate::errno::Errno> {
    loop {
        match vcpu.run()? {
            Exit::MmioRead { gpa: USER, len: 4 } => vcpu.reply(&[5, 0, 0, 0]),
            other => return Ok(other),
        }
    }
}

fn control(vcpu: &Vcpu, control: u32, debugreg: [u64; 8]) -> Outcome {
    let debug = kvm_guest_debug {
        control,
        arch: kvm_guest_debug_arch { debugreg },
        ..Default::default()
    };
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_GUEST_DEBUG, &debug)?;
    Ok(())
}

/// RIP as KVM_EXIT_DEBUG tells it.
fn pc(vcpu: &mut Vcpu) -> u64 {
    // SAFETY: The last exit was KVM_EXIT_DEBUG.
    unsafe { vcpu.shared().__bindgen_anon_1.debug.arch.pc }
}

fn start(vcpu: &Vcpu, ram: &Ram, device: u64) -> Outcome {
    let code = asm64(|a| {
        for _ in 0..4 {
            a.mov(eax, dword_ptr(rbx))?;
        }
        a.out(i32::from(PORT), al)
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    vcpu.with_regs(|r| {
        r.rbx = device;
        r.rax = 0xff;
    })?;
    Ok(())
}

fn by_the_debugger(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram, device: u64) -> Outcome {
    let name = name(device);
    start(vcpu, ram, device)?;
    for step in 1..=3 {
        control(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
        t.eq(
            format!("step {step} over a load from {name}"),
            go(vcpu)?,
            Exit::Debug(DB),
        );
        t.eq("RIP is behind it", pc(vcpu), CODE + MOV * step);
    }
    t.ok("the load is done", vcpu.regs()?.rax != 0xff);
    control(vcpu, 0, [0; 8])?;
    t.ok(
        "without a debugger the guest goes on",
        matches!(go(vcpu)?, Exit::Out { port: PORT, .. }),
    );
    Ok(())
}

fn by_the_guest(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram, device: u64) -> Outcome {
    let name = name(device);
    let handler = assemble(64, HANDLER, |a| {
        a.mov(rdx, qword_ptr(rsp))?;
        a.mov(rax, rdx)?;
        a.out(i32::from(PORT), eax)?;
        a.iretq()
    });
    start(vcpu, ram, device)?;
    ram.write(HANDLER, &handler);
    setup::gate(ram, Mode::Long, DB as u8, HANDLER);
    vcpu.with_regs(|r| r.rflags |= 1 << 8)?;
    for step in 1..=4u64 {
        let at = (CODE + MOV * step) as u32;
        t.eq(
            format!("trap {step} after a load from {name}"),
            go(vcpu)?,
            Exit::out32(PORT, at),
        );
    }
    Ok(())
}

fn breakpoint(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram, device: u64) -> Outcome {
    let name = name(device);
    start(vcpu, ram, device)?;
    for n in 1..=3u64 {
        let at = CODE + MOV * n;
        control(
            vcpu,
            KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
            [at, 0, 0, 0, 0, 0, 0, 0x402],
        )?;
        t.eq(
            format!("breakpoint {n} behind a load from {name}"),
            go(vcpu)?,
            Exit::Debug(DB),
        );
        t.eq("RIP is there", pc(vcpu), at);
    }
    control(vcpu, 0, [0; 8])?;
    t.ok(
        "without it the guest goes on",
        matches!(go(vcpu)?, Exit::Out { port: PORT, .. }),
    );
    Ok(())
}
