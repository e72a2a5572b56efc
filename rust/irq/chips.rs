// SPDX-License-Identifier: GPL-2.0

//! PIC and I/O APIC with their locks, and what their answers ask for.

use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering, //
};

use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::Arc, //
};
use rkvm_core::{
    addr::Gpa,
    irq::{
        ioapic::{
            self,
            Ioapic, //
        },
        lapic::Eoi,
        pic::{
            self,
            Pic, //
        },
        Deliver,
        Delivery,
        Interrupt,
        IrqSource,
        Trigger,
        VcpuIndex,
        VcpuSet, //
    },
};

use super::{
    pit,
    Irq, //
};
use crate::{
    sys::{
        clock::monotonic_ns,
        hrtimer::{
            Timer,
            TimerCallback, //
        },
        spinlock_irq::SpinLockIrq, //
    },
    vm::Vm,
};

/// How long a level interrupt that storms is held back.
const STORM_DELAY_NS: i64 = 10_000_000;
/// Bytes of the I/O APIC's registers.
const IOAPIC_BYTES: u64 = 0x100;

/// PIC and I/O APIC.
#[pin_data]
pub(crate) struct Chips {
    /// Never with `ioapic`. Inside either come the PIT and the locks of the host's timers and wake-ups.
    #[pin]
    pub(super) pic: SpinLockIrq<Pic>,
    #[pin]
    pub(super) ioapic: SpinLockIrq<Ioapic>,
    /// The PIC's output, written under its lock.
    pic_output: AtomicBool,
    /// Where the I/O APIC's registers are, written under its lock.
    ioapic_base: AtomicU64,
    /// Edge vectors whose EOI somebody wants to hear of.
    edge_eois: [AtomicU64; 4],
}

impl Chips {
    /// After power-up.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pic <- SpinLockIrq::new(Pic::new(), c_str!("pic_lock"), static_lock_class!()),
            ioapic <- SpinLockIrq::new(Ioapic::new(false), c_str!("ioapic_lock"), static_lock_class!()),
            pic_output: AtomicBool::new(false),
            ioapic_base: AtomicU64::new(ioapic::DEFAULT_BASE),
            edge_eois: [const { AtomicU64::new(0) }; 4],
        })
    }

    /// Whether the PIC asks for an interrupt.
    #[inline]
    pub(crate) fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Acquire)
    }

    /// Whether the EOI of an edge interrupt with this vector matters to somebody, on some vCPU.
    #[inline]
    pub(crate) fn hears_edge(&self, vector: u8) -> bool {
        let word = self.edge_eois.get(usize::from(vector >> 6));
        word.is_some_and(|w| w.load(Ordering::Relaxed) & 1u64.wrapping_shl(vector.into()) != 0)
    }

    /// Which byte of the I/O APIC's registers an address is, if it is one.
    pub(super) fn ioapic_offset(&self, gpa: Gpa) -> Option<u32> {
        let offset = gpa.0.wrapping_sub(self.ioapic_base.load(Ordering::Relaxed));
        (offset < IOAPIC_BYTES).then_some(offset as u32)
    }
}

/// Where the I/O APIC's messages go.
struct Sink<'a>(&'a Irq);

impl Deliver for Sink<'_> {
    fn deliver(&mut self, irq: &Interrupt, accepted: Option<&mut VcpuSet>) -> Delivery {
        self.0.deliver(irq, None, accepted)
    }
}

impl Irq {
    /// One access to the PIC under its lock, and what follows from it without.
    pub(super) fn with_pic<R>(
        &self,
        chips: &Chips,
        f: impl FnOnce(&mut Pic) -> (R, pic::Effects),
    ) -> R {
        let (result, effects) = {
            let mut pic = chips.pic.lock();
            let answer = f(&mut pic);
            chips.pic_output.store(pic.output(), Ordering::Release);
            answer
        };
        if effects != pic::Effects::default() {
            self.pic_effects(effects);
        }
        result
    }

    fn pic_effects(&self, effects: pic::Effects) {
        if effects.wake {
            if let Some(vcpu) = self.vcpus().iter().find(|v| v.accepts_pic()) {
                vcpu.notify_apic();
            }
        }
        for pin in bits(effects.acked.into()) {
            if let Some(gsi) = self.gsi(|routes| routes.gsi_of_pic(pin)) {
                self.tell_acked(gsi);
                self.gsi_ended(gsi);
            }
        }
        if effects.mask_changed != 0 {
            self.pic_masks_changed(effects.mask_changed);
        }
    }

    fn pic_masks_changed(&self, changed: u16) {
        let Some(chips) = self.chips() else {
            return;
        };
        let masks = chips.pic.lock().masks();
        for pin in bits(changed.into()) {
            if self.gsi(|routes| routes.gsi_of_pic(pin)) == Some(pit::GSI) {
                self.pit_mask_changed(masks & 1u16.wrapping_shl(pin.into()) != 0);
            }
        }
    }

    fn gsi(&self, f: impl FnOnce(&super::routes::Routes) -> Option<u32>) -> Option<u32> {
        let guard = self.srcu.read();
        f(self.routes.read(&guard))
    }

    pub(super) fn set_pic_line(&self, pin: u8, source: IrqSource, high: bool) -> Delivery {
        match self.chips() {
            Some(chips) => self.with_pic(chips, |pic| pic.set_line(pin, source, high)),
            None => Delivery::Ignored,
        }
    }

    /// The INTA cycle: the vector of the PIC's interrupt.
    pub(crate) fn pic_vector(&self) -> Option<u8> {
        let chips = self.chips()?;
        Some(self.with_pic(chips, Pic::read_irq))
    }

    /// The state of one PIC.
    pub(crate) fn pic_state(&self, slave: bool) -> Option<pic::PicState> {
        Some(self.chips()?.pic.lock().state(slave))
    }

    /// Sets the state of one PIC.
    pub(crate) fn set_pic_state(&self, slave: bool, state: &pic::PicState) {
        if let Some(chips) = self.chips() {
            self.with_pic(chips, |pic| ((), pic.set_state(slave, state)));
        }
    }

    pub(super) fn set_ioapic_line(
        &self,
        pin: u8,
        source: IrqSource,
        high: bool,
        line_status: bool,
    ) -> Delivery {
        match self.chips() {
            Some(chips) => {
                chips
                    .ioapic
                    .lock()
                    .set_line(pin, source, high, line_status, &mut Sink(self))
            }
            None => Delivery::Ignored,
        }
    }

    /// The state of the I/O APIC.
    pub(crate) fn ioapic_state(&self) -> Option<ioapic::IoapicState> {
        Some(self.chips()?.ioapic.lock().state())
    }

    /// Sets the state of the I/O APIC.
    pub(crate) fn set_ioapic_state(&self, state: &ioapic::IoapicState) {
        let Some(chips) = self.chips() else {
            return;
        };
        {
            let mut ioapic = chips.ioapic.lock();
            ioapic.set_state(state, &mut Sink(self));
            chips
                .ioapic_base
                .store(state.base_address, Ordering::Relaxed);
        }
        for vcpu in self.vcpus().iter() {
            self.restore_rtc(vcpu.index, |vector| vcpu.has_pending_vector(vector));
        }
        self.rescan();
    }

    /// After the state of a vCPU's APIC or of the I/O APIC was set: whether the clock's interrupt is pending there.
    pub(crate) fn restore_rtc(&self, index: usize, pending: impl Fn(u8) -> bool) {
        let (Some(chips), Ok(index)) = (self.chips(), u16::try_from(index)) else {
            return;
        };
        let mut ioapic = chips.ioapic.lock();
        let (dest, mode, vector) = ioapic.rtc_route();
        if self.matches(VcpuIndex(index), dest, mode) {
            ioapic.restore_rtc(VcpuIndex(index), pending(vector));
        }
    }

    /// True: some pin is in a storm.
    pub(super) fn write_ioapic(&self, chips: &Chips, offset: u32, value: u32) -> bool {
        let mut storm = false;
        let listens = |pin| {
            self.gsi(|routes| routes.gsi_of_ioapic(pin))
                .is_some_and(|gsi| self.listens(gsi))
        };
        let mut ioapic = chips.ioapic.lock();
        let effects = ioapic.write(offset, value, listens, &mut Sink(self));
        if effects.rescan {
            // Before the pin can send its next interrupt: another vCPU may end that at once.
            self.rescan_with(chips, &ioapic);
        }
        drop(ioapic);
        if let Some((pin, masked)) = effects.mask_changed {
            if self.gsi(|routes| routes.gsi_of_ioapic(pin)) == Some(pit::GSI) {
                self.pit_mask_changed(masked);
            }
        }
        if let Some(pin) = effects.resample {
            self.pins_acked(bit(pin));
        }
        if let Some(vector) = effects.eoi {
            storm = self.end_vector(chips, vector, |ioapic, sink| ioapic.eoi_level(vector, sink));
        }
        storm
    }

    /// The GSIs of the pins in a bitmap.
    fn gsis(&self, pins: u32) -> impl Iterator<Item = u32> + '_ {
        bits(pins).filter_map(|pin| self.gsi(|routes| routes.gsi_of_ioapic(pin)))
    }

    fn pins_acked(&self, pins: u32) {
        for gsi in self.gsis(pins) {
            self.tell_acked(gsi);
        }
    }

    /// Does `eoi`, the I/O APIC's part of the end of `vector`. True: some pin is in a storm.
    fn end_vector(
        &self,
        chips: &Chips,
        vector: u8,
        eoi: impl FnOnce(&mut Ioapic, &mut Sink<'_>) -> bool,
    ) -> bool {
        let pins = chips.ioapic.lock().pins_of(vector);
        // Who lets go of a line does so before the I/O APIC looks whether it is still high.
        self.pins_acked(pins);
        let storm = eoi(&mut chips.ioapic.lock(), &mut Sink(self));
        // Who pulses a line does so after it: a level pin drops what comes before its EOI.
        for gsi in self.gsis(pins) {
            self.gsi_ended(gsi);
        }
        storm
    }

    /// A local APIC has ended an interrupt that the I/O APIC may have sent. True: some pin is in a storm.
    fn eoi(&self, vcpu: usize, eoi: Eoi) -> bool {
        let (Some(chips), Ok(vcpu)) = (self.chips(), u16::try_from(vcpu)) else {
            return false;
        };
        if eoi.trigger == Trigger::Edge && !chips.hears_edge(eoi.vector) {
            return false;
        }
        self.end_vector(chips, eoi.vector, |ioapic, sink| {
            ioapic.eoi(
                VcpuIndex(vcpu),
                eoi.vector,
                eoi.trigger,
                eoi.broadcast,
                sink,
            )
        })
    }

    /// Sends what was held back in a storm.
    fn storm_over(&self) {
        if let Some(chips) = self.chips() {
            chips.ioapic.lock().service_delayed(&mut Sink(self));
        }
    }

    /// Works out anew which edge vectors' EOIs somebody wants to hear of.
    pub(super) fn rescan(&self) {
        if let Some(chips) = self.chips() {
            self.rescan_with(chips, &chips.ioapic.lock());
        }
    }

    /// As [`Irq::rescan`], with one lock over all of it: an older list of who listens must not replace a newer one.
    fn rescan_with(&self, chips: &Chips, ioapic: &Ioapic) {
        let mut notified = 0;
        for pin in 0..ioapic::PINS as u8 {
            let heard = self
                .gsi(|routes| routes.gsi_of_ioapic(pin))
                .is_some_and(|gsi| self.listens(gsi) || self.pit_hears(gsi));
            if heard {
                notified |= bit(pin);
            }
        }
        let mut words = [0u64; 4];
        ioapic.heard_vectors(notified, |vector| {
            if let Some(word) = words.get_mut(usize::from(vector >> 6)) {
                *word |= 1u64.wrapping_shl(vector.into());
            }
        });
        for (shown, word) in chips.edge_eois.iter().zip(words) {
            shown.store(word, Ordering::Relaxed);
        }
    }
}

/// What the host's timer calls after a storm.
pub(crate) struct StormOver(Arc<Irq>);

impl StormOver {
    /// A timer that does not run.
    pub(crate) fn timer(irq: Arc<Irq>) -> Result<Pin<KBox<StormTimer>>> {
        KBox::pin_init(Timer::new(Self(irq)), GFP_KERNEL_ACCOUNT)
    }
}

impl TimerCallback for StormOver {
    fn expired(&self, _timer: &StormTimer) {
        self.0.storm_over();
    }
}

/// The timer of [`StormOver`].
pub(crate) type StormTimer = Timer<StormOver>;

const fn bit(pin: u8) -> u32 {
    1u32.wrapping_shl(pin as u32)
}

/// The numbers of the bits that are set.
fn bits(mut set: u32) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let n = set.trailing_zeros() as u8;
        set &= set.wrapping_sub(1);
        Some(n)
    })
}

impl Vm {
    /// A local APIC has ended an interrupt that the I/O APIC may have sent. Interrupts may be off.
    pub(crate) fn ioapic_eoi(&self, vcpu: usize, eoi: Eoi) {
        let storm = self.irq.eoi(vcpu, eoi);
        self.hold_back(storm);
    }

    /// A level interrupt that the guest ends without quieting its device waits a little, so that the guest gets on.
    pub(super) fn hold_back(&self, storm: bool) {
        if storm {
            self.storm_timer
                .start(monotonic_ns().saturating_add(STORM_DELAY_NS));
        }
    }
}
