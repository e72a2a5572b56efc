// SPDX-License-Identifier: GPL-2.0

//! HLT, INIT and SIPI: when a vCPU runs, and what it waits for when it doesn't.
//!
//! The order that loses no wake-up: whoever wants the vCPU to look writes what it is about (an inbox, a request), and
//! then wakes; the thread says that it sleeps, and then looks. `block`'s condition only looks; what was found is done
//! with afterwards, because that may sleep.

use kernel::prelude::*;
use rkvm_core::{
    irq::lapic::Events,
    regs::SegReg,
    vmx::{
        fields::*,
        Vmcs, //
    },
};

use crate::{
    sys::{
        clock::monotonic_ns,
        cpu,
        params,
        wait::Wakeup, //
    },
    vcpu::{
        requests::Request,
        run::Flow,
        state::mp_state::MpState,
        Running, //
    },
};

impl Running<'_> {
    /// Whether the vCPU executes instructions.
    #[inline]
    pub(crate) fn is_runnable(&self) -> bool {
        self.arch.mp_state() == MpState::Runnable
    }

    /// Whether the vCPU has never been started.
    #[inline]
    pub(crate) fn waits_for_sipi(&self) -> bool {
        self.arch.mp_state() == MpState::Uninitialized
    }

    /// KVM_GET_MP_STATE: the state after what waits for it.
    pub(crate) fn mp_state_for_user(&mut self) -> MpState {
        self.take_inbox();
        match self.arch.mp_state() {
            MpState::Halted | MpState::ApResetHold if self.has_unhalt() => MpState::Runnable,
            state => state,
        }
    }

    /// Waits for INIT; EAGAIN when it may have come, or EINTR for a signal.
    pub(crate) fn wait_for_sipi(&mut self) -> Error {
        match self.while_blocked(Self::sleep) {
            Wakeup::Signal => EINTR,
            Wakeup::Ready => {
                self.vcpu.requests.take(Request::Apic);
                self.take_inbox();
                if cpu::signal_pending() {
                    EINTR
                } else {
                    EAGAIN
                }
            }
        }
    }

    /// HLT with the APIC in the kernel: nothing runs until there is an event.
    pub(crate) fn halt(&mut self) {
        self.arch.set_mp_state(MpState::Halted);
    }

    /// Sleeps until there is a reason to run, or to look at requests. EINTR for a signal.
    pub(crate) fn block(&mut self) -> Result<Flow> {
        if self.vcpu.requests.take(Request::DebugStep) {
            // The debugger hears of its step over HLT before the wait, not behind it.
            return Ok(self.report_step());
        }
        if !self.may_wake() && self.while_blocked(Self::wait_for_event) == Wakeup::Signal {
            return Err(EINTR);
        }
        if self.vcpu.requests.test(Request::VmDead) {
            return Err(EIO);
        }
        if self.handle_platform_requests()? == Flow::ToUser {
            return Ok(Flow::ToUser);
        }
        self.take_inbox();
        let halted = matches!(self.arch.mp_state(), MpState::Halted | MpState::ApResetHold);
        if halted && self.halt_ends() {
            self.forget_unhalt();
            self.arch.set_mp_state(MpState::Runnable);
            self.vcpu.requests.set_own(Request::Event);
        }
        Ok(Flow::Resume)
    }

    /// Outside the guest nothing but the hrtimer tells that the timer of the APIC is due, also to one who polls.
    fn while_blocked<R>(&mut self, wait: impl FnOnce(&mut Self) -> R) -> R {
        self.start_hrtimer();
        let result = wait(self);
        self.stop_hrtimer();
        result
    }

    fn sleep(&mut self) -> Wakeup {
        let vcpu = self.vcpu;
        vcpu.stats.blocking.set(1);
        let wakeup = vcpu.requests.wait.block(|| self.may_wake());
        vcpu.stats.blocking.set(0);
        wakeup
    }

    /// Polls for a little while, because many events come soon, then sleeps.
    fn wait_for_event(&mut self) -> Wakeup {
        let stats = &self.vcpu.stats;
        let begin = monotonic_ns();
        // The parameter may have been lowered since.
        let poll_ns = self.arch.halt_poll_ns.min(params::halt_poll_ns());
        if self.arch.mp_state() == MpState::Halted && poll_ns != 0 {
            stats.halt_attempted_poll.inc();
            let vcpu = self.vcpu;
            let end = begin.saturating_add(poll_ns.into());
            let found = vcpu.requests.wait.poll(end, || self.may_wake());
            let polled = monotonic_ns().saturating_sub(begin).max(0) as u64;
            if found {
                stats.halt_successful_poll.inc();
                stats.halt_poll_success_ns.add(polled);
                stats.halt_poll_success_hist.record(polled);
                return Wakeup::Ready;
            }
            stats.halt_poll_fail_ns.add(polled);
            stats.halt_poll_fail_hist.record(polled);
        }
        let asleep = monotonic_ns();
        let wakeup = self.sleep();
        let end = monotonic_ns();
        let waited = end.saturating_sub(asleep).max(0) as u64;
        stats.halt_wakeup.inc();
        stats.halt_wait_ns.add(waited);
        stats.halt_wait_hist.record(waited);
        self.adapt_polling(end.saturating_sub(begin));
        wakeup
    }

    /// Polls longer if that would have found the event, and not at all if the wait was much longer.
    fn adapt_polling(&mut self, waited_ns: i64) {
        let most = params::halt_poll_ns();
        let ns = &mut self.arch.halt_poll_ns;
        *ns = if waited_ns >= i64::from(most) {
            0
        } else if *ns == 0 {
            HALT_POLL_START_NS.min(most)
        } else {
            ns.saturating_mul(2).min(most)
        };
    }

    /// Whether the thread of a vCPU that does not run has to look. Does not sleep.
    fn may_wake(&mut self) -> bool {
        if self.vcpu.requests.test(Request::VmDead) {
            return true;
        }
        let Some(apic) = &self.arch.apic else {
            return true;
        };
        let events = apic.lapic.shared().inbox.events();
        match self.arch.mp_state() {
            MpState::Runnable => true,
            MpState::Uninitialized | MpState::InitReceived => events.has(START),
            MpState::Halted | MpState::ApResetHold => !events.is_empty() || self.halt_ends(),
        }
    }

    /// Whether something ends HLT.
    fn halt_ends(&mut self) -> bool {
        let events = &self.arch.events;
        if events.exception.is_some() || events.injected.is_some() || self.has_unhalt() {
            return true;
        }
        if self.vcpu.requests.test(Request::TripleFault)
            || (self.arch.events.nmis > 0 && !self.nmi_blocked())
        {
            return true;
        }
        self.interrupt_allowed() && self.has_interrupt()
    }

    /// Whether another vCPU has said that this one need not wait any longer (KVM_HC_KICK_CPU).
    pub(crate) fn has_unhalt(&self) -> bool {
        let apic = self.arch.apic.as_ref();
        apic.is_some_and(|a| a.lapic.shared().inbox.events().has(Events::UNHALT))
    }

    /// The vCPU runs: the next HLT is another one.
    pub(crate) fn forget_unhalt(&self) {
        if let Some(apic) = &self.arch.apic {
            apic.lapic.shared().inbox.take_events(Events::UNHALT);
        }
    }

    /// Takes what others have posted. UNHALT stays until the vCPU halts. May sleep.
    pub(crate) fn take_inbox(&mut self) {
        let Some(apic) = &mut self.arch.apic else {
            return;
        };
        // Vectors may have come as well.
        self.vcpu.requests.set_own(Request::Event);
        let inbox = &apic.lapic.shared().inbox;
        if inbox.events().is_empty() {
            return;
        }
        // A guest without SMM has nothing to do at an SMI.
        let now = Events::TIMER
            .union(Events::ILLEGAL_VECTOR)
            .union(Events::SMI);
        let taken = inbox.take_events(now);
        let start = inbox.events().has(START);
        if taken.has(Events::ILLEGAL_VECTOR) {
            apic.lapic.note_illegal_vector();
        }
        self.take_nmis();
        if taken.has(Events::TIMER) {
            self.timer_may_be_due();
        }
        if start {
            self.take_init_and_sipi();
        }
    }

    /// Takes the NMIs that others have posted.
    pub(crate) fn take_nmis(&mut self) {
        let posted = self.take_events(Events::NMI).nmis() as u8;
        if posted != 0 {
            self.pend_nmis(posted);
            self.vcpu.requests.set_own(Request::Event);
        }
    }

    fn take_events(&self, which: Events) -> Events {
        let apic = self.arch.apic.as_ref();
        apic.map_or(Events::NONE, |a| a.lapic.shared().inbox.take_events(which))
    }

    /// INIT resets the vCPU; a SIPI then starts it. A SIPI without INIT is dropped (SDM, "Typical AP Initialization
    /// Sequence").
    fn take_init_and_sipi(&mut self) {
        if self.take_events(Events::INIT).has(Events::INIT) {
            self.reset(true);
            self.reset_apic();
            self.forget_unhalt();
            self.arch.set_mp_state(if self.is_bsp() {
                MpState::Runnable
            } else {
                MpState::InitReceived
            });
        }
        if let Some(vector) = self.take_events(Events::SIPI).sipi() {
            self.arch.sipi_vector = vector;
            if self.arch.mp_state() == MpState::InitReceived {
                self.start_at(vector);
                self.forget_unhalt();
                self.arch.set_mp_state(MpState::Runnable);
                self.vcpu.requests.set_own(Request::Event);
            }
        }
    }

    /// Real-mode code at the start of page `vector`.
    fn start_at(&mut self, vector: u8) {
        let mut cs = self.segment(SegReg::Cs);
        cs.selector = u16::from(vector) << 8;
        cs.base = u64::from(vector) << 12;
        self.set_segment(SegReg::Cs, cs);
        self.hw.write(GUEST_RIP, 0);
    }
}

/// What starts a processor.
const START: Events = Events::INIT.union(Events::SIPI);
/// The first time that a vCPU polls, as C KVM's halt_poll_ns_grow_start.
const HALT_POLL_START_NS: u32 = 10_000;
