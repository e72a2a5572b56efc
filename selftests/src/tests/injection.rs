// SPDX-License-Identifier: GPL-2.0

//! Events that user space puts into a vCPU with KVM_SET_VCPU_EVENTS, KVM_NMI and KVM_INTERRUPT.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, STACK};
use crate::sys;
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const HANDLERS: u64 = CODE + 0x4000;
const VECTOR_PORT: u16 = 0x40;
const MAIN_PORT: u16 = 0x41;
const VECTOR: u8 = 0x55;
const INTERRUPT_FLAG: u64 = 1 << 9;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let (ram, mut vcpu) = machine(&vm)?;
    exceptions(t, &mut vcpu, &ram)?;
    called_off(t, &mut vcpu)?;
    nmi(t, &mut vcpu)?;
    nmi_in_shadow(t, &mut vcpu)?;
    interrupt(t, &mut vcpu)?;
    refused(t, &vcpu)?;
    exception_first(t, dev)?;
    restored_by_sregs(t, dev)?;
    split(t, dev)
}

/// A vCPU with a program that tells of itself twice with IF clear, once with IF set, and halts; and handlers that tell of themselves.
fn machine(vm: &Vm) -> Outcome<(Ram, Vcpu)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.out(i32::from(MAIN_PORT), al)?;
        a.out(i32::from(MAIN_PORT), al)?;
        a.sti()?;
        a.nop()?;
        a.out(i32::from(MAIN_PORT), al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    for (vector, error) in [(2u8, false), (6, false), (13, true), (VECTOR, false)] {
        let at = HANDLERS + u64::from(vector) * 32;
        let handler = assemble(64, at, |a| {
            a.push(rax)?;
            a.mov(al, i32::from(vector))?;
            a.out(i32::from(VECTOR_PORT), al)?;
            a.pop(rax)?;
            if error {
                a.add(rsp, 8)?;
            }
            a.iretq()
        });
        ram.write(at, &handler);
        setup::gate(&ram, Mode::Long, vector, at);
    }
    Ok((ram, vcpu))
}

/// With only the APIC in the kernel, LINT0 decides whether the PIC in user space is heard.
fn split(t: &mut Tap, dev: &Device) -> Outcome {
    const LVT_LINT0: usize = 0x350;
    const MASKED: u8 = 1;
    const EXT_INT: u8 = 7;
    let vm = Vm::new(dev)?;
    vm.fd.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..Default::default()
    })?;
    let (_ram, mut vcpu) = machine(&vm)?;
    let lint0 = |vcpu: &Vcpu, mask: u8| -> Outcome {
        let mut lapic = vcpu.fd.get_lapic()?;
        lapic.regs[LVT_LINT0 + 1] = EXT_INT as _;
        lapic.regs[LVT_LINT0 + 2] = mask as _;
        vcpu.fd.set_lapic(&lapic)?;
        Ok(())
    };

    lint0(&vcpu, 0)?;
    vcpu.shared().request_interrupt_window = 1;
    for _ in 0..2 {
        t.eq("split: IF is clear", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    }
    t.eq("split: the window opens", vcpu.run()?, Exit::IrqWindow);
    vcpu.shared().request_interrupt_window = 0;
    vcpu.interrupt(u32::from(VECTOR))?;
    t.errno(
        "split: only one interrupt can wait",
        vcpu.interrupt(u32::from(VECTOR)),
        libc::EEXIST,
    );
    t.eq(
        "split: the interrupt is taken",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, VECTOR),
    );

    restart(&vcpu)?;
    lint0(&vcpu, MASKED)?;
    vcpu.shared().request_interrupt_window = 1;
    for _ in 0..3 {
        t.eq(
            "split: no window while LINT0 is masked",
            vcpu.run()?,
            Exit::out8(MAIN_PORT, 0),
        );
    }
    t.eq(
        "split: and no interrupt can be injected",
        vcpu.shared().ready_for_interrupt_injection,
        0,
    );
    Ok(())
}

fn restart(vcpu: &Vcpu) -> Outcome {
    setup::enter(vcpu, Mode::Long, CODE, STACK)?;
    Ok(())
}

fn inject(vcpu: &Vcpu, nr: u8, error: Option<u32>) -> Outcome {
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.exception.injected = 1;
    e.exception.nr = nr;
    e.exception.has_error_code = u8::from(error.is_some());
    e.exception.error_code = error.unwrap_or(0);
    vcpu.fd.set_vcpu_events(&e)?;
    Ok(())
}

fn exceptions(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    restart(vcpu)?;
    inject(vcpu, 6, None)?;
    let e = vcpu.fd.get_vcpu_events()?;
    t.eq(
        "an injected exception reads back",
        (e.exception.injected, e.exception.nr),
        (1, 6),
    );
    t.eq(
        "#UD is delivered before the first instruction",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 6),
    );
    t.eq(
        "its frame has the first instruction",
        ram.get64(vcpu.regs()?.rsp + 8),
        CODE,
    );
    t.eq(
        "it is not injected again",
        vcpu.fd.get_vcpu_events()?.exception.injected,
        0,
    );
    t.eq(
        "IRET goes on with the program",
        vcpu.run()?,
        Exit::out8(MAIN_PORT, 0),
    );
    restart(vcpu)?;
    inject(vcpu, 13, Some(0x1234))?;
    t.eq("#GP is delivered", vcpu.run()?, Exit::out8(VECTOR_PORT, 13));
    t.eq(
        "with its error code",
        ram.get64(vcpu.regs()?.rsp + 8),
        0x1234,
    );
    Ok(())
}

/// What was to be injected at an entry that a signal called off is user space's to keep or to drop.
fn called_off(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    restart(vcpu)?;
    inject(vcpu, 6, None)?;
    t.errno(
        "a signal calls the entry off",
        signals::called_off(vcpu)?,
        libc::EINTR,
    );
    let mut e = vcpu.fd.get_vcpu_events()?;
    t.eq(
        "the exception is still to be injected",
        (e.exception.injected, e.exception.nr),
        (1, 6),
    );
    t.eq(
        "it is at the next entry",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 6),
    );

    restart(vcpu)?;
    inject(vcpu, 6, None)?;
    t.errno(
        "a signal calls the entry off",
        signals::called_off(vcpu)?,
        libc::EINTR,
    );
    e.exception.injected = 0;
    vcpu.fd.set_vcpu_events(&e)?;
    t.eq(
        "an exception that was dropped then does not come",
        vcpu.run()?,
        Exit::out8(MAIN_PORT, 0),
    );
    // At another instruction than the one that a restart begins with.
    t.eq("the program goes on", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    Ok(())
}

fn nmi(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    restart(vcpu)?;
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.exception.injected = 0;
    e.nmi.masked = 0;
    e.nmi.pending = 0;
    e.nmi.injected = 0;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    vcpu.fd.set_vcpu_events(&e)?;
    sys::ioctl(vcpu.raw(), sys::KVM_NMI, 0)?;
    t.eq(
        "KVM_NMI is delivered with interrupts off",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 2),
    );
    t.eq(
        "NMIs are masked in the handler",
        vcpu.fd.get_vcpu_events()?.nmi.masked,
        1,
    );
    sys::ioctl(vcpu.raw(), sys::KVM_NMI, 0)?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(vcpu.run()?);
    }
    t.ok(
        "a second one comes after IRET, once",
        seen.iter()
            .filter(|e| **e == Exit::out8(VECTOR_PORT, 2))
            .count()
            == 1,
    );
    let mut rest = 0;
    while vcpu.run()? == Exit::out8(MAIN_PORT, 0) {
        rest += 1;
    }
    t.ok("the program goes on to its end", rest >= 2);
    t.eq(
        "NMIs are unmasked again",
        vcpu.fd.get_vcpu_events()?.nmi.masked,
        0,
    );
    Ok(())
}

/// An NMI waits for the end of the shadow of STI.
fn nmi_in_shadow(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    restart(vcpu)?;
    vcpu.with_regs(|r| r.rflags |= INTERRUPT_FLAG)?;
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.nmi.pending = 1;
    e.interrupt.shadow = KVM_X86_SHADOW_INT_STI as u8;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    vcpu.fd.set_vcpu_events(&e)?;
    let seen = [vcpu.run()?, vcpu.run()?];
    t.eq(
        "an NMI in the shadow of STI comes behind the next instruction",
        seen,
        [Exit::out8(MAIN_PORT, 0), Exit::out8(VECTOR_PORT, 2)],
    );
    t.eq("IRET", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    Ok(())
}

/// An exception that waits is older than an interrupt that is restored with it, and comes first.
fn exception_first(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    vm.fd.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_EXCEPTION_PAYLOAD,
        args: [1, 0, 0, 0],
        ..Default::default()
    })?;
    let (_ram, mut vcpu) = machine(&vm)?;
    vcpu.with_regs(|r| r.rflags |= INTERRUPT_FLAG)?;
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    e.exception.pending = 1;
    e.exception.nr = 6;
    e.interrupt.injected = 1;
    e.interrupt.nr = VECTOR;
    vcpu.fd.set_vcpu_events(&e)?;
    t.eq(
        "of an exception and an interrupt the exception comes first",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 6),
    );
    Ok(())
}

/// KVM_SET_SREGS restores an interrupt that was on its way, whoever has the interrupt controllers; and what KVM_GET_SREGS
/// has told of one that still is, is not another one.
fn restored_by_sregs(t: &mut Tap, dev: &Device) -> Outcome {
    for (chips, vm) in [
        ("chips in user space", Vm::new(dev)?),
        ("chips in the kernel", Vm::with_irqchip(dev)?),
    ] {
        let (_ram, mut vcpu) = machine(&vm)?;
        vcpu.with_regs(|r| r.rflags |= INTERRUPT_FLAG)?;
        let bit = |s: &mut kvm_sregs| {
            s.interrupt_bitmap[usize::from(VECTOR / 64)] = 1 << (VECTOR % 64);
        };
        vcpu.with_sregs(bit)?;
        t.eq(
            format!("{chips}: an interrupt by KVM_SET_SREGS"),
            vcpu.run()?,
            Exit::out8(VECTOR_PORT, VECTOR),
        );
        t.eq(
            format!("{chips}: it came once"),
            vcpu.run()?,
            Exit::out8(MAIN_PORT, 0),
        );
        vcpu.run()?;

        restart(&vcpu)?;
        vcpu.with_regs(|r| r.rflags |= INTERRUPT_FLAG)?;
        vcpu.with_sregs(bit)?;
        t.errno(
            format!("{chips}: called off"),
            signals::called_off(&mut vcpu)?,
            libc::EINTR,
        );
        vcpu.with_sregs(|_| {})?;
        let seen = [vcpu.run()?, vcpu.run()?];
        t.eq(
            format!("{chips}: set as it was read, it comes once"),
            seen,
            [Exit::out8(VECTOR_PORT, VECTOR), Exit::out8(MAIN_PORT, 0)],
        );
    }
    Ok(())
}

/// Without an in-kernel chip user space is the interrupt controller.
fn interrupt(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    restart(vcpu)?;
    t.eq("the program starts", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    t.eq(
        "with IF clear no interrupt can be injected",
        vcpu.shared().ready_for_interrupt_injection,
        0,
    );
    t.eq("and if_flag says so", vcpu.shared().if_flag, 0);
    vcpu.shared().request_interrupt_window = 1;
    t.eq("the program goes on", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    t.eq("the window opens behind STI", vcpu.run()?, Exit::IrqWindow);
    t.eq(
        "now one can be injected",
        vcpu.shared().ready_for_interrupt_injection,
        1,
    );
    t.eq("and if_flag says so", vcpu.shared().if_flag, 1);
    t.ok(
        "RFLAGS.IF is set",
        vcpu.regs()?.rflags & INTERRUPT_FLAG != 0,
    );
    vcpu.shared().request_interrupt_window = 0;
    vcpu.interrupt(u32::from(VECTOR))?;
    t.eq(
        "the interrupt is taken",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, VECTOR),
    );
    t.eq("the handler returns", vcpu.run()?, Exit::out8(MAIN_PORT, 0));
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    t.eq("HLT exits with IF as it is", vcpu.shared().if_flag, 1);
    vcpu.interrupt(u32::from(VECTOR))?;
    t.eq(
        "an interrupt at the HLT",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, VECTOR),
    );
    Ok(())
}

fn refused(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    t.errno(
        "KVM_INTERRUPT of vector 256",
        vcpu.interrupt(256),
        libc::EINVAL,
    );
    let good = vcpu.fd.get_vcpu_events()?;
    let mut bad = good;
    bad.flags = 0x8000_0000;
    t.errno(
        "KVM_SET_VCPU_EVENTS with an unknown flag",
        vcpu.fd.set_vcpu_events(&bad),
        libc::EINVAL,
    );
    let mut bad = good;
    bad.exception.injected = 1;
    bad.exception.nr = 32;
    t.errno(
        "an exception above 31",
        vcpu.fd.set_vcpu_events(&bad),
        libc::EINVAL,
    );
    let mut bad = good;
    bad.exception.injected = 1;
    bad.exception.nr = 2;
    t.errno(
        "NMI as an exception",
        vcpu.fd.set_vcpu_events(&bad),
        libc::EINVAL,
    );
    t.success(
        "the old events are still good",
        vcpu.fd.set_vcpu_events(&good),
    );
    Ok(())
}
