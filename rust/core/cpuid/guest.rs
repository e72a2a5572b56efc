// SPDX-License-Identifier: GPL-2.0

//! The CPUID table of one vCPU.
//!
//! The glue owns the entries (at most [`MAX_ENTRIES`]) and one [`CpuidIndex`] over them; after KVM_SET_CPUID2 it builds
//! the index and derives [`GuestCaps`], and after a change of CR4, XCR0, IA32_XSS, APIC_BASE or IA32_MISC_ENABLE it calls
//! [`update_runtime`]. A CPUID exit is [`execute`], which only reads.

use super::features::{self, Feature, Implemented, WORDS, WORD_COUNT};
use super::xstate::XstateSizes;
use super::{kvm_feature, KVM_FEATURES_LEAF, KVM_SIGNATURE};
use super::{CpuidEntry, HostCpuid, Regs, MAX_ENTRIES};
use crate::nospec;
use crate::regs::{cr4, efer};
use crate::vmx::registers::RegisterRules;

/// KVM_SET_CPUID2 with a table that can't be (EINVAL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCpuid {
    /// More than [`MAX_ENTRIES`] (E2BIG).
    TooMany,
    /// Linear address bits in leaf 0x80000008 that no processor has (EINVAL).
    LinearAddressBits,
}

/// Checks a table before it replaces the old one.
///
/// # Errors
///
/// [`BadCpuid`] says what is wrong.
pub fn check(entries: &[CpuidEntry]) -> Result<(), BadCpuid> {
    if entries.len() > MAX_ENTRIES {
        return Err(BadCpuid::TooMany);
    }
    match find(entries, 0x8000_0008, 0).map(|e| (e.eax >> 8) & 0xff) {
        None | Some(0 | 48 | 57) => Ok(()),
        Some(_) => Err(BadCpuid::LinearAddressBits),
    }
}

/// Whether two tables say the same. A vCPU that has run accepts only the table it has.
pub fn equal(a: &[CpuidEntry], b: &[CpuidEntry]) -> bool {
    let said = |e: &CpuidEntry| (e.function, e.index, e.flags, e.regs());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| said(a) == said(b))
}

/// The first entry that answers, by a walk over the table.
pub fn find(entries: &[CpuidEntry], function: u32, index: u32) -> Option<&CpuidEntry> {
    entries.iter().find(|e| e.answers(function, index))
}

const NONE: u16 = u16::MAX;
const BASIC: usize = 64;
const EXTENDED: usize = 64;

/// For each common leaf, where the first entry of it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidIndex {
    basic: [u16; BASIC],
    extended: [u16; EXTENDED],
}

impl CpuidIndex {
    /// The index of an empty table.
    pub const EMPTY: Self = Self {
        basic: [NONE; BASIC],
        extended: [NONE; EXTENDED],
    };

    /// Indexes `entries`. Call again whenever entries are added, removed or moved.
    pub fn build(entries: &[CpuidEntry]) -> Self {
        let mut index = Self::EMPTY;
        for (position, entry) in (0u16..NONE).zip(entries) {
            let (table, leaf) = if entry.function & 0x8000_0000 != 0 {
                (&mut index.extended, entry.function & 0x7fff_ffff)
            } else {
                (&mut index.basic, entry.function)
            };
            if let Some(slot) = table.get_mut(leaf as usize) {
                if *slot == NONE {
                    *slot = position;
                }
            }
        }
        index
    }

    /// The entry for a leaf and subleaf.
    #[inline]
    pub fn lookup<'e>(
        &self,
        entries: &'e [CpuidEntry],
        function: u32,
        index: u32,
    ) -> Option<&'e CpuidEntry> {
        let slot = if function & 0x8000_0000 != 0 {
            nospec::get_masked(&self.extended, (function & 0x7fff_ffff) as usize)
        } else {
            nospec::get_masked(&self.basic, function as usize)
        };
        match slot {
            Some(&NONE) => None,
            Some(&first) => {
                let rest = entries.get(first as usize..)?;
                rest.iter().find(|e| e.answers(function, index))
            }
            // Hypervisor leaves: rare, and their numbers are user space's choice.
            None => find(entries, function, index),
        }
    }
}

/// What the guest's CPUID with EAX = `function`, ECX = `index` returns.
#[inline]
pub fn execute(entries: &[CpuidEntry], table: &CpuidIndex, function: u32, index: u32) -> Regs {
    match table.lookup(entries, function, index) {
        Some(entry) => entry.regs(),
        None => execute_missing(entries, table, function, index),
    }
}

/// A leaf or subleaf that is not in the table.
#[cold]
fn execute_missing(entries: &[CpuidEntry], table: &CpuidIndex, function: u32, index: u32) -> Regs {
    let mut function = function;
    if let Some(basic) = out_of_range(entries, table, function) {
        // Intel processors answer a leaf beyond the highest with the highest basic one.
        function = basic;
        if let Some(entry) = table.lookup(entries, basic, index) {
            return entry.regs();
        }
    }
    // For a subleaf that is not there, the topology leaves still give the level asked for and the x2APIC id.
    if function == 0xb || function == 0x1f {
        if let Some(entry) = table.lookup(entries, function, 1) {
            return Regs {
                ecx: index & 0xff,
                edx: entry.edx,
                ..Regs::default()
            };
        }
    }
    Regs::default()
}

/// Whether leaf 0 names AMD or Hygon.
fn is_amd_compatible(basic: &CpuidEntry) -> bool {
    const AMD: (u32, u32, u32) = (0x6874_7541, 0x444d_4163, 0x6974_6e65);
    const HYGON: (u32, u32, u32) = (0x6f67_7948, 0x656e_6975, 0x6e65_476e);
    let vendor = (basic.ebx, basic.ecx, basic.edx);
    vendor == AMD || vendor == HYGON
}

/// The highest basic leaf, if `function` lies beyond the highest of its class and the guest's vendor is not AMD or Hygon.
fn out_of_range(entries: &[CpuidEntry], table: &CpuidIndex, function: u32) -> Option<u32> {
    let basic = table.lookup(entries, 0, 0)?;
    if is_amd_compatible(basic) {
        return None;
    }
    let class = match function {
        0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => function & 0x8000_0000,
    };
    match table.lookup(entries, class, 0) {
        Some(head) if function <= head.eax => None,
        _ => Some(basic.eax),
    }
}

/// State of the vCPU that shows in its CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The guest's CR4.
    pub cr4: u64,
    /// APIC_BASE has the enable bit.
    pub apic_enabled: bool,
    /// IA32_MISC_ENABLE has the MONITOR bit; `None` leaves CPUID alone (KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT).
    pub mwait: Option<bool>,
    /// The guest's XCR0.
    pub xcr0: u64,
    /// The guest's IA32_XSS.
    pub xss: u64,
}

/// Brings the bits that follow the vCPU's state up to date.
pub fn update_runtime(entries: &mut [CpuidEntry], sizes: &XstateSizes, state: &Runtime) {
    let set = |word: &mut u32, feature: Feature, on: bool| {
        *word = if on {
            *word | feature.mask
        } else {
            *word & !feature.mask
        };
    };
    for entry in entries {
        match (entry.function, entry.index) {
            (1, _) => {
                set(
                    &mut entry.ecx,
                    features::OSXSAVE,
                    state.cr4 & cr4::OSXSAVE != 0,
                );
                set(&mut entry.edx, features::APIC, state.apic_enabled);
                if let Some(mwait) = state.mwait {
                    set(&mut entry.ecx, features::MWAIT, mwait);
                }
            }
            (7, 0) => set(&mut entry.ecx, features::OSPKE, state.cr4 & cr4::PKE != 0),
            (0xd, 0) => entry.ebx = sizes.required(state.xcr0, false),
            (0xd, 1) if entry.eax & (features::XSAVES.mask | features::XSAVEC.mask) != 0 => {
                entry.ebx = sizes.required(state.xcr0 | state.xss, true);
            }
            _ => {}
        }
    }
}

/// Where the entry with KVM's feature bits is. User space may put KVM's leaves behind those of another hypervisor.
fn kvm_features(entries: &[CpuidEntry]) -> Option<usize> {
    let is_base = |e: &&CpuidEntry| {
        matches!(e.function, 0x4000_0000..=0x4000_ffff)
            && e.function & 0xff == 0
            && [e.ebx, e.ecx, e.edx] == KVM_SIGNATURE
    };
    let base = entries.iter().filter(is_base).map(|e| e.function).min()?;
    entries
        .iter()
        .position(|e| e.function == base | KVM_FEATURES_LEAF)
}

/// A guest whose HLT makes no exit can't be woken by a hypercall, and is not told that it could.
pub fn hide_pv_unhalt(entries: &mut [CpuidEntry]) {
    if let Some(entry) = kvm_features(entries).and_then(|at| entries.get_mut(at)) {
        entry.eax &= !kvm_feature::PV_UNHALT;
    }
}

/// What follows from a guest's table, computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCaps {
    words: [u32; WORD_COUNT],
    /// What the guest could have been given.
    possible: [u32; WORD_COUNT],
    /// The guest's vendor is AMD or Hygon.
    pub amd_compatible: bool,
    /// Physical address bits.
    pub maxphyaddr: u32,
    /// CR0, CR3, CR4 and EFER rules.
    pub rules: RegisterRules,
    /// XCR0 bits that XSETBV may set.
    pub xcr0_allowed: u64,
    /// IA32_XSS bits that WRMSR may set.
    pub xss_allowed: u64,
    /// EAX of KVM's feature leaf, as the guest sees it.
    pub kvm_features: u32,
}

impl GuestCaps {
    /// Whether the guest has the feature: in its table, and rkvm can do it.
    #[inline(always)]
    pub fn has(&self, feature: Feature) -> bool {
        self.words
            .get(feature.word)
            .is_some_and(|w| w & feature.mask != 0)
    }

    /// Whether a guest of this host can have the feature. User space may write state of it before it sets CPUID.
    pub fn could_have(&self, feature: Feature) -> bool {
        self.possible
            .get(feature.word)
            .is_some_and(|w| w & feature.mask != 0)
    }

    /// MONITOR is, or is no more, in the guest's CPUID, by IA32_MISC_ENABLE ([`Runtime::mwait`]).
    pub fn set_mwait(&mut self, on: bool) {
        if let Some(word) = self.words.get_mut(features::MWAIT.word) {
            *word = if on {
                *word | features::MWAIT.mask
            } else {
                *word & !features::MWAIT.mask
            };
        }
    }

    /// Derives them from `entries` on this host.
    pub fn derive(entries: &[CpuidEntry], host: &dyn HostCpuid, have: &Implemented) -> Self {
        let (mut words, mut possible) = ([0; WORD_COUNT], [0; WORD_COUNT]);
        for ((slot, possible), word) in words.iter_mut().zip(&mut possible).zip(WORDS) {
            *possible = word.offered(&host.cpuid(word.function, word.index), have) | word.own();
            *slot = find(entries, word.function, word.index)
                .map_or(0, |e| e.regs().get(word.reg) & *possible);
        }
        let leaf =
            |function, index| find(entries, function, index).map_or(Regs::default(), |e| e.regs());
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high).wrapping_shl(32);
        let (xsave, xsave1) = (leaf(0xd, 0), leaf(0xd, 1));
        let mut caps = Self {
            words,
            possible,
            amd_compatible: find(entries, 0, 0).is_some_and(is_amd_compatible),
            maxphyaddr: maxphyaddr(entries),
            rules: RegisterRules {
                cr4_reserved: 0,
                efer_reserved: 0,
                cr3_reserved: 0,
            },
            xcr0_allowed: wide(xsave.eax, xsave.edx) & have.xcr0,
            xss_allowed: wide(xsave1.ecx, xsave1.edx) & have.xss,
            kvm_features: kvm_features(entries)
                .and_then(|at| entries.get(at))
                .map_or(0, |e| e.eax),
        };
        // With EPT the processor walks the guest's tables and knows 1 GiB pages whatever CPUID says.
        if have.ept {
            if let Some(word) = caps.words.get_mut(features::GBPAGES.word) {
                let host_has = host.cpuid(0x8000_0001, 0).edx & features::GBPAGES.mask;
                *word = (*word & !features::GBPAGES.mask) | host_has;
            }
        }
        caps.rules = caps.register_rules();
        caps
    }

    fn register_rules(&self) -> RegisterRules {
        const CR4_BASE: u64 = cr4::VME
            | cr4::PVI
            | cr4::TSD
            | cr4::DE
            | cr4::PSE
            | cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::PCE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT;
        const CR4_BY_FEATURE: &[(Feature, u64)] = &[
            (features::XSAVE, cr4::OSXSAVE),
            (features::SMEP, cr4::SMEP),
            (features::SMAP, cr4::SMAP),
            (features::FSGSBASE, cr4::FSGSBASE),
            (features::PKU, cr4::PKE),
            (features::LA57, cr4::LA57),
            (features::UMIP, cr4::UMIP),
            (features::PCID, cr4::PCIDE),
        ];
        const EFER_BY_FEATURE: &[(Feature, u64)] = &[
            (features::LM, efer::LME | efer::LMA),
            (features::NX, efer::NX),
        ];
        let allow = |base: u64, table: &[(Feature, u64)]| {
            table
                .iter()
                .filter(|(feature, _)| self.has(*feature))
                .fold(base, |bits, (_, bit)| bits | bit)
        };
        RegisterRules {
            cr4_reserved: !allow(CR4_BASE, CR4_BY_FEATURE),
            efer_reserved: !allow(efer::SCE, EFER_BY_FEATURE),
            cr3_reserved: self.reserved_gpa_bits(),
        }
    }

    /// Bits that no guest physical address has.
    #[inline]
    pub fn reserved_gpa_bits(&self) -> u64 {
        u64::MAX.checked_shl(self.maxphyaddr).unwrap_or(0)
    }
}

/// Leaf 0x80000008, or 36 where there is none.
fn maxphyaddr(entries: &[CpuidEntry]) -> u32 {
    let has = find(entries, 0x8000_0000, 0).is_some_and(|e| e.eax >= 0x8000_0008);
    find(entries, 0x8000_0008, 0)
        .filter(|_| has)
        .map_or(36, |e| e.eax & 0xff)
}
