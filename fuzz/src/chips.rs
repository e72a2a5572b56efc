// SPDX-License-Identifier: GPL-2.0

//! Interrupt chips and the timer, driven by arbitrary accesses of the guest, lines, and state from user space.
//!
//! Nothing panics or loops; timers never ask to be woken in the past; what a local APIC has to deliver is above its
//! priority, and what user space reads of a chip, written back, gives the same again.

use crate::input::Input;
use rkvm_core::irq::ioapic::Ioapic;
use rkvm_core::irq::lapic::{Alarm, Clock, Config, Lapic, LapicState, Lvt, Reg, Shared};
use rkvm_core::irq::pic::Pic;
use rkvm_core::irq::pit::{Missed, Pit};
use rkvm_core::irq::{Deliver, Delivery, Interrupt, IrqSource, Trigger, VcpuIndex, VcpuSet};

/// The most accesses of an input.
const MOST_STEPS: usize = 256;

#[derive(Clone, Copy)]
struct Now(u64);

impl Clock for Now {
    fn ns(&self) -> u64 {
        self.0
    }

    fn guest_tsc(&self) -> u64 {
        self.0.wrapping_mul(2)
    }
}

/// Messages go to the one local APIC.
struct Bus<'a>(&'a Shared);

impl Deliver for Bus<'_> {
    fn deliver(&mut self, irq: &Interrupt, accepted: Option<&mut VcpuSet>) -> Delivery {
        if !self.0.post(irq).is_taken() {
            return Delivery::Coalesced;
        }
        if let Some(set) = accepted {
            set.insert(VcpuIndex(0));
        }
        Delivery::Accepted(1)
    }
}

struct Board {
    now: Now,
    lapic: Lapic<Box<Shared>>,
    ioapic: Ioapic,
    pic: Pic,
    pit: Pit,
}

/// Drives the chips as `data` say.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let mut config = Config::new(0, true);
    let options = input.byte();
    config.cmci = options & 1 != 0;
    config.x2apic = options & 2 == 0;
    config.suppress_eoi = options & 4 != 0;
    config.x2apic_format = options & 8 != 0;
    let mut board = Board {
        now: Now(1),
        lapic: Lapic::new(Box::default(), config),
        ioapic: Ioapic::new(options & 16 != 0),
        pic: Pic::new(),
        pit: Pit::new(200_000, 1),
    };
    for _ in 0..MOST_STEPS {
        if input.is_over() {
            break;
        }
        board.step(&mut input);
    }
    board.state_comes_back();
}

fn source(n: u8) -> IrqSource {
    match n % 3 {
        0 => IrqSource::UserSpace,
        1 => IrqSource::Resampler,
        _ => IrqSource::Pit,
    }
}

impl Board {
    /// One access, by a byte that says what.
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        match what >> 5 {
            0 => self.time(what, input),
            1 | 2 => self.lapic_access(what, input),
            3 => self.lapic_event(what, input),
            4 => self.ioapic(what, input),
            5 => self.pic(what, input),
            6 => self.pit(what, input),
            _ => self.state_from_user_space(what, input),
        }
    }

    fn time(&mut self, what: u8, input: &mut Input<'_>) {
        let by = u64::from(input.long()) << (what & 31);
        self.now.0 = self.now.0.saturating_add(by);
        let now = self.now;
        let _ = self.pit.expired(now.0);
        assert!(
            self.pit.alarm().is_none_or(|at| at >= now.0),
            "the PIT wakes in the past"
        );
        if let Alarm::AtNs(at) = self.lapic.timer_expired(&now) {
            assert!(at >= now.0, "the APIC timer wakes in the past");
        }
    }

    fn lapic_access(&mut self, what: u8, input: &mut Input<'_>) {
        let now = self.now;
        let offset = u32::from(input.byte()) << 4 | u32::from(what & 8) >> 2;
        let msr = 0x800 + (offset >> 4);
        match what & 7 {
            0 => {
                self.lapic.mmio_read(offset, 1 << (what & 3), &now);
            }
            1 => {
                let _ = self.lapic.msr_read(msr, &now);
            }
            2 => {
                let _ = self.lapic.msr_write(msr, input.quad(), &now);
            }
            4 => {
                let value = u64::from(input.word()) << 8 | 0xfee0_0000 << (what >> 4 & 1);
                let _ = self.lapic.set_base(value, 0xffff << 48, what & 16 != 0);
            }
            5 => {
                self.lapic.set_tsc_deadline(input.quad());
            }
            _ => {
                let _ = self.lapic.mmio_write(offset & 0xff0, 4, input.long(), &now);
            }
        }
    }

    fn lapic_event(&mut self, what: u8, input: &mut Input<'_>) {
        let lapic = &mut self.lapic;
        match what & 7 {
            0 | 1 => {
                let trigger = if what & 1 != 0 {
                    Trigger::Level
                } else {
                    Trigger::Edge
                };
                let _ = lapic.shared().post_fixed(input.byte(), trigger);
            }
            2 | 3 => {
                if let Some(vector) = lapic.deliverable() {
                    assert!(
                        vector >> 4 > lapic.ppr() >> 4,
                        "a vector below the priority"
                    );
                    assert_eq!(lapic.highest_irr(), Some(vector));
                    lapic.accept(vector);
                    assert_eq!(lapic.highest_isr(), Some(vector));
                    assert!(lapic.highest_irr() != Some(vector), "it is taken");
                }
            }
            4 => {
                let highest = lapic.highest_isr();
                let ended = lapic.eoi();
                assert_eq!(ended.map(|e| e.vector), highest);
                if let Some(eoi) = ended {
                    let (ioapic, mut bus) = (&mut self.ioapic, Bus(lapic.shared()));
                    let _ = ioapic.eoi_level(eoi.vector, &mut bus);
                    ioapic.service_delayed(&mut bus);
                }
            }
            5 => lapic.set_cr8(u64::from(input.byte() & 15)),
            6 => {
                let threshold = lapic.tpr_threshold();
                assert!(u64::from(threshold) <= lapic.cr8());
            }
            _ => {
                let lvts = [
                    Lvt::Timer,
                    Lvt::Thermal,
                    Lvt::Perf,
                    Lvt::Lint0,
                    Lvt::Lint1,
                    Lvt::Error,
                ];
                if let Some(lvt) = lvts.get(usize::from(what >> 3 & 3)) {
                    let _ = lapic.fire(*lvt);
                }
            }
        }
    }

    fn ioapic(&mut self, what: u8, input: &mut Input<'_>) {
        let mut bus = Bus(self.lapic.shared());
        match what & 7 {
            0..=2 => {
                // Selecting a register and writing it.
                let select = u32::from(input.byte());
                let _ = self.ioapic.write(0, select, |pin| pin & 1 != 0, &mut bus);
                let _ = self
                    .ioapic
                    .write(0x10, input.long(), |pin| pin & 1 != 0, &mut bus);
            }
            3 => {
                self.ioapic.read(u32::from(input.byte()));
                let _ = self.ioapic.write(0x40, input.long(), |_| false, &mut bus);
            }
            4..=6 => {
                let pin = input.byte();
                let _ = self.ioapic.set_line(
                    pin & 31,
                    source(pin >> 5),
                    what & 8 != 0,
                    what & 16 != 0,
                    &mut bus,
                );
            }
            _ => {
                let vector = input.byte();
                let pins = self.ioapic.pins_of(vector);
                assert_eq!(pins >> 24, 0);
                let _ = self.ioapic.eoi_level(vector, &mut bus);
                self.ioapic.service_delayed(&mut bus);
            }
        }
    }

    fn pic(&mut self, what: u8, input: &mut Input<'_>) {
        const PORTS: [u16; 8] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x20, 0xa0];
        let port = PORTS[usize::from(what >> 2 & 7)];
        match what & 3 {
            0 => {
                let _ = self.pic.write(port, input.byte());
            }
            1 => {
                let _ = self.pic.read(port);
            }
            2 => {
                let line = input.byte();
                let _ = self
                    .pic
                    .set_line(line & 31, source(line >> 5), line & 0x80 != 0);
            }
            _ => {
                let (vector, _) = self.pic.read_irq();
                let bases = [false, true].map(|slave| self.pic.state(slave).irq_base & 0xf8);
                assert!(bases.contains(&(vector & 0xf8)), "a vector of neither chip");
            }
        }
    }

    fn pit(&mut self, what: u8, input: &mut Input<'_>) {
        let now = self.now.0;
        match what & 7 {
            0..=3 => self.pit.write(what & 3, input.byte(), now),
            4 => {
                self.pit.read(what >> 3 & 3, now);
                self.pit.read_speaker(now);
            }
            5 => self.pit.write_speaker(input.byte(), now),
            6 => {
                let _ = self.pit.acknowledged();
                self.pit.mask_changed(what & 8 != 0);
            }
            _ => self.pit.set_missed(if what & 8 != 0 {
                Missed::Discard
            } else {
                Missed::Reinject
            }),
        }
    }

    /// State that user space sets need not make sense.
    fn state_from_user_space(&mut self, what: u8, input: &mut Input<'_>) {
        let now = self.now;
        match what & 3 {
            0 => {
                let mut state = LapicState::default();
                self.lapic.get_state(&mut state, &now);
                for _ in 0..4 {
                    state.set(Reg::at(u16::from(input.byte()) << 4), input.long());
                }
                let _ = self.lapic.set_state(&state, &now);
            }
            1 => {
                let mut state = self.ioapic.state();
                let entry = usize::from(input.byte()) % state.redirtbl.len();
                state.redirtbl[entry] = input.quad();
                state.irr = input.long();
                state.ioregsel = u32::from(input.byte());
                self.ioapic.set_state(&state, &mut Bus(self.lapic.shared()));
            }
            2 => {
                let slave = what & 4 != 0;
                let mut state = self.pic.state(slave);
                state.irr = input.byte();
                state.isr = input.byte();
                state.imr = input.byte();
                state.priority_add = input.byte();
                state.init_state = input.byte();
                let _ = self.pic.set_state(slave, &state);
            }
            _ => {
                let mut state = self.pit.state();
                let channel = &mut state.channels[usize::from(what >> 2 & 1)];
                channel.count = input.long();
                channel.mode = input.byte();
                channel.read_state = input.byte();
                channel.write_state = input.byte();
                channel.count_load_time = input.quad() as i64;
                state.flags = input.long();
                self.pit.set_state(&state, now.0);
            }
        }
    }

    /// What is read of a chip and written back changes nothing.
    fn state_comes_back(&mut self) {
        let now = self.now;
        let (mut before, mut after) = (LapicState::default(), LapicState::default());
        self.lapic.get_state(&mut before, &now);
        if self.lapic.set_state(&before, &now).is_ok() {
            self.lapic.get_state(&mut after, &now);
            for offset in (0..0x380).step_by(16) {
                let reg = Reg::at(offset);
                assert_eq!(before.get(reg), after.get(reg), "APIC register {offset:x}");
            }
        }
        for slave in [false, true] {
            let state = self.pic.state(slave);
            let _ = self.pic.set_state(slave, &state);
            assert_eq!(state, self.pic.state(slave));
        }
    }
}
