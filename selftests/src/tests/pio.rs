// SPDX-License-Identifier: GPL-2.0

//! IN and OUT in all sizes and both forms.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

/// One IN of so many bytes.
fn input(port: u16, size: u8) -> Exit {
    Exit::In {
        port,
        size,
        count: 1,
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    all_sizes(t, &mut vcpu, &ram)?;
    changed_meanwhile(t, &mut vcpu, &ram)?;
    reset_meanwhile(t, &mut vcpu, &ram)?;
    vapic_port(t, dev)?;
    own_port(t, &mut vcpu, &ram)
}

/// Each size by a number and by DX.
fn all_sizes(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rax, 0xffff_ffff_1234_5678u64)?;
        a.out(0x42, al)?;
        a.out(0x43, ax)?;
        a.out(0x44, eax)?;
        a.mov(dx, 0xfedcu32)?;
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        // Inputs leave what they do not cover; a doubleword clears the upper half.
        a.mov(rax, 0x1111_1111_1111_1111u64)?;
        a.in_(al, 0x50)?;
        a.mov(r8, rax)?;
        a.in_(ax, 0x51)?;
        a.mov(r9, rax)?;
        a.in_(eax, 0x52)?;
        a.mov(r10, rax)?;
        a.in_(eax, dx)?;
        a.mov(r11, rax)?;
        a.mov(dx, 0xffffu32)?;
        a.out(dx, al)?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    t.eq("OUT imm8, AL", vcpu.run()?, Exit::out8(0x42, 0x78));
    t.eq("OUT imm8, AX", vcpu.run()?, Exit::out16(0x43, 0x5678));
    t.eq("OUT imm8, EAX", vcpu.run()?, Exit::out32(0x44, 0x1234_5678));
    t.eq("OUT DX, AL", vcpu.run()?, Exit::out8(0xfedc, 0x78));
    t.eq("OUT DX, AX", vcpu.run()?, Exit::out16(0xfedc, 0x5678));
    t.eq("OUT DX, EAX", vcpu.run()?, Exit::out32(0xfedc, 0x1234_5678));

    t.eq("IN AL", vcpu.run()?, input(0x50, 1));
    let rip = vcpu.regs()?.rip;
    vcpu.reply(&[0xa1]);
    t.eq("IN AX", vcpu.run()?, input(0x51, 2));
    t.ok("RIP moved on between the two", vcpu.regs()?.rip > rip);
    vcpu.reply(&[0xb2, 0xb3]);
    t.eq("IN EAX", vcpu.run()?, input(0x52, 4));
    vcpu.reply(&[0xc1, 0xc2, 0xc3, 0xc4]);
    t.eq("IN EAX, DX", vcpu.run()?, input(0xfedc, 4));
    vcpu.reply(&[1, 2, 3, 0x84]);
    t.eq("the last port", vcpu.run()?, Exit::out8(0xffff, 1));
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let r = vcpu.regs()?;
    t.eq("IN AL changed AL only", r.r8, 0x1111_1111_1111_11a1);
    t.eq("IN AX changed AX only", r.r9, 0x1111_1111_1111_b3b2);
    t.eq("IN EAX cleared the upper half", r.r10, 0xc4c3_c2c1);
    t.eq("no sign comes in", r.r11, 0x8403_0201);
    Ok(())
}

/// The answer belongs to the exit, not to the moment it is given: user space may look at and change other registers in
/// between.
fn changed_meanwhile(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.in_(al, 0x60)?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    t.eq("IN again", vcpu.run()?, input(0x60, 1));
    vcpu.with_regs(|r| r.rbx = 0x77)?;
    vcpu.reply(&[0x99]);
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let r = vcpu.regs()?;
    t.eq("both took effect", (r.rax & 0xff, r.rbx), (0x99, 0x77));
    Ok(())
}

/// QEMU replaces the instruction before RIP when the guest calls it by OUT to this port.
fn vapic_port(t: &mut Tap, dev: &Device) -> Outcome {
    const PORT: u16 = 0x7e;
    for (quirk, rip) in [(true, 4), (false, 2)] {
        let vm = Vm::new(dev)?;
        if !quirk {
            vm.fd.enable_cap(&kvm_enable_cap {
                cap: KVM_CAP_DISABLE_QUIRKS2,
                args: [KVM_X86_QUIRK_OUT_7E_INC_RIP.into(), 0, 0, 0],
                ..Default::default()
            })?;
        }
        let code = asm64(|a| {
            a.mov(al, 0x55)?;
            a.out(i32::from(PORT), al)?;
            a.hlt()
        });
        let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &code)?;
        t.eq(
            format!("OUT to the port of the vAPIC, quirk {quirk}"),
            vcpu.run()?,
            Exit::out8(PORT, 0x55),
        );
        t.eq("RIP", vcpu.regs()?.rip, setup::CODE + rip);
        t.eq("the guest goes on", vcpu.run()?, Exit::Hlt);
    }
    Ok(())
}

/// User space that sets RIP while it has an IN or an OUT to answer has done with that instruction.
fn reset_meanwhile(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    const ELSEWHERE: u64 = setup::CODE + 0x100;
    let code = asm64(|a| {
        a.in_(al, 0x60)?;
        a.out(0x61, al)?;
        a.hlt()
    });
    let elsewhere = assemble(64, ELSEWHERE, |a| {
        // As long as IN and OUT.
        a.push(rcx)?;
        a.push(rcx)?;
        a.out(0x62, al)?;
        a.hlt()
    });
    let told = |exit| match exit {
        Exit::Out { port, data, .. } => (port, data),
        other => (0, format!("{other:?}").into_bytes()),
    };
    let input = input(0x60, 1);
    for (what, start, first) in [
        ("IN", setup::CODE, input),
        ("OUT", setup::CODE + 2, Exit::out8(0x61, 0x33)),
    ] {
        setup::start(vcpu, ram, Mode::Long, &code)?;
        ram.write(ELSEWHERE, &elsewhere);
        vcpu.with_regs(|r| (r.rip, r.rax) = (start, 0x33))?;
        let exit = vcpu.run()?;
        t.eq(format!("{what}, after RIP was set to it"), &exit, &first);
        if matches!(exit, Exit::In { .. }) {
            vcpu.reply(&[0x99]);
        }
        vcpu.with_regs(|r| r.rip = ELSEWHERE)?;
        t.eq(
            format!("{what}, and RIP set elsewhere: nothing is finished"),
            told(vcpu.run()?),
            (0x62, vec![0x33]),
        );
        t.eq(
            format!("{what}: nothing was left out there"),
            vcpu.regs()?.rsp,
            setup::STACK - 16,
        );
    }
    Ok(())
}

/// A VMM that may use ports itself still may after its guest ran: an exit cuts the TSS off before the I/O bitmap.
fn own_port(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    const DELAY: u16 = 0x80;
    // SAFETY: the port of POST codes, which nothing listens to.
    if unsafe { libc::ioperm(DELAY.into(), 1, 1) } != 0 {
        t.skip("a port of the VMM's own", "this kernel has no ioperm()");
        return Ok(());
    }
    let code = asm64(|a| a.hlt());
    for round in 0..3 {
        setup::start(vcpu, ram, Mode::Long, &code)?;
        let exit = vcpu.run()?;
        // SAFETY: the port was allowed, and a fault would end this process.
        unsafe { core::arch::asm!("out dx, al", in("dx") DELAY, in("al") 0u8) };
        t.eq(
            format!("a port of the VMM's own, round {round}"),
            exit,
            Exit::Hlt,
        );
    }
    Ok(())
}
