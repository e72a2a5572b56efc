// SPDX-License-Identifier: GPL-2.0

//! HLT: to user space without an in-kernel local APIC; with one the vCPU sleeps in the kernel
//! until an interrupt, an NMI or a signal.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::tests::{signals, stats};
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::thread;

const VECTOR: u8 = 0x60;
const NMI_HANDLER: u64 = CODE + 0x900;
const HANDLER: u64 = CODE + 0x800;
const DONE_PORT: i32 = 0x41;
const MSI_ADDRESS: u32 = 0xfee0_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    user_space(t, dev)?;
    in_kernel(t, dev)?;
    polling(t, dev)
}

/// The vCPU polls before it sleeps: the expiry of its own timer, too, is an event that it finds so.
fn polling(t: &mut Tap, dev: &Device) -> Outcome {
    const ROUNDS: i32 = 100;
    const TICKS: u32 = 30_000;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, 0xfee0_0000u64)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        // The timer divides by 1.
        a.mov(dword_ptr(rbx + 0x3e0), 0xbu32)?;
        a.mov(dword_ptr(rbx + 0x320), u32::from(VECTOR))?;
        a.mov(ecx, ROUNDS)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dword_ptr(rbx + 0x380), TICKS)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(al, 1)?;
        a.out(DONE_PORT, al)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        a.mov(dword_ptr(rbx + 0xb0), 0)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    t.eq(
        "the timer ends each HLT",
        vcpu.run()?,
        Exit::out8(DONE_PORT as u16, 1),
    );
    let stats = stats::of(vcpu.raw())?;
    let stat = |name: &str| stats.get(name).copied().unwrap_or(0);
    if stat("halt_attempted_poll") == 0 {
        t.skip("the vCPU polls for its timer", "this host does not poll");
    } else {
        t.ok(
            "the vCPU polls for its timer",
            stat("halt_successful_poll") > 0,
        );
    }
    Ok(())
}

fn user_space(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.hlt()?;
        a.mov(al, 1)?;
        a.out(DONE_PORT, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq("HLT is an exit", vcpu.run()?, Exit::Hlt);
    t.eq("RIP is behind it", vcpu.regs()?.rip, CODE + 1);
    t.eq(
        "the vCPU stays runnable",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_RUNNABLE,
    );
    t.eq(
        "the next run goes on behind it",
        vcpu.run()?,
        Exit::out8(DONE_PORT as u16, 1),
    );
    t.eq("HLT again", vcpu.run()?, Exit::Hlt);
    Ok(())
}

fn in_kernel(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        // The local APIC's software enable.
        a.mov(rbx, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rbx), 0x1ffu32)?;
        a.mov(al, 1)?;
        a.out(DONE_PORT, al)?;
        a.sti()?;
        a.hlt()?;
        a.mov(al, 2)?;
        a.out(DONE_PORT, al)?;
        // As an operating system waits: the interrupt is either seen before HLT, or ends it.
        let mut wait = a.create_label();
        let mut came = a.create_label();
        a.set_label(&mut wait)?;
        a.cli()?;
        a.cmp(r15, 2)?;
        a.jae(came)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut came)?;
        a.mov(al, 3)?;
        a.out(DONE_PORT, al)?;
        a.hlt()?;
        a.mov(al, 4)?;
        a.out(DONE_PORT, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        a.inc(r15)?;
        a.mov(rbx, 0xfee0_00b0u64)?;
        a.mov(dword_ptr(rbx), 0)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    ram.write(NMI_HANDLER, &assemble(64, NMI_HANDLER, |a| a.iretq()));
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    setup::gate(&ram, Mode::Long, 2, NMI_HANDLER);
    let msi = kvm_msi {
        address_lo: MSI_ADDRESS,
        data: u32::from(VECTOR),
        ..Default::default()
    };

    t.eq(
        "the guest starts",
        vcpu.run()?,
        Exit::out8(DONE_PORT as u16, 1),
    );
    vm.fd.signal_msi(msi)?;
    t.eq(
        "an interrupt that waits ends HLT at once",
        vcpu.run()?,
        Exit::out8(DONE_PORT as u16, 2),
    );

    // The vCPU thread may get to its HLT before or after the interrupt comes.
    let vcpu = thread::scope(|s| -> Outcome<_> {
        let runner = s.spawn(move || (vcpu.run(), vcpu));
        vm.fd.signal_msi(msi)?;
        let (exit, vcpu) = runner.join().map_err(|_| "the vCPU thread panicked")?;
        t.eq(
            "an interrupt from another thread ends HLT",
            exit?,
            Exit::out8(DONE_PORT as u16, 3),
        );
        Ok(vcpu)
    })?;
    signals::catch()?;
    let (result, mut vcpu) = signals::interrupt_in_hlt(vcpu)?;
    t.errno("a signal ends the sleep", result, libc::EINTR);
    t.eq(
        "the vCPU is halted",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    sys::ioctl(vcpu.raw(), sys::KVM_NMI, 0)?;
    t.eq(
        "an NMI ends HLT",
        vcpu.run()?,
        Exit::out8(DONE_PORT as u16, 4),
    );
    Ok(())
}
