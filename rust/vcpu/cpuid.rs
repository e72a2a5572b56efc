// SPDX-License-Identifier: GPL-2.0

//! The guest's CPUID table and what follows from it (api.rst, "KVM_SET_CPUID2").

use kernel::prelude::*;
use rkvm_core::{
    cpuid::{
        features,
        guest::{
            check,
            equal,
            hide_pv_unhalt,
            update_runtime,
            BadCpuid,
            CpuidIndex,
            GuestCaps,
            Runtime, //
        },
        CpuidEntry, //
    },
    vmx::{
        controls::Secondary,
        negotiate::VcpuShape,
        registers::RegisterRules, //
    },
};

use super::{
    Arch,
    Running, //
};
use crate::host::{
    host,
    HostCpu, //
};

/// The table and its index.
pub(crate) struct Cpuid {
    pub(crate) entries: KVVec<CpuidEntry>,
    pub(crate) index: CpuidIndex,
}

impl Cpuid {
    /// The table of a new vCPU: empty.
    pub(crate) const fn new() -> Self {
        Self {
            entries: KVVec::new(),
            index: CpuidIndex::EMPTY,
        }
    }
}

/// What a guest with this table may do.
pub(crate) fn caps_of(entries: &[CpuidEntry]) -> GuestCaps {
    GuestCaps::derive(entries, &HostCpu, &host().implemented)
}

impl Arch {
    /// Rules for control registers.
    #[inline]
    pub(crate) fn rules(&self) -> &RegisterRules {
        &self.caps.rules
    }

    /// What decides the VMCS controls.
    pub(crate) fn shape(&self) -> VcpuShape {
        VcpuShape {
            rdtscp: self.caps.has(features::RDTSCP) || self.caps.has(features::RDPID),
            invpcid: self.caps.has(features::INVPCID),
            xsaves: self.caps.has(features::XSAVES),
            hlt_in_guest: self.hlt_in_guest,
            pause_in_guest: self.pause_in_guest,
            vpid: self.vpid.is_some(),
            logs_writes: self.controls.secondary.has(Secondary::ENABLE_PML),
            apic: self.apic.as_ref().map(|apic| apic.lapic.place()),
            ..VcpuShape::default()
        }
    }

    /// Whether the guest may use a paravirtual feature: CPUID counts only where user space says that it has to
    /// (KVM_CAP_ENFORCE_PV_FEATURE_CPUID).
    #[inline]
    pub(crate) fn pv_has(&self, feature: u32) -> bool {
        !self.pv_enforced || self.caps.kvm_features & feature != 0
    }

    /// EAX of leaf 1, which is also in RDX after reset.
    pub(crate) fn cpuid_signature(&self) -> Option<u64> {
        self.cpuid
            .index
            .lookup(&self.cpuid.entries, 1, 0)
            .map(|e| u64::from(e.eax))
    }
}

impl Running<'_> {
    /// KVM_SET_CPUID2. E2BIG for too many entries; EINVAL for a table that no processor has, or another one than the
    /// vCPU has run with.
    pub(crate) fn set_cpuid(&mut self, mut entries: KVVec<CpuidEntry>) -> Result {
        if self.arch.hlt_in_guest {
            hide_pv_unhalt(&mut entries);
        }
        if self.arch.has_run {
            // User space does not know what CR4 and the like have made of the table.
            update_runtime(&mut entries, &host().xstate_sizes, &self.cpuid_runtime());
            return if equal(&entries, &self.arch.cpuid.entries) {
                Ok(())
            } else {
                Err(EINVAL)
            };
        }
        check(&entries).map_err(|e| match e {
            BadCpuid::TooMany => E2BIG,
            BadCpuid::LinearAddressBits => EINVAL,
        })?;
        self.arch.cpuid.index = CpuidIndex::build(&entries);
        self.arch.cpuid.entries = entries;
        self.arch.caps = caps_of(&self.arch.cpuid.entries);
        self.arch.mmu.forget_paging();
        self.update_dynamic_cpuid();
        self.write_controls_for_shape();
        self.update_msr_bitmap();
        self.update_user_return_msrs();
        self.apic_follows_cpuid();
        // The guest/host mask of CR4 depends on the bits that the guest has.
        let cr4 = self.read_cr4();
        self.set_cr4(cr4);
        self.update_xstate();
        Ok(())
    }

    /// The bits of CPUID that follow CR4, XCR0, XSS and the APIC.
    pub(crate) fn update_dynamic_cpuid(&mut self) {
        let state = self.cpuid_runtime();
        update_runtime(&mut self.arch.cpuid.entries, &host().xstate_sizes, &state);
        if let Some(mwait) = state.mwait {
            self.arch.caps.set_mwait(mwait);
        }
    }

    fn cpuid_runtime(&self) -> Runtime {
        Runtime {
            cr4: self.read_cr4(),
            apic_enabled: self.apic_enabled(),
            mwait: (!self.vm.caps.misc_enable_no_mwait()).then(|| self.arch.msrs.mwait_enabled()),
            xcr0: self.arch.xcr0,
            xss: self.arch.msrs.xss,
        }
    }
}
