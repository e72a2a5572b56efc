// SPDX-License-Identifier: GPL-2.0

//! The VM's state reads back as it was set: three IRQCHIPs, PIT2, CLOCK.

use crate::device::Device;
use crate::sys;
use crate::tap::Tap;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    vm.fd.create_pit2(kvm_pit_config::default())?;
    pics(t, &vm)?;
    ioapic(t, &vm)?;
    pit(t, &vm)?;
    clock(t, &vm)?;
    refused(t, dev)
}

fn pics(t: &mut Tap, vm: &Vm) -> Outcome {
    for (name, chip_id, base) in [
        ("master", KVM_IRQCHIP_PIC_MASTER, 0x30),
        ("slave", KVM_IRQCHIP_PIC_SLAVE, 0x38),
    ] {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.fd.get_irqchip(&mut chip)?;
        // SAFETY: the id says that this is a PIC.
        let pic = unsafe { &mut chip.chip.pic };
        (pic.imr, pic.irq_base, pic.elcr, pic.auto_eoi, pic.init4) = (0xa5, base, 0x08, 0, 1);
        let want = *pic;
        vm.fd.set_irqchip(&chip)?;
        let mut back = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.fd.get_irqchip(&mut back)?;
        // SAFETY: as above.
        t.eq(format!("the {name} PIC"), unsafe { back.chip.pic }, want);
    }
    Ok(())
}

fn ioapic(t: &mut Tap, vm: &Vm) -> Outcome {
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    vm.fd.get_irqchip(&mut chip)?;
    // SAFETY: the id says that this is an IOAPIC.
    let io = unsafe { &mut chip.chip.ioapic };
    t.eq("it is where it has to be", io.base_address, 0xfec0_0000);
    // SAFETY: every bit pattern is an entry.
    let masked = io
        .redirtbl
        .iter()
        .filter(|e| unsafe { e.bits } & (1 << 16) != 0)
        .count();
    t.eq("all 24 pins are masked at first", masked, 24);
    io.id = 3;
    io.ioregsel = 0x12;
    io.redirtbl[5].bits = 0x0200_0000_0001_8065;
    io.redirtbl[23].bits = 0x0100_0000_0001_0071;
    vm.fd.set_irqchip(&chip)?;
    let mut back = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    vm.fd.get_irqchip(&mut back)?;
    // SAFETY: as above.
    let back = unsafe { back.chip.ioapic };
    t.eq("id and selector", (back.id, back.ioregsel), (3, 0x12));
    // SAFETY: as above.
    let entries = unsafe { (back.redirtbl[5].bits, back.redirtbl[23].bits) };
    t.eq(
        "the entries",
        entries,
        (0x0200_0000_0001_8065, 0x0100_0000_0001_0071),
    );
    Ok(())
}

fn pit(t: &mut Tap, vm: &Vm) -> Outcome {
    let mut want = vm.fd.get_pit2()?;
    want.channels[2].mode = 3;
    want.channels[2].count = 0x1234;
    want.channels[2].gate = 1;
    want.channels[1].mode = 2;
    want.channels[1].count = 18;
    want.flags = KVM_PIT_FLAGS_HPET_LEGACY;
    vm.fd.set_pit2(&want)?;
    let got = vm.fd.get_pit2()?;
    t.eq(
        "channel 2",
        (
            got.channels[2].mode,
            got.channels[2].count,
            got.channels[2].gate,
        ),
        (3, 0x1234, 1),
    );
    t.eq(
        "channel 1",
        (got.channels[1].mode, got.channels[1].count),
        (2, 18),
    );
    t.eq(
        "the flag of the HPET",
        got.flags & KVM_PIT_FLAGS_HPET_LEGACY,
        KVM_PIT_FLAGS_HPET_LEGACY,
    );
    Ok(())
}

fn clock(t: &mut Tap, vm: &Vm) -> Outcome {
    const FAR: u64 = 1 << 50;
    let first = vm.fd.get_clock()?.clock;
    let second = vm.fd.get_clock()?.clock;
    t.ok("the clock goes on", second >= first);
    vm.fd.set_clock(&kvm_clock_data {
        clock: FAR,
        ..Default::default()
    })?;
    let after = vm.fd.get_clock()?.clock;
    t.ok(
        "it goes on from where it was set",
        (FAR..FAR + 60_000_000_000).contains(&after),
    );
    t.errno(
        "an unknown flag",
        vm.fd.set_clock(&kvm_clock_data {
            flags: 1 << 30,
            ..Default::default()
        }),
        libc::EINVAL,
    );
    Ok(())
}

fn refused(t: &mut Tap, dev: &Device) -> Outcome {
    let bare = Vm::new(dev)?;
    let mut chip = kvm_irqchip::default();
    t.errno(
        "KVM_GET_IRQCHIP without chips",
        bare.fd.get_irqchip(&mut chip),
        libc::ENXIO,
    );
    t.errno(
        "KVM_SET_IRQCHIP without chips",
        bare.fd.set_irqchip(&chip),
        libc::ENXIO,
    );
    t.errno(
        "KVM_IRQ_LINE without chips",
        bare.irq_line(1, true),
        libc::ENXIO,
    );
    let vm = Vm::with_irqchip(dev)?;
    chip.chip_id = 7;
    t.errno(
        "KVM_GET_IRQCHIP of a chip that is none",
        vm.fd.get_irqchip(&mut chip),
        libc::EINVAL,
    );
    t.errno(
        "KVM_SET_IRQCHIP of a chip that is none",
        vm.fd.set_irqchip(&chip),
        libc::EINVAL,
    );
    t.errno(
        "KVM_CREATE_IRQCHIP twice",
        sys::ioctl(vm.raw(), sys::KVM_CREATE_IRQCHIP, 0),
        libc::EEXIST,
    );
    let with_vcpu = Vm::new(dev)?;
    let _vcpu = with_vcpu.vcpu(0)?;
    t.errno(
        "KVM_CREATE_IRQCHIP behind the first vCPU",
        sys::ioctl(with_vcpu.raw(), sys::KVM_CREATE_IRQCHIP, 0),
        libc::EINVAL,
    );
    Ok(())
}
