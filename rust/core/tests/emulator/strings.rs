// SPDX-License-Identifier: GPL-2.0

//! String instructions: chunks, progress, resumption.

use crate::mock::*;
use rkvm_core::addr::Gpa;
use rkvm_core::emulate::*;
use rkvm_core::exception::Vector;
use rkvm_core::regs::rflags;

#[test]
fn rep_movs_moves_memory() {
    // rep movsb
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xa4]);
    for n in 0..300u64 {
        m.cpu.put(0x8f80 + n, &[n as u8]);
    }
    m.regs.gpr[6] = 0x8f80;
    m.regs.gpr[7] = 0xa123;
    m.regs.gpr[1] = 300;
    assert!(!m.complete().more);
    let copy = m.cpu.get(0xa123, 300).to_vec();
    assert_eq!(copy, m.cpu.get(0x8f80, 300));
    assert_eq!(
        (m.regs.gpr[1], m.regs.gpr[6], m.regs.gpr[7]),
        (0, 0x8f80 + 300, 0xa123 + 300)
    );
    assert_eq!(m.regs.rip, CODE + 2);
}

#[test]
fn overlapping_rep_movs_repeats_the_first_byte() {
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xa4]);
    m.cpu.put(0x8000, &[0x5a]);
    m.regs.gpr[6] = 0x8000;
    m.regs.gpr[7] = 0x8001;
    m.regs.gpr[1] = 100;
    m.complete();
    assert_eq!(m.cpu.get(0x8000, 101), [0x5a; 101]);
}

#[test]
fn a_long_rep_comes_in_chunks() {
    // rep stosb
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xaa]);
    m.regs.gpr[0] = 0x77;
    m.regs.gpr[7] = 0x8000;
    m.regs.gpr[1] = 5000;
    let mut rounds = 0;
    while m.complete().more {
        assert_eq!(m.regs.rip, CODE);
        assert_ne!(m.regs.rflags & rflags::RF, 0, "clear between iterations");
        rounds += 1;
    }
    assert_eq!(m.regs.rflags & rflags::RF, 0, "set at the end");
    assert!(rounds > 0 && rounds < 5000);
    assert_eq!(m.cpu.get(0x8000, 5000), [0x77; 5000]);
    assert_eq!(m.regs.rip, CODE + 2);
}

#[test]
fn a_fault_halfway_keeps_the_iterations_before() {
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xaa]);
    m.cpu.read_only.push(0x9000);
    m.regs.gpr[7] = 0x8ff0;
    m.regs.gpr[1] = 100;
    match m.start() {
        Outcome::Inject(e, Some(done)) => {
            assert_eq!(e.vector, Vector::Pf);
            assert_eq!(done.gprs, 1 << 1 | 1 << 7);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        (m.regs.gpr[1], m.regs.gpr[7], m.regs.rip),
        (84, 0x9000, CODE)
    );
}

#[test]
fn ins_asks_user_space_for_many_at_once() {
    // rep insw
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0x66, 0x6d]);
    m.regs.gpr[2] = 0x8000;
    m.regs.gpr[7] = 0x8ffa;
    m.regs.gpr[1] = 10;
    let exit = |count| UserExit::PioIn {
        port: 0x8000,
        size: 2,
        count,
    };
    assert_eq!(m.start(), Outcome::Exit(exit(3), None));
    m.emulator.data_mut().copy_from_slice(&[1, 2, 3, 4, 5, 6]);
    let Outcome::Exit(second, Some(done)) = m.resume() else {
        panic!("the rest is not asked for");
    };
    assert_eq!((second, done.more), (exit(7), true));
    assert_eq!((m.regs.gpr[1], m.regs.gpr[7]), (7, 0x9000));
    m.emulator.data_mut().fill(9);
    assert!(matches!(m.resume(), Outcome::Completed(c) if !c.more));
    assert_eq!(m.cpu.get(0x8ffa, 8), [1, 2, 3, 4, 5, 6, 9, 9]);
    assert_eq!((m.regs.gpr[1], m.regs.rip), (0, CODE + 3));
}

#[test]
fn outs_hands_many_to_user_space() {
    // rep outsb
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0x6e]);
    m.cpu.put(0x8000, b"hello, world");
    m.regs.gpr[2] = 0x9000;
    m.regs.gpr[6] = 0x8000;
    m.regs.gpr[1] = 12;
    let exit = UserExit::PioOut {
        port: 0x9000,
        size: 1,
        count: 12,
    };
    assert!(matches!(m.start(), Outcome::Exit(e, Some(done)) if e == exit && !done.more));
    assert_eq!(m.emulator.data(), b"hello, world");
    assert_eq!(m.resume(), Outcome::Drained);
    assert_eq!((m.regs.gpr[1], m.regs.gpr[6]), (0, 0x800c));
}

#[test]
fn rep_movs_from_a_user_device() {
    // rep movsd from device to memory: each element is an exit, none is read twice
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xa5]);
    m.regs.gpr[6] = USER_DEVICES;
    m.regs.gpr[7] = 0x8000;
    m.regs.gpr[1] = 3;
    let mut outcome = m.start();
    for n in 0..3u64 {
        match outcome {
            Outcome::Exit(UserExit::MmioRead { gpa, len: 4 }, _) => {
                assert_eq!(gpa, Gpa(USER_DEVICES + 4 * n));
            }
            other => panic!("{other:?}"),
        }
        m.emulator.data_mut().fill(n as u8 + 1);
        outcome = m.resume();
    }
    assert!(matches!(outcome, Outcome::Completed(c) if !c.more));
    assert_eq!(m.cpu.get(0x8000, 12), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
}

#[test]
fn a_fault_after_user_reads_keeps_the_iterations_before() {
    // rep movsb from a device of user space to the end of memory: the exit of each iteration commits the one before
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xa4]);
    m.regs.gpr[6] = USER_DEVICES;
    m.regs.gpr[7] = RAM - 2;
    m.regs.gpr[1] = 9;
    let mut outcome = m.start();
    for n in 0..3u64 {
        assert!(matches!(outcome, Outcome::Exit(_, done) if done.is_some() == (n > 0)));
        assert_eq!((m.regs.gpr[1], m.regs.gpr[7]), (9 - n, RAM - 2 + n));
        outcome = m.resume();
    }
    assert!(matches!(outcome, Outcome::Inject(e, None) if e.vector == Vector::Pf));
    assert_eq!((m.regs.gpr[1], m.regs.gpr[7], m.regs.rip), (7, RAM, CODE));
}

#[test]
fn cmps_and_scas_end_by_zf() {
    // repe cmpsb
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0xa6]);
    m.cpu.put(0x8000, b"abcdef");
    m.cpu.put(0x9000, b"abcxef");
    m.regs.gpr[6] = 0x8000;
    m.regs.gpr[7] = 0x9000;
    m.regs.gpr[1] = 6;
    m.complete();
    assert_eq!((m.regs.gpr[1], m.regs.gpr[6]), (2, 0x8004));
    // repne scasb
    let mut m = Machine::new(Mode::Long64, &[0xf2, 0xae]);
    m.cpu.put(0x8000, b"abcdef");
    m.regs.gpr[0] = u64::from(b'd');
    m.regs.gpr[7] = 0x8000;
    m.regs.gpr[1] = 6;
    m.complete();
    assert_eq!((m.regs.gpr[1], m.regs.gpr[7]), (2, 0x8004));
}

#[test]
fn user_exits_count_against_the_budget() {
    // rep insb of 2^32 bytes into one page and on: the guest gets its turn after at most 1024
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0x6c]);
    m.regs.gpr[2] = 0x8000;
    m.regs.gpr[7] = 0x8e00;
    m.regs.gpr[1] = 1 << 32;
    let mut outcome = m.start();
    let mut exits = 0;
    while let Outcome::Exit(..) = outcome {
        exits += 1;
        assert!(exits < 10);
        outcome = m.resume();
    }
    assert!(matches!(outcome, Outcome::Completed(c) if c.more));
    assert_eq!((m.regs.gpr[1], m.regs.rip), ((1 << 32) - 1024, CODE));
}

#[test]
fn rex_w_makes_no_larger_port_elements() {
    // rep insd and rep outsd, with REX.W
    let mut m = Machine::new(Mode::Long64, &[0xf3, 0x48, 0x6d]);
    m.cpu.echo = true;
    m.regs.gpr[1] = 3;
    m.regs.gpr[2] = 0x11;
    m.regs.gpr[7] = DATA;
    assert!(!m.complete().more);
    assert_eq!(m.cpu.seen, [Seen::PioIn(0x11, 4, 3)]);
    assert_eq!(m.cpu.get(DATA, 13)[11..], [0x11, 0]);
    assert_eq!((m.regs.gpr[1], m.regs.gpr[7]), (0, DATA + 12));

    let mut m = Machine::new(Mode::Long64, &[0xf3, 0x48, 0x6f]);
    m.cpu.put(DATA, &[1, 2, 3, 4, 5, 6, 7, 8]);
    m.regs.gpr[1] = 2;
    m.regs.gpr[2] = 0x11;
    m.regs.gpr[6] = DATA;
    assert!(!m.complete().more);
    let data = vec![1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(m.cpu.seen, [Seen::PioOut(0x11, 4, data)]);
    assert_eq!(m.regs.gpr[6], DATA + 8);
}

#[test]
fn the_index_wraps_inside_a_page() {
    // addr16 rep movsb, addr16 rep insb
    for code in [[0x67, 0xf3, 0xa4], [0x67, 0xf3, 0x6c]] {
        let mut m = Machine::new(Mode::Prot32, &code);
        m.cpu.segments[0].base = 0x800;
        m.cpu.put(0x9000, &[0x5a; 32]);
        m.cpu.echo = true;
        m.regs.gpr[1] = 32;
        m.regs.gpr[2] = 0x5a;
        m.regs.gpr[6] = 0x9000;
        m.regs.gpr[7] = 0xfff0;
        m.complete();
        assert_eq!((m.regs.gpr[1], m.regs.gpr[7]), (0, 0x10));
        assert_eq!(m.cpu.get(0x1_07f0, 32), [[0x5a; 16], [0; 16]].concat());
        assert_eq!(m.cpu.get(0x800, 16), [0x5a; 16]);
    }
}
