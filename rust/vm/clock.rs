// SPDX-License-Identifier: GPL-2.0

//! The clock of a VM: nanoseconds since it was made, or what user space set (api.rst, "KVM_GET_CLOCK").
//!
//! It counts the host's TSC from one moment on, so the pages of all vCPUs agree. On a host whose own clock does not
//! trust the TSC it follows CLOCK_BOOTTIME, and each vCPU's page is good for a while only.

use kernel::prelude::*;
use rkvm_core::pvclock::{
    Moment,
    TimeScale, //
};

use super::Vm;
use crate::{
    host::host,
    sys::{
        clock::{
            boottime_ns,
            counts_tsc,
            realtime_ns,
            tsc_and_realtime_ns, //
        },
        msr,
        uabi::{
            kvm_clock_data,
            Abi, //
        },
    },
    vcpu::requests::Request,
};

/// `KVM_CLOCK_*`.
const TSC_STABLE: u32 = 1 << 1;
const REALTIME: u32 = 1 << 2;
const HOST_TSC: u32 = 1 << 3;

/// The clock.
pub(crate) struct VmClock {
    /// A moment on the host's TSC.
    tsc: Moment,
    /// Nanoseconds between CLOCK_BOOTTIME and this clock.
    offset: u64,
    /// MSR_KVM_WALL_CLOCK.
    pub(crate) wall_clock: u64,
}

/// What the clock shows at some moment.
pub(crate) struct Reading {
    /// The clock in nanoseconds.
    pub(crate) ns: u64,
    /// The host's CLOCK_REALTIME.
    pub(crate) realtime_ns: u64,
    /// The host's TSC, if its own clock counts that: then all three are of the same moment.
    pub(crate) tsc: Option<u64>,
}

impl VmClock {
    /// It starts at 0.
    pub(crate) fn new() -> Self {
        let mut clock = Self {
            tsc: Moment { tsc: 0, ns: 0 },
            offset: 0,
            wall_clock: 0,
        };
        clock.set(0);
        clock
    }

    fn set(&mut self, ns: u64) {
        self.tsc = Moment {
            tsc: msr::rdtsc(),
            ns,
        };
        self.offset = ns.wrapping_sub(boottime_ns());
    }

    /// A moment that is right for every vCPU, at any time; `None` if the host does not trust its TSC.
    pub(crate) fn stable_moment(&self) -> Option<Moment> {
        counts_tsc().then_some(self.tsc)
    }

    /// Counts from this moment on, and shows what it would have.
    pub(crate) fn rebase(&mut self) {
        let tsc = msr::rdtsc();
        self.tsc = Moment {
            tsc,
            ns: self.tsc.clock_at(tsc, TimeScale::new(host().tsc_hz())),
        };
    }

    /// This moment, for a host that does not.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            tsc: msr::rdtsc(),
            ns: boottime_ns().wrapping_add(self.offset),
        }
    }

    /// What the clock shows.
    pub(crate) fn read(&self) -> Reading {
        match tsc_and_realtime_ns() {
            Some((tsc, realtime_ns)) => Reading {
                ns: self.tsc.clock_at(tsc, TimeScale::new(host().tsc_hz())),
                realtime_ns,
                tsc: Some(tsc),
            },
            None => Reading {
                ns: self.moment().ns,
                realtime_ns: realtime_ns(),
                tsc: None,
            },
        }
    }
}

impl Vm {
    /// KVM_GET_CLOCK. With the flags it is what a guest computes from any vCPU's page and any vCPU's TSC.
    pub(crate) fn clock_data(&self) -> kvm_clock_data {
        let now = self.clock.lock().read();
        let mut data = kvm_clock_data {
            clock: now.ns,
            ..kvm_clock_data::zeroed()
        };
        if let Some(tsc) = now.tsc.filter(|_| self.tscs_agree()) {
            data.flags = TSC_STABLE | REALTIME | HOST_TSC;
            data.realtime = now.realtime_ns;
            data.host_tsc = tsc;
        }
        data
    }

    /// KVM_SET_CLOCK. EINVAL for flags that there are not.
    pub(crate) fn set_clock(&self, data: &kvm_clock_data) -> Result {
        if data.flags & !(TSC_STABLE | REALTIME | HOST_TSC) != 0 {
            return Err(EINVAL);
        }
        let mut clock = data.clock;
        if data.flags & REALTIME != 0 {
            // The time since the clock was read has passed in the guest, too. It does not step back.
            clock = clock.wrapping_add(realtime_ns().saturating_sub(data.realtime));
        }
        self.clock.lock().set(clock);
        self.update_clock_pages();
        Ok(())
    }

    /// All vCPUs write their clock pages before they enter the guest again.
    pub(crate) fn update_clock_pages(&self) {
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(Request::ClockUpdate);
            vcpu.requests.kick();
        }
    }
}
