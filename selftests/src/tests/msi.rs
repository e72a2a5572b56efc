// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_GSI_ROUTING and KVM_SIGNAL_MSI.

use crate::device::Device;
use crate::errno::Errno;
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::{eventfd, Vm};
use crate::waiter::{self, taken, waiting, End, APIC};
use crate::Outcome;
use kvm_bindings::*;

const VECTORS: [u8; 2] = [0x60, 0x71];
const ADDRESS: u32 = APIC as u32;
const GSI: u32 = 30;

fn msi_route(gsi: u32, data: u32) -> kvm_irq_routing_entry {
    let mut e = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    e.u.msi = kvm_irq_routing_msi {
        address_lo: ADDRESS,
        data,
        ..Default::default()
    };
    e
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut e = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    e.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    e
}

fn set(vm: &Vm, entries: &[kvm_irq_routing_entry]) -> Result<(), Errno> {
    let table = KvmIrqRouting::from_entries(entries).map_err(|_| Errno(libc::ENOMEM))?;
    Ok(vm.fd.set_gsi_routing(&table)?)
}

fn msi(address_lo: u32, data: u8) -> kvm_msi {
    kvm_msi {
        address_lo,
        data: u32::from(data),
        ..Default::default()
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let mut vcpu = vm.vcpu(0)?;
    let ram = waiter::start(&vm, &vcpu, |_| Ok(()))?;
    for vector in VECTORS {
        waiter::handle(&ram, vector, End::Eoi);
    }
    t.eq("the guest waits", vcpu.run()?, waiting());
    signalled(t, &vm, &mut vcpu)?;
    routed(t, &vm, &mut vcpu)?;
    refused(t, dev, &vm)
}

/// KVM_SIGNAL_MSI.
fn signalled(t: &mut Tap, vm: &Vm, vcpu: &mut Vcpu) -> Outcome {
    t.eq(
        "KVM_SIGNAL_MSI is delivered to one vCPU",
        vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?,
        1,
    );
    t.eq("and taken", vcpu.run()?, taken(VECTORS[0]));
    t.eq("once", vcpu.run()?, waiting());
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    // The second of the same vector is merged with the first.
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[1]))?;
    t.eq(
        "the higher vector comes first",
        vcpu.run()?,
        taken(VECTORS[1]),
    );
    t.eq("then the lower, once", vcpu.run()?, taken(VECTORS[0]));
    t.eq("then nothing", vcpu.run()?, waiting());
    let nobody = vm.fd.signal_msi(msi(ADDRESS | (7 << 12), VECTORS[0]));
    t.ok(
        "an MSI to a vCPU that is not there is not delivered",
        !matches!(nobody, Ok(1..)),
    );
    t.errno(
        "KVM_SIGNAL_MSI with an unknown flag",
        vm.fd.signal_msi(kvm_msi {
            flags: 1 << 20,
            ..msi(ADDRESS, VECTORS[0])
        }),
        libc::EINVAL,
    );
    Ok(())
}

/// A GSI of our own as an MSI.
fn routed(t: &mut Tap, vm: &Vm, vcpu: &mut Vcpu) -> Outcome {
    set(vm, &[msi_route(GSI, u32::from(VECTORS[0]))])?;
    let event = eventfd()?;
    vm.fd.register_irqfd(&event, GSI)?;
    event.write(1)?;
    t.eq("an irqfd follows the route", vcpu.run()?, taken(VECTORS[0]));
    t.eq("once", vcpu.run()?, waiting());
    set(vm, &[msi_route(GSI, u32::from(VECTORS[1]))])?;
    event.write(1)?;
    t.eq(
        "a changed route counts at once",
        vcpu.run()?,
        taken(VECTORS[1]),
    );
    t.eq("once", vcpu.run()?, waiting());
    vm.irq_line(GSI, true)?;
    vm.irq_line(GSI, false)?;
    t.eq(
        "KVM_IRQ_LINE follows it too",
        vcpu.run()?,
        taken(VECTORS[1]),
    );
    t.eq("on the rising edge only", vcpu.run()?, waiting());
    set(vm, &[])?;
    event.write(1)?;
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    t.eq(
        "without a route the irqfd makes nothing",
        vcpu.run()?,
        taken(VECTORS[0]),
    );
    Ok(())
}

/// Messages and routes that can't be.
fn refused(t: &mut Tap, dev: &Device, vm: &Vm) -> Outcome {
    #[repr(C)]
    struct Header {
        nr: u32,
        flags: u32,
    }
    let bare = Vm::new(dev)?;
    t.errno(
        "KVM_SIGNAL_MSI without an irqchip",
        bare.fd.signal_msi(msi(ADDRESS, VECTORS[0])),
        libc::EINVAL,
    );
    t.errno(
        "an unknown type of route",
        set(
            vm,
            &[kvm_irq_routing_entry {
                type_: 77,
                ..msi_route(1, 0)
            }],
        ),
        libc::EINVAL,
    );
    t.errno(
        "a pin beyond the IOAPIC's",
        set(vm, &[pin_route(1, KVM_IRQCHIP_IOAPIC, 24)]),
        libc::EINVAL,
    );
    t.errno(
        "a chip that is not there",
        set(vm, &[pin_route(1, 9, 0)]),
        libc::EINVAL,
    );
    t.success(
        "pins of both chips for one GSI",
        set(
            vm,
            &[
                pin_route(4, KVM_IRQCHIP_PIC_MASTER, 4),
                pin_route(4, KVM_IRQCHIP_IOAPIC, 4),
            ],
        ),
    );
    t.errno(
        "two pins of one chip for one GSI",
        set(
            vm,
            &[
                pin_route(4, KVM_IRQCHIP_IOAPIC, 4),
                pin_route(4, KVM_IRQCHIP_IOAPIC, 5),
            ],
        ),
        libc::EINVAL,
    );
    t.errno(
        "routing flags",
        sys::ioctl_with(
            vm.raw(),
            sys::KVM_SET_GSI_ROUTING,
            &Header { nr: 0, flags: 1 },
        ),
        libc::EINVAL,
    );
    t.errno(
        "too many routes",
        sys::ioctl_with(
            vm.raw(),
            sys::KVM_SET_GSI_ROUTING,
            &Header {
                nr: 1 << 20,
                flags: 0,
            },
        ),
        libc::EINVAL,
    );
    Ok(())
}
