// SPDX-License-Identifier: GPL-2.0

//! Properties over random bytes and states: no panic, no endless loop, faults leave nothing behind, and an instruction
//! that goes through user space ends like one whose devices are in the kernel.

use crate::mock::*;
use proptest::prelude::*;
use rkvm_core::emulate::*;
use rkvm_core::regs::SegReg;

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Real),
        Just(Mode::Vm86),
        Just(Mode::Prot16),
        Just(Mode::Prot32),
        Just(Mode::Long64),
    ]
}

/// Register values that often are addresses of something.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..0x1_0000,
        DATA..DATA + 0x2000,
        RAM - 64..RAM + 64,
        DEVICES..DEVICES_END,
        USER_DEVICES - 16..USER_DEVICES + 16,
    ]
}

/// A call that ends with a fault, or asks for a read, has committed nothing since `before`, unless it says what.
fn left_alone(m: &Machine, before: &State, outcome: Outcome) {
    if matches!(
        outcome,
        Outcome::Inject(_, None) | Outcome::Unhandled(_) | Outcome::Exit(_, None)
    ) {
        assert_eq!(*before, state(m), "{outcome:?}");
    }
}

/// Serves user exits until the instruction has ended, with reads that give the low byte of their address. Iterations
/// of a string instruction are committed by the exits between them: each call is held to what was there before it.
fn finish(m: &mut Machine, mut outcome: Outcome) -> (Outcome, Vec<UserExit>) {
    let mut exits = Vec::new();
    let mut last = outcome;
    for _ in 0..4096 {
        match outcome {
            Outcome::Exit(exit, _) => {
                exits.push(exit);
                match exit {
                    UserExit::MmioRead { gpa, .. } => {
                        for (n, b) in m.emulator.data_mut().iter_mut().enumerate() {
                            *b = (gpa.0 as u8).wrapping_add(n as u8);
                        }
                    }
                    UserExit::PioIn { port, .. } => m.emulator.data_mut().fill(port as u8),
                    _ => {}
                }
                last = outcome;
                let before = state(m);
                outcome = m.resume();
                left_alone(m, &before, outcome);
            }
            Outcome::Drained => return (last, exits),
            other => return (other, exits),
        }
    }
    panic!("the emulator asks for ever");
}

type State = (Regs, Vec<Segment>, u8, u64, TableReg, TableReg);

fn state(m: &Machine) -> State {
    (
        m.regs,
        m.cpu.segments.to_vec(),
        m.cpu.cpl,
        m.cpu.cr0,
        m.cpu.gdt,
        m.cpu.idt,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(20_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_state(
        mode in modes(),
        code in prop::collection::vec(any::<u8>(), 15),
        gpr in prop::array::uniform16(value()),
        rflags in any::<u64>(),
        cpl in 0u8..4,
        access in prop::array::uniform8(any::<u32>()),
        limit in any::<u32>(),
        tables in any::<[u16; 2]>(),
    ) {
        let mut m = Machine::new(mode, &code);
        m.regs.gpr = gpr;
        m.regs.rflags = rflags & 0x3f_7fd5 | 2;
        m.cpu.cpl = if mode == Mode::Real { 0 } else { cpl };
        for (s, a) in m.cpu.segments.iter_mut().zip(access) {
            if a & 3 == 0 {
                s.access = a & 0x1_f0ff;
                s.limit = limit;
            }
        }
        m.cpu.segments[SegReg::Cs as usize].limit = u32::MAX;
        m.cpu.gdt = TableReg { base: DATA, limit: tables[0] };
        m.cpu.idt = TableReg { base: DATA, limit: tables[1] };
        let before = state(&m);
        let first = m.start();
        left_alone(&m, &before, first);
        finish(&mut m, first);
    }

    #[test]
    fn user_space_and_kernel_devices_end_alike(
        code in prop::sample::select(vec![
            vec![0x8b, 0x07], vec![0x01, 0x07], vec![0x87, 0x07], vec![0xf0, 0x0f, 0xb1, 0x0f],
            vec![0x0f, 0xb6, 0x07], vec![0x48, 0x8b, 0x07], vec![0xa6], vec![0xf3, 0xa6], vec![0xa7],
            vec![0xf3, 0xa4], vec![0xf3, 0xa5], vec![0xf3, 0x48, 0xa5], vec![0xf3, 0xab], vec![0xf3, 0xac],
            vec![0xf2, 0xae], vec![0xff, 0x37], vec![0x0f, 0xc7, 0x0f], vec![0x0f, 0x10, 0x07],
            vec![0xc5, 0xfd, 0x7f, 0x07], vec![0xd1, 0x17], vec![0xf7, 0x27], vec![0xff, 0x07],
            vec![0x0f, 0xc1, 0x0f], vec![0x8f, 0x07], vec![0x66, 0x0f, 0x38, 0xf8, 0x07],
        ]),
        offsets in any::<[u8; 2]>(),
        where_ in 0u8..4,
        count in 0u64..40,
        down in any::<bool>(),
    ) {
        let place = |at: u64, device: bool| {
            if device { DEVICES + 0x400 + at } else { DATA + 0x800 + at }
        };
        let run = |user: bool| {
            let mut m = Machine::new(Mode::Long64, &code);
            let shift = if user { USER_DEVICES - DEVICES } else { 0 };
            let a = place(u64::from(offsets[0]), where_ & 1 != 0);
            let b = place(u64::from(offsets[1]), where_ & 2 != 0);
            let moved = |at: u64| if at >= DEVICES { at + shift } else { at };
            m.cpu.echo = true;
            m.regs.gpr = [0x1234; 16];
            m.regs.gpr[1] = count;
            m.regs.gpr[4] = 0x7000;
            m.regs.gpr[6] = moved(a);
            m.regs.gpr[7] = moved(b);
            m.regs.rflags |= if down { 0x400 } else { 0 };
            let mut rounds = 0;
            let mut written = Vec::new();
            loop {
                let first = m.start();
                let (end, exits) = finish(&mut m, first);
                for e in exits {
                    if let UserExit::MmioWrite { gpa, len, data } = e {
                        written.push((gpa.0 - shift, data[..usize::from(len)].to_vec()));
                    }
                }
                rounds += 1;
                assert!(rounds < 200);
                let more = match end {
                    Outcome::Completed(c) | Outcome::Exit(_, Some(c)) => c.more,
                    _ => false,
                };
                if !more || m.regs.rip != CODE {
                    for s in &m.cpu.seen {
                        if let Seen::MmioWrite(at, data) = s {
                            written.push((*at, data.clone()));
                        }
                    }
                    let mut gpr = m.regs.gpr;
                    for r in [6, 7] {
                        if gpr[r] >= DEVICES {
                            gpr[r] -= shift;
                        }
                    }
                    return (gpr, m.regs.rip, m.regs.rflags, m.cpu.ram, written, m.cpu.vectors);
                }
            }
        };
        let (user, kernel) = (run(true), run(false));
        prop_assert_eq!(user.0, kernel.0);
        prop_assert_eq!((user.1, user.2), (kernel.1, kernel.2));
        prop_assert!(user.3 == kernel.3);
        prop_assert_eq!(user.4, kernel.4);
        prop_assert!(user.5 == kernel.5);
    }
}
