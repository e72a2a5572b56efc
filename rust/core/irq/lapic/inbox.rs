// SPDX-License-Identifier: GPL-2.0

//! The side of a local APIC that faces the other CPUs: they post, the vCPU that owns the APIC collects.
//!
//! Nothing here needs a lock. A sender sets the bit of a vector and then the notification bit; the owner clears the
//! notification bit and then takes the vectors, so a vector posted in between is either taken now or notified again.
//! The vectors and the notification bit lie as the SDM's posted-interrupt descriptor has them ("Posted-Interrupt
//! Processing"), so that the same words serve with posted interrupts in hardware.

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering::{
        AcqRel,
        Acquire,
        Relaxed,
        Release, //
    }, //
};

/// Posted-interrupt descriptor, 64 bytes.
#[repr(C, align(64))]
struct PiDesc {
    pir: [AtomicU64; 4],
    control: AtomicU64,
    _reserved: [AtomicU64; 3],
}

/// "Outstanding notification" of the descriptor.
const ON: u64 = 1;

/// Things that other CPUs can tell a vCPU besides vectors, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// INIT. It drops a SIPI that came before it.
    pub const INIT: Self = Self(1 << 0);
    /// Start-up IPI, with its vector.
    pub const SIPI: Self = Self((1 << 1) | 0xff00);
    /// System management interrupt.
    pub const SMI: Self = Self(1 << 2);
    /// PV kick (KVM_HC_KICK_CPU): a halted vCPU wakes up.
    pub const UNHALT: Self = Self(1 << 3);
    /// The host timer of the APIC timer has fired: [`super::Lapic::timer_expired`] is due.
    pub const TIMER: Self = Self(1 << 4);
    /// A message with a vector below 16 came in: [`super::Lapic::note_illegal_vector`] is due.
    pub const ILLEGAL_VECTOR: Self = Self(1 << 5);
    /// Non-maskable interrupts, one or two.
    pub const NMI: Self = Self(3 << 6);
    /// All of them.
    pub const ALL: Self = Self(0xffff);

    /// Both sets.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether none is in.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 & 0xff == 0
    }

    /// Whether one of `what` is in.
    #[inline]
    pub const fn has(self, what: Self) -> bool {
        self.0 & what.0 & 0xff != 0
    }

    /// The vector of the start-up IPI, if there is one.
    #[inline]
    pub const fn sipi(self) -> Option<u8> {
        if self.has(Self::SIPI) {
            Some((self.0 >> 8) as u8)
        } else {
            None
        }
    }

    /// The number of NMIs, 0 to 2: one in service and one latched is all that hardware keeps.
    #[inline]
    pub const fn nmis(self) -> u32 {
        (self.0 >> 6) & 3
    }
}

/// What happened to a posted vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// The APIC is disabled or refuses the message.
    Refused,
    /// The APIC refuses the message, and has an error to tell: wake the vCPU up or kick it out of the guest.
    Error,
    /// It is taken; the vCPU already knows that there is something to collect.
    Quiet,
    /// It is taken; wake the vCPU up or kick it out of the guest.
    Kick,
}

impl Posted {
    /// Whether the APIC took it.
    #[inline]
    pub const fn is_taken(self) -> bool {
        matches!(self, Self::Quiet | Self::Kick)
    }

    /// Whether the vCPU is to be woken up or kicked out of the guest.
    #[inline]
    pub const fn kicks(self) -> bool {
        matches!(self, Self::Error | Self::Kick)
    }
}

/// How the APIC is enabled, published by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const HW_ENABLED: u32 = 1;
    pub(super) const SW_ENABLED: u32 = 2;
    pub(super) const X2APIC: u32 = 4;

    pub(super) const fn is(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Words that all CPUs write. All zero is a valid value: an APIC that is disabled and has nothing pending.
#[repr(C)]
pub struct Inbox {
    pi: PiDesc,
    events: AtomicU32,
    status: AtomicU32,
    id: AtomicU32,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// Empty, of a disabled APIC.
    pub const fn new() -> Self {
        Self {
            pi: PiDesc {
                pir: [const { AtomicU64::new(0) }; 4],
                control: AtomicU64::new(0),
                _reserved: [const { AtomicU64::new(0) }; 3],
            },
            events: AtomicU32::new(0),
            status: AtomicU32::new(0),
            id: AtomicU32::new(0),
        }
    }

    #[inline]
    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Acquire))
    }

    /// Publishes what [`Status`] says and the x2APIC id.
    pub(super) fn publish(&self, bits: u32, id: u32) {
        self.id.store(id, Relaxed);
        self.status.store(bits, Release);
    }

    #[inline]
    pub(super) fn x2apic_id(&self) -> u32 {
        self.id.load(Relaxed)
    }

    /// Sets a vector without a look at the APIC's state.
    #[inline]
    pub(super) fn post_vector(&self, vector: u8) -> Posted {
        let bit = 1u64.wrapping_shl(u32::from(vector));
        let Some(word) = self.pi.pir.get(usize::from(vector >> 6)) else {
            return Posted::Refused;
        };
        if word.fetch_or(bit, AcqRel) & bit != 0 {
            // Whoever set it is about to notify, or has notified.
            return Posted::Quiet;
        }
        if self.pi.control.fetch_or(ON, AcqRel) & ON == 0 {
            Posted::Kick
        } else {
            Posted::Quiet
        }
    }

    /// Whether vectors wait to be collected. One load.
    #[inline]
    pub fn has_vectors(&self) -> bool {
        self.pi.control.load(Acquire) & ON != 0
    }

    /// Whether `vector` is posted and not yet collected.
    #[inline]
    pub(super) fn is_posted(&self, vector: u8) -> bool {
        let bit = 1u64.wrapping_shl(u32::from(vector));
        self.pi
            .pir
            .get(usize::from(vector >> 6))
            .is_some_and(|w| w.load(Relaxed) & bit != 0)
    }

    /// Hands the posted vectors to `f`, as 32-bit words with their number (0 to 7), and forgets them here.
    #[inline]
    pub(super) fn collect(&self, mut f: impl FnMut(u32, u32)) {
        self.pi.control.fetch_and(!ON, AcqRel);
        for (word, n) in self.pi.pir.iter().zip([0u32, 2, 4, 6]) {
            if word.load(Relaxed) == 0 {
                continue;
            }
            let bits = word.swap(0, AcqRel);
            f(n, bits as u32);
            f(n | 1, (bits >> 32) as u32);
        }
    }

    /// The events that wait. One load.
    #[inline]
    pub fn events(&self) -> Events {
        Events(self.events.load(Acquire))
    }

    /// Takes those of `which` that wait; the others stay.
    pub fn take_events(&self, which: Events) -> Events {
        if self.events.load(Relaxed) & which.0 == 0 {
            return Events::NONE;
        }
        Events(self.events.fetch_and(!which.0, AcqRel) & which.0)
    }

    fn update(&self, f: impl Fn(u32) -> u32) -> Posted {
        let mut old = self.events.load(Relaxed);
        loop {
            let new = f(old);
            match self.events.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) if old == new => return Posted::Quiet,
                Ok(_) => return Posted::Kick,
                Err(now) => old = now,
            }
        }
    }

    /// Posts an INIT.
    pub fn post_init(&self) -> Posted {
        self.update(|e| e & !Events::SIPI.0 | Events::INIT.0)
    }

    /// Posts a start-up IPI; also for KVM_SET_MP_STATE and KVM_SET_VCPU_EVENTS.
    pub fn post_sipi(&self, vector: u8) -> Posted {
        self.update(|e| e & !Events::SIPI.0 | 2 | (u32::from(vector) << 8))
    }

    /// Posts an NMI; a third one before the first is taken is lost, as on hardware.
    pub fn post_nmi(&self) -> Posted {
        self.update(|e| {
            let n = Events(e).nmis().saturating_add(1).min(2);
            e & !Events::NMI.0 | (n << 6)
        })
    }

    /// Posts events that are only there or not: SMI, UNHALT, TIMER, ILLEGAL_VECTOR.
    pub fn post(&self, events: Events) -> Posted {
        let flags = Events::SMI.0 | Events::UNHALT.0 | Events::TIMER.0 | Events::ILLEGAL_VECTOR.0;
        self.update(|e| e | events.0 & flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_post_kicks_and_the_owner_gets_everything() {
        let inbox = Inbox::new();
        assert_eq!(inbox.post_vector(0x31), Posted::Kick);
        assert_eq!(inbox.post_vector(0x31), Posted::Quiet);
        assert_eq!(inbox.post_vector(0xff), Posted::Quiet);
        let mut got = std::vec::Vec::new();
        inbox.collect(|n, bits| {
            if bits != 0 {
                got.push((n, bits));
            }
        });
        assert_eq!(got, [(1, 1 << 17), (7, 1 << 31)]);
        assert!(!inbox.has_vectors());
        assert_eq!(inbox.post_vector(0x31), Posted::Kick);
    }

    #[test]
    fn init_drops_an_earlier_sipi_and_nmis_saturate() {
        let inbox = Inbox::new();
        let _ = inbox.post_sipi(0x9f);
        assert_eq!(inbox.events().sipi(), Some(0x9f));
        let _ = inbox.post_init();
        assert_eq!(inbox.events().sipi(), None);
        let _ = inbox.post_sipi(0x12);
        for _ in 0..5 {
            let _ = inbox.post_nmi();
        }
        let taken = inbox.take_events(Events::INIT.union(Events::NMI));
        assert!(taken.has(Events::INIT) && taken.sipi().is_none());
        assert_eq!(taken.nmis(), 2);
        assert_eq!(inbox.take_events(Events::ALL).sipi(), Some(0x12));
        assert!(inbox.events().is_empty());
    }

    #[test]
    fn no_vector_is_lost_between_two_threads() {
        for _ in 0..100 {
            let inbox = Inbox::new();
            let mut got = [0u32; 8];
            std::thread::scope(|s| {
                let sender = s.spawn(|| {
                    for v in (0..=255u8).rev() {
                        let _ = inbox.post_vector(v);
                    }
                });
                // The owner looks at the notification bit only: it must never be off with a vector behind it.
                while !sender.is_finished() || inbox.has_vectors() {
                    if inbox.has_vectors() {
                        inbox.collect(|n, bits| {
                            assert_eq!(got[n as usize] & bits, 0, "collected twice");
                            got[n as usize] |= bits;
                        });
                    }
                }
            });
            assert_eq!(got, [u32::MAX; 8]);
        }
    }
}
