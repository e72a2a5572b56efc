// SPDX-License-Identifier: GPL-2.0

//! Tests of the interval timer: datasheet cases, missed ticks, and every access to every state.

use super::*;
use proptest::prelude::*;

const MIN: u64 = 200_000;

fn pit() -> Pit {
    Pit::new(MIN, 0)
}

/// Loads a 16-bit count in the given mode.
fn program(pit: &mut Pit, channel: u8, mode: u8, count: u16, now: u64) {
    let [low, high] = count.to_le_bytes();
    pit.write(3, channel << 6 | 0x30 | mode << 1, now);
    pit.write(channel, low, now);
    pit.write(channel, high, now);
}

/// The time at which so many ticks have passed.
fn after(ticks: u64) -> u64 {
    (ticks * NS_PER_SEC).div_ceil(FREQUENCY)
}

fn counter(pit: &mut Pit, channel: u8, now: u64) -> u16 {
    pit.write(3, channel << 6, now);
    u16::from_le_bytes([pit.read(channel, now), pit.read(channel, now)])
}

#[test]
fn the_state_has_the_size_of_the_uapi() {
    assert_eq!(core::mem::size_of::<ChannelState>(), 24);
    assert_eq!(core::mem::size_of::<PitState>(), 112);
}

#[test]
fn counts_and_outputs_of_the_datasheet() {
    // mode, count, ticks, counter, output
    for (mode, count, ticks, want, out) in [
        (0, 100, 0, 100, false),
        (0, 100, 99, 1, false),
        (0, 100, 100, 0, true),
        (0, 100, 101, 0xffff, true),
        (0, 0, 1, 0xffff, false),
        (0, 0, 0x1_0000, 0, true),
        (1, 100, 30, 70, true),
        (1, 100, 100, 0, false),
        (2, 100, 250, 50, false),
        (2, 100, 300, 100, true),
        (3, 100, 30, 40, true),
        (3, 100, 60, 80, false),
        (4, 100, 100, 0, true),
        (4, 100, 101, 0xffff, false),
        (5, 100, 40, 60, false),
        (6, 100, 250, 50, false),
        (7, 100, 30, 40, true),
    ] {
        let mut p = pit();
        program(&mut p, 1, mode, count, 0);
        let now = after(ticks);
        assert_eq!(counter(&mut p, 1, now), want, "mode {mode} after {ticks}");
        p.write(3, 0xe4, now);
        let status = p.read(1, now);
        let shown = if mode > 5 { mode - 4 } else { mode };
        assert_eq!(
            status,
            u8::from(out) << 7 | 0x30 | shown << 1,
            "mode {mode} after {ticks}"
        );
    }
}

#[test]
fn latches_hold_until_they_are_read() {
    let mut p = pit();
    program(&mut p, 1, 2, 0x1234, 0);
    p.write(3, 0xc4, 0);
    p.write(3, 0xc4, after(0x234));
    p.write(3, 0x40, after(0x234));
    let late = after(0x400);
    assert_eq!(p.read(1, late), 0x34, "status first: rate generator");
    assert_eq!(p.read(1, late), 0x34);
    assert_eq!(p.read(1, late), 0x12);
    assert_eq!(p.read(1, late), 0x34, "not latched: counts");
    assert_eq!(p.read(1, late), 0x0e);
    assert_eq!(p.read(3, late), 0);
    // One byte only.
    p.write(3, 1 << 6 | 2 << 4 | 2 << 1, 0);
    p.write(1, 0x12, 0);
    assert_eq!(p.read(1, 0), 0x12);
    p.write(3, 1 << 6 | 1 << 4 | 2 << 1, 0);
    p.write(1, 0x56, 0);
    assert_eq!(p.read(1, 0), 0x56);
}

#[test]
fn channel_0_ticks_as_its_mode_says() {
    for (mode, ticks) in [(0, 1), (1, 1), (2, 9), (3, 9), (4, 1), (5, 0)] {
        let mut p = pit();
        p.set_missed(Missed::Discard);
        program(&mut p, 0, mode, 11932, 1000);
        let mut got = 0;
        while let Some(t) = p.alarm().filter(|t| *t < 1000 + after(11932 * 9) + 100) {
            assert!(!p.expired(t - 1), "early");
            assert!(p.expired(t));
            got += 1;
        }
        assert_eq!(got, ticks, "mode {mode}");
    }
}

#[test]
fn a_short_period_is_limited_and_a_late_one_takes_one_step() {
    let mut p = pit();
    program(&mut p, 0, 2, 1, 0);
    assert!(p.expired(838));
    assert_eq!(p.alarm(), Some(838 + MIN));
    let late = 1 << 60;
    let _ = p.expired(late);
    let next = p.alarm().unwrap();
    assert!(next > late && next <= late + MIN);
    assert!(!p.expired(late));
}

#[test]
fn missed_ticks_come_after_the_acknowledge() {
    let mut p = pit();
    program(&mut p, 0, 2, 11932, 0);
    let t = p.alarm().unwrap();
    assert!(p.expired(t));
    assert!(!p.expired(p.alarm().unwrap()), "not acknowledged");
    assert!(!p.expired(p.alarm().unwrap()));
    assert!(p.acknowledged());
    assert!(p.acknowledged());
    assert!(!p.acknowledged());
    assert!(p.expired(p.alarm().unwrap()));
    let _ = p.expired(p.alarm().unwrap());
    p.mask_changed(false);
    assert!(!p.acknowledged(), "forgotten by the unmask");
    p.set_missed(Missed::Discard);
    for _ in 0..3 {
        assert!(p.expired(p.alarm().unwrap()));
    }
    assert!(!p.acknowledged());
}

#[test]
fn an_hpet_takes_channel_0_over() {
    let mut p = pit();
    program(&mut p, 0, 2, 11932, 0);
    let mut state = p.state();
    state.flags = FLAG_HPET_LEGACY;
    p.set_state(&state, 50);
    assert_eq!((p.alarm(), p.state().flags), (None, FLAG_HPET_LEGACY));
    program(&mut p, 0, 2, 11932, 60);
    assert_eq!(p.alarm(), None);
    let mut state = p.state();
    state.flags = 0;
    p.set_state(&state, 100);
    assert_eq!(p.alarm(), Some(100 + 11932 * NS_PER_SEC / FREQUENCY));
}

#[test]
fn port_61() {
    let mut p = pit();
    program(&mut p, 2, 0, 1000, 0);
    p.write_speaker(0xff, 0);
    assert_eq!(p.read_speaker(0), 0b0011);
    assert_eq!(p.read_speaker(1 << 14), 0b1_0011);
    assert_eq!(p.read_speaker(2 << 20), 0b10_0011);
    p.write_speaker(0, 0);
    assert_eq!(p.read_speaker(0), 0);
    // A rising gate starts mode 1 anew.
    program(&mut p, 2, 1, 1000, 0);
    assert_eq!(p.read_speaker(2 << 20) & 0x20, 0);
    p.write_speaker(1, 2 << 20);
    assert_eq!(p.read_speaker(2 << 20) & 0x20, 0x20);
}

proptest! {
    #[test]
    fn every_access_to_every_state_is_defined(
        raw in any::<[(u32, [u8; 9], i64); 3]>(),
        flags in any::<u32>(),
        ops in prop::collection::vec((0u8..8, 0u8..5, any::<u8>(), any::<u32>()), 0..80),
    ) {
        let mut p = pit();
        let mut state = PitState { flags, ..Default::default() };
        for (c, (count, b, t)) in state.channels.iter_mut().zip(raw) {
            *c = ChannelState {
                count,
                latched_count: count as u16,
                count_latched: b[0],
                status_latched: b[1],
                status: b[2],
                read_state: b[3],
                write_state: b[4],
                write_latch: b[5],
                rw_mode: b[6],
                mode: b[7],
                bcd: b[8],
                gate: b[0],
                count_load_time: t,
            };
        }
        p.set_state(&state, 7);
        let mut now = 7u64;
        for (what, port, value, step) in ops {
            now += u64::from(step);
            match what {
                0..=2 => p.write(port, value, now),
                3 | 4 => drop(p.read(port, now)),
                5 => p.write_speaker(value, now),
                6 => drop(p.read_speaker(now)),
                _ => {
                    let _ = p.expired(now);
                    prop_assert!(p.alarm().is_none_or(|t| t > now));
                    let _ = p.acknowledged();
                }
            }
            // What is saved comes back, but for the times at which counting starts.
            let saved = p.state();
            let mut other = pit();
            other.set_state(&saved, now);
            let mut back = other.state();
            for (c, s) in back.channels.iter_mut().zip(&saved.channels) {
                c.count_load_time = s.count_load_time;
            }
            prop_assert_eq!(back, saved);
        }
    }

    /// As long as the guest acknowledges, it gets every tick, however late the host is.
    #[test]
    fn reinjection_gives_every_tick(delays in prop::collection::vec(0u64..100_000_000, 1..50)) {
        let mut p = pit();
        program(&mut p, 0, 2, 11932, 0);
        let period = 11932 * NS_PER_SEC / FREQUENCY;
        let (mut now, mut got) = (0u64, 0u64);
        for d in delays {
            now += d;
            got += u64::from(p.expired(now));
            while p.acknowledged() {
                got += 1;
            }
        }
        prop_assert_eq!(got, now / period);
    }
}
