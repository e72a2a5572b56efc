// SPDX-License-Identifier: GPL-2.0

//! kvmclock: the page from which a guest reads the time without an exit (Documentation/virt/kvm/x86/msr.rst,
//! MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).
//!
//! The guest computes `system_time + ((tsc - tsc_timestamp) shifted by shift) * mul / 2^32` nanoseconds.

/// Bytes of `struct pvclock_vcpu_time_info`.
pub const TIME_INFO_BYTES: usize = 32;
/// Bytes of `struct pvclock_wall_clock`.
pub const WALL_CLOCK_BYTES: usize = 12;
/// Bytes of `struct kvm_clock_pairing`.
pub const CLOCK_PAIRING_BYTES: usize = 64;
/// PVCLOCK_TSC_STABLE_BIT: the pages of all vCPUs agree.
pub const TSC_STABLE: u8 = 1 << 0;
/// PVCLOCK_GUEST_STOPPED: the guest did not run for a while, which is no reason for its watchdogs to bark.
pub const GUEST_STOPPED: u8 = 1 << 1;

const NS_PER_SEC: u64 = 1_000_000_000;

/// How ticks of a TSC become nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeScale {
    /// In units of 2^-32, with the highest bit set.
    pub mul: u32,
    /// Ticks are shifted left by this first; right if it is negative.
    pub shift: i8,
}

impl TimeScale {
    /// That of a TSC of `hz`, which is taken for 1000 if it is less.
    pub fn new(hz: u64) -> Self {
        let hz = hz.max(1000);
        // Find the shift with which mul = 1e9 / (hz << shift) lies between one half and one.
        let (mut ns, mut ticks, mut shift) = (NS_PER_SEC, hz, 0i8);
        while ns >= ticks {
            ticks = ticks.wrapping_shl(1);
            shift = shift.wrapping_add(1);
        }
        while ns.wrapping_shl(1) < ticks {
            ns = ns.wrapping_shl(1);
            shift = shift.wrapping_sub(1);
        }
        // Long division: 16 bits of the fraction at a time, because the operands have up to 43.
        let mut mul = 0u32;
        for _ in 0..2 {
            let rest = ns.wrapping_shl(16);
            mul = mul.wrapping_shl(16) | rest.checked_div(ticks).unwrap_or(0) as u32 & 0xffff;
            ns = rest.checked_rem(ticks).unwrap_or(0);
        }
        Self { mul, shift }
    }

    /// Nanoseconds that `ticks` are.
    #[inline]
    pub const fn ns(self, ticks: u64) -> u64 {
        let shifted = if self.shift >= 0 {
            ticks.wrapping_shl(self.shift as u32)
        } else {
            ticks.wrapping_shr(self.shift.unsigned_abs() as u32)
        };
        ((shifted as u128).wrapping_mul(self.mul as u128) >> 32) as u64
    }
}

/// A moment on a TSC and on the guest's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The TSC.
    pub tsc: u64,
    /// The clock in nanoseconds.
    pub ns: u64,
}

impl Moment {
    /// What the clock shows when the TSC is `tsc`, which is not before this moment.
    #[inline]
    pub const fn clock_at(&self, tsc: u64, scale: TimeScale) -> u64 {
        self.ns.wrapping_add(scale.ns(tsc.saturating_sub(self.tsc)))
    }
}

/// `struct pvclock_vcpu_time_info` with this version, which is odd while the rest is being written.
pub fn time_info(version: u32, at: Moment, scale: TimeScale, flags: u8) -> [u8; TIME_INFO_BYTES] {
    let mut page = [0; TIME_INFO_BYTES];
    put(&mut page, 0, &version.to_le_bytes());
    put(&mut page, 8, &at.tsc.to_le_bytes());
    put(&mut page, 16, &at.ns.to_le_bytes());
    put(&mut page, 24, &scale.mul.to_le_bytes());
    put(&mut page, 28, &[scale.shift as u8, flags]);
    page
}

/// `struct pvclock_wall_clock`: the time of day, in nanoseconds since 1970, at which the guest's clock was 0.
pub fn wall_clock(version: u32, epoch_ns: u64) -> [u8; WALL_CLOCK_BYTES] {
    let mut wall = [0; WALL_CLOCK_BYTES];
    put(&mut wall, 0, &version.to_le_bytes());
    put(
        &mut wall,
        4,
        &((epoch_ns / NS_PER_SEC) as u32).to_le_bytes(),
    );
    put(
        &mut wall,
        8,
        &((epoch_ns % NS_PER_SEC) as u32).to_le_bytes(),
    );
    wall
}

/// `struct kvm_clock_pairing`: the time of day in nanoseconds since 1970, and the guest's TSC at that moment.
pub fn clock_pairing(epoch_ns: u64, tsc: u64) -> [u8; CLOCK_PAIRING_BYTES] {
    let mut pair = [0; CLOCK_PAIRING_BYTES];
    put(&mut pair, 0, &(epoch_ns / NS_PER_SEC).to_le_bytes());
    put(&mut pair, 8, &(epoch_ns % NS_PER_SEC).to_le_bytes());
    put(&mut pair, 16, &tsc.to_le_bytes());
    pair
}

/// The version while a structure whose version was `old` is being written; one more when it is complete.
pub const fn version_while_writing(old: u32) -> u32 {
    old.wrapping_add(1) | 1
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = to.get_mut(at..at.wrapping_add(bytes.len())) {
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_ticks_is_a_second_at_every_frequency() {
        for khz in [
            1u32,
            2,
            999_999,
            1_000_000,
            1_000_001,
            2_112_000,
            3_999_999,
            4_294_967,
            u32::MAX,
        ] {
            let hz = u64::from(khz) * 1000;
            let scale = TimeScale::new(hz);
            assert!(scale.mul >= 1 << 31, "{khz} {scale:?}");
            let second = scale.ns(hz);
            // mul has 32 bits, so it is exact to one part in 2^31.
            assert!(
                (999_999_998..=1_000_000_000).contains(&second),
                "{khz} {second}"
            );
        }
        assert_eq!(TimeScale::new(0), TimeScale::new(1000));
    }

    #[test]
    fn long_times_do_not_overflow() {
        let scale = TimeScale::new(4_000_000_000);
        let year = 365 * 86_400 * 4_000_000_000u64;
        let ns = scale.ns(100 * year);
        assert!(ns.abs_diff(100 * 365 * 86_400 * NS_PER_SEC) < 4 * NS_PER_SEC);
    }

    #[test]
    fn the_layout_is_the_guests() {
        let at = Moment {
            tsc: 0x1122_3344_5566_7788,
            ns: 7,
        };
        let scale = TimeScale {
            mul: 0x8000_0001,
            shift: -1,
        };
        let page = time_info(5, at, scale, TSC_STABLE | GUEST_STOPPED);
        assert_eq!(page[..8], [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page[8..16], at.tsc.to_le_bytes());
        assert_eq!(page[16..24], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page[24..], [1, 0, 0, 0x80, 0xff, 3, 0, 0]);
        let wall = wall_clock(2, 3 * NS_PER_SEC + 4);
        assert_eq!(wall, [2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        let pair = clock_pairing(3 * NS_PER_SEC + 4, 5);
        assert_eq!(
            pair[..24],
            [
                [3, 0, 0, 0, 0, 0, 0, 0],
                [4, 0, 0, 0, 0, 0, 0, 0],
                [5, 0, 0, 0, 0, 0, 0, 0]
            ]
            .concat()
        );
        assert_eq!(pair[24..], [0; 40]);
    }

    #[test]
    fn a_version_is_odd_while_it_is_written() {
        for old in [0, 1, 2, u32::MAX - 1, u32::MAX] {
            let v = version_while_writing(old);
            assert_eq!(v & 1, 1);
            assert_ne!(v, old);
        }
    }

    #[test]
    fn the_clock_goes_on_from_its_moment() {
        let scale = TimeScale::new(2_000_000_000);
        let at = Moment { tsc: 1000, ns: 50 };
        assert_eq!(at.clock_at(1000, scale), 50);
        assert_eq!(at.clock_at(3000, scale), 1050);
        assert_eq!(at.clock_at(0, scale), 50);
    }
}
