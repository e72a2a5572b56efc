// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_X2APIC_API: 32-bit APIC ids, 0xff as an id, and EOIs whose broadcast the guest suppresses.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::waiter::{self, taken, waiting, End, APIC};
use crate::{Outcome, MIB};
use kvm_bindings::*;

const IDS: u64 = KVM_X2APIC_API_USE_32BIT_IDS as u64;
const NO_QUIRK: u64 = KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK as u64;
const SUPPRESS: u64 = 1 << 2;
const NO_SUPPRESS: u64 = 1 << 3;

const APIC_BASE: u32 = 0x1b;
const X2APIC_MODE: u64 = APIC | 3 << 10;
const X2APIC_SVR: u32 = 0x80f;
/// Registers in KVM_GET_LAPIC: the id, the version with its bit for suppression.
const ID: usize = 0x20;
const VERSION: usize = 0x30;
const OFFERED: u32 = 1 << 24;
const SVR: u64 = 0xf0;
/// The APIC is enabled, the broadcast of EOIs suppressed.
const SVR_SUPPRESS: u32 = 0x11ff;

const VECTOR: u8 = 0x60;
const LEVEL: u32 = 3 << 14;
const FAR_ID: u32 = 300;

fn enable(vm: &Vm, cap: u32, flags: u64) -> Result<(), Errno> {
    Ok(vm.fd.enable_cap(&kvm_enable_cap {
        cap,
        args: [flags, 0, 0, 0],
        ..Default::default()
    })?)
}

/// A VM with its I/O APIC in user space.
fn split(dev: &Device) -> Outcome<Vm> {
    let vm = Vm::new(dev)?;
    enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24)?;
    Ok(vm)
}

fn x2apic(vm: &Vm, flags: u64) -> Result<(), Errno> {
    enable(vm, KVM_CAP_X2APIC_API, flags)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    flags(t, dev)?;
    for (flags, offered, exits) in [
        (0, true, true),
        (SUPPRESS, true, false),
        (NO_SUPPRESS, false, true),
    ] {
        suppression(t, dev, flags, offered, exits)?;
    }
    far_ids(t, dev)?;
    broadcast(t, dev)
}

fn flags(t: &mut Tap, dev: &Device) -> Outcome {
    let whole = Vm::with_irqchip(dev)?;
    let split = split(dev)?;
    t.eq(
        "KVM_CAP_X2APIC_API: device, VM, split irqchip",
        (
            dev.cap(KVM_CAP_X2APIC_API),
            whole.cap(KVM_CAP_X2APIC_API),
            split.cap(KVM_CAP_X2APIC_API),
        ),
        (0xf, 0xb, 0xf),
    );
    t.errno("an unknown flag", x2apic(&split, 0x10), libc::EINVAL);
    t.errno(
        "suppression on and off",
        x2apic(&split, SUPPRESS | NO_SUPPRESS),
        libc::EINVAL,
    );
    t.errno(
        "suppression, the I/O APIC being in the kernel",
        x2apic(&whole, SUPPRESS),
        libc::EINVAL,
    );
    t.success("all others", x2apic(&whole, IDS | NO_QUIRK | NO_SUPPRESS));
    let vcpu = whole.vcpu(0)?;
    t.ok(
        "with the I/O APIC in the kernel suppression is not offered",
        register(&vcpu, VERSION)? & OFFERED == 0,
    );
    Ok(())
}

fn register(vcpu: &Vcpu, at: usize) -> Outcome<u32> {
    let regs = vcpu.fd.get_lapic()?.regs;
    Ok((0..4).fold(0, |value, i| {
        value | u32::from(regs[at + i] as u8) << (8 * i)
    }))
}

/// A guest that suppresses the broadcast of EOIs, if it can.
fn suppression(t: &mut Tap, dev: &Device, flags: u64, offered: bool, exits: bool) -> Outcome {
    let vm = split(dev)?;
    x2apic(&vm, flags)?;
    let mut vcpu = vm.vcpu(0)?;
    t.eq(
        format!("flags {flags}: suppression is offered"),
        register(&vcpu, VERSION)? & OFFERED != 0,
        offered,
    );
    let ram = waiter::start(&vm, &vcpu, |a| {
        a.mov(rbx, APIC + SVR)?;
        a.mov(dword_ptr(rbx), SVR_SUPPRESS)
    })?;
    waiter::handle(&ram, VECTOR, End::Eoi);
    let mut pin = kvm_irq_routing_entry {
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    pin.u.msi = kvm_irq_routing_msi {
        address_lo: APIC as u32,
        data: LEVEL | u32::from(VECTOR),
        ..Default::default()
    };
    let table = KvmIrqRouting::from_entries(&[pin]).map_err(|_| Errno(libc::ENOMEM))?;
    vm.fd.set_gsi_routing(&table)?;
    t.eq("the guest waits", vcpu.run()?, waiting());
    vm.fd.signal_msi(message(0, LEVEL | u32::from(VECTOR)))?;
    t.eq("a level is taken", vcpu.run()?, taken(VECTOR));
    t.eq(
        format!("flags {flags}: its EOI"),
        vcpu.run()?,
        if exits {
            Exit::Other(KVM_EXIT_IOAPIC_EOI)
        } else {
            waiting()
        },
    );
    Ok(())
}

/// A message to the APIC `to`, whose id has 32 bits.
fn message(to: u32, data: u32) -> kvm_msi {
    kvm_msi {
        address_lo: APIC as u32 | (to & 0xff) << 12,
        address_hi: to & !0xff,
        data,
        ..Default::default()
    }
}

/// A vCPU in x2APIC mode that waits for its interrupt.
fn in_x2apic_mode(vm: &Vm, ram: &Ram, id: u32) -> Outcome<Vcpu> {
    let mut vcpu = vm.vcpu(id)?;
    vcpu.set_msr(APIC_BASE, X2APIC_MODE)?;
    vcpu.fd.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })?;
    let code = asm64(|a| {
        a.mov(ecx, X2APIC_SVR)?;
        a.mov(eax, 0x1ff)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        waiter::wait_forever(a)
    });
    setup::start(&vcpu, ram, Mode::Long, &code)?;
    waiter::handle(ram, VECTOR, End::X2apicEoi);
    vcpu.run()?;
    Ok(vcpu)
}

/// How many APICs took a message; none, too, if KVM says so by an error.
fn send(vm: &Vm, message: kvm_msi) -> i32 {
    vm.fd.signal_msi(message).unwrap_or(0)
}

fn far_ids(t: &mut Tap, dev: &Device) -> Outcome {
    for flags in [0, IDS] {
        let vm = Vm::with_irqchip(dev)?;
        x2apic(&vm, flags)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let mut vcpu = in_x2apic_mode(&vm, &ram, FAR_ID)?;
        let to_far = message(FAR_ID, VECTOR.into());
        let wide = flags == IDS;
        t.eq(
            format!("flags {flags}: a message to id {FAR_ID}"),
            send(&vm, to_far),
            i32::from(wide),
        );
        let id = if wide { FAR_ID } else { FAR_ID << 24 };
        t.eq(
            format!("flags {flags}: the id in KVM_GET_LAPIC"),
            register(&vcpu, ID)?,
            id,
        );
        let mut state = vcpu.fd.get_lapic()?;
        state.regs[ID] ^= 1;
        let set = vcpu.fd.set_lapic(&state);
        if !wide {
            t.success("another id in KVM_SET_LAPIC is overlooked", set);
            continue;
        }
        t.errno("another id in KVM_SET_LAPIC", set, libc::EINVAL);
        t.eq("the message is taken", vcpu.run()?, taken(VECTOR));
        let bad = kvm_msi {
            address_hi: 1,
            ..to_far
        };
        t.errno(
            "a message with bits that are none of an id",
            vm.fd.signal_msi(bad),
            libc::EINVAL,
        );
        routes(t, &vm, &mut vcpu)?;
    }
    Ok(())
}

/// Routes have 32-bit ids, too.
fn routes(t: &mut Tap, vm: &Vm, vcpu: &mut Vcpu) -> Outcome {
    const GSI: u32 = 30;
    let route = |address_hi| -> Result<(), Errno> {
        let to_far = message(FAR_ID, VECTOR.into());
        let mut entry = kvm_irq_routing_entry {
            gsi: GSI,
            type_: KVM_IRQ_ROUTING_MSI,
            ..Default::default()
        };
        entry.u.msi = kvm_irq_routing_msi {
            address_lo: to_far.address_lo,
            address_hi,
            data: to_far.data,
            ..Default::default()
        };
        let table = KvmIrqRouting::from_entries(&[entry]).map_err(|_| Errno(libc::ENOMEM))?;
        Ok(vm.fd.set_gsi_routing(&table)?)
    };
    t.errno("a route with such bits", route(1), libc::EINVAL);
    t.success("a route to the id", route(FAR_ID & !0xff));
    t.eq("the guest waits again", vcpu.run()?, waiting());
    vm.irq_line(GSI, true)?;
    t.eq("the route's message is taken", vcpu.run()?, taken(VECTOR));
    Ok(())
}

/// To APICs in x2APIC mode, 0xff is an id like others unless user space knows of 8-bit ids only.
fn broadcast(t: &mut Tap, dev: &Device) -> Outcome {
    for (flags, taken_by) in [(0, 1), (IDS | NO_QUIRK, 0)] {
        let vm = Vm::with_irqchip(dev)?;
        x2apic(&vm, flags)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let _vcpu = in_x2apic_mode(&vm, &ram, 0)?;
        t.eq(
            format!("flags {flags}: a message to 0xff"),
            send(&vm, message(0xff, VECTOR.into())),
            taken_by,
        );
    }
    Ok(())
}
