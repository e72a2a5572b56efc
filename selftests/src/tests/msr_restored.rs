// SPDX-License-Identifier: GPL-2.0

//! MSRs as user space restores them: before it sets CPUID, of a processor of another vendor, and with values that the guest
//! itself could not write.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use core::arch::x86_64::__cpuid_count;
use std::fs;

const TSC_ADJUST: u32 = 0x3b;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const FLUSH_CMD: u32 = 0x10b;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const XSS: u32 = 0xda0;
const LSTAR: u32 = 0xc000_0082;
const TSC_AUX: u32 = 0xc000_0103;
const LA57: u32 = 1 << 16;
/// "AuthenticAMD" in EBX, ECX, EDX.
const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    before_cpuid(t, dev)?;
    addresses(t, dev)?;
    tsc_adjust(t, dev)?;
    of_amd(t, dev)
}

/// A vCPU whose CPUID is not set.
fn bare(vm: &Vm) -> Result<Vcpu, Errno> {
    Ok(Vcpu::new(vm.fd.create_vcpu(0)?, vm.fd.run_size()))
}

fn before_cpuid(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let vcpu = bare(&vm)?;
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let host_has = |flag| info.split_whitespace().any(|f| f == flag);
    for (name, index, flag) in [
        ("SPEC_CTRL", SPEC_CTRL, "ibrs"),
        ("PRED_CMD", PRED_CMD, "ibpb"),
        ("FLUSH_CMD", FLUSH_CMD, "flush_l1d"),
    ] {
        t.eq(
            format!("{name} is taken if the host has it"),
            vcpu.set_msr(index, 1)?,
            host_has(flag),
        );
    }
    let kept = u64::from(host_has("ibrs"));
    t.eq("SPEC_CTRL keeps it", vcpu.msr(SPEC_CTRL)?, Some(kept));
    t.eq("of PRED_CMD nothing is kept", vcpu.msr(PRED_CMD)?, None);
    t.eq("XSS reads", vcpu.msr(XSS)?, Some(0));
    Ok(())
}

/// Linear addresses of as many bits as the processor has, whatever CPUID tells the guest.
fn addresses(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let vcpu = bare(&vm)?;
    // SAFETY: every processor that has VMX has this leaf.
    let wide = unsafe { __cpuid_count(7, 0) }.ecx & LA57 != 0;
    t.eq(
        "LSTAR of 48 bits is taken if the host has five levels",
        vcpu.set_msr(LSTAR, 1 << 47)?,
        wide,
    );
    t.eq(
        "LSTAR of more bits is not",
        vcpu.set_msr(LSTAR, 1 << 57)?,
        false,
    );
    for (name, index) in [("ESP", SYSENTER_ESP), ("EIP", SYSENTER_EIP)] {
        for (value, by_48, by_57) in [
            (0x1200_0000_0000_5678, 0x5678, 0x5678),
            (1 << 63 | 1 << 47, 0xffff_8000_0000_0000, 1 << 47),
        ] {
            t.eq(
                format!("SYSENTER_{name} takes {value:#x}"),
                vcpu.set_msr(index, value)?,
                true,
            );
            t.eq(
                "and makes it canonical",
                vcpu.msr(index)?,
                Some(if wide { by_57 } else { by_48 }),
            );
        }
    }
    Ok(())
}

/// A guest without TSC_ADJUST may write it, and nothing happens.
fn tsc_adjust(t: &mut Tap, dev: &Device) -> Outcome {
    const FAR: u64 = 1 << 50;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = bare(&vm)?;
    t.eq("it is taken", vcpu.set_msr(TSC_ADJUST, FAR)?, true);
    t.eq("and not kept", vcpu.msr(TSC_ADJUST)?, Some(0));
    let mut cpuid = vm.cpuid().clone();
    for e in cpuid.as_mut_slice() {
        if e.function == 7 && e.index == 0 {
            e.ebx &= !(1 << 1);
        }
    }
    vcpu.fd.set_cpuid2(&cpuid)?;
    let code = asm64(|a| {
        a.mov(ecx, TSC_ADJUST)?;
        a.xor(eax, eax)?;
        a.mov(edx, (FAR >> 32) as i32)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.mov(ebx, edx)?;
        a.rdtsc()?;
        a.out(0x40, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let exit = vcpu.run()?;
    t.ok(
        "the guest's write does not fault",
        matches!(exit, Exit::Out { port: 0x40, .. }),
    );
    let regs = vcpu.regs()?;
    t.eq("its read gives 0", regs.rbx, 0);
    t.ok("its counter stays", regs.rdx << 32 < FAR);
    Ok(())
}

/// What only processors of AMD's have, or have otherwise.
fn of_amd(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let intel = vm.vcpu(0)?;
    let mut amd = vm.vcpu(1)?;
    let mut cpuid = vm.cpuid().clone();
    for e in cpuid.as_mut_slice() {
        if e.function == 0 {
            [e.ebx, e.ecx, e.edx] = AMD;
        }
    }
    amd.fd.set_cpuid2(&cpuid)?;
    for (name, index, value) in [
        ("INT_PENDING_MSG", 0xc001_0055, 0),
        ("SYSCFG", 0xc001_0010, 0),
        ("PERFCTR3", 0xc001_0007, 0),
        ("CLK_CTL", 0xc001_001b, 0x2000_0000),
    ] {
        t.eq(format!("{name} reads"), amd.msr(index)?, Some(value));
    }
    t.eq("NB_CFG is written", amd.set_msr(0xc001_001f, 5)?, true);
    t.eq("SYSCFG is not", amd.set_msr(0xc001_0010, 0)?, false);
    let info = fs::read_to_string("/proc/cpuinfo")?;
    if !info.split_whitespace().any(|f| f == "rdtscp") {
        t.skip("TSC_AUX", "the host has no RDTSCP");
        return Ok(());
    }
    let long = 5 << 32 | 7;
    t.eq("TSC_AUX of 32 bits", intel.set_msr(TSC_AUX, long)?, false);
    t.eq("AMD's drops the rest", amd.set_msr(TSC_AUX, long)?, true);
    t.eq("and reads back", amd.msr(TSC_AUX)?, Some(7));
    let code = asm64(|a| {
        a.rdtscp()?;
        a.out(0x40, al)?;
        a.hlt()
    });
    setup::start(&amd, &ram, Mode::Long, &code)?;
    t.ok(
        "the guest runs",
        matches!(amd.run()?, Exit::Out { port: 0x40, .. }),
    );
    t.eq("and finds it there", amd.regs()?.rcx, 7);
    Ok(())
}
