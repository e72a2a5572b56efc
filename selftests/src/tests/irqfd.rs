// SPDX-License-Identifier: GPL-2.0

//! KVM_IRQFD: edges by an MSI route and by an IOAPIC pin, a level line with resampling.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::{drain, eventfd, Vm};
use crate::waiter::{self, taken, waiting, End};
use crate::Outcome;
use kvm_bindings::*;
use std::os::fd::AsRawFd;

const VECTOR: u8 = 0x60;
const PIN: u32 = 10;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    edge(t, dev)?;
    level(t, dev)?;
    refused(t, dev)
}

/// A guest that programs pin [`PIN`] of the IOAPIC (`low` being the entry's low word), then waits
/// for interrupts for ever.
fn guest(vm: &Vm, low: u32) -> Outcome<(Vcpu, Ram)> {
    let vcpu = vm.vcpu(0)?;
    let ram = waiter::start(vm, &vcpu, |a| {
        // The GSI is a pin of the PIC as well: mask it there.
        a.mov(al, 0xff)?;
        a.out(0x21, al)?;
        a.out(0xa1, al)?;
        a.mov(rbx, 0xfec0_0000u64)?;
        a.mov(dword_ptr(rbx), 0x10 + 2 * PIN + 1)?;
        a.mov(dword_ptr(rbx + 0x10), 0u32)?;
        a.mov(dword_ptr(rbx), 0x10 + 2 * PIN)?;
        a.mov(dword_ptr(rbx + 0x10), low)
    })?;
    waiter::handle(&ram, VECTOR, End::Eoi);
    Ok((vcpu, ram))
}

fn edge(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, u32::from(VECTOR))?;
    let event = eventfd()?;
    vm.fd.register_irqfd(&event, PIN)?;
    t.eq("the guest waits", vcpu.run()?, waiting());
    for round in 0..3 {
        event.write(1)?;
        t.eq(format!("edge {round} is taken"), vcpu.run()?, taken(VECTOR));
        t.eq(
            format!("edge {round} is one interrupt"),
            vcpu.run()?,
            waiting(),
        );
        t.eq(format!("edge {round} was consumed"), drain(&event), 0);
    }
    vm.fd.unregister_irqfd(&event, PIN)?;
    event.write(1)?;
    // The line by hand: it has to be the only interrupt that comes.
    vm.irq_line(PIN, true)?;
    vm.irq_line(PIN, false)?;
    t.eq("KVM_IRQ_LINE makes an edge", vcpu.run()?, taken(VECTOR));
    t.eq("one only", vcpu.run()?, waiting());
    t.eq("a descriptor taken away is not read", drain(&event), 1);

    // Two writes before the guest looks are one interrupt, as two edges are.
    vm.fd.register_irqfd(&event, PIN)?;
    event.write(1)?;
    event.write(1)?;
    t.eq("two writes", vcpu.run()?, taken(VECTOR));
    t.eq("are one interrupt", vcpu.run()?, waiting());

    // An eventfd that is written already fires when it is registered.
    vm.fd.unregister_irqfd(&event, PIN)?;
    event.write(1)?;
    vm.fd.register_irqfd(&event, PIN)?;
    t.eq("what was written before counts", vcpu.run()?, taken(VECTOR));
    Ok(())
}

fn level(t: &mut Tap, dev: &Device) -> Outcome {
    const LEVEL: u32 = 1 << 15;
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, u32::from(VECTOR) | LEVEL)?;
    let (trigger, resample) = (eventfd()?, eventfd()?);
    vm.fd
        .register_irqfd_with_resample(&trigger, &resample, PIN)?;
    t.eq("the guest waits", vcpu.run()?, waiting());
    for round in 0..2 {
        trigger.write(1)?;
        t.eq(
            format!("level {round} is taken"),
            vcpu.run()?,
            taken(VECTOR),
        );
        t.eq(
            format!("level {round}: no EOI, no resampling"),
            drain(&resample),
            0,
        );
        t.eq(
            format!("level {round} falls with the EOI"),
            vcpu.run()?,
            waiting(),
        );
        t.eq(
            format!("level {round} is resampled once"),
            drain(&resample),
            1,
        );
    }
    // The device is still asserting: it writes again on resampling, and the interrupt comes again.
    trigger.write(1)?;
    t.eq("asserted again", vcpu.run()?, taken(VECTOR));
    trigger.write(1)?;
    let mut exits = vec![vcpu.run()?];
    if exits[0] == waiting() && drain(&resample) == 1 {
        trigger.write(1)?;
        exits.push(vcpu.run()?);
    }
    t.ok(
        "a device that goes on asserting is heard again",
        exits.contains(&taken(VECTOR)),
    );
    Ok(())
}

fn refused(t: &mut Tap, dev: &Device) -> Outcome {
    let irqfd = |fd, gsi, flags, resamplefd| kvm_irqfd {
        fd,
        gsi,
        flags,
        resamplefd,
        ..Default::default()
    };
    let event = eventfd()?;
    let fd = event.as_raw_fd() as u32;
    let bare = Vm::new(dev)?;
    t.errno(
        "without an irqchip",
        sys::ioctl_with(bare.raw(), sys::KVM_IRQFD, &irqfd(fd, 1, 0, 0)),
        libc::EINVAL,
    );
    let vm = Vm::with_irqchip(dev)?;
    let call = |arg: kvm_irqfd| sys::ioctl_with(vm.raw(), sys::KVM_IRQFD, &arg);
    t.errno(
        "a descriptor that is none",
        call(irqfd(u32::MAX, 1, 0, 0)),
        libc::EBADF,
    );
    t.errno(
        "one that is no eventfd",
        call(irqfd(dev.fd() as u32, 1, 0, 0)),
        libc::EINVAL,
    );
    t.errno(
        "an unknown flag",
        call(irqfd(fd, 1, 1 << 20, 0)),
        libc::EINVAL,
    );
    t.errno(
        "resampling into a descriptor that is none",
        call(irqfd(fd, 1, KVM_IRQFD_FLAG_RESAMPLE, u32::MAX)),
        libc::EBADF,
    );
    t.success("an irqfd", call(irqfd(fd, 1, 0, 0)));
    t.errno(
        "the same eventfd again",
        call(irqfd(fd, 1, 0, 0)),
        libc::EBUSY,
    );
    t.errno(
        "the same eventfd for another GSI",
        call(irqfd(fd, 2, 0, 0)),
        libc::EBUSY,
    );
    t.success(
        "taking it away",
        call(irqfd(fd, 1, KVM_IRQFD_FLAG_DEASSIGN, 0)),
    );
    t.success(
        "taking away what is not there is no error",
        call(irqfd(fd, 1, KVM_IRQFD_FLAG_DEASSIGN, 0)),
    );
    Ok(())
}
