// SPDX-License-Identifier: GPL-2.0

//! The PIT through the PIC: IRQ 0 of channel 0, reading the count, and the speaker port.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::waiter::{ioapic_entry, APIC};
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::thread;
use std::time::Duration;

const VECTOR: u8 = 0x20;
const HANDLER: u64 = CODE + 0x800;
const DONE: u16 = 0x80;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    vm.fd.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Protected, &ticking())?;
    let handler = assemble(32, HANDLER, |a| {
        a.inc(esi)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iretd()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Protected, VECTOR, HANDLER);

    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => t.ok("three ticks of IRQ 0", data[0] >= 3),
        other => t.eq("three ticks of IRQ 0", other, Exit::out8(DONE, 3)),
    };
    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => t.eq("channel 2 ran out, its gate is on", data[0] & 0x21, 0x21),
        other => t.eq("channel 2 runs out", other, Exit::out8(DONE, 0x21)),
    };
    match vcpu.run()? {
        Exit::Out {
            port: DONE, data, ..
        } => {
            let count = u16::from_le_bytes([data[0], data[1]]);
            t.ok(
                "the count of channel 0 is within its period",
                (1..=0x04a9).contains(&count),
            )
        }
        other => t.eq("a latched count", other, Exit::out32(DONE, 0)),
    };
    let state = vm.fd.get_pit2()?;
    t.eq("KVM_GET_PIT2 tells mode 2", state.channels[0].mode, 2);
    t.eq("and the count", state.channels[0].count, 0x04a9);
    t.eq("the gate of channel 2 is on", state.channels[2].gate, 1);
    wide(t, dev)?;
    level(t, dev)?;
    refused(t, dev)
}

/// Counts three ticks of channel 0, waits for channel 2 to run out, and latches the count of channel 0.
fn ticking() -> Vec<u8> {
    asm32(|a| {
        let mut out = |port: i32, value: u32| -> Asm {
            a.mov(al, value as i32)?;
            a.out(port, al)
        };
        // Both PICs: edge, cascade at 2, 8086 mode; all masked but IRQ 0.
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, u32::from(VECTOR)),
            (0xa1, 0x28),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0xfe),
            (0xa1, 0xff),
            // Channel 0: mode 2, about 1 kHz.
            (0x43, 0x34),
            (0x40, 0xa9),
            (0x40, 0x04),
        ] {
            out(port, value)?;
        }
        a.xor(esi, esi)?;
        let mut wait = a.create_label();
        let mut enough = a.create_label();
        a.set_label(&mut wait)?;
        a.cli()?;
        a.cmp(esi, 3)?;
        a.jae(enough)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut enough)?;
        a.mov(al, 0xff)?;
        a.out(0x21, al)?;
        a.mov(eax, esi)?;
        a.out(i32::from(DONE), al)?;
        // Channel 2 counts down while its gate is on; its output shows in port 0x61.
        for (port, value) in [(0x61, 1), (0x43, 0xb0), (0x42, 0xff), (0x42, 0x00)] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        let mut low = a.create_label();
        a.set_label(&mut low)?;
        a.in_(al, 0x61)?;
        a.test(al, 0x20)?;
        a.jz(low)?;
        a.out(i32::from(DONE), al)?;
        // A latched count of channel 0 does not move between its two bytes.
        a.mov(al, 0)?;
        a.out(0x43, al)?;
        a.in_(al, 0x40)?;
        a.mov(bl, al)?;
        a.in_(al, 0x40)?;
        a.mov(bh, al)?;
        a.movzx(eax, bx)?;
        a.out(i32::from(DONE), eax)?;
        a.hlt()
    })
}

/// Words and doublewords within the ports: their low byte is for the register of the first.
fn wide(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    vm.fd.create_pit2(kvm_pit_config::default())?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm32(|a| {
        // What reaches beyond them is not for the PIT.
        a.mov(eax, 0x1234_5630)?;
        a.out(0x43, ax)?;
        // Channel 0: mode 4, both bytes.
        a.mov(al, 0x38)?;
        a.out(0x43, al)?;
        a.mov(eax, 0x5634)?;
        a.out(0x40, ax)?;
        a.mov(eax, 0xffff_ff12u32)?;
        a.out(0x40, eax)?;
        // Its mode, by the read-back command.
        a.mov(al, 0xe2)?;
        a.out(0x43, al)?;
        a.mov(eax, -1)?;
        a.in_(eax, 0x40)?;
        a.out(i32::from(DONE), eax)
    });
    setup::start(&vcpu, &ram, Mode::Protected, &code)?;
    t.eq("beyond the ports", vcpu.run()?, Exit::out16(0x43, 0x5630));
    let exit = vcpu.run()?;
    let state = vm.fd.get_pit2()?.channels[0];
    t.eq("wide writes: the mode", state.mode, 4);
    t.eq("wide writes: the count", state.count, 0x1234);
    match exit {
        Exit::Out { data, .. } => {
            t.eq("a wide read: the status", data[0] & 0x3f, 0x38);
            t.eq("and nothing else", data[1..].to_vec(), vec![0; 3])
        }
        other => t.eq("a wide read", other, Exit::out32(DONE, 0x38)),
    };
    Ok(())
}

/// Channel 0 at a level-triggered pin of the I/O APIC: ticks that the guest was too slow for come after the EOI.
fn level(t: &mut Tap, dev: &Device) -> Outcome {
    const LEVEL: u32 = 1 << 15;
    const PERIOD: Duration = Duration::from_millis(1);
    let vm = Vm::with_irqchip(dev)?;
    vm.fd.create_pit2(kvm_pit_config::default())?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        ioapic_entry(a, 0, LEVEL | u32::from(VECTOR))?;
        // The PIC is masked. Mode 2, about 1 kHz.
        for (port, value) in [(0x21, 0xff), (0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.sti()?;
        forever(a, |a| a.hlt())
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        a.out(i32::from(DONE), al)?;
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xb0), 0u32)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    for n in 1..=3 {
        t.eq(
            format!("level: tick {n}"),
            vcpu.run()?,
            Exit::out8(DONE, 0x04),
        );
        // Before the EOI.
        thread::sleep(PERIOD * 5);
    }
    Ok(())
}

fn refused(t: &mut Tap, dev: &Device) -> Outcome {
    let pit = |vm: &Vm| -> Result<(), Errno> { Ok(vm.fd.create_pit2(kvm_pit_config::default())?) };
    let bare = Vm::new(dev)?;
    t.errno(
        "KVM_CREATE_PIT2 without an irqchip",
        pit(&bare),
        libc::ENOENT,
    );
    let vm = Vm::with_irqchip(dev)?;
    let mut state = kvm_pit_state2::default();
    t.errno(
        "KVM_GET_PIT2 without a PIT",
        sys::ioctl_mut(vm.raw(), sys::KVM_GET_PIT2, &mut state),
        libc::ENXIO,
    );
    t.errno(
        "KVM_SET_PIT2 without a PIT",
        sys::ioctl_with(vm.raw(), sys::KVM_SET_PIT2, &state),
        libc::ENXIO,
    );
    t.success("KVM_CREATE_PIT2", pit(&vm));
    t.errno("KVM_CREATE_PIT2 twice", pit(&vm), libc::EEXIST);
    Ok(())
}
