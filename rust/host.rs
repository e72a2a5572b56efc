// SPDX-License-Identifier: GPL-2.0

//! What rkvm knows about this host: its VMX capabilities, its CPUID, its feature registers. Read once at load.

use kernel::prelude::*;
use rkvm_core::{
    cpuid::{
        features::Implemented,
        kvm_feature,
        xstate::{
            XstateSizes,
            SUPPORTED_XCR0, //
        },
        HostCpuid,
        Regs, //
    },
    msr::{
        list,
        number, //
    },
    vmx::negotiate::{
        negotiate,
        CapabilityMsrs,
        Params,
        VmcsConfig, //
    },
};

use crate::sys::{
    cpu,
    fpu::GuestXState,
    module_static::{
        Installed,
        ModuleStatic, //
    },
    msr,
    params,
    vmx::HwEnabled, //
};

const CPUID_7_ECX_UMIP: u32 = 1 << 2;
/// The host has CR4.PKE set.
const CPUID_7_ECX_OSPKE: u32 = 1 << 4;
const CPUID_1_ECX_VMX: u32 = 1 << 5;
const CPUID_1_ECX_HYPERVISOR: u32 = 1 << 31;
const FEAT_CTL_LOCKED: u64 = 1 << 0;
const FEAT_CTL_VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// The facts.
pub(crate) struct Host {
    /// VMX operation is on everywhere.
    pub(crate) hw: HwEnabled,
    /// The controls that every VMCS starts from.
    pub(crate) vmcs: VmcsConfig,
    /// The host's XCR0 and IA32_XSS.
    pub(crate) xstate: GuestXState,
    /// TSC frequency in kHz.
    pub(crate) tsc_khz: u32,
    /// What rkvm can do on this host, as far as CPUID says.
    pub(crate) implemented: Implemented,
    /// Sizes of the XSAVE components.
    pub(crate) xstate_sizes: XstateSizes,
    /// IA32_ARCH_CAPABILITIES as a guest is offered it.
    pub(crate) arch_capabilities: u64,
    /// The L1 data cache has to be flushed before each entry.
    pub(crate) flush_l1d: bool,
    /// The CPU's buffers have to be cleared before each entry of a guest that reaches a device.
    pub(crate) leaks_to_devices: bool,
    /// Guests must not execute large pages (iTLB multihit).
    pub(crate) small_code: bool,
    /// This host is a guest itself: what the SDM leaves undefined need not be as processors have it.
    pub(crate) virtual_cpu: bool,
}

static HOST: ModuleStatic<Host> = ModuleStatic::new();

/// The facts, from load to unload.
#[inline]
pub(crate) fn host() -> &'static Host {
    &HOST
}

/// Keeps [`host`] valid.
pub(crate) struct Registration {
    _host: Installed<Host>,
}

impl Registration {
    /// Gathers the facts and enters VMX operation. EOPNOTSUPP, with the name of what is missing in the log.
    pub(crate) fn new() -> Result<Self> {
        let params = negotiation_params();
        let vmcs = CapabilityMsrs::read(msr::read_safe)
            .and_then(|caps| negotiate(&caps, &params))
            .map_err(|missing| {
                pr_err!("{}\n", format_args!("{missing}"));
                eopnotsupp()
            })?;
        if !vmcs.features.ept {
            pr_err!("rkvm needs EPT, which this CPU lacks or a parameter switches off\n");
            return Err(eopnotsupp());
        }
        let xstate = GuestXState::of_host();
        let host = Host {
            hw: HwEnabled::new()?,
            implemented: implemented(&vmcs, &xstate),
            vmcs,
            xstate,
            xstate_sizes: XstateSizes::from_host(&HostCpu),
            arch_capabilities: list::feature_value(
                number::ARCH_CAPABILITIES,
                &HostCpu,
                cpu::absent_weaknesses(),
                msr::read_safe,
            )
            .unwrap_or(0),
            tsc_khz: msr::tsc_khz(),
            flush_l1d: cpu::needs_l1d_flush(),
            leaks_to_devices: cpu::leaks_to_devices(),
            small_code: params::nx_huge_pages(),
            virtual_cpu: msr::cpuid(1, 0)[2] & CPUID_1_ECX_HYPERVISOR != 0,
        };
        Ok(Self {
            _host: HOST.install(host),
        })
    }
}

impl Host {
    /// TSC frequency in Hz.
    #[inline]
    pub(crate) fn tsc_hz(&self) -> u64 {
        u64::from(self.tsc_khz).wrapping_mul(1000)
    }

    /// Bytes of the XSAVE area with everything that a guest may have, in the standard format.
    pub(crate) fn xsave_size(&self) -> u32 {
        self.xstate_sizes
            .required(self.implemented.xcr0, false)
            .max(4096)
    }
}

/// The host's CPUID instruction. What the kernel does without, because it is broken or by its command line, no guest gets.
pub(crate) struct HostCpu;

impl HostCpuid for HostCpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        let [eax, ebx, ecx, edx] = msr::kernel_cpuid(leaf, subleaf);
        Regs { eax, ebx, ecx, edx }
    }
}

/// What KVM's own CPUID leaf offers: the paravirtual clock, and that port 0x80 needs no delays.
const KVM_FEATURES: u32 = kvm_feature::CLOCKSOURCE
    | kvm_feature::CLOCKSOURCE2
    | kvm_feature::CLOCKSOURCE_STABLE_BIT
    | kvm_feature::NOP_IO_DELAY
    | kvm_feature::PV_UNHALT;

/// What rkvm implements, on this host.
fn implemented(vmcs: &VmcsConfig, xstate: &GuestXState) -> Implemented {
    let f = &vmcs.features;
    Implemented {
        ept: f.ept,
        pku: msr::cpuid(7, 0)[2] & CPUID_7_ECX_OSPKE != 0,
        invpcid: f.invpcid,
        rdtscp: f.rdtscp,
        xsaves: f.xsaves,
        waitpkg: false,
        umip: msr::cpuid(7, 0)[2] & CPUID_7_ECX_UMIP != 0,
        spec_ctrl: true,
        xcr0: xstate.host_xcr0 & SUPPORTED_XCR0,
        xss: 0,
        host_phys_bits: msr::cpuid(0x8000_0008, 0)[0] & 0xff,
        kvm_features: if cpu::counts_run_delay() {
            KVM_FEATURES | kvm_feature::STEAL_TIME
        } else {
            KVM_FEATURES
        },
    }
}

/// The module parameters that bear on the VMCS.
fn negotiation_params() -> Params {
    Params {
        ept: params::ept(),
        eptad: params::eptad(),
        unrestricted_guest: params::unrestricted_guest(),
        vpid: params::vpid(),
        ple_gap: params::ple_gap(),
        ple_window: params::ple_window(),
        preemption_timer: params::preemption_timer(),
        flexpriority: params::flexpriority(),
        pml: params::pml(),
        // Not used yet; what is off here is off in every VMCS.
        enable_apicv: false,
        vnmi: true,
    }
}

/// EOPNOTSUPP, which the `kernel` crate has no name for.
fn eopnotsupp() -> Error {
    Error::from_errno(-95)
}

/// ENODEV, with words in the log, on a CPU without VMX; EOPNOTSUPP if the firmware has it switched off.
pub(crate) fn check_cpu() -> Result {
    if msr::cpuid(1, 0)[2] & CPUID_1_ECX_VMX == 0 {
        pr_err!(
            "this CPU has no VMX (CPUID.1:ECX bit 5 is clear): rkvm needs an Intel CPU with VT-x\n"
        );
        return Err(ENODEV);
    }
    let wanted = FEAT_CTL_LOCKED | FEAT_CTL_VMX_OUTSIDE_SMX;
    if msr::read_safe(number::FEAT_CTL).is_some_and(|v| v & wanted == wanted) {
        return Ok(());
    }
    pr_err!("VMX is switched off by the firmware (IA32_FEAT_CTL): switch VT-x on in its set-up\n");
    Err(eopnotsupp())
}
