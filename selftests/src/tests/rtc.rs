// SPDX-License-Identifier: GPL-2.0

//! The real-time clock's pin: KVM_IRQ_LINE_STATUS tells of a tick that comes before the guest has ended the last one.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::waiter::{self, ioapic_entry, taken, waiting, End, APIC};
use crate::Outcome;
use kvm_bindings::*;

const PIN: u32 = 8;
const VECTOR: u8 = 0x60;
const OTHER_VECTOR: u8 = 0x71;
const MODE_NMI: u32 = 4 << 8;
const NMI: u8 = 2;
/// A handler that gives the pin another vector before it ends its interrupt.
const MOVING_HANDLER: u64 = CODE + 0x800;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    coalesced(t, dev)?;
    other_vector(t, dev)?;
    nmi(t, dev)
}

/// One tick; what became of it: -1, 0 or how many processors took it.
fn tick(vm: &Vm) -> Result<i32, Errno> {
    let mut status = 0;
    for level in [1, 0] {
        let mut line = kvm_irq_level {
            level,
            ..Default::default()
        };
        line.__bindgen_anon_1.irq = PIN;
        sys::ioctl_mut(vm.raw(), sys::KVM_IRQ_LINE_STATUS, &mut line)?;
        if level == 1 {
            // SAFETY: the kernel has written the status, and any number is one.
            status = unsafe { line.__bindgen_anon_1.status };
        }
    }
    Ok(status)
}

/// A guest that waits for the pin, whose entry in the I/O APIC begins with `low`, and for nothing of the PICs.
fn guest(dev: &Device, low: u32) -> Outcome<(Vm, Vcpu, Ram)> {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    let ram = waiter::start(&vm, &vcpu, |a| {
        a.mov(al, 0xff)?;
        a.out(0x21, al)?;
        a.out(0xa1, al)?;
        ioapic_entry(a, PIN, low)
    })?;
    Ok((vm, vcpu, ram))
}

fn coalesced(t: &mut Tap, dev: &Device) -> Outcome {
    let (vm, mut vcpu, ram) = guest(dev, VECTOR.into())?;
    waiter::handle(&ram, VECTOR, End::Eoi);
    t.eq("the guest waits", vcpu.run()?, waiting());
    t.eq("a tick", tick(&vm)?, 1);
    t.eq("one before it is delivered", tick(&vm)?, 0);
    t.eq("it is delivered", vcpu.run()?, taken(VECTOR));
    t.eq("one before its EOI", tick(&vm)?, 0);
    t.eq("the EOI", vcpu.run()?, waiting());
    t.eq("one after it", tick(&vm)?, 1);
    t.eq("is delivered, too", vcpu.run()?, taken(VECTOR));
    // The state that user space saves and sets tells of a tick in service.
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    vm.fd.get_irqchip(&mut chip)?;
    vm.fd.set_irqchip(&chip)?;
    t.eq("restored in service", tick(&vm)?, 0);
    t.eq("the EOI", vcpu.run()?, waiting());
    vm.fd.set_irqchip(&chip)?;
    t.eq("restored after the EOI", tick(&vm)?, 1);
    Ok(())
}

fn other_vector(t: &mut Tap, dev: &Device) -> Outcome {
    let (vm, mut vcpu, ram) = guest(dev, VECTOR.into())?;
    let moving = assemble(64, MOVING_HANDLER, |a| {
        ioapic_entry(a, PIN, OTHER_VECTOR.into())?;
        a.mov(rbx, APIC + 0xb0)?;
        a.mov(dword_ptr(rbx), 0u32)?;
        a.iretq()
    });
    ram.write(MOVING_HANDLER, &moving);
    setup::gate(&ram, Mode::Long, VECTOR, MOVING_HANDLER);
    waiter::handle(&ram, OTHER_VECTOR, End::Eoi);
    t.eq("the guest waits", vcpu.run()?, waiting());
    t.eq("a tick", tick(&vm)?, 1);
    t.eq("its handler moves the pin", vcpu.run()?, waiting());
    t.eq("the EOI of the old vector counts", tick(&vm)?, 1);
    t.eq("and the new one comes", vcpu.run()?, taken(OTHER_VECTOR));
    Ok(())
}

/// Nobody ends an NMI, so what comes after it coalesces with nothing that waits for that.
fn nmi(t: &mut Tap, dev: &Device) -> Outcome {
    let (vm, mut vcpu, ram) = guest(dev, MODE_NMI)?;
    waiter::handle(&ram, NMI, End::Nothing);
    t.eq("the guest waits", vcpu.run()?, waiting());
    t.eq("a tick that is an NMI", tick(&vm)?, 1);
    t.eq("it is delivered", vcpu.run()?, taken(NMI));
    Ok(())
}
