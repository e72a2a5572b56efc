// SPDX-License-Identifier: GPL-2.0

//! Intel 8254 interval timer with three channels, and the bits of port 0x61 that belong to it.
//!
//! 8254 datasheet, "Programming the 8254", "Mode Definitions". Reached by ports 0x40 to 0x43 and 0x61,
//! KVM_GET/SET_PIT, KVM_GET/SET_PIT2 and KVM_REINJECT_CONTROL. Channel 0 drives GSI 0.

mod channel;

#[cfg(test)]
mod tests;

pub use self::channel::ChannelState;

use self::channel::Mode;

/// Input clock of the counters in Hz.
pub const FREQUENCY: u64 = 1_193_181;
/// KVM_PIT_FLAGS_HPET_LEGACY: an HPET has taken over; channel 0 has no timer.
pub const FLAG_HPET_LEGACY: u32 = 1 << 0;
/// KVM_PIT_FLAGS_SPEAKER_DATA_ON.
pub const FLAG_SPEAKER_DATA_ON: u32 = 1 << 1;

const NS_PER_SEC: u64 = 1_000_000_000;
const CHANNELS: usize = 3;

/// `struct kvm_pit_state2`; its channels alone are `struct kvm_pit_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the names are the uapi's
pub struct PitState {
    pub channels: [ChannelState; CHANNELS],
    pub flags: u32,
    pub reserved: [u32; 9],
}

/// What becomes of ticks that the guest has not acknowledged when the next one comes (KVM_REINJECT_CONTROL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are counted, and each is given after the acknowledge of the one before.
    Reinject,
    /// They are lost.
    Discard,
}

/// The timer of channel 0.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    /// When the next tick is due; `None`: stopped.
    next_ns: Option<u64>,
    /// 0: one tick only.
    period_ns: u64,
}

/// An interval timer. Times are monotonic, in ns.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [ChannelState; CHANNELS],
    flags: u32,
    timer: Timer,
    /// When channel 0 began to count; `None`: it does not.
    started_ns: Option<u64>,
    min_period_ns: u64,
    missed: Missed,
    /// Ticks that are not acknowledged, with the one in flight.
    pending: u32,
    /// The guest has acknowledged the last tick.
    acked: bool,
}

impl Pit {
    /// After power-up: nothing counts. `min_period_ns` is the shortest period of channel 0 (module parameter
    /// min_timer_period_us).
    pub fn new(min_period_ns: u64, now_ns: u64) -> Self {
        let mut pit = Self {
            channels: [ChannelState::default(); CHANNELS],
            flags: 0,
            timer: Timer::default(),
            started_ns: None,
            min_period_ns,
            missed: Missed::Reinject,
            pending: 0,
            acked: true,
        };
        for (channel, n) in pit.channels.iter_mut().zip(0u8..) {
            channel.mode = channel::UNSET;
            channel.gate = u8::from(n != 2);
            channel.load(0, now_ns);
        }
        pit
    }

    /// When [`Self::expired`] is due. Ask again after each call that takes `&mut self`.
    #[inline]
    pub fn alarm(&self) -> Option<u64> {
        self.timer.next_ns
    }

    /// A byte read of port 0x40 + `offset`.
    pub fn read(&mut self, offset: u8, now_ns: u64) -> u8 {
        let start = self.start_of(offset, now_ns);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.read(now_ns.saturating_sub(start)),
            // The control word can't be read.
            None => 0,
        }
    }

    /// A byte write to port 0x40 + `offset`.
    pub fn write(&mut self, offset: u8, value: u8, now_ns: u64) {
        match offset {
            0..=2 => {
                let count = self
                    .channels
                    .get_mut(usize::from(offset))
                    .and_then(|c| c.write_count(value));
                if let Some(count) = count {
                    self.load(offset, count, now_ns);
                }
            }
            3 => self.write_control(value, now_ns),
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, now_ns: u64) {
        let select = value >> 6;
        for n in 0..CHANNELS as u8 {
            let elapsed = now_ns.saturating_sub(self.start_of(n, now_ns));
            let Some(channel) = self.channels.get_mut(usize::from(n)) else {
                continue;
            };
            if select == 3 {
                // Read-back command: bit 1 and on select the channels, 0 in bits 5 and 4 latches.
                if value & 2u8.wrapping_shl(n.into()) != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count(elapsed);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(elapsed);
                    }
                }
            } else if select == n {
                channel.write_control(value, elapsed);
            }
        }
    }

    /// A byte read of port 0x61.
    pub fn read_speaker(&self, now_ns: u64) -> u8 {
        let channel = self.channels.get(2).copied().unwrap_or_default();
        let elapsed = now_ns.saturating_sub(self.start_of(2, now_ns));
        // The refresh clock toggles about every 15 us.
        let refresh = (now_ns >> 14) as u8 & 1;
        let data = u8::from(self.flags & FLAG_SPEAKER_DATA_ON != 0);
        (channel.gate & 1) | (data << 1) | (refresh << 4) | (u8::from(channel.out(elapsed)) << 5)
    }

    /// A byte write to port 0x61: gate of channel 2, and the speaker.
    pub fn write_speaker(&mut self, value: u8, now_ns: u64) {
        if value & 2 != 0 {
            self.flags |= FLAG_SPEAKER_DATA_ON;
        } else {
            self.flags &= !FLAG_SPEAKER_DATA_ON;
        }
        if let Some(channel) = self.channels.get_mut(2) {
            channel.set_gate(value & 1, now_ns);
        }
    }

    /// The host timer fired. True: pulse GSI 0 (source [`super::IrqSource::Pit`]), and the NMI watchdogs.
    ///
    /// However late it is called, it takes one step: missed ticks are counted, not run through.
    #[must_use]
    pub fn expired(&mut self, now_ns: u64) -> bool {
        let Some(due) = self.timer.next_ns else {
            return false;
        };
        let Some(late) = now_ns.checked_sub(due) else {
            return false;
        };
        let mut ticks = 1u64;
        self.timer.next_ns = late.checked_div(self.timer.period_ns).map(|more| {
            ticks = more.saturating_add(1);
            due.saturating_add(ticks.saturating_mul(self.timer.period_ns))
        });
        if self.missed == Missed::Discard {
            return true;
        }
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.pending = self.pending.saturating_add(ticks);
        core::mem::replace(&mut self.acked, false)
    }

    /// The guest acknowledged GSI 0 (EOI at PIC or IOAPIC). True: pulse GSI 0 again.
    #[must_use]
    pub fn acknowledged(&mut self) -> bool {
        if self.missed == Missed::Discard {
            return false;
        }
        self.acked = true;
        self.pending = self.pending.saturating_sub(1);
        if self.pending == 0 {
            return false;
        }
        self.acked = false;
        true
    }

    /// The guest masked or unmasked GSI 0 at the PIC or IOAPIC: what was missed while masked is not given.
    pub fn mask_changed(&mut self, masked: bool) {
        if !masked {
            self.reset_missed();
        }
    }

    /// KVM_REINJECT_CONTROL.
    pub fn set_missed(&mut self, missed: Missed) {
        if self.missed != missed {
            self.missed = missed;
            self.reset_missed();
        }
    }

    /// The policy for missed ticks. The acknowledge notifier is needed for [`Missed::Reinject`] only.
    #[inline]
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// KVM_GET_PIT2 and KVM_GET_PIT.
    pub fn state(&self) -> PitState {
        PitState {
            channels: self.channels,
            flags: self.flags,
            reserved: [0; 9],
        }
    }

    /// KVM_SET_PIT2, and KVM_SET_PIT with the flags of [`Self::state`]. All counts start anew.
    pub fn set_state(&mut self, state: &PitState, now_ns: u64) {
        self.channels = state.channels;
        self.flags = state.flags;
        for n in 0..CHANNELS as u8 {
            let count = self.channels.get(usize::from(n)).map_or(0, |c| c.count);
            self.load(n, count, now_ns);
        }
    }

    fn reset_missed(&mut self) {
        self.pending = 0;
        self.acked = true;
    }

    /// Starts a channel at `count`.
    fn load(&mut self, n: u8, count: u32, now_ns: u64) {
        let Some(channel) = self.channels.get_mut(usize::from(n)) else {
            return;
        };
        // The restored time of channel 0 is user space's: nobody reads it.
        let load_time = channel.count_load_time;
        channel.load(count, now_ns);
        if n != 0 {
            return;
        }
        channel.count_load_time = load_time;
        let (count, mode) = (channel.count, Mode::of(channel.mode));
        if self.flags & FLAG_HPET_LEGACY != 0 {
            self.stop();
            return;
        }
        match mode {
            Mode::Terminal | Mode::OneShot | Mode::Strobe => self.start(count, false, now_ns),
            Mode::Rate | Mode::Square => self.start(count, true, now_ns),
            Mode::HardwareStrobe | Mode::Unset => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.timer = Timer::default();
        self.started_ns = None;
    }

    fn start(&mut self, count: u32, periodic: bool, now_ns: u64) {
        let interval = u64::from(count)
            .saturating_mul(NS_PER_SEC)
            .wrapping_div(FREQUENCY);
        self.started_ns = Some(now_ns);
        self.timer = Timer {
            next_ns: Some(now_ns.saturating_add(interval)),
            // Host timers are not throttled by the scheduler.
            period_ns: if periodic {
                interval.max(self.min_period_ns).max(1)
            } else {
                0
            },
        };
        self.reset_missed();
    }

    /// When a channel began to count.
    fn start_of(&self, n: u8, now_ns: u64) -> u64 {
        match self.channels.get(usize::from(n)) {
            Some(_) if n == 0 => self.started_ns.unwrap_or(now_ns),
            Some(channel) => channel.count_load_time as u64,
            None => now_ns,
        }
    }
}
