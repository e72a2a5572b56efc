// SPDX-License-Identifier: GPL-2.0

//! The clock that the local APIC sees, and what makes the host look when its timer is due.
//!
//! While the guest runs that is the VMX preemption timer, which costs one VMWRITE at entry; while the vCPU is blocked,
//! or on a processor without it, an hrtimer. Both only make the vCPU's thread ask the APIC, which decides by the time.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    irq::lapic::{
        Alarm,
        Clock,
        Events, //
    },
    tsc::Scale,
    vmx::{
        controls::PinBased,
        fields::*,
        Vmcs, //
    },
};

use super::{
    super::tsc::Tsc,
    apic::Apic, //
};
use crate::{
    host::host,
    irq::pit,
    sys::{
        apic_page::ApicPages,
        clock::monotonic_ns,
        hrtimer::{
            Timer,
            TimerCallback, //
        },
        msr, //
    },
    vcpu::{
        requests::{
            Request,
            Requests, //
        },
        Arch,
        Running, //
    },
};

/// No deadline.
const NEVER: u64 = u64::MAX;
const NS_PER_MS: u64 = 1_000_000;

/// What the hrtimer calls: the inbox gets a note and the vCPU's thread looks into it.
struct Bell {
    requests: Arc<Requests>,
    pages: ApicPages,
}

impl TimerCallback for Bell {
    fn expired(&self, _timer: &Timer<Self>) {
        let _ = self.pages.inbox.post(Events::TIMER);
        self.requests.set(Request::Apic);
        self.requests.kick();
    }
}

/// The host's side of an APIC timer.
pub(super) struct ApicTimer {
    /// When the APIC is to be asked, in ticks of the host's TSC; [`NEVER`] if not.
    deadline: u64,
    /// The preemption timer in the VMCS was last loaded with a deadline.
    loaded: bool,
    hrtimer: Pin<KBox<Timer<Bell>>>,
}

impl ApicTimer {
    pub(super) fn new(requests: Arc<Requests>, pages: ApicPages) -> Result<Self> {
        let bell = Bell { requests, pages };
        Ok(Self {
            deadline: NEVER,
            loaded: true,
            hrtimer: KBox::pin_init(Timer::new(bell), GFP_KERNEL_ACCOUNT)?,
        })
    }
}

/// The time as the APIC of one vCPU sees it.
pub(crate) struct ApicClock<'a>(&'a Tsc);

impl Clock for ApicClock<'_> {
    #[inline]
    fn ns(&self) -> u64 {
        pit::now()
    }

    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.0.at(msr::rdtsc())
    }
}

/// `value * to / from` for frequencies, without an intermediate that overflows for any time that a host is up.
fn rescale(value: u64, to: u64, from: u64) -> u64 {
    let from = from.max(1);
    let whole = (value / from).saturating_mul(to);
    whole.saturating_add((value % from).saturating_mul(to) / from)
}

impl Arch {
    /// The APIC together with its clock.
    #[inline]
    pub(crate) fn apic_and_clock(&mut self) -> Option<(&mut Apic, ApicClock<'_>)> {
        let apic = self.apic.as_mut()?;
        Some((apic, ApicClock(&self.tsc)))
    }

    /// The host's TSC when the guest's reaches `deadline`.
    #[inline]
    fn host_deadline(&self, deadline: u64) -> u64 {
        let now = msr::rdtsc();
        let left = deadline.saturating_sub(self.tsc.at(now));
        let host_left = if self.tsc.scale() == Scale::ONE {
            left
        } else {
            // Rounded up, or the exit comes before the time.
            rescale(left, host().tsc_hz(), self.tsc.ticks_per_second()).saturating_add(1)
        };
        now.saturating_add(host_left)
    }
}

impl Running<'_> {
    /// The VMX preemption timer is there.
    #[inline]
    fn has_preemption_timer(&self) -> bool {
        host().vmcs.features.preemption_timer
    }

    /// Switches the preemption timer on, for a vCPU with an APIC in the kernel.
    pub(crate) fn set_up_timer(&mut self) {
        if self.has_kernel_apic() && self.has_preemption_timer() {
            let pin = self.arch.controls.pin.set(PinBased::PREEMPTION_TIMER, true);
            self.arch.controls.pin = pin;
            self.hw.write(PIN_BASED_VM_EXEC_CONTROL, pin.bits());
        }
    }

    /// The APIC's alarm has changed, or how its time follows from the host's.
    pub(crate) fn arm_timer(&mut self) {
        let Some(apic) = &self.arch.apic else {
            return;
        };
        let alarm = apic.lapic.alarm();
        self.arm(alarm);
    }

    fn arm(&mut self, alarm: Alarm) {
        let deadline = match alarm {
            Alarm::Off => NEVER,
            Alarm::AtTsc(tsc) => self.arch.host_deadline(tsc),
            Alarm::AtNs(ns) => {
                let left = ns.saturating_sub(pit::now());
                msr::rdtsc().saturating_add(rescale(left, host().tsc_khz.into(), NS_PER_MS))
            }
        };
        let preemption_timer = self.has_preemption_timer();
        if let Some(apic) = &mut self.arch.apic {
            apic.timer.deadline = deadline;
            if !preemption_timer {
                apic.timer.start_hrtimer();
            }
        }
    }

    /// Writes IA32_TSC_DEADLINE: the timer write that guests make all the time. Interrupts may be off.
    #[inline]
    pub(super) fn write_tsc_deadline(&mut self, value: u64) {
        let Some(apic) = &mut self.arch.apic else {
            return;
        };
        if let Some(alarm) = apic.lapic.set_tsc_deadline(value) {
            self.arm(alarm);
        }
    }

    /// Loads the preemption timer for the next entry. Interrupts are off.
    #[inline]
    pub(crate) fn load_preemption_timer(&mut self) {
        let Some(apic) = &mut self.arch.apic else {
            return;
        };
        if apic.timer.deadline == NEVER && !apic.timer.loaded {
            return;
        }
        self.load_deadline();
    }

    fn load_deadline(&mut self) {
        if !self.has_preemption_timer() {
            return;
        }
        let Some(apic) = &mut self.arch.apic else {
            return;
        };
        let deadline = apic.timer.deadline;
        apic.timer.loaded = deadline != NEVER;
        // Without a deadline the longest time there is: an exit then finds nothing due.
        let left = deadline
            .saturating_sub(msr::rdtsc())
            .wrapping_shr(host().vmcs.preemption_timer_shift);
        self.hw.write(
            VMX_PREEMPTION_TIMER_VALUE,
            u32::try_from(left).unwrap_or(u32::MAX),
        );
    }

    /// Time may have come: asks the APIC, and arms what comes next.
    pub(crate) fn timer_may_be_due(&mut self) {
        let Some((apic, clock)) = self.arch.apic_and_clock() else {
            return;
        };
        let alarm = apic.lapic.timer_expired(&clock);
        self.arm(alarm);
        self.vcpu.requests.set_own(Request::Event);
    }

    /// The vCPU is about to sleep: an hrtimer wakes it up.
    pub(super) fn start_hrtimer(&self) {
        if let Some(apic) = &self.arch.apic {
            apic.timer.start_hrtimer();
        }
    }

    /// The vCPU runs again: the preemption timer is enough.
    pub(super) fn stop_hrtimer(&self) {
        if let (Some(apic), true) = (&self.arch.apic, self.has_preemption_timer()) {
            if apic.timer.deadline != NEVER {
                apic.timer.hrtimer.cancel();
            }
        }
    }
}

impl ApicTimer {
    fn start_hrtimer(&self) {
        if self.deadline == NEVER {
            let _ = self.hrtimer.try_cancel();
            return;
        }
        let left = self.deadline.saturating_sub(msr::rdtsc());
        // Rounded up: it is better late by a tick than asked for twice.
        let ns = rescale(left, NS_PER_MS, host().tsc_khz.into()).saturating_add(1);
        let at = monotonic_ns().saturating_add(i64::try_from(ns).unwrap_or(i64::MAX));
        self.hrtimer.start(at);
    }
}
