// SPDX-License-Identifier: GPL-2.0

//! The timer of a local APIC. It says when it is due; the caller has the clock and the host timer.
//!
//! Expiry is decided from the time alone: a host timer that fires early, late, twice or after a change only makes the
//! owner look, so nothing has to be cancelled in the right order.
//!
//! SDM volume 3, "APIC Timer", "TSC-Deadline Mode".

use super::{
    base::Mode,
    lvt,
    Events,
    Lapic,
    Lvt,
    Reg,
    Shared, //
};
use core::ops::Deref;

/// The time, as the caller knows it.
pub trait Clock {
    /// Monotonic time in ns.
    fn ns(&self) -> u64;
    /// The guest's TSC (offset and scaling applied).
    fn guest_tsc(&self) -> u64;
}

/// Mode of the timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimerMode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Starts again by itself.
    Periodic,
    /// Fires when the TSC passes IA32_TSC_DEADLINE.
    TscDeadline,
    /// The reserved encoding: never fires.
    Reserved,
}

/// When the owner has to call [`Lapic::timer_expired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Not at all.
    Off,
    /// At this monotonic time in ns; it may be in the past.
    AtNs(u64),
    /// When the guest's TSC reaches this value; it may be in the past.
    AtTsc(u64),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    mode: TimerMode,
    /// log2 of the divider.
    shift: u32,
    /// Length of a whole count in ns; 0 if no count was ever started.
    period_ns: u64,
    target_ns: Option<u64>,
    /// 0: not armed.
    deadline_tsc: u64,
}

/// log2 of the divider that a divide configuration register selects: bits 0, 1 and 3.
const fn divide_shift(value: u32) -> u32 {
    ((value & 3 | (value >> 1) & 4).wrapping_add(1)) & 7
}

impl Timer {
    /// After RESET or INIT: one-shot, divided by 2, stopped.
    pub(super) fn reset(&mut self) {
        *self = Self {
            shift: divide_shift(0),
            ..Self::default()
        };
    }
}

impl<S: Deref<Target = Shared>> Lapic<S> {
    /// What the host timer has to be armed for.
    #[inline]
    pub fn alarm(&self) -> Alarm {
        match (self.timer.mode, self.timer.target_ns) {
            (TimerMode::TscDeadline, _) if self.timer.deadline_tsc != 0 => {
                Alarm::AtTsc(self.timer.deadline_tsc)
            }
            (TimerMode::OneShot | TimerMode::Periodic, Some(target)) => Alarm::AtNs(target),
            _ => Alarm::Off,
        }
    }

    /// IA32_TSC_DEADLINE; 0 outside of the mode.
    #[inline]
    pub fn tsc_deadline(&self) -> u64 {
        if self.timer.mode == TimerMode::TscDeadline && self.mode != Mode::Disabled {
            self.timer.deadline_tsc
        } else {
            0
        }
    }

    /// WRMSR IA32_TSC_DEADLINE. `None`: not in that mode, the write does nothing.
    #[inline]
    pub fn set_tsc_deadline(&mut self, value: u64) -> Option<Alarm> {
        if self.timer.mode != TimerMode::TscDeadline || self.mode == Mode::Disabled {
            return None;
        }
        self.timer.deadline_tsc = value;
        Some(if value == 0 {
            Alarm::Off
        } else {
            Alarm::AtTsc(value)
        })
    }

    /// Fires the timer if it is due. Answers what to arm next, which may again be in the past.
    ///
    /// However late it is called, one interrupt comes out: a periodic timer that is behind by more than a period goes
    /// on from now instead of catching up.
    pub fn timer_expired(&mut self, clock: &impl Clock) -> Alarm {
        match self.timer.mode {
            TimerMode::TscDeadline => {
                let deadline = self.timer.deadline_tsc;
                if deadline != 0 && clock.guest_tsc() >= deadline {
                    self.timer.deadline_tsc = 0;
                    let _ = self.shared.fire(Lvt::Timer);
                }
            }
            TimerMode::OneShot | TimerMode::Periodic => {
                if let Some(target) = self.timer.target_ns {
                    let now = clock.ns();
                    if now >= target {
                        self.timer.target_ns = match self.timer.mode {
                            TimerMode::Periodic if self.timer.period_ns != 0 => {
                                Some(target.saturating_add(self.timer.period_ns).max(now))
                            }
                            _ => None,
                        };
                        let _ = self.shared.fire(Lvt::Timer);
                    }
                }
            }
            TimerMode::Reserved => {}
        }
        self.alarm()
    }

    /// Stops the timer and forgets an expiry that was not processed yet.
    pub(super) fn stop_timer(&mut self) {
        self.timer.target_ns = None;
        self.timer.deadline_tsc = 0;
        self.shared.inbox.take_events(Events::TIMER);
    }

    fn cycle_ns(&self) -> u64 {
        u64::from(self.config.bus_cycle_ns.max(1)).wrapping_shl(self.timer.shift)
    }

    fn set_period(&mut self, count: u32) {
        let mut period = u64::from(count).saturating_mul(self.cycle_ns());
        if self.timer.mode == TimerMode::Periodic && period != 0 {
            // Host timers are not throttled by the scheduler.
            period = period.max(self.config.min_period_ns);
        }
        self.timer.period_ns = period;
    }

    /// The current count. It is rounded up: zero means that the timer has expired.
    pub(super) fn timer_current(&self, clock: &impl Clock) -> u32 {
        let initial = self.reg(Reg::TIMER_INITIAL);
        let period = self.timer.period_ns;
        let Some(target) = self.timer.target_ns else {
            return 0;
        };
        let now = clock.ns();
        let remaining = match self.timer.mode {
            TimerMode::OneShot => target.saturating_sub(now),
            TimerMode::Periodic if now >= target => {
                // An expiry that the owner has not come to yet.
                let late = now.wrapping_sub(target).checked_rem(period).unwrap_or(0);
                period.wrapping_sub(late)
            }
            TimerMode::Periodic => target.wrapping_sub(now),
            TimerMode::TscDeadline | TimerMode::Reserved => return 0,
        };
        // Rounded up: the count is zero when the time has come, not before.
        let cycle = self.cycle_ns().max(1);
        let count = remaining
            .saturating_add(cycle.wrapping_sub(1))
            .checked_div(cycle)
            .unwrap_or(0);
        count.min(u64::from(initial)) as u32
    }

    pub(super) fn write_initial_count(&mut self, value: u32, clock: &impl Clock) -> bool {
        if self.timer.mode == TimerMode::TscDeadline {
            return false;
        }
        self.stop_timer();
        self.set_reg(Reg::TIMER_INITIAL, value);
        self.set_period(value);
        if self.timer.period_ns != 0 {
            self.timer.target_ns = Some(clock.ns().saturating_add(self.timer.period_ns));
        }
        true
    }

    pub(super) fn write_divide(&mut self, value: u32, clock: &impl Clock) -> bool {
        self.set_reg(Reg::TIMER_DIVIDE, value & 0xb);
        let old = self.timer.shift;
        self.timer.shift = divide_shift(value);
        if self.timer.shift == old {
            return false;
        }
        self.set_period(self.reg(Reg::TIMER_INITIAL));
        if let Some(target) = self.timer.target_ns {
            let now = clock.ns();
            let remaining = target.saturating_sub(now);
            // It saturates after years only.
            let scaled = remaining
                .saturating_mul(1u64.wrapping_shl(self.timer.shift))
                .wrapping_shr(old);
            self.timer.target_ns = Some(now.saturating_add(scaled));
        }
        true
    }

    pub(super) fn write_lvt_timer(&mut self, value: u32) -> bool {
        let masked = if self.sw_enabled { 0 } else { lvt::MASKED };
        let writable = Lvt::Timer.writable() | self.timer_mode_bits();
        self.set_reg(Reg::LVT_TIMER, (value | masked) & writable);
        self.update_timer_mode()
    }

    fn timer_mode_bits(&self) -> u32 {
        if self.config.tsc_deadline {
            lvt::TIMER_PERIODIC | lvt::TIMER_TSC_DEADLINE
        } else {
            lvt::TIMER_PERIODIC
        }
    }

    fn update_timer_mode(&mut self) -> bool {
        let bits = self.reg(Reg::LVT_TIMER) & self.timer_mode_bits();
        let mode = match bits {
            0 => TimerMode::OneShot,
            lvt::TIMER_PERIODIC => TimerMode::Periodic,
            lvt::TIMER_TSC_DEADLINE => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        };
        let old = core::mem::replace(&mut self.timer.mode, mode);
        if old == mode {
            return false;
        }
        if (old == TimerMode::TscDeadline) != (mode == TimerMode::TscDeadline) {
            // SDM: a change to or from TSC-deadline mode disarms the timer.
            self.stop_timer();
            self.set_reg(Reg::TIMER_INITIAL, 0);
            self.timer.period_ns = 0;
        } else if self.timer.period_ns != 0 {
            self.set_period(self.reg(Reg::TIMER_INITIAL));
        }
        true
    }

    /// Takes mode, divider and counts from the registers, as KVM_SET_LAPIC left them.
    pub(super) fn restore_timer(&mut self, current: u32, fired: bool, clock: &impl Clock) {
        self.shared.inbox.take_events(Events::TIMER);
        self.timer.target_ns = None;
        // The deadline is an MSR of its own: it stays unless the mode is left.
        self.update_timer_mode();
        self.timer.shift = divide_shift(self.reg(Reg::TIMER_DIVIDE));
        self.set_period(self.reg(Reg::TIMER_INITIAL));
        let period = self.timer.period_ns;
        if period == 0 || !matches!(self.timer.mode, TimerMode::OneShot | TimerMode::Periodic) {
            return;
        }
        let left = u64::from(current)
            .saturating_mul(self.cycle_ns())
            .min(period);
        let now = clock.ns();
        self.timer.target_ns = match (self.timer.mode, left) {
            // A count that has ended stands, also in a timer that was made periodic since.
            (_, 0) if fired => None,
            // Expired, but perhaps not delivered where it was saved: one interrupt too many is better than a hang.
            (TimerMode::OneShot, 0) => Some(now),
            (_, 0) => Some(now.saturating_add(period)),
            _ => Some(now.saturating_add(left)),
        };
    }
}
