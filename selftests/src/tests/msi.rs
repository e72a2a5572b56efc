// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_GSI_ROUTING and KVM_SIGNAL_MSI.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::{eventfd, Vm};
use crate::{Outcome, MIB};
use kvm_bindings::*;

const VECTORS: [u8; 2] = [0x60, 0x71];
const IN_HANDLER: u16 = 0x40;
const WAITING: u16 = 0x41;
const ADDRESS: u32 = 0xfee0_0000;
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

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rbx), 0x1ffu32)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.cli()?;
        a.mov(al, 0)?;
        a.out(i32::from(WAITING), al)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(again)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    for (i, vector) in VECTORS.into_iter().enumerate() {
        let at = CODE + 0x800 + 0x100 * i as u64;
        let handler = assemble(64, at, |a| {
            a.mov(al, i32::from(vector))?;
            a.out(i32::from(IN_HANDLER), al)?;
            a.mov(rbx, 0xfee0_00b0u64)?;
            a.mov(dword_ptr(rbx), 0u32)?;
            a.iretq()
        });
        ram.write(at, &handler);
        setup::gate(&ram, Mode::Long, vector, at);
    }
    let msi = |address_lo, data: u8| kvm_msi {
        address_lo,
        data: u32::from(data),
        ..Default::default()
    };
    let waiting = Exit::out8(WAITING, 0);
    let came = |v| Exit::out8(IN_HANDLER, v);

    t.eq("the guest waits", vcpu.run()?, waiting.clone());
    t.eq(
        "KVM_SIGNAL_MSI is delivered to one vCPU",
        vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?,
        1,
    );
    t.eq("and taken", vcpu.run()?, came(VECTORS[0]));
    t.eq("once", vcpu.run()?, waiting.clone());
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    // The second of the same vector is merged with the first.
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[1]))?;
    t.eq(
        "the higher vector comes first",
        vcpu.run()?,
        came(VECTORS[1]),
    );
    t.eq("then the lower, once", vcpu.run()?, came(VECTORS[0]));
    t.eq("then nothing", vcpu.run()?, waiting.clone());
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

    // A GSI of our own as an MSI.
    set(&vm, &[msi_route(GSI, u32::from(VECTORS[0]))])?;
    let event = eventfd()?;
    vm.fd.register_irqfd(&event, GSI)?;
    event.write(1)?;
    t.eq("an irqfd follows the route", vcpu.run()?, came(VECTORS[0]));
    t.eq("once", vcpu.run()?, waiting.clone());
    set(&vm, &[msi_route(GSI, u32::from(VECTORS[1]))])?;
    event.write(1)?;
    t.eq(
        "a changed route counts at once",
        vcpu.run()?,
        came(VECTORS[1]),
    );
    t.eq("once", vcpu.run()?, waiting.clone());
    vm.irq_line(GSI, true)?;
    vm.irq_line(GSI, false)?;
    t.eq("KVM_IRQ_LINE follows it too", vcpu.run()?, came(VECTORS[1]));
    t.eq("on the rising edge only", vcpu.run()?, waiting.clone());
    set(&vm, &[])?;
    event.write(1)?;
    vm.fd.signal_msi(msi(ADDRESS, VECTORS[0]))?;
    t.eq(
        "without a route the irqfd makes nothing",
        vcpu.run()?,
        came(VECTORS[0]),
    );

    let bare = Vm::new(dev)?;
    t.errno(
        "KVM_SIGNAL_MSI without an irqchip",
        bare.fd.signal_msi(msi(ADDRESS, VECTORS[0])),
        libc::EINVAL,
    );
    t.errno(
        "an unknown type of route",
        set(
            &vm,
            &[kvm_irq_routing_entry {
                type_: 77,
                ..msi_route(1, 0)
            }],
        ),
        libc::EINVAL,
    );
    t.errno(
        "a pin beyond the IOAPIC's",
        set(&vm, &[pin_route(1, KVM_IRQCHIP_IOAPIC, 24)]),
        libc::EINVAL,
    );
    t.errno(
        "a chip that is not there",
        set(&vm, &[pin_route(1, 9, 0)]),
        libc::EINVAL,
    );
    t.success(
        "pins of both chips for one GSI",
        set(
            &vm,
            &[
                pin_route(4, KVM_IRQCHIP_PIC_MASTER, 4),
                pin_route(4, KVM_IRQCHIP_IOAPIC, 4),
            ],
        ),
    );
    t.errno(
        "two pins of one chip for one GSI",
        set(
            &vm,
            &[
                pin_route(4, KVM_IRQCHIP_IOAPIC, 4),
                pin_route(4, KVM_IRQCHIP_IOAPIC, 5),
            ],
        ),
        libc::EINVAL,
    );
    #[repr(C)]
    struct Header {
        nr: u32,
        flags: u32,
    }
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
