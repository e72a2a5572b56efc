// SPDX-License-Identifier: GPL-2.0

//! What is measured from user space: making and ending machines, and KVM_RUN itself.

use super::guest::Loop;
use super::{now, BATCHES};
use crate::device::Device;
use crate::setup::Mode;
use crate::sys;
use crate::Outcome;
use std::os::fd::RawFd;

/// Ticks of `f`, at its cheapest.
fn cheapest(mut f: impl FnMut() -> Outcome) -> Outcome<u64> {
    let mut best = u64::MAX;
    for _ in 0..BATCHES {
        let start = now();
        f()?;
        best = best.min(now() - start);
    }
    Ok(best)
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor of ours that nothing else holds.
    unsafe { libc::close(fd) };
}

/// KVM_CREATE_VM and close.
pub fn vm(dev: &Device) -> Outcome<u64> {
    cheapest(|| {
        close(sys::ioctl(dev.fd(), sys::KVM_CREATE_VM, 0)?);
        Ok(())
    })
}

/// The same with an irqchip and a vCPU.
pub fn vcpu(dev: &Device) -> Outcome<u64> {
    cheapest(|| {
        let vm = sys::ioctl(dev.fd(), sys::KVM_CREATE_VM, 0)?;
        sys::ioctl(vm, sys::KVM_CREATE_IRQCHIP, 0)?;
        let vcpu = sys::ioctl(vm, sys::KVM_CREATE_VCPU, 0)?;
        close(vcpu);
        close(vm);
        Ok(())
    })
}

/// KVM_RUN that comes back at once.
pub fn immediate_exit(dev: &Device, mode: Mode) -> Outcome<u64> {
    const CALLS: u64 = 100;
    let mut guest = Loop::new(dev, mode, 0, |a| a.nop())?;
    guest.batch(1)?;
    guest.vcpu.shared().immediate_exit = 1;
    let fd = guest.vcpu.raw();
    let ticks = cheapest(|| {
        for _ in 0..CALLS {
            match sys::ioctl(fd, sys::KVM_RUN, 0) {
                Err(e) if e.0 == libc::EINTR => {}
                other => return Err(format!("KVM_RUN with immediate_exit: {other:?}").into()),
            }
        }
        Ok(())
    })?;
    Ok(ticks / CALLS)
}
