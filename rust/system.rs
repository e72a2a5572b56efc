// SPDX-License-Identifier: GPL-2.0

//! `/dev/rkvm`: the ioctls on the device itself (api.rst, "System ioctls").

use kernel::prelude::*;
use rkvm_core::{
    abi::capabilities::{
        self,
        HostFacts, //
    },
    cpuid::{
        supported::{
            emulated,
            supported, //
        },
        CpuidEntry,
        MAX_ENTRIES, //
    },
    irq::x2apic_api::X2apicApi,
    msr::{
        list,
        mce, //
    },
};

use crate::{
    host::{
        host,
        HostCpu, //
    },
    irq::Irqchip,
    nr,
    sys::{
        cpu,
        fops::{
            anon_fd,
            DeviceOps, //
        },
        msr,
        page::SharedPage,
        uabi::{
            kvm_cpuid2,
            kvm_device_attr,
            kvm_msr_entry,
            kvm_msrs,
            UserArg, //
        },
    },
    vcpu::run_page::MMAP_PAGES,
    vm::{
        caps,
        vcpus::{
            MAX_VCPUS,
            MAX_VCPU_IDS, //
        },
        Vm, //
    },
};

/// What KVM_GET_API_VERSION has answered since Linux 2.6.22.
const API_VERSION: usize = 12;
/// Most MSRs of one KVM_GET_MSRS or KVM_SET_MSRS.
pub(crate) const MAX_MSRS: u32 = 256;

/// The device.
pub(crate) struct System;

impl DeviceOps for System {
    fn ioctl(cmd: u32, arg: UserArg) -> Result<usize> {
        match cmd {
            nr::KVM_GET_API_VERSION if arg.value() == 0 => Ok(API_VERSION),
            nr::KVM_CREATE_VM => create_vm(arg.value()),
            nr::KVM_CHECK_EXTENSION => Ok(check_extension(arg.value(), None)),
            nr::KVM_GET_VCPU_MMAP_SIZE if arg.value() == 0 => {
                Ok(MMAP_PAGES.wrapping_mul(SharedPage::SIZE))
            }
            nr::KVM_GET_API_VERSION | nr::KVM_GET_VCPU_MMAP_SIZE => Err(EINVAL),
            nr::KVM_GET_SUPPORTED_CPUID => get_cpuid(arg, |out| {
                supported(&HostCpu, &host().implemented, out).ok()
            }),
            nr::KVM_GET_EMULATED_CPUID => {
                get_cpuid(arg, |out| emulated(&host().implemented, out).ok())
            }
            nr::KVM_GET_MSR_INDEX_LIST => get_msr_list(arg, list::saved(host().implemented, false)),
            nr::KVM_GET_MSR_FEATURE_INDEX_LIST => get_msr_list(arg, list::FEATURE.iter().copied()),
            nr::KVM_GET_MSRS => get_feature_msrs(arg),
            nr::KVM_HAS_DEVICE_ATTR => attribute(&arg.read()?).map(|_| 0),
            nr::KVM_GET_DEVICE_ATTR => {
                let wanted: kvm_device_attr = arg.read()?;
                let value = attribute(&wanted)?;
                UserArg::from_address(wanted.addr).write(&value).map(|()| 0)
            }
            nr::KVM_X86_GET_MCE_CAP_SUPPORTED => arg.write(&mce::SUPPORTED).map(|()| 0),
            // What C KVM answers here.
            _ => Err(EINVAL),
        }
    }
}

/// The device's one attribute: group 0, KVM_X86_XCOMP_GUEST_SUPP, the XCR0 bits that a guest may have. ENXIO for others.
fn attribute(wanted: &kvm_device_attr) -> Result<u64> {
    if wanted.group == 0 && wanted.attr == 0 {
        Ok(host().implemented.xcr0)
    } else {
        Err(ENXIO)
    }
}

fn create_vm(kind: u64) -> Result<usize> {
    let vm = Vm::new(kind)?;
    Ok(anon_fd(vm)?.publish())
}

/// KVM_CHECK_EXTENSION: one table answers, for the device and for a VM.
pub(crate) fn check_extension(number: u64, vm: Option<&Vm>) -> usize {
    let h = host();
    let may_be_split = vm.is_none_or(|vm| vm.irq.irqchip() == Irqchip::Split);
    let facts = HostFacts {
        nr_vcpus: cpu::online().min(MAX_VCPUS as u32),
        max_vcpus: MAX_VCPUS as u32,
        max_vcpu_id: MAX_VCPU_IDS,
        nr_memslots: crate::memory::USER_SLOTS,
        address_spaces: 1,
        xsave2_size: h.xsave_size(),
        apic_bus_cycle_ns: vm.map_or(caps::APIC_BUS_CYCLE_NS, |vm| vm.caps.apic_bus_cycle_ns()),
        xcrs: h.xstate.host_xcr0 != 0,
        tsc_scaling: h.vmcs.features.tsc_scaling,
        smm: false,
        disable_exits: caps::DISABLE_EXITS,
        x2apic_api: X2apicApi::known(may_be_split),
        smaller_maxphyaddr: false,
        bus_lock_exit: false,
        notify_vmexit: false,
        pmu: false,
        ept: true,
        quirks: caps::QUIRKS,
        vm_types: 1,
        steal_time: crate::sys::cpu::counts_run_delay(),
    };
    capabilities::check_extension(number, &facts) as usize
}

/// KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID: E2BIG if there is no room.
fn get_cpuid(arg: UserArg, fill: impl FnOnce(&mut [CpuidEntry]) -> Option<usize>) -> Result<usize> {
    let head: kvm_cpuid2 = arg.read()?;
    if head.nent == 0 {
        return Err(E2BIG);
    }
    let mut entries: KVVec<CpuidEntry> =
        KVVec::from_elem(CpuidEntry::default(), MAX_ENTRIES, GFP_KERNEL_ACCOUNT)?;
    let n = fill(&mut entries).ok_or(E2BIG)?;
    if n > head.nent as usize {
        return Err(E2BIG);
    }
    arg.offset(8).write_slice(entries.get(..n).ok_or(E2BIG)?)?;
    arg.write(&(n as u32))?;
    Ok(0)
}

/// KVM_GET_MSR_INDEX_LIST: the number is written in any case, E2BIG if it is more than there is room for.
fn get_msr_list(arg: UserArg, list: impl Iterator<Item = u32>) -> Result<usize> {
    let room: u32 = arg.read()?;
    let mut numbers: KVVec<u32> = KVVec::new();
    for n in list {
        numbers.push(n, GFP_KERNEL)?;
    }
    arg.write(&(numbers.len() as u32))?;
    if (room as usize) < numbers.len() {
        return Err(E2BIG);
    }
    arg.offset(4).write_slice(&numbers)?;
    Ok(0)
}

/// KVM_GET_MSRS on the device: feature MSRs. Returns how many were read before the first that is none.
fn get_feature_msrs(arg: UserArg) -> Result<usize> {
    for_each_msr(arg, true, |entry| {
        let absent = cpu::absent_weaknesses();
        match list::feature_value(entry.index, &HostCpu, absent, msr::read_safe) {
            Some(value) => {
                entry.data = value;
                true
            }
            None => false,
        }
    })
}

/// Reads `struct kvm_msrs`, hands the entries to `access` until it refuses one, and writes them back if asked to.
/// Returns how many were taken. E2BIG for more than [`MAX_MSRS`].
pub(crate) fn for_each_msr(
    arg: UserArg,
    write_back: bool,
    mut access: impl FnMut(&mut kvm_msr_entry) -> bool,
) -> Result<usize> {
    let head: kvm_msrs = arg.read()?;
    if head.nmsrs >= MAX_MSRS {
        return Err(E2BIG);
    }
    let list = arg.offset(core::mem::size_of::<kvm_msrs>());
    let mut entries: KVVec<kvm_msr_entry> = list.read_vec(head.nmsrs as usize)?;
    let done = entries
        .iter_mut()
        .map_while(|e| access(e).then_some(()))
        .count();
    if write_back {
        list.write_slice(&entries)?;
    }
    Ok(done)
}
