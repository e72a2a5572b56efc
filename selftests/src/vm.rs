// SPDX-License-Identifier: GPL-2.0

//! A virtual machine under test.

use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::sys;
use crate::vcpu::Vcpu;
use kvm_bindings::*;
use kvm_ioctls::VmFd;
use std::os::fd::{AsRawFd, RawFd};
use vmm_sys_util::eventfd::EventFd;

/// Where the three pages for the TSS of real mode go: no test has memory or devices there.
pub const TSS_ADDR: u64 = 0xfffb_d000;
/// Where the page for the identity map goes.
pub const IDENTITY_MAP_ADDR: u64 = 0xfffb_c000;

/// A VM file descriptor, with what the tests do to it.
pub struct Vm {
    /// The typed VM ioctls.
    pub fd: VmFd,
    cpuid: CpuId,
}

impl Vm {
    /// A VM without interrupt controllers.
    pub fn new(dev: &Device) -> Result<Self, Errno> {
        let fd = dev.kvm.create_vm()?;
        fd.set_tss_address(TSS_ADDR as usize)?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDR)?;
        let cpuid = dev.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok(Vm { fd, cpuid })
    }

    /// A VM with PIC, IOAPIC and local APICs in the kernel.
    pub fn with_irqchip(dev: &Device) -> Result<Self, Errno> {
        let vm = Vm::new(dev)?;
        vm.fd.create_irq_chip()?;
        Ok(vm)
    }

    /// The raw descriptor, for ioctls made by hand.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// What KVM_GET_SUPPORTED_CPUID told, which [`Vm::vcpu`] gives to each vCPU.
    pub fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// Makes vCPU `id` with the supported CPUID (its APIC id being `id`).
    pub fn vcpu(&self, id: u32) -> Result<Vcpu, Errno> {
        let fd = self.fd.create_vcpu(u64::from(id))?;
        let mut cpuid = self.cpuid.clone();
        for e in cpuid.as_mut_slice() {
            match e.function {
                1 => e.ebx = (e.ebx & 0x00ff_ffff) | (id << 24),
                0xb | 0x1f => e.edx = id,
                _ => {}
            }
        }
        fd.set_cpuid2(&cpuid)?;
        Ok(Vcpu::new(fd, self.fd.run_size()))
    }

    /// Makes memory and puts it into `slot`.
    pub fn add_ram(&self, slot: u32, gpa: u64, len: usize) -> Result<Ram, Errno> {
        let ram = Ram::new(gpa, len)?;
        self.set_slot(slot, 0, gpa, len as u64, ram.hva())?;
        Ok(ram)
    }

    /// KVM_SET_USER_MEMORY_REGION as it stands.
    pub fn set_slot(
        &self,
        slot: u32,
        flags: u32,
        gpa: u64,
        len: u64,
        hva: u64,
    ) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: hva,
        };
        sys::ioctl_with(self.raw(), sys::KVM_SET_USER_MEMORY_REGION, &region).map(drop)
    }

    /// Takes `slot` away.
    pub fn delete_slot(&self, slot: u32) -> Result<(), Errno> {
        self.set_slot(slot, 0, 0, 0, 0)
    }

    /// KVM_IOEVENTFD as it stands.
    pub fn ioeventfd(
        &self,
        fd: RawFd,
        addr: u64,
        len: u32,
        flags: u32,
        datamatch: u64,
    ) -> Result<(), Errno> {
        let event = kvm_ioeventfd {
            datamatch,
            addr,
            len,
            fd,
            flags,
            ..Default::default()
        };
        sys::ioctl_with(self.raw(), sys::KVM_IOEVENTFD, &event).map(drop)
    }

    /// KVM_IRQ_LINE.
    pub fn irq_line(&self, gsi: u32, level: bool) -> Result<(), Errno> {
        Ok(self.fd.set_irq_line(gsi, level)?)
    }

    /// KVM_CHECK_EXTENSION on the VM.
    pub fn cap(&self, cap: u32) -> i32 {
        sys::ioctl(self.raw(), sys::KVM_CHECK_EXTENSION, u64::from(cap)).unwrap_or(0)
    }
}

/// An eventfd that does not block.
pub fn eventfd() -> Result<EventFd, Errno> {
    EventFd::new(libc::EFD_NONBLOCK).map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))
}

/// The count an eventfd holds, 0 when it was not signalled; reading resets it.
pub fn drain(event: &EventFd) -> u64 {
    event.read().unwrap_or(0)
}
