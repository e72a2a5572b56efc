// SPDX-License-Identifier: GPL-2.0

//! The ioctls, by the kind of file descriptor that takes them.

use super::reason::*;
use super::Status;
use super::Status::{Done, Excluded, Planned};

/// What an ioctl is called on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdKind {
    /// The device node.
    System,
    /// KVM_CREATE_VM's.
    Vm,
    /// KVM_CREATE_VCPU's.
    Vcpu,
    /// KVM_CREATE_DEVICE's.
    Device,
}

/// An ioctl.
#[derive(Clone, Copy, Debug)]
pub struct Ioctl {
    /// Where it is called.
    pub fd: FdKind,
    /// Its name in the uapi header.
    pub name: &'static str,
    /// The request, with direction and size.
    pub request: u32,
    /// How far it is.
    pub status: Status,
}

macro_rules! ioctls {
    ($($fd:ident $name:ident = $request:literal, $status:expr;)*) => {
        /// All ioctls that the kernel's KVM takes on x86, by descriptor and number.
        pub const IOCTLS: &[Ioctl] = &[$(Ioctl {
            fd: FdKind::$fd,
            name: stringify!($name),
            request: $request,
            status: $status,
        },)*];
    };
}

ioctls! {
    System KVM_GET_API_VERSION = 0x0000_ae00, Done;
    System KVM_CREATE_VM = 0x0000_ae01, Done;
    System KVM_GET_MSR_INDEX_LIST = 0xc004_ae02, Done;
    System KVM_CHECK_EXTENSION = 0x0000_ae03, Done;
    System KVM_GET_VCPU_MMAP_SIZE = 0x0000_ae04, Done;
    System KVM_GET_SUPPORTED_CPUID = 0xc008_ae05, Done;
    System KVM_GET_EMULATED_CPUID = 0xc008_ae09, Done;
    System KVM_GET_MSR_FEATURE_INDEX_LIST = 0xc004_ae0a, Done;
    System KVM_GET_MSRS = 0xc008_ae88, Done;
    System KVM_X86_GET_MCE_CAP_SUPPORTED = 0x8008_ae9d, Done;
    System KVM_GET_SUPPORTED_HV_CPUID = 0xc008_aec1, Excluded(HYPERV);
    System KVM_GET_DEVICE_ATTR = 0x4018_aee2, Done;
    System KVM_HAS_DEVICE_ATTR = 0x4018_aee3, Done;
    Vm KVM_CHECK_EXTENSION = 0x0000_ae03, Done;
    Vm KVM_CREATE_VCPU = 0x0000_ae41, Done;
    Vm KVM_GET_DIRTY_LOG = 0x4010_ae42, Done;
    Vm KVM_SET_NR_MMU_PAGES = 0x0000_ae44, Done;
    Vm KVM_SET_USER_MEMORY_REGION = 0x4020_ae46, Done;
    Vm KVM_SET_TSS_ADDR = 0x0000_ae47, Done;
    Vm KVM_SET_IDENTITY_MAP_ADDR = 0x4008_ae48, Done;
    Vm KVM_SET_USER_MEMORY_REGION2 = 0x40a0_ae49, Done;
    Vm KVM_CREATE_IRQCHIP = 0x0000_ae60, Done;
    Vm KVM_IRQ_LINE = 0x4008_ae61, Done;
    Vm KVM_GET_IRQCHIP = 0xc208_ae62, Done;
    Vm KVM_SET_IRQCHIP = 0x8208_ae63, Done;
    Vm KVM_CREATE_PIT = 0x0000_ae64, Done;
    Vm KVM_GET_PIT = 0xc048_ae65, Done;
    Vm KVM_SET_PIT = 0x8048_ae66, Done;
    Vm KVM_IRQ_LINE_STATUS = 0xc008_ae67, Done;
    Vm KVM_REGISTER_COALESCED_MMIO = 0x4010_ae67, Done;
    Vm KVM_UNREGISTER_COALESCED_MMIO = 0x4010_ae68, Done;
    Vm KVM_SET_GSI_ROUTING = 0x4008_ae6a, Done;
    Vm KVM_REINJECT_CONTROL = 0x0000_ae71, Done;
    Vm KVM_IRQFD = 0x4020_ae76, Done;
    Vm KVM_CREATE_PIT2 = 0x4040_ae77, Done;
    Vm KVM_SET_BOOT_CPU_ID = 0x0000_ae78, Done;
    Vm KVM_IOEVENTFD = 0x4040_ae79, Done;
    Vm KVM_XEN_HVM_CONFIG = 0x4038_ae7a, Excluded(XEN);
    Vm KVM_SET_CLOCK = 0x4030_ae7b, Done;
    Vm KVM_GET_CLOCK = 0x8030_ae7c, Done;
    Vm KVM_GET_PIT2 = 0x8070_ae9f, Done;
    Vm KVM_SET_PIT2 = 0x4070_aea0, Done;
    Vm KVM_SET_TSC_KHZ = 0x0000_aea2, Done;
    Vm KVM_ENABLE_CAP = 0x4068_aea3, Done;
    Vm KVM_GET_TSC_KHZ = 0x0000_aea3, Done;
    Vm KVM_SIGNAL_MSI = 0x4020_aea5, Done;
    Vm KVM_SET_PMU_EVENT_FILTER = 0x4020_aeb2, Planned;
    Vm KVM_MEMORY_ENCRYPT_OP = 0xc008_aeba, Excluded(ENCRYPTION);
    Vm KVM_MEMORY_ENCRYPT_REG_REGION = 0x8010_aebb, Excluded(ENCRYPTION);
    Vm KVM_MEMORY_ENCRYPT_UNREG_REGION = 0x8010_aebc, Excluded(ENCRYPTION);
    Vm KVM_HYPERV_EVENTFD = 0x4018_aebd, Excluded(HYPERV);
    Vm KVM_CLEAR_DIRTY_LOG = 0xc018_aec0, Done;
    Vm KVM_X86_SET_MSR_FILTER = 0x4188_aec6, Done;
    Vm KVM_RESET_DIRTY_RINGS = 0x0000_aec7, Planned;
    Vm KVM_XEN_HVM_GET_ATTR = 0xc048_aec8, Excluded(XEN);
    Vm KVM_XEN_HVM_SET_ATTR = 0x4048_aec9, Excluded(XEN);
    Vm KVM_GET_STATS_FD = 0x0000_aece, Done;
    Vm KVM_XEN_HVM_EVTCHN_SEND = 0x400c_aed0, Excluded(XEN);
    Vm KVM_SET_MEMORY_ATTRIBUTES = 0x4020_aed2, Planned;
    Vm KVM_CREATE_GUEST_MEMFD = 0xc040_aed4, Planned;
    Vm KVM_CREATE_DEVICE = 0xc00c_aee0, Planned;
    Vcpu KVM_RUN = 0x0000_ae80, Done;
    Vcpu KVM_GET_REGS = 0x8090_ae81, Done;
    Vcpu KVM_SET_REGS = 0x4090_ae82, Done;
    Vcpu KVM_GET_SREGS = 0x8138_ae83, Done;
    Vcpu KVM_SET_SREGS = 0x4138_ae84, Done;
    Vcpu KVM_TRANSLATE = 0xc018_ae85, Done;
    Vcpu KVM_INTERRUPT = 0x4004_ae86, Done;
    Vcpu KVM_GET_MSRS = 0xc008_ae88, Done;
    Vcpu KVM_SET_MSRS = 0x4008_ae89, Done;
    Vcpu KVM_SET_CPUID = 0x4008_ae8a, Done;
    Vcpu KVM_SET_SIGNAL_MASK = 0x4004_ae8b, Done;
    Vcpu KVM_GET_FPU = 0x81a0_ae8c, Done;
    Vcpu KVM_SET_FPU = 0x41a0_ae8d, Done;
    Vcpu KVM_GET_LAPIC = 0x8400_ae8e, Done;
    Vcpu KVM_SET_LAPIC = 0x4400_ae8f, Done;
    Vcpu KVM_SET_CPUID2 = 0x4008_ae90, Done;
    Vcpu KVM_GET_CPUID2 = 0xc008_ae91, Done;
    Vcpu KVM_TPR_ACCESS_REPORTING = 0xc028_ae92, Done;
    Vcpu KVM_SET_VAPIC_ADDR = 0x4008_ae93, Done;
    Vcpu KVM_GET_MP_STATE = 0x8004_ae98, Done;
    Vcpu KVM_SET_MP_STATE = 0x4004_ae99, Done;
    Vcpu KVM_NMI = 0x0000_ae9a, Done;
    Vcpu KVM_SET_GUEST_DEBUG = 0x4048_ae9b, Done;
    Vcpu KVM_X86_SETUP_MCE = 0x4008_ae9c, Done;
    Vcpu KVM_X86_SET_MCE = 0x4040_ae9e, Done;
    Vcpu KVM_GET_VCPU_EVENTS = 0x8040_ae9f, Done;
    Vcpu KVM_SET_VCPU_EVENTS = 0x4040_aea0, Done;
    Vcpu KVM_GET_DEBUGREGS = 0x8080_aea1, Done;
    Vcpu KVM_SET_DEBUGREGS = 0x4080_aea2, Done;
    Vcpu KVM_SET_TSC_KHZ = 0x0000_aea2, Done;
    Vcpu KVM_ENABLE_CAP = 0x4068_aea3, Done;
    Vcpu KVM_GET_TSC_KHZ = 0x0000_aea3, Done;
    Vcpu KVM_GET_XSAVE = 0x9000_aea4, Done;
    Vcpu KVM_SET_XSAVE = 0x5000_aea5, Done;
    Vcpu KVM_GET_XCRS = 0x8188_aea6, Done;
    Vcpu KVM_SET_XCRS = 0x4188_aea7, Done;
    Vcpu KVM_GET_ONE_REG = 0x4010_aeab, Planned;
    Vcpu KVM_SET_ONE_REG = 0x4010_aeac, Planned;
    Vcpu KVM_KVMCLOCK_CTRL = 0x0000_aead, Done;
    Vcpu KVM_GET_REG_LIST = 0xc008_aeb0, Planned;
    Vcpu KVM_SMI = 0x0000_aeb7, Planned;
    Vcpu KVM_MEMORY_ENCRYPT_OP = 0xc008_aeba, Excluded(ENCRYPTION);
    Vcpu KVM_GET_NESTED_STATE = 0xc080_aebe, Excluded(NESTED);
    Vcpu KVM_SET_NESTED_STATE = 0x4080_aebf, Excluded(NESTED);
    Vcpu KVM_GET_SUPPORTED_HV_CPUID = 0xc008_aec1, Excluded(HYPERV);
    Vcpu KVM_XEN_VCPU_GET_ATTR = 0xc048_aeca, Excluded(XEN);
    Vcpu KVM_XEN_VCPU_SET_ATTR = 0x4048_aecb, Excluded(XEN);
    Vcpu KVM_GET_SREGS2 = 0x8140_aecc, Done;
    Vcpu KVM_SET_SREGS2 = 0x4140_aecd, Done;
    Vcpu KVM_GET_STATS_FD = 0x0000_aece, Done;
    Vcpu KVM_GET_XSAVE2 = 0x9000_aecf, Done;
    Vcpu KVM_PRE_FAULT_MEMORY = 0xc040_aed5, Planned;
    Vcpu KVM_SET_DEVICE_ATTR = 0x4018_aee1, Done;
    Vcpu KVM_GET_DEVICE_ATTR = 0x4018_aee2, Done;
    Vcpu KVM_HAS_DEVICE_ATTR = 0x4018_aee3, Done;
    Device KVM_SET_DEVICE_ATTR = 0x4018_aee1, Planned;
    Device KVM_GET_DEVICE_ATTR = 0x4018_aee2, Planned;
    Device KVM_HAS_DEVICE_ATTR = 0x4018_aee3, Planned;
}
