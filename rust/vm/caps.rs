// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP on a VM (api.rst): what user space switches on for the whole VM, and vCPUs look at while they run.
//!
//! A plain switch is an atomic that anybody reads. What may only change before the first vCPU is there is checked under
//! the VM's set-up lock.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering::Relaxed, //
};

use kernel::prelude::*;
use rkvm_core::irq::routing::MAX_ROUTES;

use super::{
    vcpus::MAX_VCPU_IDS,
    Vm, //
};
use crate::{
    host::host,
    memory::{
        INITIALLY_SET,
        MANUAL_PROTECT, //
    },
    sys::uabi::{
        kvm_enable_cap,
        KVM_CAP_DISABLE_QUIRKS,
        KVM_CAP_DISABLE_QUIRKS2,
        KVM_CAP_EXCEPTION_PAYLOAD,
        KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        KVM_CAP_MAX_VCPU_ID,
        KVM_CAP_MSR_PLATFORM_INFO,
        KVM_CAP_SPLIT_IRQCHIP,
        KVM_CAP_X2APIC_API,
        KVM_CAP_X86_APIC_BUS_CYCLES_NS,
        KVM_CAP_X86_DISABLE_EXITS,
        KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        KVM_CAP_X86_USER_SPACE_MSR, //
    },
};

/// KVM_X86_DISABLE_EXITS_HLT and _PAUSE: what rkvm can leave to the guest.
const DISABLE_EXITS_HLT: u32 = 1 << 1;
const DISABLE_EXITS_PAUSE: u32 = 1 << 2;
pub(crate) const DISABLE_EXITS: u32 = DISABLE_EXITS_HLT | DISABLE_EXITS_PAUSE;

/// KVM_X86_QUIRK_OUT_7E_INC_RIP, _MISC_ENABLE_NO_MWAIT and _MWAIT_NEVER_UD_FAULTS.
const QUIRK_OUT_7E_INC_RIP: u32 = 1 << 3;
const QUIRK_MISC_ENABLE_NO_MWAIT: u32 = 1 << 4;
const QUIRK_MWAIT_NEVER_UD_FAULTS: u32 = 1 << 6;
/// The quirks that rkvm has, and can be talked out of.
pub(crate) const QUIRKS: u32 =
    QUIRK_OUT_7E_INC_RIP | QUIRK_MISC_ENABLE_NO_MWAIT | QUIRK_MWAIT_NEVER_UD_FAULTS;

/// `KVM_MSR_EXIT_REASON_*`: invalid, unknown, filtered.
const USER_SPACE_MSRS: u64 = 7;

/// KVM_CAP_X86_APIC_BUS_CYCLES_NS, if nothing is said. The most with which 2^32 cycles of a timer that counts each 128th
/// are less than 2^64 ns.
pub(crate) const APIC_BUS_CYCLE_NS: u32 = 1;
const MAX_APIC_BUS_CYCLE_NS: u64 = u64::MAX / (u32::MAX as u64 * 128);

/// The switches.
pub(crate) struct Caps {
    disabled_quirks: AtomicU32,
    disabled_exits: AtomicU32,
    platform_info_readable: AtomicBool,
    exception_payload: AtomicBool,
    user_space_msrs: AtomicU32,
    exit_on_emulation_failure: AtomicBool,
    triple_fault_event: AtomicBool,
    /// KVM_SET_BOOT_CPU_ID.
    boot_cpu_id: AtomicU32,
    /// KVM_CAP_MAX_VCPU_ID; 0 for the most there are.
    max_vcpu_ids: AtomicU32,
    /// KVM_SET_TSC_KHZ: what new vCPUs start with.
    tsc_khz: AtomicU32,
    apic_bus_cycle_ns: AtomicU32,
}

impl Caps {
    /// Those of a new VM.
    pub(crate) fn new() -> Self {
        Self {
            disabled_quirks: AtomicU32::new(0),
            disabled_exits: AtomicU32::new(0),
            platform_info_readable: AtomicBool::new(true),
            exception_payload: AtomicBool::new(false),
            user_space_msrs: AtomicU32::new(0),
            exit_on_emulation_failure: AtomicBool::new(false),
            triple_fault_event: AtomicBool::new(false),
            boot_cpu_id: AtomicU32::new(0),
            max_vcpu_ids: AtomicU32::new(0),
            tsc_khz: AtomicU32::new(host().tsc_khz),
            apic_bus_cycle_ns: AtomicU32::new(APIC_BUS_CYCLE_NS),
        }
    }

    /// Exceptions that wait are told apart from those in delivery, and keep their payload.
    pub(crate) fn exception_payload(&self) -> bool {
        self.exception_payload.load(Relaxed)
    }

    /// KVM_GET_VCPU_EVENTS tells of triple faults.
    pub(crate) fn triple_fault_event(&self) -> bool {
        self.triple_fault_event.load(Relaxed)
    }

    /// Which refused MSR accesses go to user space (`KVM_MSR_EXIT_REASON_*`).
    pub(crate) fn user_space_msrs(&self) -> u32 {
        self.user_space_msrs.load(Relaxed)
    }

    /// What can't be emulated goes to user space also when the guest is in user mode, with the instruction's bytes.
    pub(crate) fn exit_on_emulation_failure(&self) -> bool {
        self.exit_on_emulation_failure.load(Relaxed)
    }

    /// The guest may read MSR_PLATFORM_INFO.
    pub(crate) fn platform_info_readable(&self) -> bool {
        self.platform_info_readable.load(Relaxed)
    }

    /// User space sees RIP behind an OUT to port 0x7e.
    pub(crate) fn moves_rip_past_out_7e(&self) -> bool {
        self.has_quirk(QUIRK_OUT_7E_INC_RIP)
    }

    /// CPUID's MONITOR bit does not follow IA32_MISC_ENABLE.
    pub(crate) fn misc_enable_no_mwait(&self) -> bool {
        self.has_quirk(QUIRK_MISC_ENABLE_NO_MWAIT)
    }

    /// MONITOR and MWAIT do nothing where CPUID does not have them, instead of #UD.
    pub(crate) fn mwait_never_faults(&self) -> bool {
        self.has_quirk(QUIRK_MWAIT_NEVER_UD_FAULTS)
    }

    fn has_quirk(&self, quirk: u32) -> bool {
        self.disabled_quirks.load(Relaxed) & quirk == 0
    }

    /// HLT does not exit.
    pub(crate) fn hlt_in_guest(&self) -> bool {
        self.disabled_exits.load(Relaxed) & DISABLE_EXITS_HLT != 0
    }

    /// PAUSE loops do not exit.
    pub(crate) fn pause_in_guest(&self) -> bool {
        self.disabled_exits.load(Relaxed) & DISABLE_EXITS_PAUSE != 0
    }

    /// The id of the bootstrap processor.
    pub(crate) fn boot_cpu_id(&self) -> u32 {
        self.boot_cpu_id.load(Relaxed)
    }

    /// vCPU ids are below this.
    pub(crate) fn max_vcpu_ids(&self) -> u32 {
        match self.max_vcpu_ids.load(Relaxed) {
            0 => MAX_VCPU_IDS,
            n => n,
        }
    }

    /// There is a vCPU: KVM_CAP_MAX_VCPU_ID comes too late. The caller has the set-up lock.
    pub(super) fn fix_vcpu_ids(&self) {
        self.max_vcpu_ids.store(self.max_vcpu_ids(), Relaxed);
    }

    /// The TSC frequency of new vCPUs, in kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.tsc_khz.load(Relaxed)
    }

    /// Nanoseconds of a cycle of the APIC bus, which local APICs count.
    pub(crate) fn apic_bus_cycle_ns(&self) -> u32 {
        self.apic_bus_cycle_ns.load(Relaxed)
    }
}

/// A switch that is 0 or 1. EINVAL for anything else.
fn switch(value: u64) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

/// EINVAL for bits outside `known`.
fn bits(value: u64, known: u64) -> Result<u32> {
    if value & !known != 0 {
        return Err(EINVAL);
    }
    Ok(value as u32)
}

impl Vm {
    /// KVM_ENABLE_CAP. EINVAL for a capability that can't be enabled, or an argument that it doesn't take.
    pub(super) fn enable_cap(&self, request: &kvm_enable_cap) -> Result {
        if request.flags != 0 {
            return Err(EINVAL);
        }
        let caps = &self.caps;
        let value = request.args.first().copied().unwrap_or(0);
        match request.cap {
            KVM_CAP_DISABLE_QUIRKS => {
                caps.disabled_quirks
                    .fetch_or(value as u32 & QUIRKS, Relaxed);
            }
            KVM_CAP_DISABLE_QUIRKS2 => {
                caps.disabled_quirks
                    .fetch_or(bits(value, QUIRKS.into())?, Relaxed);
            }
            KVM_CAP_SPLIT_IRQCHIP => self.split_irqchip(value)?,
            KVM_CAP_MAX_VCPU_ID => self.set_max_vcpu_ids(value)?,
            KVM_CAP_X2APIC_API => self.irq.enable_x2apic_api(value)?,
            KVM_CAP_X86_DISABLE_EXITS => {
                let exits = bits(value, DISABLE_EXITS.into())?;
                self.before_vcpus(EINVAL, || {
                    caps.disabled_exits.fetch_or(exits, Relaxed);
                })?;
            }
            KVM_CAP_MSR_PLATFORM_INFO => caps.platform_info_readable.store(value != 0, Relaxed),
            KVM_CAP_EXCEPTION_PAYLOAD => caps.exception_payload.store(value != 0, Relaxed),
            KVM_CAP_X86_TRIPLE_FAULT_EVENT => caps.triple_fault_event.store(value != 0, Relaxed),
            KVM_CAP_X86_USER_SPACE_MSR => caps
                .user_space_msrs
                .store(bits(value, USER_SPACE_MSRS)?, Relaxed),
            KVM_CAP_EXIT_ON_EMULATION_FAILURE => {
                caps.exit_on_emulation_failure
                    .store(switch(value)?, Relaxed);
            }
            KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => {
                let mode = bits(value, (MANUAL_PROTECT | INITIALLY_SET).into())?;
                if mode == INITIALLY_SET {
                    return Err(EINVAL);
                }
                self.memory.set_dirty_log_mode(mode);
            }
            KVM_CAP_X86_APIC_BUS_CYCLES_NS => self.set_apic_bus_cycle_ns(value)?,
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    /// KVM_CAP_X86_APIC_BUS_CYCLES_NS: EINVAL for a time that can't be or with vCPUs there, ENXIO without local APICs.
    fn set_apic_bus_cycle_ns(&self, value: u64) -> Result {
        if !(1..=MAX_APIC_BUS_CYCLE_NS).contains(&value) {
            return Err(EINVAL);
        }
        let _setup = self.setup.lock();
        if !self.irq.has_lapics() {
            return Err(ENXIO);
        }
        if self.vcpus.len() != 0 {
            return Err(EINVAL);
        }
        self.caps.apic_bus_cycle_ns.store(value as u32, Relaxed);
        Ok(())
    }

    /// KVM_CAP_SPLIT_IRQCHIP: local APICs in the kernel, PIC and I/O APIC in user space. EINVAL for more pins than there
    /// are routes, EEXIST for a VM that has a chip or a vCPU.
    fn split_irqchip(&self, pins: u64) -> Result {
        let pins = u32::try_from(pins)
            .ok()
            .filter(|n| *n as usize <= MAX_ROUTES)
            .ok_or(EINVAL)?;
        let _setup = self.setup.lock();
        if self.vcpus.len() != 0 {
            return Err(EEXIST);
        }
        self.irq.create_split(pins)
    }

    /// Does `change` unless there are vCPUs already.
    fn before_vcpus(&self, error: Error, change: impl FnOnce()) -> Result {
        let _setup = self.setup.lock();
        if self.vcpus.len() != 0 {
            return Err(error);
        }
        change();
        Ok(())
    }

    /// KVM_CAP_MAX_VCPU_ID: once, before the first vCPU, and not below the boot CPU's.
    fn set_max_vcpu_ids(&self, value: u64) -> Result {
        let n = u32::try_from(value)
            .ok()
            .filter(|n| *n <= MAX_VCPU_IDS)
            .ok_or(EINVAL)?;
        let _setup = self.setup.lock();
        let old = self.caps.max_vcpu_ids.load(Relaxed);
        if self.caps.boot_cpu_id() > n || (old != 0 && old != n) {
            return Err(EINVAL);
        }
        self.caps.max_vcpu_ids.store(n, Relaxed);
        Ok(())
    }

    /// KVM_SET_BOOT_CPU_ID: EBUSY once there are vCPUs, EINVAL for an id that there can't be.
    pub(super) fn set_boot_cpu_id(&self, value: u64) -> Result {
        let id = u32::try_from(value)
            .ok()
            .filter(|id| *id <= self.caps.max_vcpu_ids());
        let mut valid = false;
        self.before_vcpus(EBUSY, || {
            if let Some(id) = id {
                self.caps.boot_cpu_id.store(id, Relaxed);
                valid = true;
            }
        })?;
        if valid {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// KVM_SET_TSC_KHZ: EINVAL for a frequency that this host has not, or with vCPUs there.
    pub(super) fn set_default_tsc_khz(&self, wanted: u64) -> Result {
        let khz = crate::vcpu::tsc::checked_khz(wanted)?;
        self.before_vcpus(EINVAL, || self.caps.tsc_khz.store(khz, Relaxed))
    }
}
