// SPDX-License-Identifier: GPL-2.0

//! NMIs that come as messages: of devices, of the I/O APIC, of processors; and what user space sees of those that wait.

use crate::asm::*;
use crate::device::Device;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::waiter::{self, ioapic_entry, taken, waiting, End, APIC};
use crate::Outcome;
use kvm_bindings::*;

const NMI: u8 = 2;
/// Delivery mode NMI, in messages and in entries of the I/O APIC.
const MODE_NMI: u32 = 4 << 8;
const LEVEL: u32 = 1 << 15;
const EDGE_PIN: u32 = 20;
const LEVEL_PIN: u32 = 21;
const ICR: u64 = 0x300;
const TO_ITSELF: u32 = 1 << 18;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    messages(t, dev)?;
    to_itself(t, dev)
}

/// NMIs that wait, and whether they are masked.
fn nmis(vcpu: &Vcpu) -> Outcome<(u8, u8)> {
    let nmi = vcpu.fd.get_vcpu_events()?.nmi;
    Ok((nmi.pending, nmi.masked))
}

fn messages(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let mut vcpu = vm.vcpu(0)?;
    let ram = waiter::start(&vm, &vcpu, |a| {
        ioapic_entry(a, EDGE_PIN, MODE_NMI)?;
        ioapic_entry(a, LEVEL_PIN, MODE_NMI | LEVEL)
    })?;
    waiter::handle(&ram, NMI, End::Nothing);
    let message = kvm_msi {
        address_lo: APIC as u32,
        data: MODE_NMI,
        ..Default::default()
    };
    t.eq("the guest waits", vcpu.run()?, waiting());

    t.eq("a message is taken", vm.fd.signal_msi(message)?, 1);
    t.eq("user space sees its NMI wait", nmis(&vcpu)?, (1, 0));
    vm.fd.signal_msi(message)?;
    t.eq("and another one", nmis(&vcpu)?, (2, 0));
    vm.fd.signal_msi(message)?;
    t.eq("a third is lost", nmis(&vcpu)?, (2, 0));
    t.eq("the first is delivered", vcpu.run()?, taken(NMI));
    t.eq("the second waits in the handler", nmis(&vcpu)?, (1, 1));
    vm.fd.signal_msi(message)?;
    t.eq("where no other can", nmis(&vcpu)?, (1, 1));
    t.eq("the second is delivered", vcpu.run()?, taken(NMI));

    let mut events = vcpu.fd.get_vcpu_events()?;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    events.nmi.pending = 2;
    vcpu.fd.set_vcpu_events(&events)?;
    t.eq("of two that are set one remains", nmis(&vcpu)?, (1, 1));
    vm.fd.signal_msi(message)?;
    events.nmi.pending = 0;
    vcpu.fd.set_vcpu_events(&events)?;
    t.eq("what is set replaces what came", nmis(&vcpu)?, (0, 1));

    vm.irq_line(EDGE_PIN, true)?;
    t.eq("a pin of the I/O APIC rises", nmis(&vcpu)?, (1, 1));
    t.eq("its NMI", vcpu.run()?, taken(NMI));
    vm.irq_line(EDGE_PIN, true)?;
    t.eq("staying high is no edge", nmis(&vcpu)?, (0, 1));
    vm.irq_line(LEVEL_PIN, true)?;
    t.eq("a level pin", vcpu.run()?, taken(NMI));
    vm.irq_line(LEVEL_PIN, true)?;
    t.eq("makes one NMI, too", nmis(&vcpu)?, (0, 1));
    Ok(())
}

fn to_itself(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let mut vcpu = vm.vcpu(0)?;
    let ram = waiter::start(&vm, &vcpu, |a| {
        a.mov(rbx, APIC + ICR)?;
        a.mov(dword_ptr(rbx), MODE_NMI | TO_ITSELF)
    })?;
    waiter::handle(&ram, NMI, End::Nothing);
    t.eq("a processor interrupts itself", vcpu.run()?, taken(NMI));
    t.eq("and goes on", vcpu.run()?, waiting());
    Ok(())
}
