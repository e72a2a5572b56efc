// SPDX-License-Identifier: GPL-2.0

//! The VM-execution, VM-exit and VM-entry controls: one type for each control word, one name for each bit.
//!
//! SDM volume 3, "VM-Execution Control Fields", "VM-Exit Control Fields", "VM-Entry Control Fields".

/// A word of controls, as the negotiation sees it: 64 bits wide, with a table of names.
pub trait ControlWord: Copy + Eq + 'static {
    /// What the SDM calls the word.
    const WORD: &'static str;
    /// Every defined bit with its name.
    const NAMES: &'static [(Self, &'static str)];
    /// The word, zero-extended.
    fn to_raw(self) -> u64;
    /// The word from its low bits.
    fn from_raw(raw: u64) -> Self;
}

macro_rules! control_word {
    (
        $(#[$doc:meta])*
        $name:ident: $repr:ident, $word:literal {
            $($(#[$bitdoc:meta])* $bit:ident = $n:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                $(#[$bitdoc])*
                pub const $bit: Self = Self(1 << $n);
            )*

            /// No control set.
            pub const EMPTY: Self = Self(0);

            /// Whether all of `bits` are set.
            #[inline(always)]
            pub const fn has(self, bits: Self) -> bool {
                self.0 & bits.0 == bits.0
            }

            /// With `bits` set.
            #[inline(always)]
            #[must_use]
            pub const fn with(self, bits: Self) -> Self {
                Self(self.0 | bits.0)
            }

            /// With `bits` clear.
            #[inline(always)]
            #[must_use]
            pub const fn without(self, bits: Self) -> Self {
                Self(self.0 & !bits.0)
            }

            /// With `bits` set or clear.
            #[inline(always)]
            #[must_use]
            pub const fn set(self, bits: Self, on: bool) -> Self {
                if on { self.with(bits) } else { self.without(bits) }
            }

            /// The bits of both.
            #[inline(always)]
            #[must_use]
            pub const fn and(self, bits: Self) -> Self {
                Self(self.0 & bits.0)
            }

            /// The value for VMWRITE.
            #[inline(always)]
            pub const fn bits(self) -> $repr {
                self.0
            }
        }

        impl ControlWord for $name {
            const WORD: &'static str = $word;
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$bit, stringify!($bit)),)*];

            #[inline]
            fn to_raw(self) -> u64 {
                u64::from(self.0)
            }

            #[inline]
            fn from_raw(raw: u64) -> Self {
                Self(raw as $repr)
            }
        }

        const _: () = {
            let mut seen: $repr = 0;
            $(
                assert!(seen & (1 << $n) == 0, "two names for one control");
                seen |= 1 << $n;
            )*
            assert!(seen != 0);
        };
    };
}

control_word! {
    /// Pin-based VM-execution controls.
    PinBased: u32, "pin-based VM-execution controls" {
        /// External interrupts cause exits.
        EXT_INTR_EXITING = 0,
        /// NMIs cause exits.
        NMI_EXITING = 3,
        /// NMI blocking is the guest's own.
        VIRTUAL_NMIS = 5,
        /// The VMX preemption timer counts down in the guest.
        PREEMPTION_TIMER = 6,
        /// Interrupts posted to the descriptor are delivered without an exit.
        POSTED_INTR = 7,
    }
}

control_word! {
    /// Primary processor-based VM-execution controls.
    Primary: u32, "primary processor-based VM-execution controls" {
        /// Exit as soon as the guest can take an interrupt.
        INTR_WINDOW_EXITING = 2,
        /// RDTSC and RDTSCP add the TSC offset.
        USE_TSC_OFFSETTING = 3,
        /// HLT causes exits.
        HLT_EXITING = 7,
        /// INVLPG causes exits.
        INVLPG_EXITING = 9,
        /// MWAIT causes exits.
        MWAIT_EXITING = 10,
        /// RDPMC causes exits.
        RDPMC_EXITING = 11,
        /// RDTSC and RDTSCP cause exits.
        RDTSC_EXITING = 12,
        /// MOV to CR3 causes exits.
        CR3_LOAD_EXITING = 15,
        /// MOV from CR3 causes exits.
        CR3_STORE_EXITING = 16,
        /// The tertiary controls are used.
        ACTIVATE_TERTIARY_CONTROLS = 17,
        /// MOV to CR8 causes exits.
        CR8_LOAD_EXITING = 19,
        /// MOV from CR8 causes exits.
        CR8_STORE_EXITING = 20,
        /// CR8 and the TPR live in the virtual-APIC page.
        TPR_SHADOW = 21,
        /// Exit as soon as the guest can take an NMI.
        NMI_WINDOW_EXITING = 22,
        /// MOV to and from debug registers cause exits.
        MOV_DR_EXITING = 23,
        /// All I/O instructions cause exits.
        UNCOND_IO_EXITING = 24,
        /// The I/O bitmaps say which ports cause exits.
        USE_IO_BITMAPS = 25,
        /// Exit after each guest instruction.
        MONITOR_TRAP_FLAG = 27,
        /// The MSR bitmaps say which MSRs cause exits.
        USE_MSR_BITMAPS = 28,
        /// MONITOR causes exits.
        MONITOR_EXITING = 29,
        /// PAUSE causes exits.
        PAUSE_EXITING = 30,
        /// The secondary controls are used.
        ACTIVATE_SECONDARY_CONTROLS = 31,
    }
}

control_word! {
    /// Secondary processor-based VM-execution controls.
    Secondary: u32, "secondary processor-based VM-execution controls" {
        /// Accesses to the APIC-access page are virtualised.
        VIRTUALIZE_APIC_ACCESSES = 0,
        /// Guest physical addresses go through EPT.
        ENABLE_EPT = 1,
        /// LGDT, SIDT, LTR and their like cause exits.
        DESC_EXITING = 2,
        /// RDTSCP (and RDPID) do not raise #UD.
        ENABLE_RDTSCP = 3,
        /// RDMSR and WRMSR of the x2APIC range are virtualised.
        VIRTUALIZE_X2APIC_MODE = 4,
        /// Translations are tagged with the VPID.
        ENABLE_VPID = 5,
        /// WBINVD and WBNOINVD cause exits.
        WBINVD_EXITING = 6,
        /// The guest may run unpaged and in real mode.
        UNRESTRICTED_GUEST = 7,
        /// Most APIC registers are read from the virtual-APIC page.
        APIC_REGISTER_VIRT = 8,
        /// Pending virtual interrupts are evaluated and delivered by the processor.
        VIRTUAL_INTR_DELIVERY = 9,
        /// A loop of PAUSEs at CPL 0 causes an exit.
        PAUSE_LOOP_EXITING = 10,
        /// RDRAND causes exits.
        RDRAND_EXITING = 11,
        /// INVPCID does not raise #UD.
        ENABLE_INVPCID = 12,
        /// VMFUNC is available to the guest.
        ENABLE_VMFUNC = 13,
        /// VMREAD and VMWRITE of the guest may reach a shadow VMCS.
        SHADOW_VMCS = 14,
        /// The ENCLS bitmap says which leaves cause exits.
        ENCLS_EXITING = 15,
        /// RDSEED causes exits.
        RDSEED_EXITING = 16,
        /// Writes that set an EPT dirty bit are logged.
        ENABLE_PML = 17,
        /// EPT violations may become #VE.
        EPT_VIOLATION_VE = 18,
        /// Intel PT does not tell that it runs in a guest.
        PT_CONCEAL_VMX = 19,
        /// XSAVES and XRSTORS do not raise #UD.
        ENABLE_XSAVES = 20,
        /// PASIDs of ENQCMD are translated.
        PASID_TRANSLATION = 21,
        /// EPT has separate execute bits for user and supervisor addresses.
        MODE_BASED_EPT_EXEC = 22,
        /// EPT write permission of 128-byte sub-pages.
        SPP = 23,
        /// Intel PT addresses go through EPT.
        PT_USE_GPA = 24,
        /// RDTSC multiplies by the TSC multiplier.
        TSC_SCALING = 25,
        /// TPAUSE, UMONITOR, UMWAIT do not raise #UD.
        ENABLE_USR_WAIT_PAUSE = 26,
        /// PCONFIG does not raise #UD.
        ENABLE_PCONFIG = 27,
        /// The ENCLV bitmap says which leaves cause exits.
        ENCLV_EXITING = 28,
        /// A bus lock causes an exit after it.
        BUS_LOCK_DETECTION = 30,
        /// Exit when no event window opens for too long.
        NOTIFY_VM_EXITING = 31,
    }
}

control_word! {
    /// Tertiary processor-based VM-execution controls.
    Tertiary: u64, "tertiary processor-based VM-execution controls" {
        /// LOADIWKEY causes exits.
        LOADIWKEY_EXITING = 0,
        /// Hypervisor-managed linear-address translation.
        ENABLE_HLAT = 1,
        /// EPT paging-write control.
        EPT_PAGING_WRITE = 2,
        /// Guest-paging verification.
        GUEST_PAGING_VERIFICATION = 3,
        /// IPIs are sent without exits.
        IPI_VIRTUALIZATION = 4,
        /// IA32_SPEC_CTRL is virtualised with a mask and a shadow.
        VIRTUALIZE_SPEC_CTRL = 7,
    }
}

control_word! {
    /// Primary VM-exit controls.
    Exit: u32, "primary VM-exit controls" {
        /// DR7 and IA32_DEBUGCTL are saved.
        SAVE_DEBUG_CONTROLS = 2,
        /// The host runs in 64-bit mode.
        HOST_ADDR_SPACE_SIZE = 9,
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        LOAD_PERF_GLOBAL_CTRL = 12,
        /// The vector of an external interrupt is acknowledged and reported.
        ACK_INTR_ON_EXIT = 15,
        /// IA32_PAT is saved.
        SAVE_PAT = 18,
        /// IA32_PAT is loaded.
        LOAD_PAT = 19,
        /// IA32_EFER is saved.
        SAVE_EFER = 20,
        /// IA32_EFER is loaded.
        LOAD_EFER = 21,
        /// The preemption timer's value is saved.
        SAVE_PREEMPTION_TIMER = 22,
        /// IA32_BNDCFGS is cleared.
        CLEAR_BNDCFGS = 23,
        /// No PIP packet tells of the exit.
        PT_CONCEAL_PIP = 24,
        /// IA32_RTIT_CTL is cleared.
        CLEAR_RTIT_CTL = 25,
        /// IA32_LBR_CTL is cleared.
        CLEAR_LBR_CTL = 26,
        /// UINV is cleared.
        CLEAR_UINV = 27,
        /// The CET state is loaded.
        LOAD_CET_STATE = 28,
        /// IA32_PKRS is loaded.
        LOAD_PKRS = 29,
        /// IA32_PERF_GLOBAL_CTRL is saved.
        SAVE_PERF_GLOBAL_CTRL = 30,
        /// The secondary VM-exit controls are used.
        ACTIVATE_SECONDARY_CONTROLS = 31,
    }
}

control_word! {
    /// VM-entry controls.
    Entry: u32, "VM-entry controls" {
        /// DR7 and IA32_DEBUGCTL are loaded.
        LOAD_DEBUG_CONTROLS = 2,
        /// The guest is in IA-32e mode after entry.
        IA32E_MODE = 9,
        /// The guest is in SMM after entry (only from inside SMM).
        SMM = 10,
        /// Ends the dual-monitor treatment (only from inside SMM).
        DEACT_DUAL_MONITOR = 11,
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        LOAD_PERF_GLOBAL_CTRL = 13,
        /// IA32_PAT is loaded.
        LOAD_PAT = 14,
        /// IA32_EFER is loaded.
        LOAD_EFER = 15,
        /// IA32_BNDCFGS is loaded.
        LOAD_BNDCFGS = 16,
        /// No PIP packet tells of the entry.
        PT_CONCEAL_PIP = 17,
        /// IA32_RTIT_CTL is loaded.
        LOAD_RTIT_CTL = 18,
        /// UINV is loaded.
        LOAD_UINV = 19,
        /// The CET state is loaded.
        LOAD_CET_STATE = 20,
        /// IA32_LBR_CTL is loaded.
        LOAD_LBR_CTL = 21,
        /// IA32_PKRS is loaded.
        LOAD_PKRS = 22,
    }
}

/// All control words of one VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// Goes to PIN_BASED_VM_EXEC_CONTROL.
    pub pin: PinBased,
    /// Goes to CPU_BASED_VM_EXEC_CONTROL.
    pub primary: Primary,
    /// Goes to SECONDARY_VM_EXEC_CONTROL.
    pub secondary: Secondary,
    /// Goes to TERTIARY_VM_EXEC_CONTROL, if [`Primary::ACTIVATE_TERTIARY_CONTROLS`] is set.
    pub tertiary: Tertiary,
    /// Goes to VM_EXIT_CONTROLS.
    pub exit: Exit,
    /// Goes to VM_ENTRY_CONTROLS.
    pub entry: Entry,
}

impl Controls {
    /// The first rule of "VM-Entry Checks on VMX Controls" on the control bits that these words break, in words.
    ///
    /// Only rules that the bits alone decide; those on pages, vectors and MSR areas are the glue's to keep.
    pub const fn broken_rule(&self) -> Option<&'static str> {
        let (pin, primary, exit) = (self.pin, self.primary, self.exit);
        let secondary = if primary.has(Primary::ACTIVATE_SECONDARY_CONTROLS) {
            self.secondary
        } else {
            Secondary::EMPTY
        };
        let tertiary = if primary.has(Primary::ACTIVATE_TERTIARY_CONTROLS) {
            self.tertiary
        } else {
            Tertiary::EMPTY
        };
        let ept = secondary.has(Secondary::ENABLE_EPT);
        if !pin.has(PinBased::NMI_EXITING) && pin.has(PinBased::VIRTUAL_NMIS) {
            return Some("virtual NMIs need NMI exiting");
        }
        if !pin.has(PinBased::VIRTUAL_NMIS) && primary.has(Primary::NMI_WINDOW_EXITING) {
            return Some("NMI-window exiting needs virtual NMIs");
        }
        if !primary.has(Primary::TPR_SHADOW)
            && (secondary.has(Secondary::VIRTUALIZE_X2APIC_MODE)
                || secondary.has(Secondary::APIC_REGISTER_VIRT)
                || secondary.has(Secondary::VIRTUAL_INTR_DELIVERY))
        {
            return Some("x2APIC mode, APIC registers and virtual interrupts need the TPR shadow");
        }
        if secondary.has(Secondary::VIRTUALIZE_X2APIC_MODE)
            && secondary.has(Secondary::VIRTUALIZE_APIC_ACCESSES)
        {
            return Some("x2APIC mode and APIC accesses can't both be virtualised");
        }
        if secondary.has(Secondary::VIRTUAL_INTR_DELIVERY) && !pin.has(PinBased::EXT_INTR_EXITING) {
            return Some("virtual-interrupt delivery needs external-interrupt exiting");
        }
        if pin.has(PinBased::POSTED_INTR)
            && !(secondary.has(Secondary::VIRTUAL_INTR_DELIVERY)
                && exit.has(Exit::ACK_INTR_ON_EXIT))
        {
            return Some(
                "posted interrupts need virtual-interrupt delivery and acknowledge on exit",
            );
        }
        if !ept
            && (secondary.has(Secondary::UNRESTRICTED_GUEST)
                || secondary.has(Secondary::ENABLE_PML)
                || secondary.has(Secondary::MODE_BASED_EPT_EXEC)
                || secondary.has(Secondary::SPP)
                || secondary.has(Secondary::PT_USE_GPA))
        {
            return Some(
                "unrestricted guest, PML, execute modes, sub-pages and PT addresses need EPT",
            );
        }
        if tertiary.has(Tertiary::IPI_VIRTUALIZATION) && !primary.has(Primary::TPR_SHADOW) {
            return Some("IPI virtualisation needs the TPR shadow");
        }
        if !pin.has(PinBased::PREEMPTION_TIMER) && exit.has(Exit::SAVE_PREEMPTION_TIMER) {
            return Some("saving the preemption timer needs the timer");
        }
        if self.entry.has(Entry::SMM) || self.entry.has(Entry::DEACT_DUAL_MONITOR) {
            return Some("an entry from outside SMM must not ask for SMM");
        }
        None
    }
}
