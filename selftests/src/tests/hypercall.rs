// SPDX-License-Identifier: GPL-2.0

//! VMCALL and kvmclock: what a Linux guest asks of KVM itself.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// KVM_ENOSYS as the guest sees it.
const ENOSYS: u64 = -1000i64 as u64;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    calls(t, dev)?;
    kick(t, dev)?;
    reset_forgets_kick(t, dev)?;
    init(t, dev)
}

/// A processor that user space resets by its registers runs, and waits in its next HLT.
fn reset_forgets_kick(t: &mut Tap, dev: &Device) -> Outcome {
    const KICK_CPU: u32 = 5;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let bsp = vm.vcpu(0)?;
    let mut other = vm.vcpu(1)?;
    let reset = bsp.fd.get_sregs()?;
    let code = asm64(|a| {
        // C KVM finds other processors once somebody has changed who it is.
        a.mov(rbx, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rbx), 0x1ffu32)?;
        a.mov(eax, KICK_CPU)?;
        a.xor(ebx, ebx)?;
        a.xor(ecx, ecx)?;
        a.vmcall()?;
        a.out(0x40, al)
    });
    setup::start(&other, &ram, Mode::Long, &code)?;
    let set = |vcpu: &Vcpu, mp_state| vcpu.fd.set_mp_state(kvm_mp_state { mp_state });
    set(&other, KVM_MP_STATE_RUNNABLE)?;
    set(&bsp, KVM_MP_STATE_HALTED)?;
    t.eq("a kick", other.run()?, Exit::out8(0x40, 0));
    bsp.fd.set_sregs(&reset)?;
    set(&bsp, KVM_MP_STATE_HALTED)?;
    t.eq(
        "after a reset the kick is forgotten",
        bsp.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    Ok(())
}

/// KVM_HC_KICK_CPU: the next HLT of the processor ends at once, unless user space says that it runs.
fn kick(t: &mut Tap, dev: &Device) -> Outcome {
    const KICK_CPU: u32 = 5;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut first = vm.vcpu(0)?;
    let second = vm.vcpu(1)?;
    let code = asm64(|a| {
        // C KVM finds other processors once somebody has changed who it is.
        a.mov(rbx, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rbx), 0x1ffu32)?;
        forever(a, |a| {
            a.mov(eax, KICK_CPU)?;
            a.xor(ebx, ebx)?;
            a.mov(ecx, 1)?;
            a.vmcall()?;
            a.out(0x40, al)
        })
    });
    setup::start(&first, &ram, Mode::Long, &code)?;
    let set = |mp_state| second.fd.set_mp_state(kvm_mp_state { mp_state });
    let get = || -> Outcome<u32> { Ok(second.fd.get_mp_state()?.mp_state) };
    set(KVM_MP_STATE_HALTED)?;
    t.eq("a processor halts", get()?, KVM_MP_STATE_HALTED);
    t.eq("another one kicks it", first.run()?, Exit::out8(0x40, 0));
    t.eq("it need not wait", get()?, KVM_MP_STATE_RUNNABLE);
    set(KVM_MP_STATE_RUNNABLE)?;
    set(KVM_MP_STATE_HALTED)?;
    t.eq("it has run, and halts", get()?, KVM_MP_STATE_HALTED);
    Ok(())
}

/// INIT ends kvmclock: what boots then has not asked for writes to its memory.
fn init(t: &mut Tap, dev: &Device) -> Outcome {
    const APIC: u64 = 0xfee0_0000;
    const INIT: u32 = 5 << 8 | 1 << 14;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut bsp = vm.vcpu(0)?;
    let ap = vm.vcpu(1)?;
    t.ok(
        "the clock of a second vCPU",
        ap.set_msr(SYSTEM_TIME_NEW, DATA | 1)?,
    );
    let code = asm64(|a| {
        a.mov(rbx, APIC)?;
        // C KVM looks for new vCPUs when an APIC is switched on.
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        a.mov(dword_ptr(rbx + 0x310), 1u32 << 24)?;
        a.mov(dword_ptr(rbx + 0x300), INIT)?;
        a.out(0x40, al)?;
        a.hlt()
    });
    setup::start(&bsp, &ram, Mode::Long, &code)?;
    t.eq("the first sends INIT", bsp.run()?, Exit::out8(0x40, 0));
    t.eq(
        "it has arrived",
        ap.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_INIT_RECEIVED,
    );
    t.eq("and ended the clock", ap.msr(SYSTEM_TIME_NEW)?, Some(0));
    Ok(())
}

fn calls(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        // A hypercall that is none.
        a.mov(eax, 0x7777)?;
        a.vmcall()?;
        a.mov(r8, rax)?;
        // KVM_HC_VAPIC_POLL_IRQ is answered 0.
        a.mov(eax, 1)?;
        a.vmcall()?;
        a.mov(r9, rax)?;
        // kvmclock: enabled at DATA; wall clock at DATA + 0x100.
        a.mov(ecx, SYSTEM_TIME_NEW)?;
        a.mov(eax, DATA as u32 | 1)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(ecx, WALL_CLOCK_NEW)?;
        a.mov(eax, DATA as u32 + 0x100)?;
        a.wrmsr()?;
        a.out(0x40, al)?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.out(0x41, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let before = vm.fd.get_clock()?.clock;
    t.eq(
        "the guest sets up its clock",
        vcpu.run()?,
        Exit::out8(0x40, DATA as u8),
    );
    let r = vcpu.regs()?;
    t.eq("an unknown hypercall is ENOSYS", r.r8, ENOSYS);
    t.eq("a known one is done", r.r9, 0);
    vcpu.run()?;
    let after = vm.fd.get_clock()?.clock;
    let tsc = vcpu.regs()?.rax;
    t.eq(
        "the MSR reads back",
        vcpu.msr(SYSTEM_TIME_NEW)?,
        Some(DATA | 1),
    );
    // struct pvclock_vcpu_time_info.
    let version = ram.get32(DATA);
    t.ok(
        "the version is even and not 0",
        version != 0 && version % 2 == 0,
    );
    let stamp = ram.get64(DATA + 8);
    let time = ram.get64(DATA + 16);
    let mul = u64::from(ram.get32(DATA + 24));
    let shift = ram.read(DATA + 28, 1)[0] as i8;
    t.ok("there is a multiplier", mul != 0);
    let delta = tsc.wrapping_sub(stamp);
    let scaled = if shift >= 0 {
        delta << shift
    } else {
        delta >> -shift
    };
    let now = time + ((u128::from(scaled) * u128::from(mul)) >> 32) as u64;
    t.ok(
        "the guest's time lies between two KVM_GET_CLOCK",
        before <= now && now <= after,
    );
    if !(before <= now && now <= after) {
        t.diag(format!("{before} <= {now} <= {after}"));
    }
    let wall = ram.get32(DATA + 0x100);
    t.ok(
        "the wall clock's version is even and not 0",
        wall != 0 && wall % 2 == 0,
    );
    Ok(())
}
