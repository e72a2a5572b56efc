// SPDX-License-Identifier: GPL-2.0

//! vCPUs as a kernel expects them: CPUID with the topology, MSRs, local APIC pins, and the
//! registers of the boot protocol on the first one.

use crate::boot::Entry;
use crate::layout;
use crate::machine::Protocol;
use crate::Outcome;
use kvm_bindings::*;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);

const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;
const MISC_FAST_STRING: u64 = 1;

/// Makes vCPU `id` of `cpus`. Only vCPU 0 is given registers: the others wait for SIPI.
pub fn create(
    kvm: &Kvm,
    vm: &VmFd,
    id: u32,
    cpus: u32,
    memory: &GuestMemoryMmap<()>,
    entry: &Entry,
) -> Outcome<VcpuFd> {
    let what = |call: &'static str| move |e: kvm_ioctls::Error| format!("vCPU {id}: {call}: {e}");
    let vcpu = vm
        .create_vcpu(u64::from(id))
        .map_err(what("KVM_CREATE_VCPU"))?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(what("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    vcpu.set_cpuid2(&cpuid(supported, id, cpus, deadline))
        .map_err(what("KVM_SET_CPUID2"))?;
    set_msrs(&vcpu)?;
    set_pins(&vcpu)?;
    if id == 0 {
        match entry.protocol {
            Protocol::Linux => enter_long(&vcpu, memory, entry.ip)?,
            Protocol::Pvh => enter_pvh(&vcpu, memory, entry.ip)?,
        }
    }
    Ok(vcpu)
}

/// The supported leaves, with the ids and counts of one package of `cpus` cores.
fn cpuid(mut leaves: CpuId, id: u32, cpus: u32, deadline: bool) -> CpuId {
    const HYPERVISOR: u32 = 1 << 31;
    const TSC_DEADLINE: u32 = 1 << 24;
    const HTT: u32 = 1 << 28;
    let id_bits = cpus.next_power_of_two().trailing_zeros();
    for e in leaves.as_mut_slice() {
        match (e.function, e.index) {
            (1, _) => {
                e.ebx = (e.ebx & 0xffff) | (id << 24) | (cpus.min(255) << 16);
                e.ecx |= HYPERVISOR;
                e.ecx = if deadline {
                    e.ecx | TSC_DEADLINE
                } else {
                    e.ecx & !TSC_DEADLINE
                };
                e.edx = if cpus > 1 { e.edx | HTT } else { e.edx & !HTT };
            }
            // Caches: each core has its own below the third level, which all share.
            (4, _) if e.eax & 0x1f != 0 => {
                let shared = if (e.eax >> 5) & 7 >= 3 { cpus - 1 } else { 0 };
                e.eax = (e.eax & 0x3fff) | (shared << 14) | ((cpus - 1).min(63) << 26);
            }
            // One thread a core, then the cores of the package.
            (0xb | 0x1f, 0) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 1, 1 << 8, id),
            (0xb | 0x1f, 1) => (e.eax, e.ebx, e.ecx, e.edx) = (id_bits, cpus, (2 << 8) | 1, id),
            (0xb | 0x1f, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, e.index, id),
            _ => {}
        }
    }
    leaves
}

fn set_msrs(vcpu: &VcpuFd) -> Outcome {
    let entries = [
        kvm_msr_entry {
            index: MSR_MTRR_DEF_TYPE,
            data: MTRR_ENABLED_WRITE_BACK,
            ..Default::default()
        },
        kvm_msr_entry {
            index: MSR_MISC_ENABLE,
            data: MISC_FAST_STRING,
            ..Default::default()
        },
    ];
    let list = Msrs::from_entries(&entries).map_err(|e| format!("MSR list: {e:?}"))?;
    match vcpu
        .set_msrs(&list)
        .map_err(|e| format!("KVM_SET_MSRS: {e}"))?
    {
        n if n == entries.len() => Ok(()),
        n => Err(format!("KVM_SET_MSRS refused MSR {:#x}", entries[n].index).into()),
    }
}

/// LINT0 takes the PIC, LINT1 takes NMI, as firmware leaves them.
fn set_pins(vcpu: &VcpuFd) -> Outcome {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXTINT: u32 = 7 << 8;
    const NMI: u32 = 4 << 8;
    let mut lapic = vcpu
        .get_lapic()
        .map_err(|e| format!("KVM_GET_LAPIC: {e}"))?;
    for (offset, value) in [(LVT_LINT0, EXTINT), (LVT_LINT1, NMI)] {
        for (i, b) in value.to_le_bytes().into_iter().enumerate() {
            lapic.regs[offset + i] = b as _;
        }
    }
    vcpu.set_lapic(&lapic)
        .map_err(|e| format!("KVM_SET_LAPIC: {e}"))?;
    Ok(())
}

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// Flat segments at the selectors Linux asks for: code 0x10, data 0x18.
fn segments(s: &mut kvm_sregs, memory: &GuestMemoryMmap<()>, long: bool) -> Outcome {
    let code: u64 = if long {
        0x00af_9b00_0000_ffff
    } else {
        0x00cf_9b00_0000_ffff
    };
    for (i, descriptor) in [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
        .into_iter()
        .enumerate()
    {
        memory.write_obj::<u64>(descriptor, GuestAddress(layout::GDT + 8 * i as u64))?;
    }
    s.gdt = kvm_dtable {
        base: layout::GDT,
        limit: 0x27,
        ..Default::default()
    };
    s.cs = segment(0x10, 0xb, long);
    let data = segment(0x18, 3, false);
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    s.tr = kvm_segment {
        limit: 0x67,
        selector: 0x20,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    Ok(())
}

/// The 64-bit boot protocol: identity pages, RSI at the zero page.
fn enter_long(vcpu: &VcpuFd, memory: &GuestMemoryMmap<()>, ip: u64) -> Outcome {
    let tables = layout::PAGE_TABLES;
    let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at));
    put(tables, (tables + 0x1000) | 3)?;
    for d in 0..4u64 {
        let directory = tables + 0x2000 + d * 0x1000;
        put(tables + 0x1000 + d * 8, directory | 3)?;
        let entries: Vec<u8> = (0..512u64)
            .flat_map(|i| (((d * 512 + i) << 21) | 0x83).to_le_bytes())
            .collect();
        memory.write_slice(&entries, GuestAddress(directory))?;
    }
    let mut s = vcpu
        .get_sregs()
        .map_err(|e| format!("KVM_GET_SREGS: {e}"))?;
    segments(&mut s, memory, true)?;
    s.cr0 = CR0_PE | CR0_ET | CR0_PG;
    s.cr3 = tables;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME_LMA;
    set_registers(
        vcpu,
        &s,
        kvm_regs {
            rip: ip,
            rsi: layout::ZERO_PAGE,
            ..start_regs()
        },
    )
}

/// PVH: 32-bit protected mode, no paging, EBX at the start info.
fn enter_pvh(vcpu: &VcpuFd, memory: &GuestMemoryMmap<()>, ip: u64) -> Outcome {
    let mut s = vcpu
        .get_sregs()
        .map_err(|e| format!("KVM_GET_SREGS: {e}"))?;
    segments(&mut s, memory, false)?;
    s.cr0 = CR0_PE | CR0_ET;
    s.cr4 = 0;
    set_registers(
        vcpu,
        &s,
        kvm_regs {
            rip: ip,
            rbx: layout::PVH_INFO,
            ..start_regs()
        },
    )
}

fn start_regs() -> kvm_regs {
    kvm_regs {
        rflags: 2,
        rsp: layout::STACK,
        rbp: layout::STACK,
        ..Default::default()
    }
}

fn set_registers(vcpu: &VcpuFd, s: &kvm_sregs, regs: kvm_regs) -> Outcome {
    vcpu.set_sregs(s)
        .map_err(|e| format!("KVM_SET_SREGS: {e}"))?;
    vcpu.set_regs(&regs)
        .map_err(|e| format!("KVM_SET_REGS: {e}"))?;
    Ok(())
}
