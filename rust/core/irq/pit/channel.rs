// SPDX-License-Identifier: GPL-2.0

//! One counter of an 8254: what it shows, after so many ns of counting.
//!
//! It is kept in the form of the uapi; user space may set every field to every value. As in KVM, counting is binary
//! also when BCD is selected.

use super::{
    FREQUENCY,
    NS_PER_SEC, //
};

/// Mode of a channel that was never programmed.
pub(super) const UNSET: u8 = 0xff;

const MSB: u8 = 2;
const WORD0: u8 = 3;
const WORD1: u8 = 4;

/// `struct kvm_pit_channel_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the names are the uapi's
pub struct ChannelState {
    /// 1 to 65536.
    pub count: u32,
    pub latched_count: u16,
    /// 0, or which bytes of the latched count are still to be read.
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
    /// Monotonic time in ns.
    pub count_load_time: i64,
}

/// The modes of the datasheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// 0: interrupt on terminal count.
    Terminal,
    /// 1: hardware retriggerable one-shot.
    OneShot,
    /// 2: rate generator.
    Rate,
    /// 3: square wave.
    Square,
    /// 4: software triggered strobe.
    Strobe,
    /// 5: hardware triggered strobe.
    HardwareStrobe,
    /// Not programmed.
    Unset,
}

impl Mode {
    pub(super) const fn of(mode: u8) -> Self {
        match mode {
            0 => Self::Terminal,
            1 => Self::OneShot,
            2 => Self::Rate,
            3 => Self::Square,
            4 => Self::Strobe,
            5 => Self::HardwareStrobe,
            _ => Self::Unset,
        }
    }
}

/// Ticks of the input clock in `ns`.
fn ticks(ns: u64) -> u64 {
    // In two parts, so that neither product overflows.
    let (seconds, rest) = (ns / NS_PER_SEC, ns % NS_PER_SEC);
    seconds
        .wrapping_mul(FREQUENCY)
        .wrapping_add(rest.wrapping_mul(FREQUENCY) / NS_PER_SEC)
}

impl ChannelState {
    /// Starts at `count`; 0 stands for 65536.
    pub(super) fn load(&mut self, count: u32, now_ns: u64) {
        self.count = if count == 0 { 0x1_0000 } else { count };
        self.count_load_time = now_ns as i64;
    }

    /// The counter.
    fn counter(&self, elapsed_ns: u64) -> u16 {
        let count = u64::from(self.count);
        let done = ticks(elapsed_ns);
        let value = match Mode::of(self.mode) {
            Mode::Terminal | Mode::OneShot | Mode::Strobe | Mode::HardwareStrobe => {
                count.wrapping_sub(done)
            }
            // A square wave counts down by two, twice a period.
            Mode::Square => {
                let done = done.wrapping_shl(1).checked_rem(count).unwrap_or(0);
                count.wrapping_sub(done)
            }
            Mode::Rate | Mode::Unset => count.wrapping_sub(done.checked_rem(count).unwrap_or(0)),
        };
        value as u16
    }

    /// The output.
    pub(super) fn out(&self, elapsed_ns: u64) -> bool {
        let count = u64::from(self.count);
        let done = ticks(elapsed_ns);
        let phase = done.checked_rem(count).unwrap_or(0);
        match Mode::of(self.mode) {
            Mode::Terminal | Mode::Unset => done >= count,
            Mode::OneShot => done < count,
            Mode::Rate => phase == 0 && done != 0,
            Mode::Square => phase < count.wrapping_add(1) >> 1,
            Mode::Strobe | Mode::HardwareStrobe => done == count,
        }
    }

    pub(super) fn latch_count(&mut self, elapsed_ns: u64) {
        if self.count_latched == 0 {
            self.latched_count = self.counter(elapsed_ns);
            self.count_latched = self.rw_mode;
        }
    }

    pub(super) fn latch_status(&mut self, elapsed_ns: u64) {
        if self.status_latched == 0 {
            self.status = (u8::from(self.out(elapsed_ns)) << 7)
                | ((self.rw_mode & 3) << 4)
                | ((self.mode & 7) << 1)
                | (self.bcd & 1);
            self.status_latched = 1;
        }
    }

    /// A control word that selects this channel.
    pub(super) fn write_control(&mut self, value: u8, elapsed_ns: u64) {
        let access = (value >> 4) & 3;
        if access == 0 {
            self.latch_count(elapsed_ns);
            return;
        }
        self.rw_mode = access;
        self.read_state = access;
        self.write_state = access;
        // Bit 2 of the mode is ignored for modes 2 and 3.
        self.mode = match (value >> 1) & 7 {
            mode @ 6.. => mode & 3,
            mode => mode,
        };
        self.bcd = value & 1;
    }

    /// A byte of a new count; answers the count when it is complete.
    pub(super) fn write_count(&mut self, value: u8) -> Option<u32> {
        match self.write_state {
            MSB => Some(u32::from(value) << 8),
            WORD0 => {
                self.write_latch = value;
                self.write_state = WORD1;
                None
            }
            WORD1 => {
                self.write_state = WORD0;
                Some(u32::from(u16::from_le_bytes([self.write_latch, value])))
            }
            _ => Some(u32::from(value)),
        }
    }

    pub(super) fn read(&mut self, elapsed_ns: u64) -> u8 {
        if self.status_latched != 0 {
            self.status_latched = 0;
            return self.status;
        }
        if self.count_latched != 0 {
            let [low, high] = self.latched_count.to_le_bytes();
            return match self.count_latched {
                MSB => {
                    self.count_latched = 0;
                    high
                }
                WORD0 => {
                    self.count_latched = MSB;
                    low
                }
                _ => {
                    self.count_latched = 0;
                    low
                }
            };
        }
        let [low, high] = self.counter(elapsed_ns).to_le_bytes();
        match self.read_state {
            MSB => high,
            WORD0 => {
                self.read_state = WORD1;
                low
            }
            WORD1 => {
                self.read_state = WORD0;
                high
            }
            _ => low,
        }
    }

    /// The gate: a rising edge starts modes 1, 2, 3 and 5 anew.
    pub(super) fn set_gate(&mut self, gate: u8, now_ns: u64) {
        let triggers = matches!(
            Mode::of(self.mode),
            Mode::OneShot | Mode::Rate | Mode::Square | Mode::HardwareStrobe
        );
        if triggers && gate > self.gate {
            self.count_load_time = now_ns as i64;
        }
        self.gate = gate;
    }
}
