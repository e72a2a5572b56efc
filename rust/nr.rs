// SPDX-License-Identifier: GPL-2.0

//! The numbers of the ioctls that rkvm knows, computed from the structures that they carry (api.rst).

use kernel::ioctl::{
    _IO,
    _IOR,
    _IOW,
    _IOWR, //
};

use crate::sys::uabi::*;

const KVMIO: u32 = 0xae;

macro_rules! numbers {
    ($($name:ident = $value:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of api.rst.")]
            pub(crate) const $name: u32 = $value;
        )*
    };
}

numbers! {
    KVM_GET_API_VERSION = _IO(KVMIO, 0x00);
    KVM_CREATE_VM = _IO(KVMIO, 0x01);
    KVM_GET_MSR_INDEX_LIST = _IOWR::<kvm_msr_list>(KVMIO, 0x02);
    KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03);
    KVM_GET_VCPU_MMAP_SIZE = _IO(KVMIO, 0x04);
    KVM_GET_SUPPORTED_CPUID = _IOWR::<kvm_cpuid2>(KVMIO, 0x05);
    KVM_GET_EMULATED_CPUID = _IOWR::<kvm_cpuid2>(KVMIO, 0x09);
    KVM_GET_MSR_FEATURE_INDEX_LIST = _IOWR::<kvm_msr_list>(KVMIO, 0x0a);
    KVM_CREATE_VCPU = _IO(KVMIO, 0x41);
    KVM_GET_DIRTY_LOG = _IOW::<kvm_dirty_log>(KVMIO, 0x42);
    KVM_CLEAR_DIRTY_LOG = _IOWR::<kvm_clear_dirty_log>(KVMIO, 0xc0);
    KVM_SET_NR_MMU_PAGES = _IO(KVMIO, 0x44);
    KVM_SET_USER_MEMORY_REGION = _IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
    KVM_SET_TSS_ADDR = _IO(KVMIO, 0x47);
    KVM_SET_IDENTITY_MAP_ADDR = _IOW::<u64>(KVMIO, 0x48);
    KVM_SET_USER_MEMORY_REGION2 = _IOW::<kvm_userspace_memory_region2>(KVMIO, 0x49);
    KVM_CREATE_IRQCHIP = _IO(KVMIO, 0x60);
    KVM_IRQ_LINE = _IOW::<kvm_irq_level>(KVMIO, 0x61);
    KVM_GET_IRQCHIP = _IOWR::<kvm_irqchip>(KVMIO, 0x62);
    KVM_SET_IRQCHIP = _IOR::<kvm_irqchip>(KVMIO, 0x63);
    KVM_CREATE_PIT = _IO(KVMIO, 0x64);
    KVM_IRQ_LINE_STATUS = _IOWR::<kvm_irq_level>(KVMIO, 0x67);
    KVM_REGISTER_COALESCED_MMIO = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x67);
    KVM_UNREGISTER_COALESCED_MMIO = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x68);
    KVM_SET_GSI_ROUTING = _IOW::<kvm_irq_routing>(KVMIO, 0x6a);
    KVM_REINJECT_CONTROL = _IO(KVMIO, 0x71);
    KVM_IRQFD = _IOW::<kvm_irqfd>(KVMIO, 0x76);
    KVM_CREATE_PIT2 = _IOW::<kvm_pit_config>(KVMIO, 0x77);
    KVM_SET_BOOT_CPU_ID = _IO(KVMIO, 0x78);
    KVM_IOEVENTFD = _IOW::<kvm_ioeventfd>(KVMIO, 0x79);
    KVM_SET_CLOCK = _IOW::<kvm_clock_data>(KVMIO, 0x7b);
    KVM_GET_CLOCK = _IOR::<kvm_clock_data>(KVMIO, 0x7c);
    KVM_X86_SET_MSR_FILTER = _IOW::<[u64; crate::vm::msr_filter::WORDS]>(KVMIO, 0xc6);
    KVM_X86_SET_MSR_FILTER_COMPAT = _IOW::<[u32; crate::vm::msr_filter::COMPAT_WORDS]>(KVMIO, 0xc6);
    KVM_SET_TSC_KHZ = _IO(KVMIO, 0xa2);
    KVM_GET_TSC_KHZ = _IO(KVMIO, 0xa3);
    KVM_SIGNAL_MSI = _IOW::<kvm_msi>(KVMIO, 0xa5);
    KVM_GET_PIT = _IOWR::<kvm_pit_state>(KVMIO, 0x65);
    KVM_SET_PIT = _IOR::<kvm_pit_state>(KVMIO, 0x66);
    KVM_GET_PIT2 = _IOR::<kvm_pit_state2>(KVMIO, 0x9f);
    KVM_SET_PIT2 = _IOW::<kvm_pit_state2>(KVMIO, 0xa0);
    KVM_ENABLE_CAP = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);
    KVM_GET_STATS_FD = _IO(KVMIO, 0xce);
    KVM_RUN = _IO(KVMIO, 0x80);
    KVM_GET_REGS = _IOR::<kvm_regs>(KVMIO, 0x81);
    KVM_SET_REGS = _IOW::<kvm_regs>(KVMIO, 0x82);
    KVM_GET_SREGS = _IOR::<kvm_sregs>(KVMIO, 0x83);
    KVM_SET_SREGS = _IOW::<kvm_sregs>(KVMIO, 0x84);
    KVM_GET_SREGS2 = _IOR::<kvm_sregs2>(KVMIO, 0xcc);
    KVM_SET_SREGS2 = _IOW::<kvm_sregs2>(KVMIO, 0xcd);
    KVM_TRANSLATE = _IOWR::<kvm_translation>(KVMIO, 0x85);
    KVM_INTERRUPT = _IOW::<kvm_interrupt>(KVMIO, 0x86);
    KVM_GET_MSRS = _IOWR::<kvm_msrs>(KVMIO, 0x88);
    KVM_SET_MSRS = _IOW::<kvm_msrs>(KVMIO, 0x89);
    KVM_SET_SIGNAL_MASK = _IOW::<kvm_signal_mask>(KVMIO, 0x8b);
    KVM_GET_FPU = _IOR::<kvm_fpu>(KVMIO, 0x8c);
    KVM_SET_FPU = _IOW::<kvm_fpu>(KVMIO, 0x8d);
    KVM_GET_LAPIC = _IOR::<kvm_lapic_state>(KVMIO, 0x8e);
    KVM_SET_LAPIC = _IOW::<kvm_lapic_state>(KVMIO, 0x8f);
    KVM_SET_CPUID2 = _IOW::<kvm_cpuid2>(KVMIO, 0x90);
    KVM_GET_CPUID2 = _IOWR::<kvm_cpuid2>(KVMIO, 0x91);
    KVM_TPR_ACCESS_REPORTING = _IOWR::<kvm_tpr_access_ctl>(KVMIO, 0x92);
    KVM_SET_VAPIC_ADDR = _IOW::<kvm_vapic_addr>(KVMIO, 0x93);
    KVM_GET_MP_STATE = _IOR::<kvm_mp_state>(KVMIO, 0x98);
    KVM_SET_MP_STATE = _IOW::<kvm_mp_state>(KVMIO, 0x99);
    KVM_NMI = _IO(KVMIO, 0x9a);
    KVM_SET_GUEST_DEBUG = _IOW::<kvm_guest_debug>(KVMIO, 0x9b);
    KVM_X86_SETUP_MCE = _IOW::<u64>(KVMIO, 0x9c);
    KVM_X86_GET_MCE_CAP_SUPPORTED = _IOR::<u64>(KVMIO, 0x9d);
    KVM_X86_SET_MCE = _IOW::<kvm_x86_mce>(KVMIO, 0x9e);
    KVM_GET_VCPU_EVENTS = _IOR::<kvm_vcpu_events>(KVMIO, 0x9f);
    KVM_SET_VCPU_EVENTS = _IOW::<kvm_vcpu_events>(KVMIO, 0xa0);
    KVM_GET_DEBUGREGS = _IOR::<kvm_debugregs>(KVMIO, 0xa1);
    KVM_SET_DEBUGREGS = _IOW::<kvm_debugregs>(KVMIO, 0xa2);
    KVM_GET_XSAVE = _IOR::<kvm_xsave>(KVMIO, 0xa4);
    KVM_SET_XSAVE = _IOW::<kvm_xsave>(KVMIO, 0xa5);
    KVM_GET_XSAVE2 = _IOR::<kvm_xsave>(KVMIO, 0xcf);
    KVM_GET_XCRS = _IOR::<kvm_xcrs>(KVMIO, 0xa6);
    KVM_SET_XCRS = _IOW::<kvm_xcrs>(KVMIO, 0xa7);
    KVM_SET_CPUID = _IOW::<kvm_cpuid2>(KVMIO, 0x8a);
    KVM_CREATE_DEVICE = _IOWR::<kvm_create_device>(KVMIO, 0xe0);
    KVM_SET_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe1);
    KVM_GET_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe2);
    KVM_HAS_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe3);
    KVM_KVMCLOCK_CTRL = _IO(KVMIO, 0xad);
}
