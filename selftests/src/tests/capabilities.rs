// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_API_VERSION, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE.

mod answers;

use crate::device::{Device, DEFAULT_PATH};
use crate::sys;
use crate::tap::Tap;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;
use std::fs;

/// What every client asks for; each has to be there on the device and on a VM.
const REQUIRED: &[(&str, u32)] = &[
    ("IRQCHIP", KVM_CAP_IRQCHIP),
    ("HLT", KVM_CAP_HLT),
    ("USER_MEMORY", KVM_CAP_USER_MEMORY),
    ("SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR),
    ("VAPIC", KVM_CAP_VAPIC),
    ("EXT_CPUID", KVM_CAP_EXT_CPUID),
    ("MP_STATE", KVM_CAP_MP_STATE),
    ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO),
    (
        "DESTROY_MEMORY_REGION_WORKS",
        KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    ),
    (
        "JOIN_MEMORY_REGIONS_WORKS",
        KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    ),
    ("IRQ_ROUTING", KVM_CAP_IRQ_ROUTING),
    ("IRQ_INJECT_STATUS", KVM_CAP_IRQ_INJECT_STATUS),
    ("IRQFD", KVM_CAP_IRQFD),
    ("IRQFD_RESAMPLE", KVM_CAP_IRQFD_RESAMPLE),
    ("IOEVENTFD", KVM_CAP_IOEVENTFD),
    ("IOEVENTFD_ANY_LENGTH", KVM_CAP_IOEVENTFD_ANY_LENGTH),
    ("PIT2", KVM_CAP_PIT2),
    ("PIT_STATE2", KVM_CAP_PIT_STATE2),
    ("SET_IDENTITY_MAP_ADDR", KVM_CAP_SET_IDENTITY_MAP_ADDR),
    ("ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK),
    ("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS),
    ("INTERNAL_ERROR_DATA", KVM_CAP_INTERNAL_ERROR_DATA),
    ("DEBUGREGS", KVM_CAP_DEBUGREGS),
    ("XSAVE", KVM_CAP_XSAVE),
    ("XCRS", KVM_CAP_XCRS),
    ("GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ),
    ("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI),
    ("READONLY_MEM", KVM_CAP_READONLY_MEM),
    ("USER_NMI", KVM_CAP_USER_NMI),
    ("TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER),
    ("CHECK_EXTENSION_VM", KVM_CAP_CHECK_EXTENSION_VM),
    ("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT),
    ("KVMCLOCK_CTRL", KVM_CAP_KVMCLOCK_CTRL),
];

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    t.eq("the API version is 12", dev.kvm.get_api_version(), 12);

    let size = dev.kvm.get_vcpu_mmap_size()?;
    t.ok(
        "kvm_run's mapping is whole pages",
        size > 0 && size % crate::PAGE == 0,
    );
    t.ok(
        "it has room for kvm_run and the port data",
        size >= 2 * crate::PAGE,
    );

    answers(t, dev)?;
    let vm = Vm::new(dev)?;
    for (name, cap) in REQUIRED {
        t.ok(format!("KVM_CAP_{name} on the device"), dev.cap(*cap) > 0);
        t.ok(format!("KVM_CAP_{name} on a VM"), vm.cap(*cap) > 0);
    }
    t.eq(
        "an unknown capability is answered 0",
        dev.cap(0x7fff_0000),
        0,
    );

    let (nr, max, ids) = (
        dev.cap(KVM_CAP_NR_VCPUS),
        dev.cap(KVM_CAP_MAX_VCPUS),
        dev.cap(KVM_CAP_MAX_VCPU_ID),
    );
    t.ok("there is a recommended number of vCPUs", nr >= 1);
    t.ok(
        "at least 2 vCPUs, and no fewer than recommended",
        max >= 2 && max >= nr,
    );
    t.eq("four ids for each vCPU", ids, 4 * max);
    if fs::read_to_string("/proc/sys/kernel/osrelease")?.contains("+deb13") {
        t.eq(
            "as many vCPUs as Debian's kernels are configured for",
            max,
            4096,
        );
    } else {
        t.ok("1024 vCPUs at least", max >= 1024);
    }
    t.ok(
        "NR_MEMSLOTS is at least 32",
        dev.cap(KVM_CAP_NR_MEMSLOTS) >= 32,
    );
    t.ok(
        "COALESCED_MMIO tells the ring's page",
        dev.cap(KVM_CAP_COALESCED_MMIO) >= 1,
    );
    t.ok(
        "IOEVENTFD and IRQFD stay the same when asked twice",
        dev.cap(KVM_CAP_IRQFD) == vm.cap(KVM_CAP_IRQFD),
    );

    t.errno(
        "KVM_GET_API_VERSION takes no argument",
        sys::ioctl(dev.fd(), sys::KVM_GET_API_VERSION, 1),
        libc::EINVAL,
    );
    t.errno(
        "KVM_GET_VCPU_MMAP_SIZE takes no argument",
        sys::ioctl(dev.fd(), sys::KVM_GET_VCPU_MMAP_SIZE, 1),
        libc::EINVAL,
    );
    t.errno(
        "KVM_CREATE_VM refuses an unknown type",
        sys::ioctl(dev.fd(), sys::KVM_CREATE_VM, 77),
        libc::EINVAL,
    );
    Ok(())
}

/// C KVM's answers, and rkvm's beside them.
fn answers(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let mut ask = |&(number, name, want): &answers::Answer| {
        t.eq(
            format!("KVM_CAP_{name}, device and VM"),
            (dev.cap(number), vm.cap(number)),
            (want, want),
        );
    };
    answers::SAME.iter().for_each(&mut ask);
    for &(number, name, want) in answers::MISSING {
        ask(&(
            number,
            name,
            if dev.path() == DEFAULT_PATH { 0 } else { want },
        ));
    }
    if dev.path() == DEFAULT_PATH {
        for &(number, name) in answers::MISSING_BY_HOST {
            ask(&(number, name, 0));
        }
    }
    Ok(())
}
