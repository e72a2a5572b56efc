// SPDX-License-Identifier: GPL-2.0

//! The feature bits that a guest may be given, leaf by leaf.
//!
//! A bit that is not in this table is never offered. `host` bits are offered if the processor has them, `always` bits
//! because rkvm does them itself, `own` bits are not offered but known: rkvm keeps them up to date in the guest's table,
//! or honours them where user space sets them. A condition in parentheses names what else must be there.

use super::{Reg, Regs};

/// What must be there besides the bit on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Memory protection keys are switched at entry and exit, and EPT is on.
    Pku,
    /// "Enable INVPCID".
    Invpcid,
    /// "Enable RDTSCP".
    Rdtscp,
    /// "Enable XSAVES/XRSTORS".
    Xsaves,
    /// "Enable user wait and pause".
    Waitpkg,
    /// CR4.UMIP on the processor or by descriptor-table exits.
    Umip,
    /// IA32_SPEC_CTRL is switched at entry and exit.
    SpecCtrl,
    /// XCR0 may have the AVX state.
    Avx,
    /// XCR0 may have the AVX-512 state.
    Avx512,
    /// XCR0 may have the AMX state.
    Amx,
    /// XCR0 exists.
    Xsave,
}

/// How a bit is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// If the processor has it.
    Host,
    /// Always.
    Always,
    /// Never, but known.
    Own,
}

/// A feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Position of its word in [`WORDS`].
    pub word: usize,
    /// The bit, as a mask.
    pub mask: u32,
}

/// A row: mask, how, and under which condition.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The bit, as a mask.
    pub mask: u32,
    /// How it is offered.
    pub offer: Offer,
    /// What else must be there.
    pub needs: Needs,
}

/// One register of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// EAX of CPUID.
    pub function: u32,
    /// ECX of CPUID.
    pub index: u32,
    /// Where the bits are.
    pub reg: Reg,
    /// The bits.
    pub rows: &'static [Row],
}

/// How many words there are.
pub const WORD_COUNT: usize = WORDS.len();

macro_rules! words {
    ($($word:ident ($function:literal, $index:literal, $reg:ident) {
        $($offer:ident $name:ident = $bit:literal $(($needs:ident))?,)*
    })*) => {
        /// Positions in [`WORDS`].
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Position { $($word,)* }

        $($(
            #[doc = concat!("Bit ", stringify!($bit), " of CPUID ", stringify!($word), ".")]
            pub const $name: Feature = Feature { word: Position::$word as usize, mask: 1 << $bit };
        )*)*

        /// Every word that holds feature bits.
        pub const WORDS: &[Word] = &[$(Word {
            function: $function,
            index: $index,
            reg: Reg::$reg,
            rows: &[$(Row {
                mask: 1 << $bit,
                offer: Offer::$offer,
                needs: words!(@needs $($needs)?),
            },)*],
        },)*];
    };
    (@needs) => { Needs::Nothing };
    (@needs $needs:ident) => { Needs::$needs };
}

words! {
    L1_ECX (0x1, 0, Ecx) {
        Host XMM3 = 0,
        Host PCLMULQDQ = 1,
        Own MWAIT = 3,
        Host SSSE3 = 9,
        Host FMA = 12 (Avx),
        Host CX16 = 13,
        Own PDCM = 15,
        Host PCID = 17,
        Host XMM4_1 = 19,
        Host XMM4_2 = 20,
        Always X2APIC = 21,
        Host MOVBE = 22,
        Host POPCNT = 23,
        Always TSC_DEADLINE_TIMER = 24,
        Host AES = 25,
        Host XSAVE = 26 (Xsave),
        Own OSXSAVE = 27,
        Host AVX = 28 (Avx),
        Host F16C = 29 (Avx),
        Host RDRAND = 30,
        Always HYPERVISOR = 31,
    }
    L1_EDX (0x1, 0, Edx) {
        Host FPU = 0,
        Host VME = 1,
        Host DE = 2,
        Host PSE = 3,
        Host TSC = 4,
        Host MSR = 5,
        Host PAE = 6,
        Host MCE = 7,
        Host CX8 = 8,
        Host APIC = 9,
        Host SEP = 11,
        Host MTRR = 12,
        Host PGE = 13,
        Host MCA = 14,
        Host CMOV = 15,
        Host PAT = 16,
        Host PSE36 = 17,
        Host CLFLUSH = 19,
        Host MMX = 23,
        Host FXSR = 24,
        Host XMM = 25,
        Host XMM2 = 26,
        Host SELFSNOOP = 27,
    }
    L7_0_EBX (0x7, 0, Ebx) {
        Host FSGSBASE = 0,
        Always TSC_ADJUST = 1,
        Host BMI1 = 3,
        Host HLE = 4,
        Host AVX2 = 5 (Avx),
        Host FDP_EXCPTN_ONLY = 6,
        Host SMEP = 7,
        Host BMI2 = 8,
        Host ERMS = 9,
        Host INVPCID = 10 (Invpcid),
        Host RTM = 11,
        Host ZERO_FCS_FDS = 13,
        Host AVX512F = 16 (Avx512),
        Host AVX512DQ = 17 (Avx512),
        Host RDSEED = 18,
        Host ADX = 19,
        Host SMAP = 20,
        Host AVX512IFMA = 21 (Avx512),
        Host CLFLUSHOPT = 23,
        Host CLWB = 24,
        Host AVX512PF = 26 (Avx512),
        Host AVX512ER = 27 (Avx512),
        Host AVX512CD = 28 (Avx512),
        Host SHA_NI = 29,
        Host AVX512BW = 30 (Avx512),
        Host AVX512VL = 31 (Avx512),
    }
    L7_0_ECX (0x7, 0, Ecx) {
        Host AVX512VBMI = 1 (Avx512),
        Always UMIP = 2 (Umip),
        Host PKU = 3 (Pku),
        Own OSPKE = 4,
        Host WAITPKG = 5 (Waitpkg),
        Host AVX512_VBMI2 = 6 (Avx512),
        Host GFNI = 8,
        Host VAES = 9 (Avx),
        Host VPCLMULQDQ = 10 (Avx),
        Host AVX512_VNNI = 11 (Avx512),
        Host AVX512_BITALG = 12 (Avx512),
        Host AVX512_VPOPCNTDQ = 14 (Avx512),
        Host LA57 = 16,
        Host RDPID = 22 (Rdtscp),
        Host CLDEMOTE = 25,
        Host MOVDIRI = 27,
        Host MOVDIR64B = 28,
    }
    L7_0_EDX (0x7, 0, Edx) {
        Host AVX512_4VNNIW = 2 (Avx512),
        Host AVX512_4FMAPS = 3 (Avx512),
        Host FSRM = 4,
        Host AVX512_VP2INTERSECT = 8 (Avx512),
        Host MD_CLEAR = 10,
        Host SERIALIZE = 14,
        Host TSXLDTRK = 16,
        Host AMX_BF16 = 22 (Amx),
        Host AVX512_FP16 = 23 (Avx512),
        Host AMX_TILE = 24 (Amx),
        Host AMX_INT8 = 25 (Amx),
        Host SPEC_CTRL = 26 (SpecCtrl),
        Host STIBP = 27 (SpecCtrl),
        Host FLUSH_L1D = 28,
        Always ARCH_CAPABILITIES = 29,
        Host SSBD = 31 (SpecCtrl),
    }
    L7_1_EAX (0x7, 1, Eax) {
        Host SHA512 = 0 (Avx),
        Host SM3 = 1 (Avx),
        Host SM4 = 2 (Avx),
        Host AVX_VNNI = 4 (Avx),
        Host AVX512_BF16 = 5 (Avx512),
        Host CMPCCXADD = 7,
        Host FZRM = 10,
        Host FSRS = 11,
        Host FSRC = 12,
        Host AMX_FP16 = 21 (Amx),
        Host AVX_IFMA = 23 (Avx),
    }
    L7_1_EDX (0x7, 1, Edx) {
        Host AVX_VNNI_INT8 = 4 (Avx),
        Host AVX_NE_CONVERT = 5 (Avx),
        Host AMX_COMPLEX = 8 (Amx),
        Host AVX_VNNI_INT16 = 10 (Avx),
        Host PREFETCHITI = 14,
    }
    L7_2_EDX (0x7, 2, Edx) {
        Host PSFD = 0 (SpecCtrl),
        Host IPRED_CTRL = 1 (SpecCtrl),
        Host RRSBA_CTRL = 2 (SpecCtrl),
        Host DDPD_U = 3 (SpecCtrl),
        Host BHI_CTRL = 4 (SpecCtrl),
        Host MCDT_NO = 5,
    }
    LD_1_EAX (0xd, 1, Eax) {
        Host XSAVEOPT = 0 (Xsave),
        Host XSAVEC = 1 (Xsave),
        Host XGETBV1 = 2 (Xsave),
        Host XSAVES = 3 (Xsaves),
        Host XFD = 4 (Amx),
    }
    X1_ECX (0x8000_0001, 0, Ecx) {
        Host LAHF_LM = 0,
        Host ABM = 5,
        Host PREFETCHW = 8,
    }
    X1_EDX (0x8000_0001, 0, Edx) {
        Host SYSCALL = 11,
        Host NX = 20,
        Host GBPAGES = 26,
        Host RDTSCP = 27 (Rdtscp),
        Host LM = 29,
    }
    X7_EDX (0x8000_0007, 0, Edx) {
        Host INVARIANT_TSC = 8,
    }
    X8_EBX (0x8000_0008, 0, Ebx) {
        Host WBNOINVD = 9,
    }
}

/// What rkvm can do on this host, as far as it decides which features exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Implemented {
    /// EPT is on.
    pub ept: bool,
    /// Protection keys are switched at entry and exit.
    pub pku: bool,
    /// The control "enable INVPCID".
    pub invpcid: bool,
    /// The control "enable RDTSCP".
    pub rdtscp: bool,
    /// The control "enable XSAVES/XRSTORS".
    pub xsaves: bool,
    /// The control "enable user wait and pause", and IA32_UMWAIT_CONTROL is switched.
    pub waitpkg: bool,
    /// CR4.UMIP on the processor, or descriptor-table exits.
    pub umip: bool,
    /// IA32_SPEC_CTRL is switched at entry and exit.
    pub spec_ctrl: bool,
    /// XCR0 bits that a guest may have: of the host's, those whose state is switched.
    pub xcr0: u64,
    /// IA32_XSS bits that a guest may have.
    pub xss: u64,
    /// Physical address bits of the host, for guests without EPT.
    pub host_phys_bits: u32,
    /// `kvm_feature` bits that are implemented.
    pub kvm_features: u32,
}

impl Implemented {
    const fn has(&self, needs: Needs) -> bool {
        use super::xstate::{AMX, AVX, AVX512};
        match needs {
            Needs::Nothing => true,
            Needs::Pku => self.pku && self.ept,
            Needs::Invpcid => self.invpcid,
            Needs::Rdtscp => self.rdtscp,
            Needs::Xsaves => self.xsaves && self.xcr0 != 0,
            Needs::Waitpkg => self.waitpkg,
            Needs::Umip => self.umip,
            Needs::SpecCtrl => self.spec_ctrl,
            Needs::Avx => self.xcr0 & AVX == AVX,
            Needs::Avx512 => self.xcr0 & AVX512 == AVX512,
            Needs::Amx => self.xcr0 & AMX == AMX,
            Needs::Xsave => self.xcr0 != 0,
        }
    }
}

impl Word {
    /// The bits to offer, of a processor whose leaf reads `host`.
    pub fn offered(&self, host: &Regs, have: &Implemented) -> u32 {
        let mut bits = 0;
        for row in self.rows {
            let offered = match row.offer {
                Offer::Host => host.get(self.reg) & row.mask,
                Offer::Always => row.mask,
                Offer::Own => 0,
            };
            if have.has(row.needs) {
                bits |= offered;
            }
        }
        bits
    }

    /// The bits that are known but not offered.
    pub fn own(&self) -> u32 {
        self.rows
            .iter()
            .filter(|row| row.offer == Offer::Own)
            .fold(0, |bits, row| bits | row.mask)
    }
}
