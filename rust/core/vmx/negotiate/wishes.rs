// SPDX-License-Identifier: GPL-2.0

//! What rkvm wants of each control: the table behind the negotiation.

use crate::vmx::controls::{
    Entry,
    Exit,
    PinBased,
    Primary,
    Secondary, //
};

/// How much a control is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Always set; no rkvm without it.
    Required,
    /// Always set where there is such a control.
    Wanted,
    /// Switched at run time; no rkvm without it.
    DynamicRequired,
    /// Switched at run time where there is such a control.
    Dynamic,
    /// Never set; no rkvm where it can't be cleared.
    Forbidden,
}

/// On which effective feature a row depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    Ept,
    NoEpt,
    UnrestrictedGuest,
    Vpid,
    FlexPriority,
    Apicv,
    TprShadow,
    VirtualNmis,
    Pml,
    PreemptionTimer,
    Ple,
    CetState,
}

/// A row of the table. A row whose `when` does not hold says nothing (but `Forbidden` always holds).
pub(super) struct Wish<W> {
    pub(super) bit: W,
    pub(super) need: Need,
    pub(super) when: When,
}

macro_rules! wishes {
    ($word:ident: $($need:ident $bit:ident $(if $when:ident)?,)*) => {
        &[$(Wish {
            bit: $word::$bit,
            need: Need::$need,
            when: wishes!(@when $($when)?),
        },)*]
    };
    (@when) => { When::Always };
    (@when $when:ident) => { When::$when };
}

pub(super) const PIN: &[Wish<PinBased>] = wishes! { PinBased:
    Required EXT_INTR_EXITING,
    Required NMI_EXITING,
    Wanted VIRTUAL_NMIS if VirtualNmis,
    Dynamic PREEMPTION_TIMER if PreemptionTimer,
    Dynamic POSTED_INTR if Apicv,
};

pub(super) const PRIMARY: &[Wish<Primary>] = wishes! { Primary:
    DynamicRequired INTR_WINDOW_EXITING,
    Dynamic NMI_WINDOW_EXITING if VirtualNmis,
    Required USE_TSC_OFFSETTING,
    // On unless KVM_CAP_X86_DISABLE_EXITS leaves the instruction to the guest.
    DynamicRequired HLT_EXITING,
    DynamicRequired MWAIT_EXITING,
    DynamicRequired MONITOR_EXITING,
    Required RDPMC_EXITING,
    // The guest's paging is not the processor's without EPT: each change has to be seen.
    Required INVLPG_EXITING if NoEpt,
    Required CR3_LOAD_EXITING if NoEpt,
    Required CR3_STORE_EXITING if NoEpt,
    // With EPT but no unrestricted guest, CR3 holds an identity map of ours while the guest's paging is off.
    DynamicRequired CR3_LOAD_EXITING if Ept,
    DynamicRequired CR3_STORE_EXITING if Ept,
    // Without an APIC in the kernel the TPR belongs to user space, so CR8 has to exit.
    Dynamic TPR_SHADOW if TprShadow,
    DynamicRequired CR8_LOAD_EXITING,
    DynamicRequired CR8_STORE_EXITING,
    DynamicRequired MOV_DR_EXITING,
    // Every port is emulated: the bitmaps would be two pages of ones.
    Required UNCOND_IO_EXITING,
    Required USE_MSR_BITMAPS,
    Dynamic MONITOR_TRAP_FLAG,
    Dynamic RDTSC_EXITING,
    Required ACTIVATE_SECONDARY_CONTROLS,
};

pub(super) const SECONDARY: &[Wish<Secondary>] = wishes! { Secondary:
    Required ENABLE_EPT if Ept,
    // A vCPU for which there is no VPID left runs without.
    Dynamic ENABLE_VPID if Vpid,
    Required UNRESTRICTED_GUEST if UnrestrictedGuest,
    Wanted WBINVD_EXITING,
    Wanted TSC_SCALING,
    Dynamic PAUSE_LOOP_EXITING if Ple,
    Dynamic ENABLE_PML if Pml,
    Dynamic VIRTUALIZE_APIC_ACCESSES if FlexPriority,
    Dynamic VIRTUALIZE_X2APIC_MODE if TprShadow,
    Dynamic APIC_REGISTER_VIRT if Apicv,
    Dynamic VIRTUAL_INTR_DELIVERY if Apicv,
    // The instruction exists for the guest if its CPUID says so.
    Dynamic ENABLE_RDTSCP,
    Dynamic ENABLE_INVPCID,
    Dynamic ENABLE_XSAVES,
    Dynamic ENABLE_USR_WAIT_PAUSE,
    // Emulates CR4.UMIP where the processor has none.
    Dynamic DESC_EXITING,
    Dynamic BUS_LOCK_DETECTION,
    Dynamic NOTIFY_VM_EXITING,
    // A #VE in a guest that asked for none would be a lie.
    Forbidden EPT_VIOLATION_VE,
    Forbidden ENABLE_VMFUNC,
    Forbidden SHADOW_VMCS,
};

pub(super) const EXIT: &[Wish<Exit>] = wishes! { Exit:
    Required SAVE_DEBUG_CONTROLS,
    Required HOST_ADDR_SPACE_SIZE,
    Required ACK_INTR_ON_EXIT,
    // Writes of PAT and EFER exit, so their VMCS fields are always current and need no saving.
    Required LOAD_PAT,
    Required LOAD_EFER,
    // For counters that the host keeps to itself.
    Dynamic LOAD_PERF_GLOBAL_CTRL,
    Dynamic SAVE_PREEMPTION_TIMER if PreemptionTimer,
    // The kernel may itself run with supervisor shadow stacks or IBT.
    Wanted LOAD_CET_STATE if CetState,
};

pub(super) const ENTRY: &[Wish<Entry>] = wishes! { Entry:
    Required LOAD_DEBUG_CONTROLS,
    DynamicRequired IA32E_MODE,
    Required LOAD_PAT,
    Required LOAD_EFER,
    Dynamic LOAD_PERF_GLOBAL_CTRL,
    Wanted LOAD_CET_STATE if CetState,
    Forbidden SMM,
    Forbidden DEACT_DUAL_MONITOR,
};
