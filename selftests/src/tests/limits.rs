// SPDX-License-Identifier: GPL-2.0

//! How many and how much: vCPU ids, frequencies, NMIs that wait, entries of lists.

use crate::device::Device;
use crate::errno::Errno;
use crate::sys::*;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    vcpu_ids(t, dev)?;
    frequencies(t, dev)?;
    nmis(t, dev)?;
    lists(t, dev)
}

fn set_max_vcpu_id(vm: &Vm, max: u64) -> Result<i32, Errno> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_MAX_VCPU_ID,
        args: [max, 0, 0, 0],
        ..Default::default()
    };
    ioctl_with(vm.raw(), KVM_ENABLE_CAP, &cap)
}

fn vcpu_ids(t: &mut Tap, dev: &Device) -> Outcome {
    let most = dev.cap(KVM_CAP_MAX_VCPU_ID) as u64;
    let vm = Vm::new(dev)?;
    let boot = |vm: &Vm, id: u64| ioctl(vm.raw(), KVM_SET_BOOT_CPU_ID, id);
    t.errno(
        "KVM_CAP_MAX_VCPU_ID beyond what KVM_CHECK_EXTENSION says",
        set_max_vcpu_id(&vm, most + 1),
        libc::EINVAL,
    );
    t.errno("a boot CPU beyond that", boot(&vm, most + 1), libc::EINVAL);
    t.eq("boot CPU 5", boot(&vm, 5), Ok(0));
    t.errno(
        "KVM_CAP_MAX_VCPU_ID below the boot CPU's",
        set_max_vcpu_id(&vm, 4),
        libc::EINVAL,
    );
    t.eq("boot CPU 0", boot(&vm, 0), Ok(0));
    t.eq("KVM_CAP_MAX_VCPU_ID 4", set_max_vcpu_id(&vm, 4), Ok(0));
    t.eq("the same again", set_max_vcpu_id(&vm, 4), Ok(0));
    t.errno("another", set_max_vcpu_id(&vm, 5), libc::EINVAL);
    t.errno("boot CPU 5 then", boot(&vm, 5), libc::EINVAL);
    for (id, huge) in [(4, false), (1 << 32, true)] {
        t.errno(
            format!(
                "a vCPU with an id that is too {}",
                if huge { "long" } else { "large" }
            ),
            ioctl(vm.raw(), KVM_CREATE_VCPU, id),
            libc::EINVAL,
        );
    }
    let vcpu = t.success("vCPU 3", vm.vcpu(3));
    t.errno("boot CPU behind the first vCPU", boot(&vm, 3), libc::EBUSY);
    drop(vcpu);

    let vm = Vm::with_irqchip(dev)?;
    let last = t.success("the vCPU with the highest id", vm.vcpu(most as u32 - 1));
    drop(last);

    let vm = Vm::new(dev)?;
    let _vcpu = vm.vcpu(0)?;
    t.errno(
        "KVM_CAP_MAX_VCPU_ID behind the first vCPU",
        set_max_vcpu_id(&vm, 4),
        libc::EINVAL,
    );
    Ok(())
}

fn frequencies(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let set = |fd, khz: u64| ioctl(fd, KVM_SET_TSC_KHZ, khz);
    let get = |fd| ioctl(fd, KVM_GET_TSC_KHZ, 0);
    let host = get(vm.raw())?;
    let scales = dev.cap(KVM_CAP_TSC_CONTROL) > 0;
    t.ok("a VM has the host's frequency", host > 0);
    let vcpu = vm.vcpu(0)?;
    t.eq("and so has a vCPU", get(vcpu.raw()), Ok(host));
    t.errno(
        "that of a VM with a vCPU can't be set",
        set(vm.raw(), host as u64),
        libc::EINVAL,
    );
    let fresh = Vm::new(dev)?;
    for (name, fd) in [("VM", fresh.raw()), ("vCPU", vcpu.raw())] {
        t.eq(format!("{name}: 0 is the host's"), set(fd, 0), Ok(0));
        t.eq(format!("{name}: and is told so"), get(fd), Ok(host));
        if !scales {
            t.skip(format!("{name}: others"), "no TSC scaling");
            continue;
        }
        let half = host / 2;
        t.eq(format!("{name}: half of it"), set(fd, half as u64), Ok(0));
        t.eq(format!("{name}: is told"), get(fd), Ok(half));
        for khz in [i32::MAX as u64, 1 << 31, u64::from(u32::MAX)] {
            let what = format!("{name}: {khz} kHz is too much for an int");
            t.errno(what, set(fd, khz), libc::EINVAL);
        }
        t.eq(format!("{name}: nothing has changed"), get(fd), Ok(half));
    }
    t.eq(
        "a new vCPU has that of its VM",
        get(fresh.vcpu(0)?.raw()),
        get(fresh.raw()),
    );
    Ok(())
}

fn nmis(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let vcpu = vm.vcpu(0)?;
    let pending = |vcpu: &Vcpu| -> Result<u8, Errno> { Ok(vcpu.fd.get_vcpu_events()?.nmi.pending) };
    let restore = |pending: u8, masked: u8| -> Result<(), Errno> {
        let mut events = vcpu.fd.get_vcpu_events()?;
        events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
        events.nmi.pending = pending;
        events.nmi.masked = masked;
        Ok(vcpu.fd.set_vcpu_events(&events)?)
    };
    for _ in 0..3 {
        ioctl(vcpu.raw(), KVM_NMI, 0)?;
    }
    t.eq("of three NMIs two wait", pending(&vcpu)?, 2);
    restore(0, 1)?;
    for _ in 0..3 {
        ioctl(vcpu.raw(), KVM_NMI, 0)?;
    }
    t.eq("one, while they are blocked", pending(&vcpu)?, 1);
    restore(200, 0)?;
    t.eq("of 200 that are restored two", pending(&vcpu)?, 2);
    restore(2, 1)?;
    t.eq("or one", pending(&vcpu)?, 1);
    Ok(())
}

/// `struct kvm_irq_routing` with so many entries, to the PIC's first pin, by GSIs from `first` on.
fn routes(n: u32, first: u32) -> Vec<u32> {
    const ENTRY: usize = 12;
    let mut words = vec![n, 0];
    for i in 0..n {
        let mut entry = [0; ENTRY];
        entry[0] = first + i;
        entry[1] = KVM_IRQ_ROUTING_IRQCHIP;
        words.extend(entry);
    }
    words
}

fn lists(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    let mut msrs = vec![0u32; 2 + 4 * 256];
    let mut get = |n: u32| {
        msrs[0] = n;
        // IA32_TIME_STAMP_COUNTER, again and again.
        for entry in msrs[2..].chunks_exact_mut(4) {
            entry[0] = 0x10;
        }
        ioctl(vcpu.raw(), KVM_GET_MSRS, msrs.as_mut_ptr() as u64)
    };
    t.eq("255 MSRs", get(255), Ok(255));
    t.errno("256 MSRs", get(256), libc::E2BIG);

    let mut cpuid = vec![0u32; 2 + 10 * 257];
    let mut set = |n: u32| {
        cpuid[0] = n;
        ioctl(vcpu.raw(), KVM_SET_CPUID2, cpuid.as_ptr() as u64)
    };
    t.eq("256 CPUID entries", set(256), Ok(0));
    t.errno("257 CPUID entries", set(257), libc::E2BIG);

    let most = dev.cap(KVM_CAP_IRQ_ROUTING) as u32;
    let set = |n, first| {
        let routes = routes(n, first);
        ioctl(vm.raw(), KVM_SET_GSI_ROUTING, routes.as_ptr() as u64)
    };
    t.eq(
        "as many routes as KVM_CAP_IRQ_ROUTING says",
        set(most, 0),
        Ok(0),
    );
    t.errno("one more", set(most + 1, 0), libc::EINVAL);
    t.eq("the last GSI", set(1, most - 1), Ok(0));
    t.errno("a GSI behind it", set(1, most), libc::EINVAL);
    Ok(())
}
