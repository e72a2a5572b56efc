// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter (SDM, "Time-Stamp Counter Offsetting"; api.rst, KVM_SET_TSC_KHZ, KVM_SET_MSRS).
//!
//! RDTSC does not exit: the processor adds an offset, which all vCPUs of a VM share as long as nobody pulls them apart.

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering::Relaxed, //
};

use kernel::prelude::*;
use rkvm_core::{
    cpuid::features,
    msr::Origin,
    tsc::{
        self,
        within_tolerance,
        Scale,
        Write, //
    },
    vmx::{
        fields::*,
        Vmcs, //
    },
};

use super::{
    requests::Request,
    Running, //
};
use crate::{
    host::host,
    sys::{
        clock,
        msr, //
    },
    vm::Vm,
};

/// The TSC of one vCPU.
#[derive(Clone, Copy)]
pub(crate) struct Tsc {
    /// Guest ticks minus (scaled) host ticks.
    offset: u64,
    scale: Scale,
    /// What KVM_GET_TSC_KHZ answers.
    khz: u32,
    /// IA32_TSC_ADJUST.
    adjust: u64,
}

impl Tsc {
    /// At the frequency of the VM, or of the host.
    pub(crate) fn new(khz: u32) -> Self {
        Self {
            offset: 0,
            scale: scale(khz).unwrap_or(Scale::ONE),
            khz,
            adjust: 0,
        }
    }

    /// The guest's counter when the host's is `host`.
    #[inline]
    pub(crate) fn at(&self, host: u64) -> u64 {
        self.scale.apply(host).wrapping_add(self.offset)
    }

    /// Guest ticks minus (scaled) host ticks.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// How the guest's ticks follow from the host's.
    #[inline]
    pub(crate) fn scale(&self) -> Scale {
        self.scale
    }

    /// What user space asked for, in kHz.
    #[inline]
    pub(crate) fn khz(&self) -> u32 {
        self.khz
    }

    /// How many ticks of the guest's come in a second: its frequency, or the host's if that is within the tolerance.
    #[inline]
    pub(crate) fn ticks_per_second(&self) -> u64 {
        self.scale.apply(host().tsc_hz())
    }
}

/// What a vCPU's TSC is compared by with those of its siblings. Written by its own thread.
#[derive(Default)]
pub(crate) struct Shown {
    offset: AtomicU64,
    khz: AtomicU32,
}

impl Shown {
    fn set(&self, tsc: &Tsc) {
        self.offset.store(tsc.offset, Relaxed);
        self.khz.store(tsc.khz, Relaxed);
    }

    fn get(&self) -> (u64, u32) {
        (self.offset.load(Relaxed), self.khz.load(Relaxed))
    }
}

impl Vm {
    /// A TSC has changed, or a vCPU was added: whether all are one decides what the clock pages say.
    pub(crate) fn compare_tscs(&self) {
        let changed = {
            // The last to compare sees what all have shown.
            let _sync = self.tsc.lock();
            let agree = tsc::agree(self.vcpus.iter().map(|vcpu| vcpu.tsc.get()));
            self.tscs_agree.swap(agree, Relaxed) != agree
        };
        if changed {
            self.update_clock_pages();
        }
    }

    /// Whether the TSCs of all vCPUs are one.
    pub(crate) fn tscs_agree(&self) -> bool {
        self.tscs_agree.load(Relaxed)
    }
}

/// How to run at `khz` on this host. EINVAL if there is no way.
fn scale(khz: u32) -> Result<Scale> {
    if within_tolerance(khz, host().tsc_khz) {
        return Ok(Scale::ONE);
    }
    Scale::new(khz, host().tsc_khz)
        .filter(|_| host().vmcs.features.tsc_scaling)
        .ok_or(EINVAL)
}

/// Frequencies are below this, in kHz: KVM_GET_TSC_KHZ answers with an `int`.
const TOO_FAST: u32 = i32::MAX as u32;

/// KVM_SET_TSC_KHZ on a VM and on a vCPU: 0 stands for the host's frequency. EINVAL if the host can't run a guest at it.
pub(crate) fn checked_khz(wanted: u64) -> Result<u32> {
    let khz = match wanted as u32 {
        0 => host().tsc_khz,
        khz if khz >= TOO_FAST => return Err(EINVAL),
        khz => khz,
    };
    scale(khz).map(|_| khz)
}

impl Running<'_> {
    /// The counter of a new vCPU starts at 0, or where those of its siblings are.
    pub(crate) fn start_tsc(&mut self) {
        self.write_scale();
        self.synchronize_tsc(None);
    }

    fn write_scale(&self) {
        if host().vmcs.features.tsc_scaling {
            self.hw
                .write(TSC_MULTIPLIER, self.arch.tsc.scale.multiplier());
        }
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.arch.tsc.offset = offset;
        self.hw.write(TSC_OFFSET, offset);
        self.tsc_changed();
    }

    /// What is told in guest ticks comes at another time now: the deadline, also of a vCPU that sleeps, and the clock page.
    fn tsc_changed(&mut self) {
        self.vcpu.tsc.set(&self.arch.tsc);
        self.vm.compare_tscs();
        self.arm_timer();
        self.vcpu.requests.set_own(Request::ClockUpdate);
    }

    /// A write that may have to keep this counter equal to those of the other vCPUs.
    fn synchronize_tsc(&mut self, value: Option<u64>) {
        let offset = {
            let mut sync = self.vm.tsc.lock();
            sync.write(&Write {
                value,
                host: self.arch.tsc.scale.apply(msr::rdtsc()),
                now_ns: clock::boottime_ns(),
                khz: self.arch.tsc.khz,
            })
        };
        self.set_tsc_offset(offset);
    }

    /// KVM_VCPU_TSC_OFFSET: user space knows by itself how the vCPUs belong together.
    pub(crate) fn restore_tsc_offset(&mut self, offset: u64) {
        {
            let mut sync = self.vm.tsc.lock();
            let host = self.arch.tsc.scale.apply(msr::rdtsc());
            sync.restore(
                offset,
                &Write {
                    value: Some(host.wrapping_add(offset)),
                    host,
                    now_ns: clock::boottime_ns(),
                    khz: self.arch.tsc.khz,
                },
            );
        }
        self.set_tsc_offset(offset);
    }

    /// What RDTSC gives the guest now.
    #[inline]
    pub(crate) fn guest_tsc(&self) -> u64 {
        self.arch.tsc.at(msr::rdtsc())
    }

    /// IA32_TIME_STAMP_COUNTER.
    pub(crate) fn write_tsc_msr(&mut self, value: u64, origin: Origin) {
        if origin == Origin::User {
            return self.synchronize_tsc(Some(value));
        }
        let by = value.wrapping_sub(self.guest_tsc());
        self.arch.tsc.adjust = self.arch.tsc.adjust.wrapping_add(by);
        self.set_tsc_offset(self.arch.tsc.offset.wrapping_add(by));
    }

    /// Reads IA32_TSC_ADJUST.
    pub(crate) fn tsc_adjust(&self) -> u64 {
        self.arch.tsc.adjust
    }

    /// Writes IA32_TSC_ADJUST: by the guest it moves the counter, by user space it restores the register alone. As with C KVM
    /// nothing happens if the guest's CPUID does not have it.
    pub(crate) fn set_tsc_adjust(&mut self, value: u64, origin: Origin) {
        if !self.arch.caps.has(features::TSC_ADJUST) {
            return;
        }
        if origin == Origin::Guest {
            let by = value.wrapping_sub(self.arch.tsc.adjust);
            self.set_tsc_offset(self.arch.tsc.offset.wrapping_add(by));
        }
        self.arch.tsc.adjust = value;
    }

    /// KVM_SET_TSC_KHZ. The offset stays, so that vCPUs which are set one after the other are together in the end; the
    /// counter itself jumps. EINVAL if the host can't do it.
    pub(crate) fn set_tsc_khz(&mut self, wanted: u64) -> Result {
        let khz = checked_khz(wanted)?;
        self.arch.tsc.khz = khz;
        self.arch.tsc.scale = scale(khz)?;
        self.write_scale();
        self.tsc_changed();
        Ok(())
    }
}
