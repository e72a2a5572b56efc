// SPDX-License-Identifier: GPL-2.0

//! From the capability MSRs and the module parameters to the controls that rkvm runs with.
//!
//! SDM volume 3, appendix "VMX Capability Reporting Facility". The choice is a table: each control is required, wanted
//! or only switched on while something needs it, and under which condition. What a processor lacks comes back by name.

mod capability;
mod wishes;

#[cfg(test)]
mod tests;

pub use capability::{ept_vpid, misc, CapabilityMsrs, Fixed};

use super::controls::{
    ControlWord,
    Controls,
    Entry,
    Exit,
    PinBased,
    Primary,
    Secondary,
    Tertiary, //
};
use crate::irq::lapic::Place;
use wishes::{Need, When};

/// Module parameters that bear on the negotiation, by the names that kvm and kvm_intel give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the parameters'
pub struct Params {
    pub ept: bool,
    pub eptad: bool,
    pub unrestricted_guest: bool,
    pub vpid: bool,
    pub flexpriority: bool,
    pub enable_apicv: bool,
    pub pml: bool,
    pub preemption_timer: bool,
    pub vnmi: bool,
    /// TSC ticks between two PAUSEs of one loop; 0 switches pause-loop exiting off.
    pub ple_gap: u32,
    /// TSC ticks that a loop may last.
    pub ple_window: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            ept: true,
            eptad: true,
            unrestricted_guest: true,
            vpid: true,
            flexpriority: true,
            enable_apicv: true,
            pml: true,
            preemption_timer: true,
            vnmi: true,
            ple_gap: 128,
            ple_window: 4096,
        }
    }
}

/// Why the module can't run on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A capability MSR could not be read.
    Msr(&'static str),
    /// A control that rkvm needs can't be set.
    Control {
        /// Which control word.
        word: &'static str,
        /// Which bit of it.
        name: &'static str,
    },
    /// A control that rkvm can't live with can't be cleared.
    Forced {
        /// Which control word.
        word: &'static str,
        /// Which bit of it.
        name: &'static str,
    },
    /// The VMCS region is not 4 KiB or less, write-back, with 64-bit addresses.
    VmcsRegion,
    /// The controls came out in conflict with a rule of the SDM.
    Rule(&'static str),
}

impl core::fmt::Display for Missing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Msr(name) => write!(f, "VMX capability MSR {name} can't be read"),
            Self::Control { word, name } => write!(f, "the processor lacks {name} in the {word}"),
            Self::Forced { word, name } => write!(f, "the processor forces {name} in the {word}"),
            Self::VmcsRegion => {
                f.write_str("VMCS regions must be at most 4 KiB, write-back, at any address")
            }
            Self::Rule(rule) => write!(f, "inconsistent VMX capabilities: {rule}"),
        }
    }
}

/// Whose cached translations INVEPT and INVVPID drop. The values are the instructions' types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum Scope {
    /// Those of one EPT pointer or VPID.
    Single = 1,
    /// All. A processor that has the instruction without the other has this.
    #[default]
    All = 2,
}

impl Scope {
    const fn of(single: bool) -> Self {
        if single {
            Self::Single
        } else {
            Self::All
        }
    }
}

/// What the processor has of what the parameters allow: the effective value of each switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the parameters' and the controls'
pub struct Features {
    pub ept: bool,
    pub ept_ad: bool,
    pub ept_2m: bool,
    pub ept_1g: bool,
    pub ept_execute_only: bool,
    pub unrestricted_guest: bool,
    pub vpid: bool,
    /// INVVPID of one address.
    pub invvpid_addr: bool,
    /// How much one INVVPID drops.
    pub invvpid: Scope,
    /// How much one INVEPT drops.
    pub invept: Scope,
    pub tpr_shadow: bool,
    pub flexpriority: bool,
    pub apicv: bool,
    pub virtual_nmis: bool,
    pub pml: bool,
    pub preemption_timer: bool,
    pub ple: bool,
    pub tsc_scaling: bool,
    pub rdtscp: bool,
    pub invpcid: bool,
    pub xsaves: bool,
    pub umip_emulation: bool,
    pub user_wait_pause: bool,
    pub wbinvd_exiting: bool,
    pub bus_lock_exit: bool,
    pub notify_vmexit: bool,
    pub monitor_trap_flag: bool,
    /// Host and guest CET state are switched by entry and exit.
    pub cet_state: bool,
}

/// The outcome: what every VMCS starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmcsConfig {
    /// Bits 30:0 of IA32_VMX_BASIC: the first word of VMXON and VMCS regions.
    pub revision_id: u32,
    /// What every VMCS has set.
    pub base: Controls,
    /// What may be switched at run time. A bit outside `base` and `dynamic` must never be set.
    pub dynamic: Controls,
    /// The effective switches.
    pub features: Features,
    /// Bits that CR0 must and may have in VMX operation.
    pub cr0: Fixed,
    /// Bits that CR4 must and may have in VMX operation.
    pub cr4: Fixed,
    /// The preemption timer counts once for each 2^this TSC ticks.
    pub preemption_timer_shift: u32,
    /// The activity state HLT can be entered.
    pub activity_hlt: bool,
    /// Most entries of an MSR auto-load or auto-store area.
    pub max_msr_list: u32,
    /// The `ple_gap` for the VMCS.
    pub ple_gap: u32,
    /// The `ple_window` that a vCPU starts with.
    pub ple_window: u32,
}

/// Decides the controls.
///
/// # Errors
///
/// [`Missing`] names the first thing that this processor lacks.
pub fn negotiate(caps: &CapabilityMsrs, params: &Params) -> Result<VmcsConfig, Missing> {
    if !caps.vmcs_region_usable() {
        return Err(Missing::VmcsRegion);
    }
    let features = effective_features(caps, params);
    let mut base = Controls::default();
    let mut dynamic = Controls::default();
    (base.pin, dynamic.pin) = choose::<PinBased>(caps.pin, wishes::PIN, &features)?;
    (base.primary, dynamic.primary) = choose::<Primary>(caps.primary, wishes::PRIMARY, &features)?;
    (base.secondary, dynamic.secondary) =
        choose::<Secondary>(caps.secondary, wishes::SECONDARY, &features)?;
    // Nothing of the tertiary word is used yet, so it stays switched off.
    (base.tertiary, dynamic.tertiary) = (Tertiary::EMPTY, Tertiary::EMPTY);
    (base.exit, dynamic.exit) = choose::<Exit>(caps.exit, wishes::EXIT, &features)?;
    (base.entry, dynamic.entry) = choose::<Entry>(caps.entry, wishes::ENTRY, &features)?;
    if let Some(rule) = base.broken_rule() {
        return Err(Missing::Rule(rule));
    }
    Ok(VmcsConfig {
        revision_id: caps.revision_id(),
        base,
        dynamic,
        features,
        cr0: caps.cr0,
        cr4: caps.cr4,
        preemption_timer_shift: (caps.misc & misc::PREEMPTION_TIMER_SHIFT) as u32,
        activity_hlt: caps.misc & misc::ACTIVITY_HLT != 0,
        max_msr_list: caps.max_msr_list(),
        ple_gap: if features.ple { params.ple_gap } else { 0 },
        ple_window: if features.ple { params.ple_window } else { 0 },
    })
}

/// One word: the bits that are always set, and those that may be.
fn choose<W: ControlWord>(
    allowed: Fixed,
    table: &[wishes::Wish<W>],
    features: &Features,
) -> Result<(W, W), Missing> {
    let mut base = allowed.must;
    let mut dynamic = 0;
    for wish in table {
        let bit = wish.bit.to_raw();
        let possible = allowed.may & bit == bit;
        let error = |forced: bool| {
            let (word, name) = (W::WORD, name_of(wish.bit));
            if forced {
                Missing::Forced { word, name }
            } else {
                Missing::Control { word, name }
            }
        };
        match wish.need {
            Need::Forbidden if allowed.must & bit != 0 => return Err(error(true)),
            Need::Forbidden => {}
            _ if !wish.when.holds(features) => {}
            Need::Required if possible => base |= bit,
            Need::Wanted if possible => base |= bit,
            Need::DynamicRequired if possible => dynamic |= bit,
            Need::Dynamic if possible => dynamic |= bit,
            Need::Required | Need::DynamicRequired => return Err(error(false)),
            Need::Wanted | Need::Dynamic => {}
        }
    }
    // A bit that the processor forces can't be switched.
    Ok((W::from_raw(base), W::from_raw(dynamic & !allowed.must)))
}

fn name_of<W: ControlWord>(bit: W) -> &'static str {
    W::NAMES
        .iter()
        .find(|(b, _)| *b == bit)
        .map_or("a reserved bit", |(_, name)| name)
}

/// The parameters, cut down to what the processor has and to what depends on each other.
fn effective_features(caps: &CapabilityMsrs, params: &Params) -> Features {
    let pin = |b: PinBased| caps.pin.may & b.to_raw() != 0;
    let primary = |b: Primary| caps.primary.may & b.to_raw() != 0;
    let secondary = |b: Secondary| caps.secondary.may & b.to_raw() != 0;
    let exit = |b: Exit| caps.exit.may & b.to_raw() != 0;
    let entry = |b: Entry| caps.entry.may & b.to_raw() != 0;
    let cap = |bits: u64| caps.ept_vpid & bits == bits;

    let ept = params.ept
        && secondary(Secondary::ENABLE_EPT)
        && cap(ept_vpid::WALK_4 | ept_vpid::WB | ept_vpid::INVEPT | ept_vpid::INVEPT_ALL);
    let ept_ad = ept && params.eptad && cap(ept_vpid::AD);
    let vpid = params.vpid
        && secondary(Secondary::ENABLE_VPID)
        && cap(ept_vpid::INVVPID)
        && (cap(ept_vpid::INVVPID_SINGLE) || cap(ept_vpid::INVVPID_ALL));
    let tpr_shadow = primary(Primary::TPR_SHADOW);
    let flexpriority =
        params.flexpriority && tpr_shadow && secondary(Secondary::VIRTUALIZE_APIC_ACCESSES);
    let apicv = params.enable_apicv
        && tpr_shadow
        && secondary(Secondary::APIC_REGISTER_VIRT)
        && secondary(Secondary::VIRTUAL_INTR_DELIVERY)
        && pin(PinBased::POSTED_INTR)
        && exit(Exit::ACK_INTR_ON_EXIT);

    Features {
        ept,
        ept_ad,
        ept_2m: ept && cap(ept_vpid::PAGE_2M),
        ept_1g: ept && cap(ept_vpid::PAGE_1G),
        ept_execute_only: ept && cap(ept_vpid::EXECUTE_ONLY),
        unrestricted_guest: ept
            && params.unrestricted_guest
            && secondary(Secondary::UNRESTRICTED_GUEST),
        vpid,
        invvpid_addr: vpid && cap(ept_vpid::INVVPID_ADDR),
        invvpid: Scope::of(cap(ept_vpid::INVVPID_SINGLE)),
        invept: Scope::of(cap(ept_vpid::INVEPT_CONTEXT)),
        tpr_shadow,
        flexpriority,
        apicv,
        virtual_nmis: params.vnmi
            && pin(PinBased::VIRTUAL_NMIS)
            && primary(Primary::NMI_WINDOW_EXITING),
        pml: params.pml && ept_ad && secondary(Secondary::ENABLE_PML),
        preemption_timer: params.preemption_timer && pin(PinBased::PREEMPTION_TIMER),
        ple: params.ple_gap != 0 && secondary(Secondary::PAUSE_LOOP_EXITING),
        tsc_scaling: secondary(Secondary::TSC_SCALING),
        rdtscp: secondary(Secondary::ENABLE_RDTSCP),
        invpcid: secondary(Secondary::ENABLE_INVPCID),
        xsaves: secondary(Secondary::ENABLE_XSAVES),
        umip_emulation: secondary(Secondary::DESC_EXITING),
        user_wait_pause: secondary(Secondary::ENABLE_USR_WAIT_PAUSE),
        wbinvd_exiting: secondary(Secondary::WBINVD_EXITING),
        bus_lock_exit: secondary(Secondary::BUS_LOCK_DETECTION),
        notify_vmexit: secondary(Secondary::NOTIFY_VM_EXITING),
        monitor_trap_flag: primary(Primary::MONITOR_TRAP_FLAG),
        cet_state: exit(Exit::LOAD_CET_STATE) && entry(Entry::LOAD_CET_STATE),
    }
}

/// What one vCPU is set up for, as far as it decides the controls that it starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuShape {
    /// Where the registers of the local APIC are, if it is in the kernel.
    pub apic: Option<Place>,
    /// APICv is not inhibited for this VM.
    pub apicv_active: bool,
    /// KVM_CAP_X86_DISABLE_EXITS: HLT runs in the guest.
    pub hlt_in_guest: bool,
    /// KVM_CAP_X86_DISABLE_EXITS: MONITOR and MWAIT run in the guest.
    pub mwait_in_guest: bool,
    /// KVM_CAP_X86_DISABLE_EXITS: PAUSE loops stay in the guest.
    pub pause_in_guest: bool,
    /// Some memory of the VM logs writes.
    pub logs_writes: bool,
    /// The vCPU has a VPID.
    pub vpid: bool,
    /// Guest CPUID has RDTSCP or RDPID.
    pub rdtscp: bool,
    /// Guest CPUID has INVPCID.
    pub invpcid: bool,
    /// Guest CPUID has XSAVES.
    pub xsaves: bool,
    /// Guest CPUID has WAITPKG.
    pub waitpkg: bool,
}

impl VmcsConfig {
    /// The controls that a vCPU of this shape starts with, consistent by the SDM's rules.
    ///
    /// Event windows, MOV-DR exiting, IA-32e mode, descriptor-table exiting and CR3 exits without paging are
    /// switched later, as the guest's state asks for them.
    pub fn controls_for(&self, shape: &VcpuShape) -> Controls {
        let f = &self.features;
        let mut c = self.base;
        let tpr_shadow = f.tpr_shadow && shape.apic.is_some();
        let apicv = f.apicv && tpr_shadow && shape.apicv_active;
        let x2apic = tpr_shadow && shape.apic == Some(Place::Msrs);
        let xapic = f.flexpriority && shape.apic == Some(Place::DefaultPage);

        c.pin = c.pin.set(PinBased::POSTED_INTR, apicv);
        c.primary = c
            .primary
            .set(Primary::TPR_SHADOW, tpr_shadow)
            .set(Primary::CR8_LOAD_EXITING, !tpr_shadow)
            .set(Primary::CR8_STORE_EXITING, !tpr_shadow)
            .set(Primary::HLT_EXITING, !shape.hlt_in_guest)
            .set(Primary::MWAIT_EXITING, !shape.mwait_in_guest)
            .set(Primary::MONITOR_EXITING, !shape.mwait_in_guest);
        c.secondary = c
            .secondary
            .set(Secondary::VIRTUALIZE_X2APIC_MODE, x2apic)
            .set(Secondary::VIRTUALIZE_APIC_ACCESSES, xapic)
            .set(Secondary::APIC_REGISTER_VIRT, apicv)
            .set(Secondary::VIRTUAL_INTR_DELIVERY, apicv)
            .set(Secondary::ENABLE_PML, f.pml && shape.logs_writes)
            .set(Secondary::ENABLE_VPID, f.vpid && shape.vpid)
            .set(
                Secondary::PAUSE_LOOP_EXITING,
                f.ple && !shape.pause_in_guest,
            )
            .set(Secondary::ENABLE_RDTSCP, f.rdtscp && shape.rdtscp)
            .set(Secondary::ENABLE_INVPCID, f.invpcid && shape.invpcid)
            .set(Secondary::ENABLE_XSAVES, f.xsaves && shape.xsaves)
            .set(
                Secondary::ENABLE_USR_WAIT_PAUSE,
                f.user_wait_pause && shape.waitpkg,
            );
        self.clamp(c)
    }

    /// Cuts `wish` down to what may be switched, and sets what is always on.
    const fn clamp(&self, wish: Controls) -> Controls {
        let (base, dynamic) = (&self.base, &self.dynamic);
        Controls {
            pin: wish.pin.and(dynamic.pin).with(base.pin),
            primary: wish.primary.and(dynamic.primary).with(base.primary),
            secondary: wish.secondary.and(dynamic.secondary).with(base.secondary),
            tertiary: wish.tertiary.and(dynamic.tertiary).with(base.tertiary),
            exit: wish.exit.and(dynamic.exit).with(base.exit),
            entry: wish.entry.and(dynamic.entry).with(base.entry),
        }
    }

    /// Whether the secondary control `bit` may be set at all.
    #[inline]
    pub const fn has(&self, bit: Secondary) -> bool {
        self.base.secondary.with(self.dynamic.secondary).has(bit)
    }
}

impl When {
    fn holds(self, f: &Features) -> bool {
        match self {
            Self::Always => true,
            Self::Ept => f.ept,
            Self::NoEpt => !f.ept,
            Self::UnrestrictedGuest => f.unrestricted_guest,
            Self::Vpid => f.vpid,
            Self::FlexPriority => f.flexpriority,
            Self::Apicv => f.apicv,
            Self::TprShadow => f.tpr_shadow,
            Self::VirtualNmis => f.virtual_nmis,
            Self::Pml => f.pml,
            Self::PreemptionTimer => f.preemption_timer,
            Self::Ple => f.ple,
            Self::CetState => f.cet_state,
        }
    }
}
