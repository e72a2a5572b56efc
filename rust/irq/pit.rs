// SPDX-License-Identifier: GPL-2.0

//! The interval timer with its lock and its host timer (api.rst, "KVM_CREATE_PIT2").

use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::Arc, //
};
use rkvm_core::irq::{
    pit::{
        Missed,
        Pit,
        PitState, //
    },
    IrqSource, //
};

use super::Irq;
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

/// The GSI that channel 0 drives.
pub(crate) const GSI: u32 = 0;
/// KVM_PIT_SPEAKER_DUMMY: port 0x61 is in the kernel, too.
pub(crate) const SPEAKER_DUMMY: u32 = 1;
/// Shortest period of channel 0 in ns, as C KVM's min_timer_period_us.
const MIN_PERIOD_NS: u64 = 200_000;

/// Monotonic time in ns, as the chips count it.
pub(crate) fn now() -> u64 {
    monotonic_ns().max(0) as u64
}

/// The interval timer.
#[pin_data]
pub(crate) struct PitChip {
    #[pin]
    lock: SpinLockIrq<Pit>,
    speaker: bool,
}

/// What the host's timer calls.
pub(crate) struct PitTick {
    irq: Arc<Irq>,
    pit: Arc<PitChip>,
}

/// The timer of channel 0.
pub(crate) type PitTimer = Timer<PitTick>;

impl TimerCallback for PitTick {
    fn expired(&self, timer: &PitTimer) {
        let tick = {
            let mut pit = self.pit.lock.lock();
            let tick = pit.expired(now());
            // With the lock, so that no vCPU has started the timer for something else meanwhile.
            if let Some(ns) = pit.alarm() {
                timer.start(ns as i64);
            }
            tick
        };
        if tick {
            self.irq.pit_tick();
        }
    }
}

impl PitChip {
    fn new(flags: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                lock <- SpinLockIrq::new(Pit::new(MIN_PERIOD_NS, now()), c_str!("pit_lock"), static_lock_class!()),
                speaker: flags & SPEAKER_DUMMY != 0,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl Irq {
    /// One pulse of GSI 0, and of the NMI watchdogs that hang on it.
    fn pit_tick(&self) {
        self.set_irq(IrqSource::Pit, GSI, true, false);
        self.set_irq(IrqSource::Pit, GSI, false, false);
        for vcpu in self.vcpus().iter() {
            vcpu.pit_watchdog();
        }
    }

    /// The guest has ended an interrupt of the timer.
    pub(super) fn pit_acked(&self) {
        if self.pit().is_some_and(|pit| pit.lock.lock().acknowledged()) {
            self.pit_tick();
        }
    }

    /// The guest has masked or unmasked the timer's pin.
    pub(super) fn pit_mask_changed(&self, masked: bool) {
        if let Some(pit) = self.pit() {
            pit.lock.lock().mask_changed(masked);
        }
    }

    /// Whether the timer wants to hear that an interrupt of this GSI is ended.
    pub(super) fn pit_hears(&self, gsi: u32) -> bool {
        gsi == GSI
            && self
                .pit()
                .is_some_and(|pit| pit.lock.lock().missed() == Missed::Reinject)
    }
}

impl Vm {
    /// KVM_CREATE_PIT and KVM_CREATE_PIT2, with the set-up lock: EEXIST if there is one, ENOENT without a PIC.
    pub(crate) fn create_pit(&self, flags: u32) -> Result {
        if self.irq.pit().is_some() {
            return Err(EEXIST);
        }
        if !self.has_kernel_ioapic() {
            return Err(ENOENT);
        }
        let pit = PitChip::new(flags)?;
        let tick = PitTick {
            irq: self.irq.clone(),
            pit: pit.clone(),
        };
        self.pit_timer
            .populate(KBox::pin_init(Timer::new(tick), GFP_KERNEL_ACCOUNT)?);
        self.irq.set_pit(pit);
        self.irq.rescan();
        Ok(())
    }

    /// One access to the timer, after which its host timer is armed anew if `f` answers true.
    fn with_pit<R>(&self, f: impl FnOnce(&mut Pit) -> (R, bool)) -> Option<R> {
        let (pit, timer) = (self.irq.pit()?, self.pit_timer.as_ref()?);
        let mut pit = pit.lock.lock();
        let before = pit.alarm();
        let (answer, arm) = f(&mut pit);
        let after = pit.alarm();
        if arm || before != after {
            // Early or twice is no matter, as the chip decides by the time whether a tick is due, but late is: so the
            // last one to change the alarm is the last one to start the timer.
            match after {
                Some(ns) => timer.start(ns as i64),
                None => {
                    let _ = timer.try_cancel();
                }
            }
        }
        Some(answer)
    }

    fn pit_has_port(&self, port: u16) -> bool {
        self.irq
            .pit()
            .is_some_and(|pit| port != 0x61 || pit.speaker)
    }

    /// IN from ports 0x40 to 0x43 and 0x61. As with C KVM a wider access reaches the register of its first port.
    pub(super) fn pit_read(&self, port: u16) -> Option<u8> {
        if !self.pit_has_port(port) {
            return None;
        }
        self.with_pit(|pit| {
            let value = match port {
                0x61 => pit.read_speaker(now()),
                _ => pit.read(port as u8 & 3, now()),
            };
            (value, false)
        })
    }

    /// OUT to ports 0x40 to 0x43 and 0x61.
    pub(super) fn pit_write(&self, port: u16, value: u8) -> bool {
        if !self.pit_has_port(port) {
            return false;
        }
        self.with_pit(|pit| match port {
            0x61 => (pit.write_speaker(value, now()), false),
            _ => (pit.write(port as u8 & 3, value, now()), false),
        });
        true
    }

    /// KVM_GET_PIT2. ENXIO without a timer in the kernel.
    pub(crate) fn pit_state(&self) -> Result<PitState> {
        let pit = self.irq.pit().ok_or(ENXIO)?;
        let state = pit.lock.lock().state();
        Ok(state)
    }

    /// KVM_SET_PIT2. ENXIO without a timer in the kernel.
    pub(crate) fn set_pit_state(&self, state: &PitState) -> Result {
        self.with_pit(|pit| (pit.set_state(state, now()), true))
            .ok_or(ENXIO)
    }

    /// KVM_REINJECT_CONTROL. ENXIO without a timer in the kernel.
    pub(crate) fn set_pit_missed(&self, missed: Missed) -> Result {
        self.with_pit(|pit| (pit.set_missed(missed), false))
            .ok_or(ENXIO)?;
        self.irq.rescan();
        Ok(())
    }
}
