// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_ENFORCE_PV_FEATURE_CPUID, and the paravirtual feature that a guest does not get.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const SIGNATURE: u32 = 0x4000_0000;
const FEATURES: u32 = 0x4000_0001;
const CLOCKSOURCE2: u32 = 1 << 3;
const PV_UNHALT: u32 = 1 << 7;
const SYSTEM_TIME: u32 = 0x12;
const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const KICK_CPU: u32 = 5;
const ENOSYS: u64 = -1000i64 as u64;
/// Where the handler of #GP is.
const FAULT: u64 = CODE + 0x800;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    t.eq(
        "the capability",
        dev.cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID),
        1,
    );
    enforced(t, dev)?;
    halting(t, dev)
}

fn enable(vcpu: &Vcpu, cap: u32, flags: u32, value: u64) -> Result<(), Errno> {
    let request = kvm_enable_cap {
        cap,
        flags,
        args: [value, 0, 0, 0],
        ..Default::default()
    };
    sys::ioctl_with(vcpu.raw(), sys::KVM_ENABLE_CAP, &request).map(|_| ())
}

/// Gives the vCPU a CPUID with these of KVM's features.
fn offer(vcpu: &Vcpu, vm: &Vm, features: u32) -> Outcome {
    let mut cpuid = vm.cpuid().clone();
    for entry in cpuid.as_mut_slice() {
        if entry.function == FEATURES {
            entry.eax = features;
        }
    }
    Ok(vcpu.fd.set_cpuid2(&cpuid)?)
}

fn enforced(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    offer(&vcpu, &vm, CLOCKSOURCE2)?;
    // Tells by bits of RAX which of the two clocks are there, and in R8 what a hypercall answered.
    let code = asm64(|a| {
        a.xor(r9, r9)?;
        for (bit, msr) in [SYSTEM_TIME, SYSTEM_TIME_NEW].into_iter().enumerate() {
            a.mov(r10, 1u64 << bit)?;
            a.mov(ecx, msr)?;
            a.rdmsr()?;
            a.or(r9, r10)?;
        }
        a.mov(eax, KICK_CPU)?;
        a.xor(ebx, ebx)?;
        a.xor(ecx, ecx)?;
        a.vmcall()?;
        a.mov(r8, rax)?;
        a.mov(rax, r9)?;
        a.out(0x40, al)
    });
    // Skips the instruction, of two bytes, and does not count it.
    let handler = assemble(64, FAULT, |a| {
        a.xor(r10, r10)?;
        a.add(rsp, 8)?;
        a.add(qword_ptr(rsp), 2)?;
        a.iretq()
    });
    let told = |vcpu: &mut Vcpu| -> Outcome<(Exit, u64)> {
        setup::start(vcpu, &ram, Mode::Long, &code)?;
        ram.write(FAULT, &handler);
        setup::gate(&ram, Mode::Long, 13, FAULT);
        Ok((vcpu.run()?, vcpu.regs()?.r8))
    };
    let cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID;
    t.eq(
        "both clocks and the hypercall",
        told(&mut vcpu)?,
        (Exit::out8(0x40, 3), 0),
    );
    t.errno(
        "flags, of which there are none",
        enable(&vcpu, cap, 1, 1),
        libc::EINVAL,
    );
    t.errno(
        "a capability that a vCPU can't be given",
        enable(&vcpu, KVM_CAP_EXCEPTION_PAYLOAD, 0, 1),
        libc::EINVAL,
    );
    t.success("only what CPUID has", enable(&vcpu, cap, 0, 1));
    t.eq(
        "one clock, no hypercall",
        told(&mut vcpu)?,
        (Exit::out8(0x40, 2), ENOSYS),
    );
    t.eq(
        "user space reads the one",
        vcpu.msr(SYSTEM_TIME_NEW)?,
        Some(0),
    );
    t.eq("the other holds nothing", vcpu.msr(SYSTEM_TIME)?, Some(0));
    t.ok("and takes nothing", !vcpu.set_msr(SYSTEM_TIME, 1)?);
    t.success("whatever CPUID has", enable(&vcpu, cap, 0, 0));
    t.eq(
        "both clocks again",
        told(&mut vcpu)?,
        (Exit::out8(0x40, 3), 0),
    );
    Ok(())
}

/// Where HLT makes no exit, nobody could end it by a hypercall.
fn halting(t: &mut Tap, dev: &Device) -> Outcome {
    const HLT: u64 = 1 << 1;
    if vm_exits(dev) & HLT == 0 {
        t.skip("HLT in the guest", "the host does not leave HLT to guests");
        return Ok(());
    }
    let vm = Vm::new(dev)?;
    let request = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        args: [HLT, 0, 0, 0],
        ..Default::default()
    };
    t.success(
        "HLT in the guest",
        sys::ioctl_with(vm.raw(), sys::KVM_ENABLE_CAP, &request),
    );
    let vcpu = vm.vcpu(0)?;
    let has = |vcpu: &Vcpu| -> Outcome<bool> {
        let cpuid = vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
        let mut entries = cpuid.as_slice().iter();
        Ok(entries
            .any(|e| e.function & 0xff == 1 && e.function >> 28 == 4 && e.eax & PV_UNHALT != 0))
    };
    offer(&vcpu, &vm, PV_UNHALT)?;
    t.ok("no PV_UNHALT", !has(&vcpu)?);
    let moved = |to: u32, signature: Option<u32>| {
        let mut cpuid = vm.cpuid().clone();
        for entry in cpuid.as_mut_slice() {
            if entry.function == SIGNATURE {
                entry.ebx = signature.unwrap_or(entry.ebx);
                entry.function = to;
            } else if entry.function == FEATURES {
                entry.eax = PV_UNHALT;
                entry.function = to | 1;
            }
        }
        vcpu.fd.set_cpuid2(&cpuid)
    };
    t.success("KVM's leaves behind another's", moved(0x4000_0100, None));
    t.ok("no PV_UNHALT there", !has(&vcpu)?);
    t.success("another one's leaves", moved(SIGNATURE, Some(0xdead_beef)));
    t.ok("its bits are its own", has(&vcpu)?);
    Ok(())
}

/// KVM_X86_DISABLE_EXITS_* that may be asked for.
fn vm_exits(dev: &Device) -> u64 {
    dev.cap(KVM_CAP_X86_DISABLE_EXITS) as u64
}
