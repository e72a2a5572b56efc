// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter: scaling, offsets, and keeping the vCPUs of a VM together.
//!
//! The guest reads `host * ratio / 2^48 + offset` (SDM volume 3, "Time-Stamp Counter Offsetting", "TSC-Multiplier").
//! User space restores the counters of the vCPUs one after the other, and the guest expects them to be equal: so a
//! write that fits to the one before, as if it came at the same moment, gets the same offset (api.rst, "KVM_VCPU_TSC_CTRL"
//! tells the story).

/// Bits of the fraction in the TSC multiplier.
const FRACTION: u32 = 48;
/// Frequencies that differ by less than this many parts in a million count as equal.
const TOLERANCE_PPM: u64 = 250;

/// How the guest's TSC follows the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale(u64);

impl Scale {
    /// As fast as the host's.
    pub const ONE: Self = Self(1 << FRACTION);

    /// From the frequencies, in kHz. `None` if the ratio can't be expressed.
    pub fn new(guest_khz: u32, host_khz: u32) -> Option<Self> {
        // Long division, 24 bits of the fraction at a time.
        let host = u64::from(host_khz);
        let mut rest = u64::from(guest_khz);
        let mut ratio = 0u64;
        for _ in 0..3 {
            let digit = rest.checked_div(host)?;
            ratio = ratio << 24 | digit & 0xffff_ffff;
            rest = rest.checked_rem(host)? << 24;
        }
        // The first digit is the whole part, for which there are 16 bits.
        let whole = guest_khz.checked_div(host_khz)?;
        (whole >> 16 == 0 && ratio != 0).then_some(Self(ratio))
    }

    /// The value of the VMCS field TSC_MULTIPLIER.
    #[inline]
    pub const fn multiplier(self) -> u64 {
        self.0
    }

    /// Guest ticks that `host` ticks are.
    #[inline]
    pub const fn apply(self, host: u64) -> u64 {
        if self.0 == Self::ONE.0 {
            return host;
        }
        ((host as u128).wrapping_mul(self.0 as u128) >> FRACTION) as u64
    }
}

/// Whether a guest that asks for `guest_khz` may run at `host_khz`.
pub fn within_tolerance(guest_khz: u32, host_khz: u32) -> bool {
    let (guest, host) = (u64::from(guest_khz), u64::from(host_khz));
    guest.abs_diff(host).saturating_mul(1_000_000) <= host.saturating_mul(TOLERANCE_PPM)
}

/// Ticks in `ns` nanoseconds.
fn ticks(ns: u64, khz: u32) -> u64 {
    let khz = u64::from(khz);
    let rest = (ns % 1_000_000).wrapping_mul(khz) / 1_000_000;
    (ns / 1_000_000).wrapping_mul(khz).wrapping_add(rest)
}

/// A write of the TSC by user space, or the start of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The guest TSC that is wanted; `None` when a vCPU starts, at 0 or where its siblings are.
    pub value: Option<u64>,
    /// The host's TSC at this moment, scaled for this vCPU.
    pub host: u64,
    /// CLOCK_BOOTTIME at this moment, in nanoseconds.
    pub now_ns: u64,
    /// The vCPU's frequency.
    pub khz: u32,
}

/// What a VM remembers of writes to its vCPUs' TSCs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sync {
    last_ns: u64,
    last_value: u64,
    /// 0 before the first write.
    last_khz: u32,
    offset: u64,
    /// User space has written a TSC: from then on it has its own idea of them.
    user_wrote: bool,
}

impl Sync {
    /// Nothing written.
    pub const NEW: Self = Self {
        last_ns: 0,
        last_value: 0,
        last_khz: 0,
        offset: 0,
        user_wrote: false,
    };

    /// The offset that this write gives to its vCPU.
    pub fn write(&mut self, w: &Write) -> u64 {
        let value = w.value.unwrap_or(0);
        let follows =
            self.last_khz == w.khz && (value == 0 || (self.user_wrote && self.continues(value, w)));
        self.user_wrote |= w.value.is_some();
        if !follows {
            self.offset = value.wrapping_sub(w.host);
        }
        self.last_ns = w.now_ns;
        self.last_value = value;
        self.last_khz = w.khz;
        self.offset
    }

    /// An offset that user space sets as such: no guess at what it means.
    pub fn restore(&mut self, offset: u64, w: &Write) {
        self.offset = offset;
        self.user_wrote = true;
        self.last_ns = w.now_ns;
        self.last_value = w.value.unwrap_or(0);
        self.last_khz = w.khz;
    }

    /// Whether `value` is, to within a second, what the counter written last has come to.
    fn continues(&self, value: u64, w: &Write) -> bool {
        let elapsed = ticks(w.now_ns.wrapping_sub(self.last_ns), w.khz);
        let expected = self.last_value.wrapping_add(elapsed);
        let second = u64::from(w.khz).saturating_mul(1000);
        value < expected.saturating_add(second) && value.saturating_add(second) > expected
    }
}

/// Whether the TSCs of all vCPUs are one, so that a time that is told in ticks of one vCPU is right on each: they have the
/// same offset and frequency. Of no vCPU at all nothing can be said.
pub fn agree(mut all: impl Iterator<Item = (u64, u32)>) -> bool {
    match all.next() {
        Some(first) => all.all(|tsc| tsc == first),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u32 = 2_000_000;

    fn write(value: Option<u64>, host: u64, now_ns: u64) -> Write {
        Write {
            value,
            host,
            now_ns,
            khz: KHZ,
        }
    }

    #[test]
    fn the_first_vcpu_starts_at_zero_and_the_others_join_it() {
        let mut sync = Sync::NEW;
        let first = sync.write(&write(None, 1_000_000, 500_000));
        assert_eq!(first.wrapping_add(1_000_000), 0);
        let second = sync.write(&write(None, 9_000_000, 4_500_000));
        assert_eq!(first, second);
    }

    #[test]
    fn equal_writes_within_a_second_get_one_offset() {
        let mut sync = Sync::NEW;
        sync.write(&write(None, 0, 0));
        let a = sync.write(&write(Some(1 << 40), 10_000_000, 5_000_000));
        let b = sync.write(&write(Some(1 << 40), 30_000_000, 15_000_000));
        assert_eq!(a, b);
        assert_eq!(a.wrapping_add(10_000_000), 1 << 40);
    }

    #[test]
    fn a_write_more_than_a_second_off_starts_anew() {
        let mut sync = Sync::NEW;
        let a = sync.write(&write(Some(1 << 40), 0, 0));
        let far = (1 << 40) + 3 * u64::from(KHZ) * 1000;
        let b = sync.write(&write(Some(far), 1000, 500));
        assert_ne!(a, b);
        assert_eq!(b.wrapping_add(1000), far);
    }

    #[test]
    fn the_first_write_of_user_space_counts_as_it_is() {
        let mut sync = Sync::NEW;
        sync.write(&write(None, 0, 0));
        // Within a second of what the counter is at, but user space has not said yet what it is.
        let offset = sync.write(&write(Some(1_000), 4_000_000, 2_000_000));
        assert_eq!(offset.wrapping_add(4_000_000), 1_000);
    }

    #[test]
    fn a_restored_offset_is_what_later_writes_join() {
        let mut sync = Sync::NEW;
        sync.write(&write(None, 0, 0));
        sync.restore(77, &write(Some(1077), 1000, 500));
        assert_eq!(sync.write(&write(Some(1077), 2000, 1000)), 77);
    }

    #[test]
    fn tscs_agree_if_offset_and_frequency_do() {
        let of = |all: &[(u64, u32)]| agree(all.iter().copied());
        assert!(!of(&[]));
        assert!(of(&[(7, KHZ)]));
        assert!(of(&[(7, KHZ), (7, KHZ), (7, KHZ)]));
        assert!(!of(&[(7, KHZ), (7, KHZ), (8, KHZ)]));
        assert!(!of(&[(7, KHZ), (7, KHZ + 1)]));
    }

    #[test]
    fn a_vcpu_of_another_frequency_does_not_join() {
        let mut sync = Sync::NEW;
        let a = sync.write(&write(None, 100, 0));
        let b = sync.write(&Write {
            khz: KHZ / 2,
            ..write(None, 700, 0)
        });
        assert_ne!(a, b);
    }

    #[test]
    fn scaling_is_by_the_ratio_of_the_frequencies() {
        assert_eq!(Scale::new(KHZ, KHZ), Some(Scale::ONE));
        let half = Scale::new(KHZ / 2, KHZ).unwrap();
        assert_eq!(half.apply(1 << 50), 1 << 49);
        assert_eq!(half.multiplier(), 1 << 47);
        assert_eq!(Scale::new(1, 0), None);
        assert_eq!(Scale::new(0, KHZ), None);
        assert_eq!(Scale::new(1 << 16, 1), None);
    }

    #[test]
    fn tolerance_is_250_parts_in_a_million() {
        assert!(within_tolerance(1_000_250, 1_000_000));
        assert!(!within_tolerance(1_000_251, 1_000_000));
        assert!(within_tolerance(999_750, 1_000_000));
        assert!(!within_tolerance(999_749, 1_000_000));
    }
}
