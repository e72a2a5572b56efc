// SPDX-License-Identifier: GPL-2.0

//! KVM_X86_SET_MSR_FILTER and KVM_CAP_X86_USER_SPACE_MSR: what user space keeps from the guest, and answers itself.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::prefix::{Prefix, PREFIX};
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

/// `_IOW(KVMIO, 0xc6, struct kvm_msr_filter)`.
const KVM_X86_SET_MSR_FILTER: u64 = 0x4188_aec6;
/// `struct kvm_msr_filter` in words: flags, and for each range flags and count, base, bitmap.
type Filter = [u64; 49];
const READ: u64 = 1;
const WRITE: u64 = 2;
const FILTERED: u32 = 1 << 2;
const UNKNOWN: u32 = 1 << 1;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const ARCH_CAPABILITIES: u32 = 0x10a;
const NONE: u32 = 0xdead_0001;

fn filter(flags: u64, range: [u64; 3]) -> Filter {
    let mut f = [0; 49];
    f[0] = flags;
    f[1..4].copy_from_slice(&range);
    f
}

/// One MSR, which is denied in this way.
fn denied(how: u64, msr: u32) -> [u64; 3] {
    static BITS: [u64; 1] = [0];
    [how | 1 << 32, msr.into(), BITS.as_ptr() as u64]
}

fn set(vm: &Vm, f: &Filter) -> Result<(), Errno> {
    sys::ioctl_with(vm.raw(), KVM_X86_SET_MSR_FILTER, f).map(|_| ())
}

/// Which refused accesses go to user space.
fn to_user_space(vm: &Vm, reasons: u32) -> Result<(), Errno> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [reasons.into(), 0, 0, 0],
        ..Default::default()
    };
    sys::ioctl_with(vm.raw(), sys::KVM_ENABLE_CAP, &cap).map(|_| ())
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    refused(t, &vm);
    filtered(t, &vm)?;
    emulated(t, dev)
}

/// Filters that can't be.
fn refused(t: &mut Tap, vm: &Vm) {
    let set = |f: &Filter| set(vm, f);
    let range = |how: u64| denied(how, KERNEL_GS_BASE);
    t.errno("flags that are none", set(&filter(2, [0; 3])), libc::EINVAL);
    t.errno(
        "a filter that denies everything",
        set(&filter(1, [0; 3])),
        libc::EINVAL,
    );
    t.errno(
        "a range of neither reads nor writes",
        set(&filter(0, range(0))),
        libc::EINVAL,
    );
    t.errno(
        "a bitmap that is not there",
        set(&filter(0, [READ | 1 << 32, 0, 8])),
        libc::EFAULT,
    );
    t.errno("reasons that are none", to_user_space(vm, 8), libc::EINVAL);
}

/// A guest whose accesses user space answers, then one that reads by itself, then one that may not write.
fn filtered(t: &mut Tap, vm: &Vm) -> Outcome {
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let set = |f: &Filter| set(vm, f);
    t.success(
        "filtered and unknown MSRs to user space",
        to_user_space(vm, FILTERED | UNKNOWN),
    );
    t.success("a filter", set(&filter(0, denied(READ, KERNEL_GS_BASE))));
    let code = asm64(|a| {
        a.mov(ecx, KERNEL_GS_BASE)?;
        a.mov(eax, 0x1000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.mov(r8, rax)?;
        a.mov(ecx, NONE)?;
        a.wrmsr()?;
        a.mov(ecx, ARCH_CAPABILITIES)?;
        a.wrmsr()?;
        a.mov(ecx, KERNEL_GS_BASE)?;
        a.rdmsr()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "a denied read",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_X86_RDMSR),
    );
    t.eq(
        "its reason and number",
        told(&mut vcpu),
        (FILTERED, KERNEL_GS_BASE, 0),
    );
    t.eq(
        "user space still reads it",
        vcpu.msr(KERNEL_GS_BASE)?,
        Some(0x1000),
    );
    answer(&mut vcpu, 0x7777);
    t.eq(
        "an unknown MSR",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_X86_WRMSR),
    );
    t.eq(
        "its reason, number and value",
        told(&mut vcpu),
        (UNKNOWN, NONE, 0x7777),
    );
    t.eq("the read had user space's answer", vcpu.regs()?.r8, 0x7777);
    answer(&mut vcpu, 0);
    t.eq(
        "one that WRMSR does not know",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_X86_WRMSR),
    );
    t.eq(
        "its reason, number and value",
        told(&mut vcpu),
        (UNKNOWN, ARCH_CAPABILITIES, 0x7777),
    );
    answer(&mut vcpu, 0);
    t.success("without the filter", set(&filter(0, [0; 3])));
    t.eq("the guest reads by itself", vcpu.run()?, Exit::Hlt);
    t.eq("the register", vcpu.regs()?.rax, 0x1000);

    t.success(
        "a filter of writes",
        set(&filter(0, denied(WRITE, KERNEL_GS_BASE))),
    );
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "a denied write",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_X86_WRMSR),
    );
    t.eq(
        "its reason, number and value",
        told(&mut vcpu),
        (FILTERED, KERNEL_GS_BASE, 0x1000),
    );
    Ok(())
}

/// The emulator: the filter is for RDMSR and WRMSR, not for instructions that make use of an MSR.
fn emulated(t: &mut Tap, dev: &Device) -> Outcome {
    const TSC_AUX: u32 = 0xc000_0103;
    let _prefix = match Prefix::on() {
        Ok(prefix) => prefix,
        Err(why) => {
            t.skip("the filter and emulated instructions", why);
            return Ok(());
        }
    };
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    to_user_space(&vm, FILTERED | UNKNOWN)?;
    set(&vm, &filter(0, denied(READ | WRITE, TSC_AUX)))?;
    t.ok("TSC_AUX is set", vcpu.set_msr(TSC_AUX, 7)?);
    let code = asm64(|a| {
        a.db(&PREFIX)?;
        a.rdpid(r8)?;
        a.mov(ecx, TSC_AUX)?;
        a.db(&PREFIX)?;
        a.rdmsr()?;
        a.db(&PREFIX)?;
        a.wrmsr()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let read = vcpu.run()?;
    t.eq("a denied read", read, Exit::Other(KVM_EXIT_X86_RDMSR));
    t.eq(
        "its reason and number",
        told(&mut vcpu),
        (FILTERED, TSC_AUX, 0),
    );
    t.eq("RDPID was not denied", vcpu.regs()?.r8, 7);
    answer(&mut vcpu, 0x1234);
    let write = vcpu.run()?;
    t.eq("a denied write", write, Exit::Other(KVM_EXIT_X86_WRMSR));
    t.eq(
        "its reason, number and value",
        told(&mut vcpu),
        (FILTERED, TSC_AUX, 0x1234),
    );
    answer(&mut vcpu, 0);
    t.eq("the guest goes on", vcpu.run()?, Exit::Hlt);
    Ok(())
}

/// Reason, number and value as KVM_EXIT_X86_RDMSR and _WRMSR tell them.
fn told(vcpu: &mut Vcpu) -> (u32, u32, u64) {
    // SAFETY: The last exit was one of them.
    let msr = unsafe { vcpu.shared().__bindgen_anon_1.msr };
    (msr.reason, msr.index, msr.data)
}

fn answer(vcpu: &mut Vcpu, data: u64) {
    let exit = &mut vcpu.shared().__bindgen_anon_1;
    // SAFETY: The last exit was one of them.
    let msr = unsafe { &mut exit.msr };
    msr.error = 0;
    msr.data = data;
}
