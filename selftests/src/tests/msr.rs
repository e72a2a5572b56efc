// SPDX-License-Identifier: GPL-2.0

//! MSRs: the lists, KVM_GET_MSRS and KVM_SET_MSRS; RDMSR and WRMSR in the guest.

mod guest;

use crate::device::Device;
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;
use std::fs;

const TSC: u32 = 0x10;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const PERF_CAPABILITIES: u32 = 0x345;
const APIC_BASE: u32 = 0x1b;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FS_BASE: u32 = 0xc000_0100;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// No processor and no hypervisor has it.
const NONE: u32 = 0xdead_0001;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    lists(t, dev)?;
    restored(t, dev)?;
    weaknesses(t, dev)?;
    by_ioctl(t, dev)?;
    guest::run(t, dev)
}

/// What the list names of one vCPU is taken by another one.
fn restored(t: &mut Tap, dev: &Device) -> Outcome {
    const LAST_BRANCHES: [u32; 4] = [0x1db, 0x1dc, 0x1dd, 0x1de];
    let vm = Vm::with_irqchip(dev)?;
    let (saved, new) = (vm.vcpu(0)?, vm.vcpu(1)?);
    let list = dev.kvm.get_msr_index_list()?;
    t.ok(
        "the list has the last branches, as C KVM's",
        LAST_BRANCHES.iter().all(|i| list.as_slice().contains(i)),
    );
    let mut refused = Vec::new();
    for &index in list.as_slice() {
        let Some(value) = saved.msr(index)? else {
            refused.push(index);
            continue;
        };
        if !new.set_msr(index, value)? {
            refused.push(index);
        }
    }
    t.eq("all that it names can be restored", refused, Vec::new());
    Ok(())
}

/// A guest hears of each weakness that the processor lacks; the host's kernel knows, even where no register tells.
fn weaknesses(t: &mut Tap, dev: &Device) -> Outcome {
    const ARCH_CAPABILITIES: u32 = 0x10a;
    const GDS: &str = "/sys/devices/system/cpu/vulnerabilities/gather_data_sampling";
    let vm = Vm::new(dev)?;
    let offered = vm.vcpu(0)?.msr(ARCH_CAPABILITIES)?.unwrap_or(0);
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let bugs = info.lines().find(|l| l.starts_with("bugs"));
    let bugs: Vec<&str> = bugs.unwrap_or_default().split_whitespace().collect();
    for (name, absent) in [
        ("cpu_meltdown", 0),
        ("l1tf", 3),
        ("spec_store_bypass", 4),
        ("mds", 5),
        ("gds", 26),
        ("rfds", 27),
        ("its", 62),
    ] {
        t.ok(
            format!("{name}: the processor has it, or the guest is told"),
            bugs.contains(&name) || offered & 1 << absent != 0,
        );
    }
    let gds = fs::read_to_string(GDS).unwrap_or_default();
    let mended = gds.starts_with("Mitigation: Microcode");
    t.eq(
        format!(
            "gds is told to be absent if it is, or by microcode ({})",
            gds.trim()
        ),
        offered & 1 << 26 != 0,
        !bugs.contains(&"gds") || mended,
    );
    // Without RTM there is nothing to tell.
    let rtm = info.split_whitespace().any(|flag| flag == "rtm");
    t.eq(
        "taa is told to be absent if the processor has RTM and is not weak",
        offered & 1 << 8 != 0,
        rtm && !bugs.contains(&"taa"),
    );
    Ok(())
}

fn lists(t: &mut Tap, dev: &Device) -> Outcome {
    let list = dev.kvm.get_msr_index_list()?;
    let has = |i: u32| list.as_slice().contains(&i);
    for (name, index) in [
        ("TSC", TSC),
        ("SYSENTER_CS", SYSENTER_CS),
        ("PAT", PAT),
        ("STAR", STAR),
        ("LSTAR", LSTAR),
        ("KERNEL_GS_BASE", KERNEL_GS_BASE),
        ("MSR_KVM_SYSTEM_TIME_NEW", 0x4b56_4d01),
    ] {
        t.ok(format!("the list has {name}"), has(index));
    }
    let mut room = 0u32;
    t.errno(
        "a list with no room is E2BIG",
        sys::ioctl_mut(dev.fd(), sys::KVM_GET_MSR_INDEX_LIST, &mut room),
        libc::E2BIG,
    );
    t.eq(
        "and the count is told",
        room as usize,
        list.as_slice().len(),
    );

    let features = dev.kvm.get_msr_feature_index_list()?;
    let mut all_read = true;
    for index in features.as_slice() {
        let mut one = Msrs::from_entries(&[kvm_msr_entry {
            index: *index,
            ..Default::default()
        }])
        .map_err(|e| format!("{e:?}"))?;
        if dev.kvm.get_msrs(&mut one)? != 1 {
            t.diag(format!("feature MSR {index:#x} can't be read"));
            all_read = false;
        }
    }
    t.ok(
        "every feature MSR can be read from the device",
        all_read && !features.as_slice().is_empty(),
    );
    t.ok(
        "IA32_PERF_CAPABILITIES is one, PMU or not",
        features.as_slice().contains(&PERF_CAPABILITIES),
    );
    Ok(())
}

fn by_ioctl(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    taken(t, &vcpu)?;
    refused(t, &vcpu)?;
    up_to_the_first_that_fails(t, &vcpu)?;
    counted(t, &vcpu);
    Ok(())
}

fn taken(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    for (name, index, value) in [
        ("SYSENTER_CS", SYSENTER_CS, 0x10),
        ("SYSENTER_EIP", SYSENTER_EIP, 0x1234_1000),
        ("PAT", PAT, 0x0007_0406_0007_0406),
        ("STAR", STAR, 0x0023_0010_0000_0000),
        ("LSTAR", LSTAR, 0xffff_8000_1234_5000),
        ("KERNEL_GS_BASE", KERNEL_GS_BASE, 0x7000_0000_0000),
        ("FS_BASE", FS_BASE, 0x1234_5000),
    ] {
        t.eq(
            format!("{name} is taken"),
            vcpu.set_msr(index, value)?,
            true,
        );
        t.eq(format!("{name} reads back"), vcpu.msr(index)?, Some(value));
    }
    t.eq(
        "FS_BASE is the base of FS",
        vcpu.fd.get_sregs()?.fs.base,
        0x1234_5000,
    );
    let base = vcpu.msr(APIC_BASE)?.unwrap_or(0);
    t.eq(
        "APIC_BASE: the BSP, enabled, at its place",
        base & 0xffff_fd00,
        0xfee0_0900,
    );
    Ok(())
}

fn refused(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    t.eq("an MSR that is none can't be read", vcpu.msr(NONE)?, None);
    t.eq("nor written", vcpu.set_msr(NONE, 1)?, false);
    t.eq("a bad PAT type is refused", vcpu.set_msr(PAT, 2)?, false);
    t.eq(
        "and the old one stays",
        vcpu.msr(PAT)?,
        Some(0x0007_0406_0007_0406),
    );
    t.eq(
        "reserved bits of EFER are refused",
        vcpu.set_msr(EFER, 1 << 40)?,
        false,
    );
    Ok(())
}

/// How far KVM_SET_MSRS works a list.
fn up_to_the_first_that_fails(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let mixed = [entry(SYSENTER_CS, 0x18), entry(NONE, 0), entry(STAR, 1)];
    let list = Msrs::from_entries(&mixed).map_err(|e| format!("{e:?}"))?;
    t.eq(
        "KVM_SET_MSRS tells how many it took",
        vcpu.fd.set_msrs(&list)?,
        1,
    );
    t.eq(
        "those before the bad one are set",
        vcpu.msr(SYSENTER_CS)?,
        Some(0x18),
    );
    t.eq(
        "those behind are not",
        vcpu.msr(STAR)?,
        Some(0x0023_0010_0000_0000),
    );
    Ok(())
}

/// Too long a list, and an empty one.
fn counted(t: &mut Tap, vcpu: &Vcpu) {
    #[repr(C)]
    struct Header {
        nmsrs: u32,
        pad: u32,
    }
    t.errno(
        "too many MSRs in one call",
        sys::ioctl_mut(
            vcpu.raw(),
            sys::KVM_GET_MSRS,
            &mut Header {
                nmsrs: 100_000,
                pad: 0,
            },
        ),
        libc::E2BIG,
    );
    t.eq(
        "none at all is fine",
        sys::ioctl_mut(
            vcpu.raw(),
            sys::KVM_GET_MSRS,
            &mut Header { nmsrs: 0, pad: 0 },
        ),
        Ok(0),
    );
}
