// SPDX-License-Identifier: GPL-2.0

//! Interrupt controllers and timers as state machines.
//!
//! Every chip takes a bus access, a change of a pin or the current time, and answers with a value and with what the
//! caller has to do. None has a lock, a clock or a heap of its own: see Documentation/interrupts.rst for who holds
//! which lock and who calls what.
//!
//! SDM volume 3, "Advanced Programmable Interrupt Controller (APIC)".

pub mod ioapic;
pub mod lapic;
pub mod map;
pub mod msi;
pub mod pic;
pub mod pit;
pub mod routing;
pub mod x2apic_api;

/// Most vCPUs of a VM, in any configuration of the kernel (KVM_MAX_VCPUS).
pub const MAX_VCPUS: usize = 4096;

/// Index of a vCPU in its VM, in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuIndex(pub u16);

/// Delivery mode of an interrupt message (SDM, "Interrupt Command Register (ICR)").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector, to all that match.
    Fixed = 0,
    /// The vector, to one of those that match.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Reserved by the SDM; KVM's PV "kick" hypercall uses it to wake a halted vCPU.
    RemoteRead = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up IPI; the vector is the page to start at.
    Startup = 6,
    /// The 8259A's: the vector comes from an INTA cycle.
    ExtInt = 7,
}

impl DeliveryMode {
    /// From the low three bits of `bits`.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::RemoteRead,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }

    /// Whether the APIC that takes the message gets a vector of it, and ends that with an EOI.
    #[inline]
    pub const fn has_eoi(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// How a destination is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestMode {
    /// An APIC id.
    Physical,
    /// A set, matched against the LDR.
    Logical,
}

/// Trigger mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A rising edge is one interrupt.
    Edge,
    /// Asserted until acknowledged: the EOI goes on to the IOAPIC.
    Level,
}

/// Destination shorthand of an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination field counts.
    None,
    /// The sender only.
    SelfOnly,
    /// All.
    All,
    /// All but the sender.
    AllButSelf,
}

/// An interrupt message on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Destination, in the width of the sender.
    pub dest: u32,
    /// Vector.
    pub vector: u8,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Whether `dest` is an id or a set.
    pub dest_mode: DestMode,
    /// Trigger mode.
    pub trigger: Trigger,
    /// Asserted; false only for a level de-assert (INIT).
    pub assert: bool,
    /// Shorthand; [`Shorthand::None`] for everything that is not an IPI.
    pub shorthand: Shorthand,
    /// MSI redirection hint: deliver as lowest priority.
    pub redirect_hint: bool,
}

impl Interrupt {
    /// Whether one of those that match is to be chosen.
    #[inline]
    pub const fn is_lowest_priority(&self) -> bool {
        matches!(self.mode, DeliveryMode::LowestPriority) || self.redirect_hint
    }
}

/// What became of an interrupt message, in the terms of KVM_IRQ_LINE_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No APIC matches, or the source is masked. -1 in the ABI.
    Ignored,
    /// It coalesced with one before, or the APICs that match do not take it. 0 in the ABI.
    Coalesced,
    /// So many APICs took it.
    Accepted(u32),
}

impl Delivery {
    /// The number of the ABI: kvm_irq_level.status (api.rst, KVM_IRQ_LINE_STATUS).
    #[inline]
    pub const fn status(self) -> i32 {
        match self {
            Self::Ignored => -1,
            Self::Coalesced => 0,
            Self::Accepted(n) => n as i32,
        }
    }

    /// The sum over several chips behind one GSI: ignored ones do not count.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ignored, o) => o,
            (s, Self::Ignored) => s,
            (Self::Coalesced, o) => o,
            (s, Self::Coalesced) => s,
            (Self::Accepted(a), Self::Accepted(b)) => Self::Accepted(a.saturating_add(b)),
        }
    }
}

/// Who drives a pin. A pin is high as long as one of its sources holds it high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IrqSource {
    /// KVM_IRQ_LINE, KVM_SIGNAL_MSI and edge irqfds.
    UserSpace = 0,
    /// Irqfds with a resample eventfd.
    Resampler = 1,
    /// The in-kernel PIT.
    Pit = 2,
}

/// The levels that the sources of one pin drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineState(u8);

impl LineState {
    /// Sets the level of one source; answers the level of the pin.
    #[inline]
    pub fn drive(&mut self, source: IrqSource, high: bool) -> bool {
        let bit = 1u8.wrapping_shl(source as u32);
        if high {
            self.0 |= bit;
        } else {
            self.0 &= !bit;
        }
        self.is_high()
    }

    /// The level of the pin.
    #[inline]
    pub const fn is_high(self) -> bool {
        self.0 != 0
    }
}

/// A set of vCPUs of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuSet([u64; MAX_VCPUS / 64]);

impl Default for VcpuSet {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self([0; MAX_VCPUS / 64])
    }

    /// Puts a vCPU in; answers whether it was not in before.
    #[inline]
    pub fn insert(&mut self, vcpu: VcpuIndex) -> bool {
        let bit = 1u64.wrapping_shl(u32::from(vcpu.0));
        match self.0.get_mut(usize::from(vcpu.0 >> 6)) {
            Some(word) => {
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }

    /// Takes a vCPU out; answers whether it was in.
    #[inline]
    pub fn remove(&mut self, vcpu: VcpuIndex) -> bool {
        let bit = 1u64.wrapping_shl(u32::from(vcpu.0));
        match self.0.get_mut(usize::from(vcpu.0 >> 6)) {
            Some(word) => {
                let was = *word & bit != 0;
                *word &= !bit;
                was
            }
            None => false,
        }
    }

    /// Whether no vCPU is in.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Empties it.
    #[inline]
    pub fn clear(&mut self) {
        self.0 = [0; MAX_VCPUS / 64];
    }
}

/// Where a chip's interrupt messages go: the map of the VM's local APICs, in the glue.
pub trait Deliver {
    /// Sends `irq`. `accepted`, where given, gets the vCPUs that took it.
    ///
    /// It is called with the chip's lock held, so it may not sleep and may not take that lock.
    fn deliver(&mut self, irq: &Interrupt, accepted: Option<&mut VcpuSet>) -> Delivery;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_sums_as_the_abi_says() {
        assert_eq!(Delivery::Ignored.and(Delivery::Ignored).status(), -1);
        assert_eq!(Delivery::Ignored.and(Delivery::Coalesced).status(), 0);
        assert_eq!(Delivery::Accepted(1).and(Delivery::Coalesced).status(), 1);
        assert_eq!(Delivery::Accepted(1).and(Delivery::Accepted(2)).status(), 3);
    }

    #[test]
    fn a_pin_is_high_while_one_source_is() {
        let mut line = LineState::default();
        assert!(line.drive(IrqSource::Pit, true));
        assert!(line.drive(IrqSource::UserSpace, true));
        assert!(line.drive(IrqSource::Pit, false));
        assert!(!line.drive(IrqSource::UserSpace, false));
    }

    #[test]
    fn a_set_of_vcpus_ignores_ids_past_the_end() {
        let mut set = VcpuSet::new();
        assert!(set.insert(VcpuIndex(4095)));
        assert!(!set.insert(VcpuIndex(4095)));
        assert!(!set.insert(VcpuIndex(4096)));
        assert!(!set.remove(VcpuIndex(65535)));
        assert!(set.remove(VcpuIndex(4095)) && set.is_empty());
    }
}
