// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_GUEST_DEBUG: single steps, INT3 for the debugger, breakpoints by address, interrupts held back.

use crate::asm::*;
use crate::device::Device;
use crate::prefix::{Prefix, PREFIX};
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::thread;
use std::time::Duration;

const DB: u32 = 1;
const BP: u32 = 3;
const DR6_BS: u64 = 1 << 14;
const DR6_BD: u64 = 1 << 13;
/// Neither a condition nor the bit that is clear for one.
const DR6_NOTHING: u64 = 0xffff_0ff0;
/// Lengths of the instructions in order: MOV, CPUID, NOP, INT3, NOP, HLT.
const CPUID: u64 = CODE + 5;
const NOP: u64 = CPUID + 2;
const INT3: u64 = NOP + 1;
const SECOND_NOP: u64 = INT3 + 1;
const HLT: u64 = SECOND_NOP + 1;
const NMI: u8 = 2;
const VECTOR: u8 = 0x60;
const VECTOR_PORT: u16 = 0x40;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    stops(t, dev)?;
    leaves_in_a_step(t, dev)?;
    steps_over_hlt(t, dev)?;
    general_detect(t, dev)?;
    injects_into_shutdown(t, dev)?;
    held_back(t, dev)
}

/// A guest that is about to shut down has an exception on its way.
fn injects_into_shutdown(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    vm.fd.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        args: [1, 0, 0, 0],
        ..Default::default()
    })?;
    let vcpu = vm.vcpu(0)?;
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.triple_fault.pending = 1;
    vcpu.fd.set_vcpu_events(&e)?;
    let inject = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP,
        ..Default::default()
    };
    t.errno(
        "an exception for a guest that shuts down",
        vcpu.fd.set_guest_debug(&inject),
        libc::EBUSY,
    );
    e.triple_fault.pending = 0;
    vcpu.fd.set_vcpu_events(&e)?;
    t.success("and for one that goes on", vcpu.fd.set_guest_debug(&inject));
    Ok(())
}

fn stops(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(eax, 0x1)?;
        a.cpuid()?;
        a.nop()?;
        a.int3()?;
        a.nop()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;

    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    t.eq("a step over MOV", vcpu.run()?, Exit::Debug(DB));
    t.eq("RIP", at(&mut vcpu).0, CPUID);
    t.ok("DR6.BS is told", at(&mut vcpu).1 & DR6_BS != 0);
    t.eq(
        "RFLAGS.TF is the debugger's own",
        vcpu.regs()?.rflags & 1 << 8,
        0,
    );
    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    t.eq(
        "a step over CPUID, which exits",
        vcpu.run()?,
        Exit::Debug(DB),
    );
    t.eq("RIP", at(&mut vcpu).0, NOP);

    control(&vcpu, KVM_GUESTDBG_USE_SW_BP, [0; 8])?;
    t.eq("INT3", vcpu.run()?, Exit::Debug(BP));
    t.eq("RIP is that of INT3", at(&mut vcpu).0, INT3);

    vcpu.with_regs(|r| r.rip = SECOND_NOP)?;
    // DR0 on HLT, enabled for execution.
    control(
        &vcpu,
        KVM_GUESTDBG_USE_HW_BP,
        [HLT, 0, 0, 0, 0, 0, 0, 0x402],
    )?;
    t.eq("a breakpoint by address", vcpu.run()?, Exit::Debug(DB));
    t.eq("RIP", at(&mut vcpu).0, HLT);
    t.ok("DR6.B0 is told", at(&mut vcpu).1 & 1 != 0);
    t.eq(
        "the guest's own DR0 stays",
        vcpu.fd.get_debug_regs()?.db[0],
        0,
    );

    debugger_leaves(&vcpu)?;
    t.eq(
        "without a debugger the guest goes on",
        vcpu.run()?,
        Exit::Hlt,
    );
    Ok(())
}

/// A step over a write to a device comes out for the device; a debugger that leaves then has seen the last of the guest.
fn leaves_in_a_step(t: &mut Tap, dev: &Device) -> Outcome {
    const DEVICE: u64 = 0xd000_0000;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(dword_ptr(rbx), ecx)?;
        a.nop()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.with_regs(|r| r.rbx = DEVICE)?;
    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    t.eq(
        "a step over a write to a device",
        vcpu.run()?,
        Exit::mmio_write(DEVICE, &[0; 4]),
    );
    debugger_leaves(&vcpu)?;
    t.eq("the debugger leaves", vcpu.run()?, Exit::Hlt);
    Ok(())
}

/// With the APIC in the kernel, where HLT waits: the step comes out before the wait.
fn steps_over_hlt(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(|a| a.hlt()))?;
    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    signals::catch()?;
    let (result, mut vcpu) = signals::interrupt_after(vcpu, || {
        thread::sleep(Duration::from_millis(300));
    })?;
    t.eq("a step over HLT", result, Ok(Exit::Debug(DB)));
    t.eq("RIP", at(&mut vcpu).0, CODE + 1);
    t.eq(
        "the processor waits",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    Ok(())
}

/// DR7.GD: the debugger's stops the guest at an access to a debug register, executed or emulated; the guest's own does not
/// count meanwhile.
fn general_detect(t: &mut Tap, dev: &Device) -> Outcome {
    const GD: u64 = 1 << 13 | 1 << 10;
    const EMULATED: u64 = CODE + 3 + PREFIX.len() as u64;
    let stop = |at| (Exit::Debug(DB), (at, DR6_NOTHING | DR6_BD));
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rax, dr0)?;
        a.db(&PREFIX)?;
        a.mov(rax, dr0)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;

    control(&vcpu, KVM_GUESTDBG_USE_HW_BP, [0, 0, 0, 0, 0, 0, 0, GD])?;
    let exit = vcpu.run()?;
    t.eq("DR7.GD", (exit, at(&mut vcpu)), stop(CODE));
    vcpu.with_regs(|r| r.rip += 3)?;
    match Prefix::on() {
        Ok(_on) => {
            let exit = vcpu.run()?;
            t.eq(
                "DR7.GD in the emulator",
                (exit, at(&mut vcpu)),
                stop(EMULATED),
            );
        }
        Err(why) => t.skip("DR7.GD in the emulator", why),
    }

    let mut own = vcpu.fd.get_debug_regs()?;
    own.dr7 = GD;
    vcpu.fd.set_debug_regs(&own)?;
    vcpu.with_regs(|r| r.rip = EMULATED)?;
    control(
        &vcpu,
        KVM_GUESTDBG_USE_HW_BP,
        [0, 0, 0, 0, 0, 0, 0, 1 << 10],
    )?;
    t.eq("the guest's own DR7.GD waits", vcpu.run()?, Exit::Hlt);
    Ok(())
}

/// KVM_GUESTDBG_BLOCKIRQ: an interrupt and an NMI wait while the guest is stepped through code that would take both.
fn held_back(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        a.nop()?;
        a.cpuid()?;
        a.nop()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    for vector in [NMI, VECTOR] {
        let at = CODE + 0x800 + u64::from(vector) * 32;
        let handler = assemble(64, at, |a| {
            a.mov(al, i32::from(vector))?;
            a.out(i32::from(VECTOR_PORT), al)?;
            a.iretq()
        });
        ram.write(at, &handler);
        setup::gate(&ram, Mode::Long, vector, at);
    }
    enable_apic(&vcpu)?;
    vm.fd.signal_msi(kvm_msi {
        address_lo: 0xfee0_0000,
        data: u32::from(VECTOR),
        ..Default::default()
    })?;
    sys::ioctl(vcpu.raw(), sys::KVM_NMI, 0)?;

    let steps = [("STI", 1), ("NOP", 2), ("CPUID", 4), ("NOP", 5)];
    for (instruction, end) in steps {
        control(
            &vcpu,
            KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ,
            [0; 8],
        )?;
        let step = vcpu.run()?;
        t.eq(
            format!("held back: a step over {instruction}"),
            (step, at(&mut vcpu).0),
            (Exit::Debug(DB), CODE + end),
        );
    }
    debugger_leaves(&vcpu)?;
    for (event, vector) in [("the NMI", NMI), ("the interrupt", VECTOR)] {
        t.eq(
            format!("without a debugger {event} is taken"),
            vcpu.run()?,
            Exit::out8(VECTOR_PORT, vector),
        );
    }
    Ok(())
}

/// Sets the software enable of the local APIC.
fn enable_apic(vcpu: &Vcpu) -> Outcome {
    const SPURIOUS: usize = 0xf0;
    let mut lapic = vcpu.fd.get_lapic()?;
    lapic.regs[SPURIOUS + 1] |= 1;
    vcpu.fd.set_lapic(&lapic)?;
    Ok(())
}

fn debugger_leaves(vcpu: &Vcpu) -> Outcome {
    let off = kvm_guest_debug::default();
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_GUEST_DEBUG, &off)?;
    Ok(())
}

fn control(vcpu: &Vcpu, how: u32, debugreg: [u64; 8]) -> Outcome {
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | how,
        arch: kvm_guest_debug_arch { debugreg },
        ..Default::default()
    };
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_GUEST_DEBUG, &debug)?;
    Ok(())
}

/// RIP and DR6 as KVM_EXIT_DEBUG tells them.
fn at(vcpu: &mut Vcpu) -> (u64, u64) {
    // SAFETY: The last exit was KVM_EXIT_DEBUG.
    let arch = unsafe { vcpu.shared().__bindgen_anon_1.debug.arch };
    (arch.pc, arch.dr6)
}
