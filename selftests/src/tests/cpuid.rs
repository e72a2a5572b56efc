// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, and what a guest's CPUID answers.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::fs;
use std::thread;
use std::time::Duration;

const OSXSAVE: u32 = 1 << 27;
const XSAVE: u32 = 1 << 26;
const MWAIT: u32 = 1 << 3;
const CR4_OSXSAVE: u64 = 1 << 18;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    supported(t, dev)?;
    without_the_kernel(t, dev)?;
    guest(t, dev)?;
    follows_cr4(t, dev)?;
    after_run(t, dev)?;
    after_wait(t, dev)?;
    monitor(t, dev)?;
    bad_input(t, dev)
}

fn leaf(list: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    list.as_slice()
        .iter()
        .find(|e| e.function == function && e.index == index)
        .copied()
}

fn supported(t: &mut Tap, dev: &Device) -> Outcome {
    let list = dev.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let Some(first) = leaf(&list, 0, 0) else {
        t.ok("leaf 0 is there", false);
        return Ok(());
    };
    t.ok("leaf 0 reaches at least to 0xd", first.eax >= 0xd);
    t.ok(
        "the last leaf it tells of is there",
        list.as_slice().iter().any(|e| e.function == first.eax),
    );
    let one = leaf(&list, 1, 0).unwrap_or_default();
    t.ok("leaf 1: FPU, TSC, MSR, APIC, CX8", one.edx & 0x331 == 0x331);
    t.ok(
        "leaf 1: x2APIC and the TSC deadline timer or its capability",
        one.ecx & (1 << 21) != 0,
    );
    let kvm = leaf(&list, 0x4000_0000, 0).unwrap_or_default();
    let mut name = Vec::new();
    for word in [kvm.ebx, kvm.ecx, kvm.edx] {
        name.extend(word.to_le_bytes());
    }
    t.eq(
        "the KVM signature",
        String::from_utf8_lossy(&name).into_owned(),
        "KVMKVMKVM\0\0\0",
    );
    t.ok("the KVM feature leaf is in reach", kvm.eax >= 0x4000_0001);
    let features = leaf(&list, 0x4000_0001, 0).unwrap_or_default();
    t.ok(
        "kvmclock by the new MSRs is offered",
        features.eax & (1 << 3) != 0,
    );
    let ext = leaf(&list, 0x8000_0000, 0).unwrap_or_default();
    t.ok("extended leaves reach 0x80000008", ext.eax >= 0x8000_0008);
    let sizes = leaf(&list, 0x8000_0008, 0).unwrap_or_default();
    t.ok(
        "the guest has at least 36 physical address bits",
        sizes.eax & 0xff >= 36,
    );
    let mut keys: Vec<(u32, u32)> = list
        .as_slice()
        .iter()
        .map(|e| (e.function, e.index))
        .collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    t.eq("no leaf comes twice", keys.len(), all);
    Ok(())
}

/// What the host's kernel does without, because it is broken or by its command line, is not offered. The names are those of
/// /proc/cpuinfo.
fn without_the_kernel(t: &mut Tap, dev: &Device) -> Outcome {
    let list = dev.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let one = leaf(&list, 1, 0).unwrap_or_default();
    let seven = leaf(&list, 7, 0).unwrap_or_default();
    let extended = leaf(&list, 0x8000_0001, 0).unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let flags = info.lines().find(|l| l.starts_with("flags"));
    let used: Vec<&str> = flags.unwrap_or_default().split_whitespace().collect();
    for (name, register, bit) in [
        ("pcid", one.ecx, 17),
        ("avx", one.ecx, 28),
        ("rdrand", one.ecx, 30),
        ("fsgsbase", seven.ebx, 0),
        ("hle", seven.ebx, 4),
        ("smep", seven.ebx, 7),
        ("erms", seven.ebx, 9),
        ("rtm", seven.ebx, 11),
        ("rdseed", seven.ebx, 18),
        ("smap", seven.ebx, 20),
        ("pku", seven.ecx, 3),
        ("serialize", seven.edx, 14),
        ("pdpe1gb", extended.edx, 26),
    ] {
        t.ok(
            format!("{name} is offered only if the kernel uses it"),
            used.contains(&name) || register & 1 << bit == 0,
        );
    }
    Ok(())
}

/// Runs CPUID in the guest.
fn ask(vcpu: &mut Vcpu, function: u32, index: u32) -> Outcome<[u32; 4]> {
    vcpu.with_regs(|r| {
        r.rip = setup::CODE;
        r.rax = u64::from(function) | 0xffff_ffff_0000_0000;
        r.rcx = u64::from(index) | 0xffff_ffff_0000_0000;
    })?;
    match vcpu.run()? {
        Exit::Hlt => {}
        other => return Err(format!("CPUID {function:#x}: {other:?}").into()),
    }
    let r = vcpu.regs()?;
    if [r.rax, r.rbx, r.rcx, r.rdx].iter().any(|v| v >> 32 != 0) {
        return Err("CPUID left upper halves".into());
    }
    Ok([r.rax as u32, r.rbx as u32, r.rcx as u32, r.rdx as u32])
}

/// The guest sees what was set, and nothing for what was not.
fn guest(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let own = |function, index, flags, v: [u32; 4]| kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax: v[0],
        ebx: v[1],
        ecx: v[2],
        edx: v[3],
        ..Default::default()
    };
    let mut list = vm.cpuid().as_slice().to_vec();
    list.retain(|e| e.function != 2 && e.function >> 16 != 0x4000);
    list.push(own(
        0x4000_0000,
        0,
        0,
        [0x4000_0005, 0x1111, 0x2222, 0x3333],
    ));
    list.push(own(
        0x4000_0005,
        0,
        KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        [1, 2, 3, 4],
    ));
    list.push(own(
        0x4000_0005,
        7,
        KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        [5, 6, 7, 8],
    ));
    let set = CpuId::from_entries(&list).map_err(|e| format!("{e:?}"))?;
    vcpu.fd.set_cpuid2(&set)?;
    let code = asm64(|a| {
        a.cpuid()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "a leaf of our own",
        ask(&mut vcpu, 0x4000_0000, 0)?,
        [0x4000_0005, 0x1111, 0x2222, 0x3333],
    );
    t.eq("index 0", ask(&mut vcpu, 0x4000_0005, 0)?, [1, 2, 3, 4]);
    t.eq("index 7", ask(&mut vcpu, 0x4000_0005, 7)?, [5, 6, 7, 8]);
    t.eq(
        "an index that was not set",
        ask(&mut vcpu, 0x4000_0005, 1)?,
        [0; 4],
    );
    t.eq(
        "an index does not matter where it is not significant",
        ask(&mut vcpu, 0x4000_0000, 9)?[1],
        0x1111,
    );
    let zero = leaf(&set, 0, 0).unwrap_or_default();
    t.eq(
        "leaf 0",
        ask(&mut vcpu, 0, 0)?,
        [zero.eax, zero.ebx, zero.ecx, zero.edx],
    );

    let back = vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    t.eq(
        "KVM_GET_CPUID2 has as many leaves",
        back.as_slice().len(),
        list.len(),
    );
    t.eq(
        "and our own among them",
        leaf(&back, 0x4000_0005, 7).map(|e| e.ecx),
        Some(7),
    );
    Ok(())
}

/// CPUID.1:ECX.OSXSAVE is CR4.OSXSAVE, also when the guest changes it.
fn follows_cr4(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    if leaf(vm.cpuid(), 1, 0).is_none_or(|e| e.ecx & XSAVE == 0) {
        t.skip("OSXSAVE follows CR4", "this processor has no XSAVE");
        return Ok(());
    }
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        for on in [false, true, false] {
            a.mov(rax, cr4)?;
            if on {
                a.or(eax, 1 << 18)?;
            } else {
                a.and(eax, !(1 << 18))?;
            }
            a.mov(cr4, rax)?;
            a.mov(eax, 1)?;
            a.xor(ecx, ecx)?;
            a.cpuid()?;
            a.mov(eax, ecx)?;
            a.out(0x30, eax)?;
        }
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    for want in [0, OSXSAVE, 0] {
        match vcpu.run()? {
            Exit::Out { data, .. } => {
                let ecx_value = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
                t.eq(
                    format!("OSXSAVE is {}", want != 0),
                    ecx_value & OSXSAVE,
                    want,
                )
            }
            other => t.eq("CPUID.1", other, Exit::Hlt),
        };
    }
    Ok(())
}

/// A vCPU that has run keeps the table it has run with.
fn after_run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let mut table = vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    t.success(
        "a table is set again before the first run",
        vcpu.fd.set_cpuid2(&table),
    );
    setup::start(&vcpu, &ram, Mode::Long, &asm64(|a| a.hlt()))?;
    vcpu.run()?;
    t.success("the same table after it", vcpu.fd.set_cpuid2(&table));
    vcpu.with_sregs(|s| s.cr4 |= CR4_OSXSAVE)?;
    t.success("and when CR4 shows in it", vcpu.fd.set_cpuid2(&table));
    for e in table.as_mut_slice() {
        if e.function == 7 && e.index == 0 {
            e.ebx ^= 1;
        }
    }
    t.errno("another one", vcpu.fd.set_cpuid2(&table), libc::EINVAL);
    Ok(())
}

/// One that has only waited in HLT takes another table.
fn after_wait(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    vcpu.fd.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_HALTED,
    })?;
    signals::catch()?;
    let (result, vcpu) = signals::interrupt_after(vcpu, || {
        thread::sleep(Duration::from_millis(100));
    })?;
    t.ok("a vCPU waits in HLT", result.is_err());
    let mut table = vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    for e in table.as_mut_slice() {
        if e.function == 7 && e.index == 0 {
            e.ebx ^= 1;
        }
    }
    t.success("and gets another table", vcpu.fd.set_cpuid2(&table));
    Ok(())
}

/// MONITOR and MWAIT, which user space makes #UD where CPUID has none.
fn monitor(t: &mut Tap, dev: &Device) -> Outcome {
    const UD_PORT: u16 = 0x41;
    for (quirk, has, faults) in [(true, false, 0), (false, true, 0), (false, false, 2)] {
        let vm = Vm::new(dev)?;
        if !quirk {
            vm.fd.enable_cap(&kvm_enable_cap {
                cap: KVM_CAP_DISABLE_QUIRKS2,
                args: [KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS.into(), 0, 0, 0],
                ..Default::default()
            })?;
        }
        let ram = vm.add_ram(0, 0, MIB)?;
        let mut vcpu = vm.vcpu(0)?;
        let mut table = vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
        for e in table.as_mut_slice() {
            if e.function == 1 {
                e.ecx = (e.ecx & !MWAIT) | if has { MWAIT } else { 0 };
            }
        }
        vcpu.fd.set_cpuid2(&table)?;
        let code = asm64(|a| {
            a.mov(rax, setup::DATA)?;
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.monitor()?;
            a.mwait()?;
            a.hlt()
        });
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        let handler = setup::CODE + 0x800;
        let skip = assemble(64, handler, |a| {
            a.out(i32::from(UD_PORT), al)?;
            a.add(qword_ptr(rsp), 3)?;
            a.iretq()
        });
        ram.write(handler, &skip);
        setup::gate(&ram, Mode::Long, 6, handler);
        let (seen, end) = vcpu.run_collecting(UD_PORT)?;
        t.eq(
            format!("MONITOR and MWAIT, quirk {quirk}, in CPUID {has}: #UD"),
            (seen.len(), end),
            (faults, Exit::Hlt),
        );
    }
    Ok(())
}

fn bad_input(t: &mut Tap, dev: &Device) -> Outcome {
    #[repr(C)]
    struct List {
        nent: u32,
        padding: u32,
        entries: [kvm_cpuid_entry2; 2],
    }
    let list = |nent| List {
        nent,
        padding: 0,
        entries: Default::default(),
    };
    t.errno(
        "KVM_GET_SUPPORTED_CPUID with too little room",
        sys::ioctl_mut(dev.fd(), sys::KVM_GET_SUPPORTED_CPUID, &mut list(1)),
        libc::E2BIG,
    );
    t.errno(
        "KVM_GET_SUPPORTED_CPUID with no room",
        sys::ioctl_mut(dev.fd(), sys::KVM_GET_SUPPORTED_CPUID, &mut list(0)),
        libc::E2BIG,
    );
    t.errno(
        "KVM_GET_SUPPORTED_CPUID from a bad address",
        sys::ioctl(dev.fd(), sys::KVM_GET_SUPPORTED_CPUID, 8),
        libc::EFAULT,
    );
    let vm = Vm::new(dev)?;
    let vcpu = vm.vcpu(0)?;
    t.errno(
        "KVM_SET_CPUID2 with too many leaves",
        sys::ioctl_with(vcpu.raw(), sys::KVM_SET_CPUID2, &list(100_000)),
        libc::E2BIG,
    );
    t.errno(
        "KVM_GET_CPUID2 with too little room",
        sys::ioctl_mut(vcpu.raw(), sys::KVM_GET_CPUID2, &mut list(1)),
        libc::E2BIG,
    );
    Ok(())
}
