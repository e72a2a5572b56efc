// SPDX-License-Identifier: GPL-2.0

//! Steal time: how long the host has let a vCPU wait for a CPU (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).

use rkvm_core::{
    addr::Gpa,
    cpuid::kvm_feature,
    msr::MsrError,
    pvclock, //
};

use crate::{
    memory::NoMemory,
    sys::cpu::{
        counts_run_delay,
        run_delay_ns, //
    },
    vcpu::{
        requests::Request,
        Running, //
    },
};

/// MSR_KVM_STEAL_TIME: the guest has said where it wants it. Bits up to the address are reserved.
const ENABLED: u64 = 1 << 0;
const RESERVED: u64 = 0x3e;
const ADDRESS: u64 = !0x3f;
/// Where things are in `struct kvm_steal_time`, after the 64-bit time itself.
const VERSION: u64 = 8;
const PREEMPTED: u64 = 16;

/// What the guest is told.
#[derive(Default)]
pub(crate) struct StealTime {
    /// MSR_KVM_STEAL_TIME.
    msr: u64,
    /// How much of the thread's waiting is in what the guest reads.
    told_ns: u64,
}

impl Running<'_> {
    pub(super) fn steal_msr(&self) -> Result<u64, MsrError> {
        self.check_steal_feature()?;
        Ok(self.arch.steal_time.msr)
    }

    pub(super) fn set_steal_msr(&mut self, value: u64) -> Result<(), MsrError> {
        self.check_steal_feature()?;
        if value & RESERVED != 0 || !counts_run_delay() {
            return Err(MsrError::Invalid);
        }
        self.arch.steal_time.msr = value;
        self.thread_has_waited();
        Ok(())
    }

    fn check_steal_feature(&self) -> Result<(), MsrError> {
        if self.arch.pv_has(kvm_feature::STEAL_TIME) {
            Ok(())
        } else {
            Err(MsrError::Unsupported)
        }
    }

    /// The thread has slept or has been in user space: a guest that wants to know is told at the next entry.
    #[inline]
    pub(crate) fn thread_has_waited(&self) {
        if self.arch.steal_time.msr & ENABLED != 0 {
            self.vcpu.requests.set_own(Request::StealUpdate);
        }
    }

    /// Brings what the guest reads up to date.
    pub(super) fn write_steal_time(&mut self) {
        if self.arch.steal_time.msr & ENABLED != 0 {
            // An address without memory behind it is the guest's loss.
            let _ = self.write_steal_page(Gpa(self.arch.steal_time.msr & ADDRESS));
        }
    }

    fn write_steal_page(&mut self, at: Gpa) -> Result<(), NoMemory> {
        let memory = &self.vm.memory;
        let version_at = at.wrapping_add(VERSION);
        let version = pvclock::version_while_writing(memory.read_scalar::<u32>(version_at)?);
        memory.write_scalar(version_at, version)?;
        let waited = run_delay_ns();
        // Another thread may have waited less.
        let more = waited.saturating_sub(self.arch.steal_time.told_ns);
        let steal = memory.read_scalar::<u64>(at)?.wrapping_add(more);
        memory.write_scalar(at, steal)?;
        memory.write_scalar(at.wrapping_add(PREEMPTED), 0u8)?;
        memory.write_scalar(version_at, version.wrapping_add(1))?;
        self.arch.steal_time.told_ns = waited;
        Ok(())
    }
}
