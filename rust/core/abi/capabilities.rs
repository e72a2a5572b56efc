// SPDX-License-Identifier: GPL-2.0

//! KVM_CHECK_EXTENSION.

use super::reason::*;
use super::Status;
use super::Status::{Differs, Done, Excluded, Planned};
use crate::irq::routing::MAX_ROUTES;

/// A capability.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its number in the uapi header.
    pub number: u64,
    /// Its name in the uapi header.
    pub name: &'static str,
    /// What C KVM answers to KVM_CHECK_EXTENSION, and rkvm once it is done.
    pub answer: Answer,
    /// How far it is.
    pub status: Status,
}

/// What KVM_CHECK_EXTENSION answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Always this.
    Value(u32),
    /// This depends on the host, the module parameters or the VM.
    Host(Fact),
}

/// Which field of [`HostFacts`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the fields'
pub enum Fact {
    NrVcpus,
    MaxVcpus,
    MaxVcpuId,
    NrMemslots,
    AddressSpaces,
    Xsave2Size,
    ApicBusCyclesNs,
    Xcrs,
    TscScaling,
    Smm,
    DisableExits,
    X2apicApi,
    SmallerMaxphyaddr,
    BusLockExit,
    NotifyVmexit,
    Pmu,
    Ept,
    Quirks,
    VmTypes,
    StealTime,
}

/// What the answers depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Online processors, at most `max_vcpus`.
    pub nr_vcpus: u32,
    /// Most vCPUs of a VM.
    pub max_vcpus: u32,
    /// Highest vCPU id plus one.
    pub max_vcpu_id: u32,
    /// Memory slots of user space.
    pub nr_memslots: u32,
    /// Address spaces of a VM: 2 with SMM.
    pub address_spaces: u32,
    /// Bytes of KVM_GET_XSAVE2, at least 4096.
    pub xsave2_size: u32,
    /// Nanoseconds of a cycle of the APIC bus.
    pub apic_bus_cycle_ns: u32,
    /// The host has XSAVE.
    pub xcrs: bool,
    /// The processor scales the TSC.
    pub tsc_scaling: bool,
    /// SMM is emulated.
    pub smm: bool,
    /// KVM_X86_DISABLE_EXITS_* that are allowed.
    pub disable_exits: u32,
    /// KVM_X2APIC_API_* flags that are valid.
    pub x2apic_api: u32,
    /// The parameter allow_smaller_maxphyaddr.
    pub smaller_maxphyaddr: bool,
    /// The processor detects bus locks in guests.
    pub bus_lock_exit: bool,
    /// The processor has notify exits.
    pub notify_vmexit: bool,
    /// Guests have a PMU.
    pub pmu: bool,
    /// EPT is on.
    pub ept: bool,
    /// KVM_X86_QUIRK_* that can be switched off.
    pub quirks: u32,
    /// Bit n: VM type n can be created.
    pub vm_types: u32,
    /// The kernel knows how long threads wait for a CPU.
    pub steal_time: bool,
}

impl HostFacts {
    fn answer(&self, fact: Fact) -> u32 {
        match fact {
            Fact::NrVcpus => self.nr_vcpus,
            Fact::MaxVcpus => self.max_vcpus,
            Fact::MaxVcpuId => self.max_vcpu_id,
            Fact::NrMemslots => self.nr_memslots,
            Fact::AddressSpaces => self.address_spaces,
            Fact::Xsave2Size => self.xsave2_size.max(4096),
            Fact::ApicBusCyclesNs => self.apic_bus_cycle_ns,
            Fact::Xcrs => self.xcrs.into(),
            Fact::TscScaling => self.tsc_scaling.into(),
            Fact::Smm => self.smm.into(),
            Fact::DisableExits => self.disable_exits,
            Fact::X2apicApi => self.x2apic_api,
            Fact::SmallerMaxphyaddr => self.smaller_maxphyaddr.into(),
            // KVM_BUS_LOCK_DETECTION_OFF and _EXIT.
            Fact::BusLockExit => {
                if self.bus_lock_exit {
                    3
                } else {
                    0
                }
            }
            Fact::NotifyVmexit => self.notify_vmexit.into(),
            Fact::Pmu => self.pmu.into(),
            Fact::Ept => self.ept.into(),
            Fact::Quirks => self.quirks,
            Fact::VmTypes => self.vm_types,
            Fact::StealTime => self.steal_time.into(),
        }
    }
}

/// The answer to KVM_CHECK_EXTENSION: 0 for what is unknown or not done.
pub fn check_extension(number: u64, facts: &HostFacts) -> u32 {
    match CAPABILITIES.binary_search_by_key(&number, |cap| cap.number) {
        Ok(i) => match CAPABILITIES.get(i) {
            Some(Capability {
                status: Done | Differs(_),
                answer: Answer::Value(value),
                ..
            }) => *value,
            Some(Capability {
                status: Done | Differs(_),
                answer: Answer::Host(fact),
                ..
            }) => facts.answer(*fact),
            _ => 0,
        },
        Err(_) => 0,
    }
}

macro_rules! capabilities {
    ($($n:literal $name:ident = $answer:expr, $status:expr;)*) => {
        /// All capabilities that concern x86, by number.
        pub const CAPABILITIES: &[Capability] = &[$(Capability {
            number: $n,
            name: stringify!($name),
            answer: $answer,
            status: $status,
        },)*];
    };
}

use Answer::{Host, Value};
use Fact::*;

capabilities! {
    0 KVM_CAP_IRQCHIP = Value(1), Done;
    1 KVM_CAP_HLT = Value(1), Done;
    2 KVM_CAP_MMU_SHADOW_CACHE_CONTROL = Value(1), Done;
    3 KVM_CAP_USER_MEMORY = Value(1), Done;
    4 KVM_CAP_SET_TSS_ADDR = Value(1), Done;
    6 KVM_CAP_VAPIC = Value(1), Done;
    7 KVM_CAP_EXT_CPUID = Value(1), Done;
    8 KVM_CAP_CLOCKSOURCE = Value(1), Done;
    9 KVM_CAP_NR_VCPUS = Host(NrVcpus), Done;
    10 KVM_CAP_NR_MEMSLOTS = Host(NrMemslots), Done;
    11 KVM_CAP_PIT = Value(1), Done;
    12 KVM_CAP_NOP_IO_DELAY = Value(1), Done;
    13 KVM_CAP_PV_MMU = Value(0), Excluded(OBSOLETE);
    14 KVM_CAP_MP_STATE = Value(1), Done;
    15 KVM_CAP_COALESCED_MMIO = Value(2), Done;
    16 KVM_CAP_SYNC_MMU = Value(1), Done;
    18 KVM_CAP_IOMMU = Value(0), Excluded(OBSOLETE);
    21 KVM_CAP_DESTROY_MEMORY_REGION_WORKS = Value(1), Done;
    22 KVM_CAP_USER_NMI = Value(1), Done;
    23 KVM_CAP_SET_GUEST_DEBUG = Value(1), Done;
    24 KVM_CAP_REINJECT_CONTROL = Value(1), Done;
    25 KVM_CAP_IRQ_ROUTING = Value(MAX_ROUTES as u32), Done;
    26 KVM_CAP_IRQ_INJECT_STATUS = Value(1), Done;
    29 KVM_CAP_ASSIGN_DEV_IRQ = Value(0), Excluded(OBSOLETE);
    30 KVM_CAP_JOIN_MEMORY_REGIONS_WORKS = Value(1), Done;
    31 KVM_CAP_MCE = Value(32), Done;
    32 KVM_CAP_IRQFD = Value(1), Done;
    33 KVM_CAP_PIT2 = Value(1), Done;
    34 KVM_CAP_SET_BOOT_CPU_ID = Value(1), Done;
    35 KVM_CAP_PIT_STATE2 = Value(1), Done;
    36 KVM_CAP_IOEVENTFD = Value(1), Done;
    37 KVM_CAP_SET_IDENTITY_MAP_ADDR = Value(1), Done;
    38 KVM_CAP_XEN_HVM = Value(0), Excluded(XEN);
    39 KVM_CAP_ADJUST_CLOCK = Value(0xe), Done;
    40 KVM_CAP_INTERNAL_ERROR_DATA = Value(1), Done;
    41 KVM_CAP_VCPU_EVENTS = Value(1), Done;
    44 KVM_CAP_HYPERV = Value(0), Excluded(HYPERV);
    45 KVM_CAP_HYPERV_VAPIC = Value(0), Excluded(HYPERV);
    46 KVM_CAP_HYPERV_SPIN = Value(0), Excluded(HYPERV);
    47 KVM_CAP_PCI_SEGMENT = Value(1), Done;
    49 KVM_CAP_INTR_SHADOW = Value(0), Excluded(UNUSED);
    50 KVM_CAP_DEBUGREGS = Value(1), Done;
    51 KVM_CAP_X86_ROBUST_SINGLESTEP = Value(1), Done;
    54 KVM_CAP_ENABLE_CAP = Value(1), Done;
    55 KVM_CAP_XSAVE = Value(1), Done;
    56 KVM_CAP_XCRS = Host(Xcrs), Done;
    59 KVM_CAP_ASYNC_PF = Value(1), Planned;
    60 KVM_CAP_TSC_CONTROL = Host(TscScaling), Done;
    61 KVM_CAP_GET_TSC_KHZ = Value(1), Done;
    66 KVM_CAP_MAX_VCPUS = Host(MaxVcpus), Done;
    69 KVM_CAP_SW_TLB = Value(0), Excluded(OTHER_ARCH);
    70 KVM_CAP_ONE_REG = Value(1), Planned;
    72 KVM_CAP_TSC_DEADLINE_TIMER = Value(1), Done;
    74 KVM_CAP_SYNC_REGS = Value(7), Done;
    75 KVM_CAP_PCI_2_3 = Value(0), Excluded(OBSOLETE);
    76 KVM_CAP_KVMCLOCK_CTRL = Value(1), Done;
    77 KVM_CAP_SIGNAL_MSI = Value(1), Done;
    81 KVM_CAP_READONLY_MEM = Value(1), Done;
    82 KVM_CAP_IRQFD_RESAMPLE = Value(1), Done;
    89 KVM_CAP_DEVICE_CTRL = Value(1), Planned;
    90 KVM_CAP_IRQ_MPIC = Value(0), Excluded(OTHER_ARCH);
    92 KVM_CAP_IRQ_XICS = Value(0), Excluded(OTHER_ARCH);
    95 KVM_CAP_EXT_EMUL_CPUID = Value(1), Done;
    96 KVM_CAP_HYPERV_TIME = Value(0), Excluded(HYPERV);
    97 KVM_CAP_IOAPIC_POLARITY_IGNORED = Value(1), Done;
    98 KVM_CAP_ENABLE_CAP_VM = Value(1), Done;
    100 KVM_CAP_IOEVENTFD_NO_LENGTH = Value(1), Done;
    101 KVM_CAP_VM_ATTRIBUTES = Value(0), Excluded(OTHER_ARCH);
    105 KVM_CAP_CHECK_EXTENSION_VM = Value(1), Done;
    116 KVM_CAP_DISABLE_QUIRKS = Value(1), Done;
    117 KVM_CAP_X86_SMM = Host(Smm), Planned;
    118 KVM_CAP_MULTI_ADDRESS_SPACE = Host(AddressSpaces), Differs(NO_SMM);
    119 KVM_CAP_GUEST_DEBUG_HW_BPS = Value(0), Excluded(OTHER_ARCH);
    120 KVM_CAP_GUEST_DEBUG_HW_WPS = Value(0), Excluded(OTHER_ARCH);
    121 KVM_CAP_SPLIT_IRQCHIP = Value(1), Done;
    122 KVM_CAP_IOEVENTFD_ANY_LENGTH = Value(1), Done;
    123 KVM_CAP_HYPERV_SYNIC = Value(0), Excluded(HYPERV);
    127 KVM_CAP_VCPU_ATTRIBUTES = Value(1), Done;
    128 KVM_CAP_MAX_VCPU_ID = Host(MaxVcpuId), Done;
    129 KVM_CAP_X2APIC_API = Host(X2apicApi), Done;
    131 KVM_CAP_MSI_DEVID = Value(0), Excluded(OTHER_ARCH);
    136 KVM_CAP_IMMEDIATE_EXIT = Value(1), Done;
    143 KVM_CAP_X86_DISABLE_EXITS = Host(DisableExits), Differs(SOME_EXITS);
    148 KVM_CAP_HYPERV_SYNIC2 = Value(0), Excluded(HYPERV);
    149 KVM_CAP_HYPERV_VP_INDEX = Value(0), Excluded(HYPERV);
    153 KVM_CAP_GET_MSR_FEATURES = Value(1), Done;
    154 KVM_CAP_HYPERV_EVENTFD = Value(0), Excluded(HYPERV);
    155 KVM_CAP_HYPERV_TLBFLUSH = Value(0), Excluded(HYPERV);
    157 KVM_CAP_NESTED_STATE = Value(0), Excluded(NESTED);
    159 KVM_CAP_MSR_PLATFORM_INFO = Value(1), Done;
    161 KVM_CAP_HYPERV_SEND_IPI = Value(0), Excluded(HYPERV);
    162 KVM_CAP_COALESCED_PIO = Value(1), Done;
    163 KVM_CAP_HYPERV_ENLIGHTENED_VMCS = Value(0), Excluded(HYPERV);
    164 KVM_CAP_EXCEPTION_PAYLOAD = Value(1), Done;
    166 KVM_CAP_MANUAL_DIRTY_LOG_PROTECT = Value(0), Excluded(OBSOLETE);
    167 KVM_CAP_HYPERV_CPUID = Value(0), Excluded(HYPERV);
    168 KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = Value(3), Done;
    173 KVM_CAP_PMU_EVENT_FILTER = Value(1), Planned;
    175 KVM_CAP_HYPERV_DIRECT_TLBFLUSH = Value(0), Excluded(HYPERV);
    182 KVM_CAP_HALT_POLL = Value(1), Planned;
    183 KVM_CAP_ASYNC_PF_INT = Value(1), Planned;
    184 KVM_CAP_LAST_CPU = Value(1), Done;
    185 KVM_CAP_SMALLER_MAXPHYADDR = Host(SmallerMaxphyaddr), Planned;
    187 KVM_CAP_STEAL_TIME = Host(StealTime), Differs(NOT_PREEMPTED);
    188 KVM_CAP_X86_USER_SPACE_MSR = Value(1), Done;
    189 KVM_CAP_X86_MSR_FILTER = Value(1), Done;
    190 KVM_CAP_ENFORCE_PV_FEATURE_CPUID = Value(1), Done;
    191 KVM_CAP_SYS_HYPERV_CPUID = Value(0), Excluded(HYPERV);
    192 KVM_CAP_DIRTY_LOG_RING = Value(65536 * 16), Planned;
    193 KVM_CAP_X86_BUS_LOCK_EXIT = Host(BusLockExit), Planned;
    195 KVM_CAP_SET_GUEST_DEBUG2 = Value(0x001f_0003), Done;
    196 KVM_CAP_SGX_ATTRIBUTE = Value(0), Excluded(SGX);
    197 KVM_CAP_VM_COPY_ENC_CONTEXT_FROM = Value(0), Excluded(ENCRYPTION);
    198 KVM_CAP_PTP_KVM = Value(0), Excluded(OTHER_ARCH);
    199 KVM_CAP_HYPERV_ENFORCE_CPUID = Value(0), Excluded(HYPERV);
    200 KVM_CAP_SREGS2 = Value(1), Done;
    201 KVM_CAP_EXIT_HYPERCALL = Value(1 << 12), Planned;
    203 KVM_CAP_BINARY_STATS_FD = Value(1), Done;
    204 KVM_CAP_EXIT_ON_EMULATION_FAILURE = Value(1), Done;
    206 KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM = Value(0), Excluded(ENCRYPTION);
    207 KVM_CAP_VM_GPA_BITS = Value(0), Excluded(OTHER_ARCH);
    208 KVM_CAP_XSAVE2 = Host(Xsave2Size), Done;
    209 KVM_CAP_SYS_ATTRIBUTES = Value(1), Done;
    212 KVM_CAP_PMU_CAPABILITY = Host(Pmu), Planned;
    213 KVM_CAP_DISABLE_QUIRKS2 = Host(Quirks), Differs(SOME_QUIRKS);
    214 KVM_CAP_VM_TSC_CONTROL = Host(TscScaling), Done;
    215 KVM_CAP_SYSTEM_EVENT_DATA = Value(1), Planned;
    218 KVM_CAP_X86_TRIPLE_FAULT_EVENT = Value(1), Done;
    219 KVM_CAP_X86_NOTIFY_VMEXIT = Host(NotifyVmexit), Planned;
    220 KVM_CAP_VM_DISABLE_NX_HUGE_PAGES = Value(1), Planned;
    223 KVM_CAP_DIRTY_LOG_RING_ACQ_REL = Value(65536 * 16), Planned;
    225 KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP = Value(0), Excluded(OTHER_ARCH);
    226 KVM_CAP_PMU_EVENT_MASKED_EVENTS = Value(1), Planned;
    227 KVM_CAP_COUNTER_OFFSET = Value(0), Excluded(OTHER_ARCH);
    231 KVM_CAP_USER_MEMORY2 = Value(1), Done;
    232 KVM_CAP_MEMORY_FAULT_INFO = Value(1), Planned;
    233 KVM_CAP_MEMORY_ATTRIBUTES = Value(0), Planned;
    234 KVM_CAP_GUEST_MEMFD = Value(1), Planned;
    235 KVM_CAP_VM_TYPES = Host(VmTypes), Done;
    236 KVM_CAP_PRE_FAULT_MEMORY = Host(Ept), Planned;
    237 KVM_CAP_X86_APIC_BUS_CYCLES_NS = Host(ApicBusCyclesNs), Done;
    238 KVM_CAP_X86_GUEST_MODE = Value(1), Done;
    244 KVM_CAP_GUEST_MEMFD_FLAGS = Value(3), Planned;
}
