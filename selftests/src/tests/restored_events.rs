// SPDX-License-Identifier: GPL-2.0

//! What KVM_GET_VCPU_EVENTS tells is enough to go on elsewhere: INIT that waits, an interrupt behind an exception or before an
//! APIC, error codes in each mode.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const HANDLER: u64 = CODE + 0x400;
const PORT: u16 = 0x40;
const VECTOR: u8 = 0x55;
const GP: u8 = 13;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    latched_init(t, dev)?;
    interrupt_behind_exception(t, dev)?;
    interrupt_that_waits(t, dev)?;
    error_code(t, dev)
}

/// A vCPU whose handler of #GP tells of itself and halts, and that has nothing else to do.
fn machine(vm: &Vm, mode: Mode) -> Outcome<(Ram, Vcpu)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let bits = mode.bits();
    setup::start(&vcpu, &ram, mode, &assemble(bits, CODE, |a| a.hlt()))?;
    let handler = assemble(bits, HANDLER, |a| {
        a.mov(al, i32::from(GP))?;
        a.out(i32::from(PORT), al)?;
        a.hlt()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, mode, GP, HANDLER);
    Ok((ram, vcpu))
}

/// An INIT that has come and was not taken yet.
fn latched_init(t: &mut Tap, dev: &Device) -> Outcome {
    const INIT: u32 = 5 << 8;
    let processors = || -> Outcome<(Vm, Vcpu)> {
        let vm = Vm::with_irqchip(dev)?;
        let bsp = vm.vcpu(0)?;
        let ap = vm.vcpu(1)?;
        for vcpu in [&bsp, &ap] {
            // C KVM finds other processors once somebody has changed who it is.
            vcpu.fd.set_lapic(&vcpu.fd.get_lapic()?)?;
        }
        Ok((vm, ap))
    };
    let (vm, ap) = processors()?;
    t.eq(
        "no INIT at first",
        ap.fd.get_vcpu_events()?.smi.latched_init,
        0,
    );
    vm.fd.signal_msi(kvm_msi {
        address_lo: 0xfee0_1000,
        data: INIT,
        ..Default::default()
    })?;
    let events = ap.fd.get_vcpu_events()?;
    t.eq("an INIT that waits is told", events.smi.latched_init, 1);
    let (_vm, restored) = processors()?;
    restored.fd.set_vcpu_events(&events)?;
    t.eq(
        "and taken where it was restored",
        restored.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_INIT_RECEIVED,
    );
    Ok(())
}

/// Without KVM_CAP_EXCEPTION_PAYLOAD an exception that waits is told as one in delivery, with an interrupt that was, too.
fn interrupt_behind_exception(t: &mut Tap, dev: &Device) -> Outcome {
    for (chips, vm) in [
        ("chips in user space", Vm::new(dev)?),
        ("chips in the kernel", Vm::with_irqchip(dev)?),
    ] {
        let (_ram, vcpu) = machine(&vm, Mode::Long)?;
        let mut e = vcpu.fd.get_vcpu_events()?;
        (e.exception.injected, e.exception.nr) = (1, GP);
        e.exception.has_error_code = 1;
        (e.interrupt.injected, e.interrupt.nr) = (1, VECTOR);
        vcpu.fd.set_vcpu_events(&e)?;
        let e = vcpu.fd.get_vcpu_events()?;
        t.eq(
            format!("{chips}: the exception"),
            (e.exception.injected, e.exception.nr),
            (1, GP),
        );
        t.eq(
            format!("{chips}: the interrupt"),
            (e.interrupt.injected, e.interrupt.nr),
            (1, VECTOR),
        );
    }
    Ok(())
}

/// In real mode there are no error codes, and elsewhere they have 16 bits.
fn error_code(t: &mut Tap, dev: &Device) -> Outcome {
    for (mode, pushed) in [(Mode::Real, None), (Mode::Long, Some(0x18))] {
        let vm = Vm::new(dev)?;
        let (ram, mut vcpu) = machine(&vm, mode)?;
        let mut e = vcpu.fd.get_vcpu_events()?;
        (e.exception.injected, e.exception.nr) = (1, GP);
        (e.exception.has_error_code, e.exception.error_code) = (1, 0x1_0018);
        vcpu.fd.set_vcpu_events(&e)?;
        t.eq(
            format!("{mode:?} mode: #GP with an error code"),
            vcpu.run()?,
            Exit::out8(PORT, GP),
        );
        if let Some(code) = pushed {
            let at = vcpu.regs()?.rsp;
            t.eq("the error code that is pushed", ram.get64(at), code);
        }
    }
    Ok(())
}

/// An interrupt of KVM_INTERRUPT is on its way if there is no APIC that it waits for.
fn interrupt_that_waits(t: &mut Tap, dev: &Device) -> Outcome {
    let split = Vm::new(dev)?;
    split.fd.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..Default::default()
    })?;
    for (chips, vm, told) in [
        ("chips in user space", Vm::new(dev)?, 1),
        ("the APIC in the kernel", split, 0),
    ] {
        let vcpu = vm.vcpu(0)?;
        vcpu.interrupt(VECTOR.into())?;
        let bits: u32 = vcpu
            .fd
            .get_sregs()?
            .interrupt_bitmap
            .iter()
            .map(|word| word.count_ones())
            .sum();
        t.eq(format!("{chips}: KVM_GET_SREGS tells of it"), bits, told);
        t.eq(
            format!("{chips}: KVM_GET_VCPU_EVENTS tells of it"),
            u32::from(vcpu.fd.get_vcpu_events()?.interrupt.injected),
            told,
        );
    }
    Ok(())
}
