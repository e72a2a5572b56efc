// SPDX-License-Identifier: GPL-2.0

//! Raw ioctls: the numbers, and calls that hide nothing from the kernel.
//!
//! The behaviour tests want to send what a typed wrapper would not let through, and a few
//! numbers are newer than the wrapper crates.

use crate::errno::Errno;
use kvm_bindings::*;
use std::mem::size_of;
use std::os::fd::RawFd;

const fn number(dir: u64, nr: u64, size: usize) -> u64 {
    (dir << 30) | ((size as u64) << 16) | (0xAE << 8) | nr
}

/// `_IO(KVMIO, nr)`.
pub const fn io(nr: u64) -> u64 {
    number(0, nr, 0)
}

/// `_IOW(KVMIO, nr, T)`.
pub const fn iow<T>(nr: u64) -> u64 {
    number(1, nr, size_of::<T>())
}

/// `_IOR(KVMIO, nr, T)`.
pub const fn ior<T>(nr: u64) -> u64 {
    number(2, nr, size_of::<T>())
}

/// `_IOWR(KVMIO, nr, T)`.
pub const fn iowr<T>(nr: u64) -> u64 {
    number(3, nr, size_of::<T>())
}

/// The argument of KVM_SET_SIGNAL_MASK with its mask of 64 signals.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SignalMask {
    /// Bytes of the mask: 8.
    pub len: u32,
    /// The signals, bit 0 being signal 1, as two halves so that no padding comes in.
    pub sigset: [u32; 2],
}

macro_rules! numbers {
    ($($name:ident = $value:expr;)*) => {
        $(#[doc = concat!("`", stringify!($name), "` of api.rst.")] pub const $name: u64 = $value;)*
    };
}

numbers! {
    KVM_GET_API_VERSION = io(0x00);
    KVM_CREATE_VM = io(0x01);
    KVM_GET_MSR_INDEX_LIST = iowr::<u32>(0x02);
    KVM_CHECK_EXTENSION = io(0x03);
    KVM_GET_VCPU_MMAP_SIZE = io(0x04);
    KVM_GET_SUPPORTED_CPUID = iowr::<[u32; 2]>(0x05);
    KVM_GET_EMULATED_CPUID = iowr::<[u32; 2]>(0x09);
    KVM_GET_MSR_FEATURE_INDEX_LIST = iowr::<u32>(0x0a);
    KVM_CREATE_VCPU = io(0x41);
    KVM_GET_DIRTY_LOG = iow::<kvm_dirty_log>(0x42);
    KVM_SET_NR_MMU_PAGES = io(0x44);
    KVM_GET_NR_MMU_PAGES = io(0x45);
    KVM_SET_USER_MEMORY_REGION = iow::<kvm_userspace_memory_region>(0x46);
    KVM_SET_TSS_ADDR = io(0x47);
    KVM_SET_IDENTITY_MAP_ADDR = iow::<u64>(0x48);
    KVM_SET_USER_MEMORY_REGION2 = iow::<kvm_userspace_memory_region2>(0x49);
    KVM_CREATE_IRQCHIP = io(0x60);
    KVM_IRQ_LINE = iow::<kvm_irq_level>(0x61);
    KVM_GET_IRQCHIP = iowr::<kvm_irqchip>(0x62);
    KVM_SET_IRQCHIP = ior::<kvm_irqchip>(0x63);
    KVM_CREATE_PIT = io(0x64);
    KVM_IRQ_LINE_STATUS = iowr::<kvm_irq_level>(0x67);
    KVM_REGISTER_COALESCED_MMIO = iow::<kvm_coalesced_mmio_zone>(0x67);
    KVM_UNREGISTER_COALESCED_MMIO = iow::<kvm_coalesced_mmio_zone>(0x68);
    KVM_SET_GSI_ROUTING = iow::<[u32; 2]>(0x6a);
    KVM_REINJECT_CONTROL = io(0x71);
    KVM_IRQFD = iow::<kvm_irqfd>(0x76);
    KVM_CREATE_PIT2 = iow::<kvm_pit_config>(0x77);
    KVM_SET_BOOT_CPU_ID = io(0x78);
    KVM_IOEVENTFD = iow::<kvm_ioeventfd>(0x79);
    KVM_SET_CLOCK = iow::<kvm_clock_data>(0x7b);
    KVM_GET_CLOCK = ior::<kvm_clock_data>(0x7c);
    KVM_RUN = io(0x80);
    KVM_GET_REGS = ior::<kvm_regs>(0x81);
    KVM_SET_REGS = iow::<kvm_regs>(0x82);
    KVM_GET_SREGS = ior::<kvm_sregs>(0x83);
    KVM_SET_SREGS = iow::<kvm_sregs>(0x84);
    KVM_TRANSLATE = iowr::<kvm_translation>(0x85);
    KVM_INTERRUPT = iow::<kvm_interrupt>(0x86);
    KVM_GET_MSRS = iowr::<[u32; 2]>(0x88);
    KVM_SET_MSRS = iow::<[u32; 2]>(0x89);
    KVM_SET_CPUID = iow::<[u32; 2]>(0x8a);
    KVM_SET_SIGNAL_MASK = iow::<u32>(0x8b);
    KVM_GET_FPU = ior::<kvm_fpu>(0x8c);
    KVM_SET_FPU = iow::<kvm_fpu>(0x8d);
    KVM_GET_LAPIC = ior::<kvm_lapic_state>(0x8e);
    KVM_SET_LAPIC = iow::<kvm_lapic_state>(0x8f);
    KVM_SET_CPUID2 = iow::<[u32; 2]>(0x90);
    KVM_GET_CPUID2 = iowr::<[u32; 2]>(0x91);
    KVM_TPR_ACCESS_REPORTING = iowr::<kvm_tpr_access_ctl>(0x92);
    KVM_SET_VAPIC_ADDR = iow::<u64>(0x93);
    KVM_GET_MP_STATE = ior::<kvm_mp_state>(0x98);
    KVM_SET_MP_STATE = iow::<kvm_mp_state>(0x99);
    KVM_NMI = io(0x9a);
    KVM_SET_GUEST_DEBUG = iow::<kvm_guest_debug>(0x9b);
    KVM_GET_PIT2 = ior::<kvm_pit_state2>(0x9f);
    KVM_SET_PIT2 = iow::<kvm_pit_state2>(0xa0);
    KVM_SET_TSC_KHZ = io(0xa2);
    KVM_GET_TSC_KHZ = io(0xa3);
    KVM_GET_XSAVE = ior::<kvm_xsave>(0xa4);
    KVM_SET_XSAVE = iow::<kvm_xsave>(0xa5);
    KVM_SIGNAL_MSI = iow::<kvm_msi>(0xa5);
    KVM_GET_XCRS = ior::<kvm_xcrs>(0xa6);
    KVM_SET_XCRS = iow::<kvm_xcrs>(0xa7);
    KVM_GET_VCPU_EVENTS = ior::<kvm_vcpu_events>(0x9f);
    KVM_SET_VCPU_EVENTS = iow::<kvm_vcpu_events>(0xa0);
    KVM_GET_DEBUGREGS = ior::<kvm_debugregs>(0xa1);
    KVM_SET_DEBUGREGS = iow::<kvm_debugregs>(0xa2);
    KVM_CLEAR_DIRTY_LOG = iowr::<kvm_clear_dirty_log>(0xc0);
    KVM_ENABLE_CAP = iow::<kvm_enable_cap>(0xa3);
    KVM_KVMCLOCK_CTRL = io(0xad);
    KVM_GET_XSAVE2 = ior::<kvm_xsave>(0xcf);
    KVM_GET_STATS_FD = io(0xce);
    KVM_CREATE_DEVICE = iowr::<kvm_create_device>(0xe0);
    KVM_SET_DEVICE_ATTR = iow::<kvm_device_attr>(0xe1);
    KVM_GET_DEVICE_ATTR = iow::<kvm_device_attr>(0xe2);
}

/// An ioctl whose argument is a number (or an address on purpose wrong).
pub fn ioctl(fd: RawFd, request: u64, arg: u64) -> Result<i32, Errno> {
    // SAFETY: every argument that is read or written as memory by the kernel is checked by the
    // kernel; the callers that pass an address own the memory behind it or mean a bad one.
    let r = unsafe { libc::ioctl(fd, request, arg) };
    if r < 0 {
        Err(Errno::last())
    } else {
        Ok(r)
    }
}

/// An ioctl that reads `arg`.
pub fn ioctl_with<T>(fd: RawFd, request: u64, arg: &T) -> Result<i32, Errno> {
    ioctl(fd, request, arg as *const T as u64)
}

/// An ioctl that may write `arg`.
pub fn ioctl_mut<T>(fd: RawFd, request: u64, arg: &mut T) -> Result<i32, Errno> {
    ioctl(fd, request, arg as *mut T as u64)
}

/// How many file descriptors this process has open.
pub fn open_files() -> usize {
    // The listing holds one descriptor itself.
    std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count().saturating_sub(1))
}
