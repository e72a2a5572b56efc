// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: which ones a guest has, who answers for each, and what may be written.
//!
//! SDM volume 4 and volume 3, "Model-Specific Registers (MSRs)"; api.rst, KVM_GET_MSR_INDEX_LIST, KVM_SET_MSRS,
//! KVM_CAP_X86_USER_SPACE_MSR. An access goes [`handler`] (who), then either [`store::GuestMsrs`] (registers that are
//! only storage with rules) or the glue, after [`rules`] has checked the value: no value reaches WRMSR or a VMCS field
//! unchecked.

pub mod bitmap;
mod constant;
pub mod list;
pub mod mce;
pub mod mtrr;
pub mod number;
pub mod rules;
pub mod store;

#[cfg(test)]
mod tests;

use number::*;

/// Who makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// RDMSR or WRMSR in the guest.
    Guest,
    /// KVM_GET_MSRS or KVM_SET_MSRS.
    User,
}

/// Why an access is refused. For KVM_EXIT_X86_RDMSR and _WRMSR the two are different reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrError {
    /// This guest has no such MSR (KVM_MSR_EXIT_REASON_UNKNOWN, else [`unsupported`] decides).
    Unsupported,
    /// The MSR is there, but not this access to it (KVM_MSR_EXIT_REASON_INVAL, else #GP).
    Invalid,
    /// User space's filter denies it (KVM_MSR_EXIT_REASON_FILTER, else #GP).
    Filtered,
}

impl MsrError {
    /// `KVM_MSR_EXIT_REASON_*`, one bit.
    #[inline]
    pub const fn exit_reason(self) -> u32 {
        match self {
            Self::Invalid => 1 << 0,
            Self::Unsupported => 1 << 1,
            Self::Filtered => 1 << 2,
        }
    }
}

/// Which part of a vCPU answers for an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// [`store::GuestMsrs`], then what its [`store::Effect`] asks for.
    Store,
    /// FS_BASE: GUEST_FS_BASE of the VMCS.
    FsBase,
    /// GS_BASE: GUEST_GS_BASE of the VMCS.
    GsBase,
    /// KERNEL_GS_BASE: in the processor while the vCPU is loaded.
    KernelGsBase,
    /// SYSENTER_CS: GUEST_SYSENTER_CS of the VMCS.
    SysenterCs,
    /// SYSENTER_ESP: GUEST_SYSENTER_ESP of the VMCS.
    SysenterEsp,
    /// SYSENTER_EIP: GUEST_SYSENTER_EIP of the VMCS.
    SysenterEip,
    /// DEBUGCTL: GUEST_IA32_DEBUGCTL of the VMCS.
    Debugctl,
    /// EFER: by [`rules::efer_write`].
    Efer,
    /// The time-stamp counter.
    Tsc,
    /// TSC_ADJUST.
    TscAdjust,
    /// TSC_DEADLINE: the local APIC's timer.
    TscDeadline,
    /// APIC_BASE: by [`rules::apic_base_valid`].
    ApicBase,
    /// An x2APIC register: its offset in the xAPIC page.
    X2Apic(u16),
    /// PRED_CMD: write only, goes to the processor.
    PredCmd,
    /// FLUSH_CMD: write only, goes to the processor.
    FlushCmd,
    /// kvmclock's wall clock; `true` for the old number.
    WallClock(bool),
    /// kvmclock's system time; `true` for the old number.
    SystemTime(bool),
    /// Steal time.
    StealTime,
    /// PV EOI.
    PvEoi,
    /// Asynchronous page faults: enable, interrupt or acknowledge.
    AsyncPf,
    /// No such MSR.
    Unknown,
}

/// Who answers for `msr`.
pub const fn handler(msr: u32) -> Handler {
    match msr {
        FS_BASE => Handler::FsBase,
        GS_BASE => Handler::GsBase,
        KERNEL_GS_BASE => Handler::KernelGsBase,
        SYSENTER_CS => Handler::SysenterCs,
        SYSENTER_ESP => Handler::SysenterEsp,
        SYSENTER_EIP => Handler::SysenterEip,
        DEBUGCTL => Handler::Debugctl,
        EFER => Handler::Efer,
        TSC => Handler::Tsc,
        TSC_ADJUST => Handler::TscAdjust,
        TSC_DEADLINE => Handler::TscDeadline,
        APIC_BASE => Handler::ApicBase,
        X2APIC_FIRST..=X2APIC_LAST => Handler::X2Apic((msr.wrapping_sub(X2APIC_FIRST) << 4) as u16),
        PRED_CMD => Handler::PredCmd,
        FLUSH_CMD => Handler::FlushCmd,
        KVM_WALL_CLOCK => Handler::WallClock(true),
        KVM_WALL_CLOCK_NEW => Handler::WallClock(false),
        KVM_SYSTEM_TIME => Handler::SystemTime(true),
        KVM_SYSTEM_TIME_NEW => Handler::SystemTime(false),
        KVM_STEAL_TIME => Handler::StealTime,
        KVM_PV_EOI_EN => Handler::PvEoi,
        KVM_ASYNC_PF_EN | KVM_ASYNC_PF_INT | KVM_ASYNC_PF_ACK => Handler::AsyncPf,
        _ if store::GuestMsrs::holds(msr) => Handler::Store,
        _ => Handler::Unknown,
    }
}

/// What happens to an access that ended in [`MsrError::Unsupported`] and that user space did not take.
///
/// `value` is what is written, or `None` for a read. The answer is the value read, or that the write counts as done.
///
/// # Errors
///
/// [`MsrError::Unsupported`] again: #GP for the guest, the end of the list for user space.
pub const fn unsupported(
    origin: Origin,
    value: Option<u64>,
    advertised: bool,
    ignore_msrs: bool,
) -> Result<u64, MsrError> {
    // User space may restore zeros to, and read, what KVM_GET_MSR_INDEX_LIST names but this guest's CPUID lacks.
    let harmless = matches!((origin, value), (Origin::User, None | Some(0))) && advertised;
    if harmless || ignore_msrs {
        Ok(0)
    } else {
        Err(MsrError::Unsupported)
    }
}
