// SPDX-License-Identifier: GPL-2.0

//! CPUID: what rkvm offers, what a guest was given, and what follows from it.
//!
//! SDM volume 2, "CPUID"; api.rst, KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID, KVM_SET_CPUID2. The offer is data
//! ([`features`]); a guest's table is used as it stands, with an index over it so that a CPUID exit is a load and a
//! compare; everything derived from it is computed when the table is set ([`guest`]), not when it is asked for.

pub mod features;
pub mod guest;
pub mod supported;
pub mod xstate;

#[cfg(test)]
mod tests;

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub struct Regs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers'
pub enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Regs {
    /// The register `reg`.
    #[inline]
    pub const fn get(&self, reg: Reg) -> u32 {
        match reg {
            Reg::Eax => self.eax,
            Reg::Ebx => self.ebx,
            Reg::Ecx => self.ecx,
            Reg::Edx => self.edx,
        }
    }
}

/// The CPUID instruction of the host.
pub trait HostCpuid {
    /// CPUID with EAX = `leaf` and ECX = `subleaf`.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs;
}

/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry is for its index only.
pub const SIGNIFICANT_INDEX: u32 = 1 << 0;
/// KVM_MAX_CPUID_ENTRIES: the most entries that one table can have.
pub const MAX_ENTRIES: usize = 256;

/// `struct kvm_cpuid_entry2`, with its layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the names are the ABI's
pub struct CpuidEntry {
    pub function: u32,
    pub index: u32,
    pub flags: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub padding: [u32; 3],
}

const _: () = assert!(core::mem::size_of::<CpuidEntry>() == 40);

impl CpuidEntry {
    /// Whether the entry answers for this leaf and subleaf.
    #[inline]
    pub const fn answers(&self, function: u32, index: u32) -> bool {
        self.function == function && (self.flags & SIGNIFICANT_INDEX == 0 || self.index == index)
    }

    /// The four registers.
    #[inline]
    pub const fn regs(&self) -> Regs {
        Regs {
            eax: self.eax,
            ebx: self.ebx,
            ecx: self.ecx,
            edx: self.edx,
        }
    }
}

/// Leaves whose answer depends on ECX (SDM, "CPUID").
pub const fn is_indexed(function: u32) -> bool {
    matches!(
        function,
        0x4 | 0x7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1d | 0x1e | 0x1f | 0x24
    )
}

/// The first leaf of KVM's own.
pub const KVM_SIGNATURE_LEAF: u32 = 0x4000_0000;
/// The leaf of KVM's feature bits.
pub const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
/// "KVMKVMKVM\0\0\0" as EBX, ECX, EDX.
pub const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];

/// Bits of EAX of [`KVM_FEATURES_LEAF`] (Documentation/virt/kvm/x86/cpuid.rst).
#[allow(missing_docs)]
pub mod kvm_feature {
    pub const CLOCKSOURCE: u32 = 1 << 0;
    pub const NOP_IO_DELAY: u32 = 1 << 1;
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    pub const ASYNC_PF: u32 = 1 << 4;
    pub const STEAL_TIME: u32 = 1 << 5;
    pub const PV_EOI: u32 = 1 << 6;
    pub const PV_UNHALT: u32 = 1 << 7;
    pub const PV_TLB_FLUSH: u32 = 1 << 9;
    pub const ASYNC_PF_VMEXIT: u32 = 1 << 10;
    pub const PV_SEND_IPI: u32 = 1 << 11;
    pub const POLL_CONTROL: u32 = 1 << 12;
    pub const PV_SCHED_YIELD: u32 = 1 << 13;
    pub const ASYNC_PF_INT: u32 = 1 << 14;
    pub const MSI_EXT_DEST_ID: u32 = 1 << 15;
    pub const HC_MAP_GPA_RANGE: u32 = 1 << 16;
    pub const MIGRATION_CONTROL: u32 = 1 << 17;
    pub const CLOCKSOURCE_STABLE_BIT: u32 = 1 << 24;
}
