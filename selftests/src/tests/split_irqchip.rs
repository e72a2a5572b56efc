// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_SPLIT_IRQCHIP: local APICs in the kernel, PIC and I/O APIC in user space.
//!
//! User space raises its pins as MSIs through the first routes, and hears of the EOI of those that
//! are level-triggered. Its PIC injects by KVM_INTERRUPT.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::waiter::{self, taken, waiting, End, APIC};
use crate::Outcome;
use kvm_bindings::*;

const LEVEL_VECTOR: u8 = 0x60;
const EDGE_VECTOR: u8 = 0x71;
const PIC_VECTOR: u8 = 0x30;
const PINS: u64 = 24;
/// Asserted and level-triggered, in the data of an MSI.
const LEVEL: u32 = 3 << 14;

fn split(vm: &Vm, pins: u64) -> Result<(), Errno> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [pins, 0, 0, 0],
        ..Default::default()
    };
    Ok(vm.fd.enable_cap(&cap)?)
}

/// What an I/O APIC's pin would send, as user space raises it.
fn message(data: u32) -> kvm_msi {
    kvm_msi {
        address_lo: APIC as u32,
        data,
        ..Default::default()
    }
}

/// A pin whose messages go to the processor with APIC id `to`.
fn route(gsi: u32, to: u32, data: u32) -> kvm_irq_routing_entry {
    let mut e = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    e.u.msi = kvm_irq_routing_msi {
        address_lo: APIC as u32 | to << 12,
        data,
        ..Default::default()
    };
    e
}

/// The guest, whose LINT0 takes the PIC's interrupts.
fn guest(vcpu: &Vcpu, vm: &Vm) -> Outcome<Ram> {
    let ram = waiter::start(vm, vcpu, |a| {
        a.mov(rbx, APIC + 0x350)?;
        a.mov(dword_ptr(rbx), 0x700u32)
    })?;
    waiter::handle(&ram, LEVEL_VECTOR, End::Eoi);
    waiter::handle(&ram, EDGE_VECTOR, End::Eoi);
    waiter::handle(&ram, PIC_VECTOR, End::Nothing);
    Ok(ram)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    refusals(t, dev, &vm)?;
    let mut vcpu = vm.vcpu(0)?;
    let _ram = guest(&vcpu, &vm)?;
    let table = KvmIrqRouting::from_entries(&[
        route(5, 0, LEVEL | u32::from(LEVEL_VECTOR)),
        route(PINS as u32 + 1, 0, u32::from(EDGE_VECTOR)),
    ])
    .map_err(|_| Errno(libc::ENOMEM))?;
    vm.fd.set_gsi_routing(&table)?;
    t.eq("the guest waits", vcpu.run()?, waiting());

    vm.fd.signal_msi(message(u32::from(EDGE_VECTOR)))?;
    t.eq("an edge is taken", vcpu.run()?, taken(EDGE_VECTOR));
    t.eq("its EOI is nobody's business", vcpu.run()?, waiting());

    vm.fd.signal_msi(message(LEVEL | u32::from(LEVEL_VECTOR)))?;
    t.eq("a level is taken", vcpu.run()?, taken(LEVEL_VECTOR));
    t.eq(
        "its EOI exits",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_IOAPIC_EOI),
    );
    // SAFETY: KVM_EXIT_IOAPIC_EOI says that `eoi` is the valid member.
    let eoi = unsafe { vcpu.shared().__bindgen_anon_1.eoi.vector };
    t.eq("and tells the vector", eoi, LEVEL_VECTOR);
    t.eq("the guest goes on", vcpu.run()?, waiting());
    moved(t, &vm, &mut vcpu)?;
    pic(t, &mut vcpu)
}

/// The guest sends the interrupt of a pin to another processor while this one has it in service: user space still has to
/// hear of its EOI.
fn moved(t: &mut Tap, vm: &Vm, vcpu: &mut Vcpu) -> Outcome {
    vm.fd.signal_msi(message(LEVEL | u32::from(LEVEL_VECTOR)))?;
    t.eq("a level is taken", vcpu.run()?, taken(LEVEL_VECTOR));
    let elsewhere = route(5, 1, LEVEL | u32::from(LEVEL_VECTOR));
    let table = KvmIrqRouting::from_entries(&[elsewhere]).map_err(|_| Errno(libc::ENOMEM))?;
    vm.fd.set_gsi_routing(&table)?;
    t.eq(
        "its EOI exits though its pin goes elsewhere",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_IOAPIC_EOI),
    );
    t.eq("the guest goes on", vcpu.run()?, waiting());
    Ok(())
}

fn refusals(t: &mut Tap, dev: &Device, vm: &Vm) -> Outcome {
    t.errno("more pins than routes", split(vm, 5000), libc::EINVAL);
    t.success("KVM_CAP_SPLIT_IRQCHIP", split(vm, PINS));
    t.errno("twice", split(vm, PINS), libc::EEXIST);
    t.errno(
        "KVM_CREATE_IRQCHIP after it",
        vm.fd.create_irq_chip(),
        libc::EEXIST,
    );
    let pit = kvm_pit_config::default();
    t.errno("KVM_CREATE_PIT2", vm.fd.create_pit2(pit), libc::ENOENT);
    let mut chip = kvm_irqchip::default();
    t.errno("KVM_GET_IRQCHIP", vm.fd.get_irqchip(&mut chip), libc::ENXIO);
    let whole = Vm::with_irqchip(dev)?;
    t.errno(
        "after KVM_CREATE_IRQCHIP",
        split(&whole, PINS),
        libc::EEXIST,
    );
    let late = Vm::new(dev)?;
    let _vcpu = late.vcpu(0)?;
    t.errno("after a vCPU", split(&late, PINS), libc::EEXIST);
    Ok(())
}

/// The PIC of user space asks for a window, and injects when there is one.
fn pic(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    vcpu.shared().request_interrupt_window = 1;
    t.eq("a window for the PIC", vcpu.run()?, Exit::IrqWindow);
    vcpu.shared().request_interrupt_window = 0;
    let interrupt = kvm_interrupt {
        irq: PIC_VECTOR.into(),
    };
    t.success(
        "KVM_INTERRUPT",
        sys::ioctl_with(vcpu.raw(), sys::KVM_INTERRUPT, &interrupt),
    );
    t.eq("its interrupt is taken", vcpu.run()?, taken(PIC_VECTOR));
    t.eq("without an EOI", vcpu.run()?, waiting());
    Ok(())
}
