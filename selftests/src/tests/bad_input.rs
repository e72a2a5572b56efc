// SPDX-License-Identifier: GPL-2.0

//! Arguments that are wrong: unknown ioctls, bad pointers, ioctls on the wrong descriptor or in
//! the wrong state. Each gets C KVM's errno, and the VM goes on.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::sys::*;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::{Vm, TSS_ADDR};
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::fs;
use std::os::fd::RawFd;

/// No user address: in the guard page at 0, and in the kernel's half.
const BAD: [u64; 2] = [8, 0xffff_8000_0000_0000];

/// ioctls that read or write memory, by the descriptor they belong to.
const DEVICE: &[(&str, u64)] = &[
    ("KVM_GET_MSR_INDEX_LIST", KVM_GET_MSR_INDEX_LIST),
    (
        "KVM_GET_MSR_FEATURE_INDEX_LIST",
        KVM_GET_MSR_FEATURE_INDEX_LIST,
    ),
    ("KVM_GET_SUPPORTED_CPUID", KVM_GET_SUPPORTED_CPUID),
    ("KVM_GET_EMULATED_CPUID", KVM_GET_EMULATED_CPUID),
    ("KVM_GET_MSRS", KVM_GET_MSRS),
];
const VM: &[(&str, u64)] = &[
    ("KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION),
    ("KVM_IRQ_LINE", KVM_IRQ_LINE),
    ("KVM_IRQ_LINE_STATUS", KVM_IRQ_LINE_STATUS),
    ("KVM_GET_IRQCHIP", KVM_GET_IRQCHIP),
    ("KVM_SET_IRQCHIP", KVM_SET_IRQCHIP),
    ("KVM_CREATE_PIT2", KVM_CREATE_PIT2),
    ("KVM_GET_PIT2", KVM_GET_PIT2),
    ("KVM_SET_PIT2", KVM_SET_PIT2),
    ("KVM_IRQFD", KVM_IRQFD),
    ("KVM_IOEVENTFD", KVM_IOEVENTFD),
    ("KVM_SET_CLOCK", KVM_SET_CLOCK),
    ("KVM_GET_CLOCK", KVM_GET_CLOCK),
    ("KVM_SET_GSI_ROUTING", KVM_SET_GSI_ROUTING),
    ("KVM_SIGNAL_MSI", KVM_SIGNAL_MSI),
    ("KVM_REGISTER_COALESCED_MMIO", KVM_REGISTER_COALESCED_MMIO),
    (
        "KVM_UNREGISTER_COALESCED_MMIO",
        KVM_UNREGISTER_COALESCED_MMIO,
    ),
    ("KVM_ENABLE_CAP", KVM_ENABLE_CAP),
];
const VCPU: &[(&str, u64)] = &[
    ("KVM_GET_REGS", KVM_GET_REGS),
    ("KVM_SET_REGS", KVM_SET_REGS),
    ("KVM_GET_SREGS", KVM_GET_SREGS),
    ("KVM_SET_SREGS", KVM_SET_SREGS),
    ("KVM_TRANSLATE", KVM_TRANSLATE),
    ("KVM_INTERRUPT", KVM_INTERRUPT),
    ("KVM_GET_MSRS", KVM_GET_MSRS),
    ("KVM_SET_MSRS", KVM_SET_MSRS),
    ("KVM_SET_CPUID2", KVM_SET_CPUID2),
    ("KVM_GET_CPUID2", KVM_GET_CPUID2),
    ("KVM_SET_SIGNAL_MASK", KVM_SET_SIGNAL_MASK),
    ("KVM_GET_FPU", KVM_GET_FPU),
    ("KVM_SET_FPU", KVM_SET_FPU),
    ("KVM_GET_LAPIC", KVM_GET_LAPIC),
    ("KVM_SET_LAPIC", KVM_SET_LAPIC),
    ("KVM_TPR_ACCESS_REPORTING", KVM_TPR_ACCESS_REPORTING),
    ("KVM_SET_VAPIC_ADDR", KVM_SET_VAPIC_ADDR),
    ("KVM_GET_MP_STATE", KVM_GET_MP_STATE),
    ("KVM_SET_MP_STATE", KVM_SET_MP_STATE),
    ("KVM_GET_XSAVE", KVM_GET_XSAVE),
    ("KVM_SET_XSAVE", KVM_SET_XSAVE),
    ("KVM_GET_XCRS", KVM_GET_XCRS),
    ("KVM_SET_XCRS", KVM_SET_XCRS),
    ("KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS),
    ("KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS),
    ("KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS),
    ("KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS),
    ("KVM_ENABLE_CAP", KVM_ENABLE_CAP),
];

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    vm.fd.create_pit2(kvm_pit_config::default())?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    for (kind, fd) in [("device", dev.fd()), ("VM", vm.raw()), ("vCPU", vcpu.raw())] {
        unknown(t, kind, fd);
    }
    bad_pointers(t, dev.fd(), DEVICE);
    bad_pointers(t, vm.raw(), VM);
    bad_pointers(t, vcpu.raw(), VCPU);
    wrong_descriptor(t, dev, &vm, vcpu.raw());
    vcpu_ids(t, dev, &vm)?;
    capabilities(t, &vm);
    wrong_state(t, dev)?;

    let code = asm64(|a| {
        a.mov(al, 9)?;
        a.out(0x80, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "after all of this the guest runs",
        vcpu.run()?,
        Exit::out8(0x80, 9),
    );
    Ok(())
}

fn unknown(t: &mut Tap, kind: &str, fd: RawFd) {
    // Another type of ioctl, numbers KVM does not have, a known one with another size.
    for request in [
        0x5401,
        io(0xfe),
        iow::<[u8; 64]>(0xfd),
        iow::<[u8; 24]>(0x46),
    ] {
        no_such(
            t,
            &format!("ioctl {request:#x} on the {kind}"),
            ioctl(fd, request, 0),
        );
    }
}

/// C KVM answers EINVAL on the device and on a vCPU, where api.rst's ENOTTY is good as well.
fn no_such(t: &mut Tap, what: &str, got: Result<i32, Errno>) {
    t.ok(what, matches!(got, Err(Errno(libc::ENOTTY | libc::EINVAL))));
}

fn bad_pointers(t: &mut Tap, fd: RawFd, list: &[(&str, u64)]) {
    for (name, request) in list {
        for address in BAD {
            t.errno(
                format!("{name} with the address {address:#x}"),
                ioctl(fd, *request, address),
                libc::EFAULT,
            );
        }
    }
}

fn wrong_descriptor(t: &mut Tap, dev: &Device, vm: &Vm, vcpu: RawFd) {
    no_such(t, "KVM_RUN on the device", ioctl(dev.fd(), KVM_RUN, 0));
    t.errno(
        "KVM_RUN on the VM",
        ioctl(vm.raw(), KVM_RUN, 0),
        libc::ENOTTY,
    );
    t.errno(
        "KVM_CREATE_VM on the VM",
        ioctl(vm.raw(), KVM_CREATE_VM, 0),
        libc::ENOTTY,
    );
    no_such(
        t,
        "KVM_CREATE_VCPU on the device",
        ioctl(dev.fd(), KVM_CREATE_VCPU, 0),
    );
    no_such(
        t,
        "KVM_CREATE_VCPU on the vCPU",
        ioctl(vcpu, KVM_CREATE_VCPU, 1),
    );
    t.errno(
        "KVM_GET_API_VERSION on the VM",
        ioctl(vm.raw(), KVM_GET_API_VERSION, 0),
        libc::ENOTTY,
    );
    t.errno(
        "KVM_RUN with an argument",
        ioctl(vcpu, KVM_RUN, 1),
        libc::EINVAL,
    );
}

fn vcpu_ids(t: &mut Tap, dev: &Device, vm: &Vm) -> Outcome {
    let ids = dev.cap(KVM_CAP_MAX_VCPU_ID) as u64;
    t.errno(
        "vCPU 0 twice",
        ioctl(vm.raw(), KVM_CREATE_VCPU, 0),
        libc::EEXIST,
    );
    t.errno(
        "a vCPU id beyond the last",
        ioctl(vm.raw(), KVM_CREATE_VCPU, ids),
        libc::EINVAL,
    );
    t.errno(
        "a huge vCPU id",
        ioctl(vm.raw(), KVM_CREATE_VCPU, u64::from(u32::MAX)),
        libc::EINVAL,
    );
    Ok(())
}

fn capabilities(t: &mut Tap, vm: &Vm) {
    let cap = |cap, flags| kvm_enable_cap {
        cap,
        flags,
        ..Default::default()
    };
    t.errno(
        "KVM_ENABLE_CAP of none",
        ioctl_with(vm.raw(), KVM_ENABLE_CAP, &cap(0xffff, 0)),
        libc::EINVAL,
    );
    t.errno(
        "KVM_ENABLE_CAP with flags",
        ioctl_with(vm.raw(), KVM_ENABLE_CAP, &cap(KVM_CAP_X86_DISABLE_EXITS, 1)),
        libc::EINVAL,
    );
    t.errno(
        "KVM_CREATE_DEVICE of none",
        ioctl_mut(
            vm.raw(),
            KVM_CREATE_DEVICE,
            &mut kvm_create_device {
                type_: 0x7777,
                ..Default::default()
            },
        ),
        libc::ENODEV,
    );
}

fn wrong_state(t: &mut Tap, dev: &Device) -> Outcome {
    let bare = Vm::new(dev)?;
    let vcpu = bare.vcpu(0)?;
    let mut lapic = kvm_lapic_state::default();
    t.errno(
        "KVM_GET_LAPIC without one",
        ioctl_mut(vcpu.raw(), KVM_GET_LAPIC, &mut lapic),
        libc::EINVAL,
    );
    t.errno(
        "KVM_SET_LAPIC without one",
        ioctl_with(vcpu.raw(), KVM_SET_LAPIC, &lapic),
        libc::EINVAL,
    );
    t.errno(
        "KVM_SET_TSS_ADDR beyond 4 GiB",
        ioctl(bare.raw(), KVM_SET_TSS_ADDR, 0xffff_f000),
        libc::EINVAL,
    );
    // `Vm::new` has made the call once; where guests are unrestricted, nobody needs the pages.
    let module = match dev.path().trim_start_matches("/dev/") {
        "kvm" => "kvm_intel",
        other => other,
    };
    let parameter = format!("/sys/module/{module}/parameters/unrestricted_guest");
    let unrestricted = fs::read_to_string(parameter)?.starts_with('Y');
    t.eq(
        "KVM_SET_TSS_ADDR for the second time",
        ioctl(bare.raw(), KVM_SET_TSS_ADDR, TSS_ADDR),
        if unrestricted {
            Ok(0)
        } else {
            Err(Errno(libc::EEXIST))
        },
    );
    t.errno(
        "KVM_SET_IDENTITY_MAP_ADDR behind the first vCPU",
        ioctl_with(bare.raw(), KVM_SET_IDENTITY_MAP_ADDR, &0xfffb_c000u64),
        libc::EINVAL,
    );
    let chips = Vm::with_irqchip(dev)?;
    let with = chips.vcpu(0)?;
    t.errno(
        "KVM_INTERRUPT with an in-kernel APIC",
        with.interrupt(0x20),
        libc::ENXIO,
    );
    t.errno(
        "KVM_GET_DIRTY_LOG of a slot that is not there",
        ioctl_with(
            bare.raw(),
            KVM_GET_DIRTY_LOG,
            &kvm_dirty_log {
                slot: 3,
                ..Default::default()
            },
        ),
        libc::ENOENT,
    );
    Ok(())
}
