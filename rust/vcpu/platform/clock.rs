// SPDX-License-Identifier: GPL-2.0

//! kvmclock of one vCPU: its MSRs and its page (Documentation/virt/kvm/x86/msr.rst).

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    cpuid::kvm_feature,
    msr::{
        Handler,
        MsrError, //
    },
    pvclock::{
        self,
        Moment,
        TimeScale, //
    },
};

use crate::{
    memory::NoMemory,
    sys::clock::{
        counts_tsc,
        tsc_and_realtime_ns,
        turns, //
    },
    vcpu::{
        requests::Request,
        Running, //
    },
};

/// The clock page is in use.
const ENABLED: u64 = 1 << 0;

/// The clock page of a vCPU.
#[derive(Default)]
pub(crate) struct ClockPage {
    /// MSR_KVM_SYSTEM_TIME.
    msr: u64,
    /// Where the page is, if there is one.
    at: Option<Gpa>,
    /// The guest is to hear that it was stopped (KVM_KVMCLOCK_CTRL).
    stopped: bool,
    /// [`turns`] when the page was last written.
    turns: u32,
}

impl ClockPage {
    /// MSR_KVM_SYSTEM_TIME is written. As with C KVM a clock that does not lie in one page is none, and one that was there
    /// stays.
    fn place(&mut self, msr: u64) {
        self.msr = msr;
        let at = Gpa(msr & !ENABLED);
        if msr & ENABLED == 0 {
            self.at = None;
        } else if at.bytes_to_page_end() >= pvclock::TIME_INFO_BYTES as u64 {
            self.at = Some(at);
        }
    }

    /// Whether the host has lost its trust in the TSC, or found it again, since the page was written.
    #[inline]
    pub(crate) fn is_outdated(&self) -> bool {
        self.turns != turns()
    }
}

impl Running<'_> {
    pub(super) fn get_clock_msr(&self, handler: Handler) -> Result<u64, MsrError> {
        self.check_clock_msr(handler)?;
        match handler {
            Handler::WallClock(_) => Ok(self.vm.clock.lock().wall_clock),
            Handler::SystemTime(_) => Ok(self.arch.clock_page.msr),
            _ => Err(MsrError::Unsupported),
        }
    }

    pub(super) fn set_clock_msr(&mut self, handler: Handler, value: u64) -> Result<(), MsrError> {
        self.check_clock_msr(handler)?;
        match handler {
            Handler::WallClock(_) => {
                self.vm.clock.lock().wall_clock = value;
                // An address without memory behind it is the guest's loss.
                let _ = self.write_wall_clock(Gpa(value));
            }
            Handler::SystemTime(_) => {
                self.arch.clock_page.place(value);
                self.vcpu.requests.set_own(Request::ClockUpdate);
            }
            _ => return Err(MsrError::Unsupported),
        }
        Ok(())
    }

    /// The guest may be held to what its CPUID offers, and user space with it.
    fn check_clock_msr(&self, handler: Handler) -> Result<(), MsrError> {
        let feature = match handler {
            Handler::WallClock(true) | Handler::SystemTime(true) => kvm_feature::CLOCKSOURCE,
            _ => kvm_feature::CLOCKSOURCE2,
        };
        if self.arch.pv_has(feature) {
            Ok(())
        } else {
            Err(MsrError::Unsupported)
        }
    }

    /// The time of day at which the guest's clock was 0. It may lie in two pages.
    fn write_wall_clock(&self, at: Gpa) -> Result<(), NoMemory> {
        if at.0 == 0 {
            return Ok(());
        }
        let memory = &self.vm.memory;
        let mut old = [0; 4];
        memory.read(at, &mut old)?;
        let version = pvclock::version_while_writing(u32::from_le_bytes(old));
        memory.write(at, &version.to_le_bytes())?;
        let now = self.vm.clock.lock().read();
        let epoch = now.realtime_ns.wrapping_sub(now.ns);
        memory.write(at, &pvclock::wall_clock(version, epoch))?;
        memory.write(at, &version.wrapping_add(1).to_le_bytes())
    }

    /// Writes the clock page, if the guest has one.
    pub(super) fn write_system_time(&mut self) {
        // Before the clock is read: what changes meanwhile has it written again.
        self.arch.clock_page.turns = turns();
        if let Some(at) = self.arch.clock_page.at {
            self.have_clock_begin_in_guest_time();
            // As above.
            let _ = self.write_time_info(at);
        }
    }

    /// Whether the clock page is good on the CPU only that it was written on: the host does not trust its TSC. Interrupts may
    /// be off.
    #[inline]
    pub(crate) fn has_clock_of_one_cpu(&self) -> bool {
        self.arch.clock_page.at.is_some() && !counts_tsc()
    }

    /// The guest's TSC is set after the clock has begun to count: at that moment it would have been before 0. So the clock,
    /// which is that of all vCPUs, counts from now on.
    fn have_clock_begin_in_guest_time(&self) {
        let mut clock = self.vm.clock.lock();
        let is_before_0 = clock
            .stable_moment()
            .is_some_and(|moment| self.arch.tsc.at(moment.tsc) > self.guest_tsc());
        if is_before_0 {
            clock.rebase();
            drop(clock);
            self.vm.update_clock_pages();
        }
    }

    fn write_time_info(&mut self, at: Gpa) -> Result<(), NoMemory> {
        let memory = &self.vm.memory;
        let (moment, stable) = {
            let clock = self.vm.clock.lock();
            match clock.stable_moment() {
                Some(moment) => (moment, self.vm.tscs_agree()),
                None => (clock.moment(), false),
            }
        };
        let mut flags = memory.read_scalar::<u8>(at.wrapping_add(FLAGS))? & pvclock::GUEST_STOPPED;
        if stable {
            flags |= pvclock::TSC_STABLE;
        }
        if core::mem::take(&mut self.arch.clock_page.stopped) {
            flags |= pvclock::GUEST_STOPPED;
        }
        let guest = Moment {
            tsc: self.arch.tsc.at(moment.tsc),
            ns: moment.ns,
        };
        let scale = TimeScale::new(self.arch.tsc.ticks_per_second());
        let version = pvclock::version_while_writing(memory.read_scalar::<u32>(at)?);
        memory.write_scalar(at, version)?;
        memory.write(at, &pvclock::time_info(version, guest, scale, flags))?;
        memory.write_scalar(at, version.wrapping_add(1))
    }

    /// The host's time of day and the guest's TSC of one moment; `None` if the host does not trust its TSC.
    pub(crate) fn clock_pairing(&self) -> Option<[u8; pvclock::CLOCK_PAIRING_BYTES]> {
        let (tsc, realtime_ns) = tsc_and_realtime_ns()?;
        Some(pvclock::clock_pairing(realtime_ns, self.arch.tsc.at(tsc)))
    }

    /// KVM_KVMCLOCK_CTRL. EINVAL for a guest that has no clock page.
    pub(crate) fn guest_was_stopped(&mut self) -> Result {
        if self.arch.clock_page.at.is_none() {
            return Err(EINVAL);
        }
        self.arch.clock_page.stopped = true;
        self.vcpu.requests.set_own(Request::ClockUpdate);
        Ok(())
    }
}

/// Where the flags are in the page.
const FLAGS: u64 = 29;
