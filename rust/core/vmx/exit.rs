// SPDX-License-Identifier: GPL-2.0

//! Basic exit reasons and what is packed around them.
//!
//! SDM volume 3, appendix "VMX Basic Exit Reasons", and "Basic VM-Exit Information".

pub mod qualification;

macro_rules! exit_reasons {
    ($($(#[$doc:meta])* $name:ident = $n:literal $text:literal,)*) => {
        /// Why the guest stopped: every basic exit reason that the SDM defines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum BasicExitReason {
            $(
                #[doc = $text]
                $name = $n,
            )*
        }

        impl BasicExitReason {
            /// All of them, in rising order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with this number; `None` if the SDM leaves the number free.
            #[inline(always)]
            pub const fn from_raw(raw: u16) -> Option<Self> {
                match raw {
                    $($n => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name that KVM's tracepoints and statistics print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

exit_reasons! {
    ExceptionNmi = 0 "EXCEPTION_NMI",
    ExternalInterrupt = 1 "EXTERNAL_INTERRUPT",
    TripleFault = 2 "TRIPLE_FAULT",
    InitSignal = 3 "INIT_SIGNAL",
    SipiSignal = 4 "SIPI_SIGNAL",
    IoSmi = 5 "IO_SMI",
    OtherSmi = 6 "OTHER_SMI",
    InterruptWindow = 7 "INTERRUPT_WINDOW",
    NmiWindow = 8 "NMI_WINDOW",
    TaskSwitch = 9 "TASK_SWITCH",
    Cpuid = 10 "CPUID",
    Getsec = 11 "GETSEC",
    Hlt = 12 "HLT",
    Invd = 13 "INVD",
    Invlpg = 14 "INVLPG",
    Rdpmc = 15 "RDPMC",
    Rdtsc = 16 "RDTSC",
    Rsm = 17 "RSM",
    Vmcall = 18 "VMCALL",
    Vmclear = 19 "VMCLEAR",
    Vmlaunch = 20 "VMLAUNCH",
    Vmptrld = 21 "VMPTRLD",
    Vmptrst = 22 "VMPTRST",
    Vmread = 23 "VMREAD",
    Vmresume = 24 "VMRESUME",
    Vmwrite = 25 "VMWRITE",
    Vmxoff = 26 "VMOFF",
    Vmxon = 27 "VMON",
    CrAccess = 28 "CR_ACCESS",
    DrAccess = 29 "DR_ACCESS",
    IoInstruction = 30 "IO_INSTRUCTION",
    MsrRead = 31 "MSR_READ",
    MsrWrite = 32 "MSR_WRITE",
    InvalidState = 33 "INVALID_STATE",
    MsrLoadFail = 34 "MSR_LOAD_FAIL",
    Mwait = 36 "MWAIT_INSTRUCTION",
    MonitorTrapFlag = 37 "MONITOR_TRAP_FLAG",
    Monitor = 39 "MONITOR_INSTRUCTION",
    Pause = 40 "PAUSE_INSTRUCTION",
    MceDuringVmentry = 41 "MCE_DURING_VMENTRY",
    TprBelowThreshold = 43 "TPR_BELOW_THRESHOLD",
    ApicAccess = 44 "APIC_ACCESS",
    EoiInduced = 45 "EOI_INDUCED",
    GdtrIdtr = 46 "GDTR_IDTR",
    LdtrTr = 47 "LDTR_TR",
    EptViolation = 48 "EPT_VIOLATION",
    EptMisconfig = 49 "EPT_MISCONFIG",
    Invept = 50 "INVEPT",
    Rdtscp = 51 "RDTSCP",
    PreemptionTimer = 52 "PREEMPTION_TIMER",
    Invvpid = 53 "INVVPID",
    Wbinvd = 54 "WBINVD",
    Xsetbv = 55 "XSETBV",
    ApicWrite = 56 "APIC_WRITE",
    Rdrand = 57 "RDRAND",
    Invpcid = 58 "INVPCID",
    Vmfunc = 59 "VMFUNC",
    Encls = 60 "ENCLS",
    Rdseed = 61 "RDSEED",
    PmlFull = 62 "PML_FULL",
    Xsaves = 63 "XSAVES",
    Xrstors = 64 "XRSTORS",
    Pconfig = 65 "PCONFIG",
    SppEvent = 66 "SPP_EVENT",
    Umwait = 67 "UMWAIT",
    Tpause = 68 "TPAUSE",
    Loadiwkey = 69 "LOADIWKEY",
    Enclv = 70 "ENCLV",
    EnqcmdPasid = 72 "ENQCMD_PASID",
    EnqcmdsPasid = 73 "ENQCMDS_PASID",
    BusLock = 74 "BUS_LOCK",
    Notify = 75 "NOTIFY",
    Seamcall = 76 "SEAMCALL",
    Tdcall = 77 "TDCALL",
    Rdmsrlist = 78 "RDMSRLIST",
    Wrmsrlist = 79 "WRMSRLIST",
    Urdmsr = 80 "URDMSR",
    Uwrmsr = 81 "UWRMSR",
    MsrReadImm = 84 "MSR_READ_IMM",
    MsrWriteImm = 85 "MSR_WRITE_IMM",
}

/// The VM_EXIT_REASON field: the basic reason and the flags around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ExitReason(pub u32);

impl ExitReason {
    /// The number in bits 15:0.
    #[inline(always)]
    pub const fn raw_basic(self) -> u16 {
        self.0 as u16
    }

    /// The basic reason; `None` for a number that the SDM leaves free.
    #[inline]
    pub const fn basic(self) -> Option<BasicExitReason> {
        BasicExitReason::from_raw(self.raw_basic())
    }

    /// Bit 31: the VM entry failed while it loaded guest state; the guest did not run.
    #[inline(always)]
    pub const fn entry_failed(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

/// Words for the number in VM_INSTRUCTION_ERROR (SDM, "VM Instruction Error Numbers").
pub const fn instruction_error(number: u32) -> &'static str {
    match number {
        0 => "no error recorded",
        1 => "VMCALL in VMX root operation",
        2 => "VMCLEAR with an invalid physical address",
        3 => "VMCLEAR with the VMXON pointer",
        4 => "VMLAUNCH with a VMCS that is not clear",
        5 => "VMRESUME with a VMCS that is not launched",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with an invalid control field",
        8 => "VM entry with an invalid host-state field",
        9 => "VMPTRLD with an invalid physical address",
        10 => "VMPTRLD with the VMXON pointer",
        11 => "VMPTRLD with a wrong VMCS revision identifier",
        12 => "VMREAD or VMWRITE of an unsupported field",
        13 => "VMWRITE to a read-only field",
        15 => "VMXON in VMX root operation",
        16 => "VM entry with an invalid executive-VMCS pointer",
        17 => "VM entry with an executive VMCS that is not launched",
        18 => "VM entry with an executive-VMCS pointer that is not the VMXON pointer",
        19 => "VMCALL with a VMCS that is not clear",
        20 => "VMCALL with invalid VM-exit control fields",
        22 => "VMCALL with a wrong MSEG revision identifier",
        23 => "VMXOFF under dual-monitor treatment",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "VM entry with invalid execution controls in the executive VMCS",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT or INVVPID",
        _ => "an error number that the SDM does not define",
    }
}

/// Words for the exit qualification of a VM entry that failed on guest state
/// (SDM, "VM-Entry Failures During or After Loading Guest State").
pub const fn entry_failure(reason: BasicExitReason, qualification: u64) -> &'static str {
    match (reason, qualification) {
        (BasicExitReason::InvalidState, 0) => "invalid guest state",
        (BasicExitReason::InvalidState, 2) => "a PDPTE could not be loaded",
        (BasicExitReason::InvalidState, 3) => "an NMI can't be injected while MOV SS blocks events",
        (BasicExitReason::InvalidState, 4) => "an invalid VMCS link pointer",
        (BasicExitReason::InvalidState, _) => "invalid guest state of an unknown kind",
        (BasicExitReason::MsrLoadFail, _) => "an entry of the MSR-load area could not be loaded",
        (BasicExitReason::MceDuringVmentry, _) => "a machine check during VM entry",
        _ => "not a VM-entry failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_either_free_or_itself() {
        let mut defined = 0;
        for raw in 0..=u16::MAX {
            if let Some(reason) = BasicExitReason::from_raw(raw) {
                assert_eq!(reason as u16, raw);
                defined += 1;
            }
        }
        assert_eq!(defined, BasicExitReason::ALL.len());
        for free in [35, 38, 42, 71, 82, 83, 86] {
            assert_eq!(BasicExitReason::from_raw(free), None);
        }
    }

    #[test]
    fn flags_do_not_hide_the_reason() {
        let failed = ExitReason(0x8000_0021);
        assert!(failed.entry_failed());
        assert_eq!(failed.basic(), Some(BasicExitReason::InvalidState));
        let bus_lock = ExitReason(0x0400_001e);
        assert!(!bus_lock.entry_failed());
        assert_eq!(bus_lock.basic(), Some(BasicExitReason::IoInstruction));
    }
}
