// SPDX-License-Identifier: GPL-2.0

//! KVM_IOEVENTFD, KVM_IRQFD and KVM_(UN)REGISTER_COALESCED_MMIO (api.rst).

use kernel::prelude::*;
use rkvm_core::iobus::{
    doorbells::Doorbell,
    zones::Zone, //
};

use super::Vm;
use crate::{
    io::Space,
    sys::{
        eventfd::EventFd,
        uabi::{
            kvm_coalesced_mmio_zone,
            kvm_ioeventfd,
            kvm_irqfd, //
        },
    },
};

const IOEVENTFD_DATAMATCH: u32 = 1 << 0;
const IOEVENTFD_PIO: u32 = 1 << 1;
const IOEVENTFD_DEASSIGN: u32 = 1 << 2;
const IRQFD_DEASSIGN: u32 = 1 << 0;
const IRQFD_RESAMPLE: u32 = 1 << 1;

/// KVM_IOEVENTFD. EINVAL for a bad combination, ENOENT or EEXIST for what is not or already there, EBADF.
///
/// KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY is EINVAL here: no x86 guest can do what it is for.
pub(super) fn ioeventfd(vm: &Vm, arg: &kvm_ioeventfd) -> Result<usize> {
    let space = if arg.flags & IOEVENTFD_PIO != 0 {
        Space::Ports
    } else {
        Space::Memory
    };
    let value = (arg.flags & IOEVENTFD_DATAMATCH != 0).then_some(arg.datamatch);
    let doorbell = Doorbell::new(arg.addr, arg.len, value);
    let bus = vm.io.bus(space);
    if arg.flags & IOEVENTFD_DEASSIGN != 0 {
        let eventfd = EventFd::from_fd(arg.fd)?;
        // What could not have been added is not there.
        bus.remove_doorbell(&doorbell.map_err(|_| ENOENT)?, &eventfd)?;
    } else {
        if arg.flags & !(IOEVENTFD_DATAMATCH | IOEVENTFD_PIO) != 0 {
            return Err(EINVAL);
        }
        let doorbell = doorbell.map_err(|_| EINVAL)?;
        bus.add_doorbell(doorbell, EventFd::from_fd(arg.fd)?)?;
    }
    Ok(0)
}

/// KVM_IRQFD. EINVAL without an irqchip in the kernel, or without an I/O APIC there for resampling; EBADF; EBUSY.
///
/// That an irqfd to take away is not there is no error.
pub(super) fn irqfd(vm: &Vm, arg: &kvm_irqfd) -> Result<usize> {
    if arg.flags & !(IRQFD_DEASSIGN | IRQFD_RESAMPLE) != 0 {
        return Err(EINVAL);
    }
    let fd = arg.fd as i32;
    if arg.flags & IRQFD_DEASSIGN != 0 {
        vm.io.irqfds().deassign(&EventFd::from_fd(fd)?, arg.gsi);
        return Ok(0);
    }
    let resample = arg.flags & IRQFD_RESAMPLE != 0;
    if !(if resample {
        vm.has_kernel_ioapic()
    } else {
        vm.has_irqchip()
    }) {
        return Err(EINVAL);
    }
    // Of two bad descriptors the first one is told.
    EventFd::from_fd(fd)?;
    let resample = resample
        .then(|| EventFd::from_fd(arg.resamplefd as i32))
        .transpose()?;
    vm.io.irqfds().assign(&vm.irq, fd, arg.gsi, resample)?;
    Ok(0)
}

/// KVM_REGISTER_COALESCED_MMIO. EINVAL if it is neither MMIO nor PIO, ENOSPC.
pub(super) fn register_coalesced(vm: &Vm, arg: &kvm_coalesced_mmio_zone) -> Result<usize> {
    let zone = Zone::new(arg.addr, arg.size);
    vm.io.bus(zone_space(arg)?).add_zone(zone).map(|()| 0)
}

/// KVM_UNREGISTER_COALESCED_MMIO: ends all zones that contain the given range. That there is none is no error.
pub(super) fn unregister_coalesced(vm: &Vm, arg: &kvm_coalesced_mmio_zone) -> Result<usize> {
    let bus = vm.io.bus(zone_space(arg)?);
    bus.remove_zones(arg.addr, arg.size).map(|()| 0)
}

fn zone_space(arg: &kvm_coalesced_mmio_zone) -> Result<Space> {
    match arg.__bindgen_anon_1.bindgen_union_field {
        0 => Ok(Space::Memory),
        1 => Ok(Space::Ports),
        _ => Err(EINVAL),
    }
}
