// SPDX-License-Identifier: GPL-2.0

//! Accesses to devices, in the kernel and in user space, and their completion.

use crate::mock::*;
use rkvm_core::addr::Gpa;
use rkvm_core::emulate::*;
use rkvm_core::exception::{Exception, Vector};

#[test]
fn store_to_a_device_in_the_kernel() {
    // mov [rdi], eax
    let mut m = Machine::new(Mode::Long64, &[0x89, 0x07]);
    m.regs.gpr[0] = 0x1122_3344_5566_7788;
    m.regs.gpr[7] = DEVICES;
    let done = m.complete();
    assert_eq!(done, Completed::default());
    assert_eq!(
        m.cpu.seen,
        [Seen::MmioWrite(DEVICES, vec![0x88, 0x77, 0x66, 0x55])]
    );
    assert_eq!(m.regs.rip, CODE + 2);
}

#[test]
fn load_from_user_space_is_replayed_without_a_fetch() {
    // mov eax, [rdi]
    let mut m = Machine::new(Mode::Long64, &[0x8b, 0x07]);
    m.regs.gpr[0] = u64::MAX;
    m.regs.gpr[7] = USER_DEVICES;
    let before = m.regs;
    let exit = UserExit::MmioRead {
        gpa: Gpa(USER_DEVICES),
        len: 4,
    };
    assert_eq!(m.start(), Outcome::Exit(exit, None));
    assert_eq!(m.regs, before);
    // Another instruction in its place is not seen.
    m.cpu.put(CODE, &[0xf4, 0xf4]);
    let fetches = m.cpu.fetches;
    m.emulator.data_mut().copy_from_slice(&[1, 2, 3, 4]);
    assert!(matches!(m.resume(), Outcome::Completed(c) if c.gprs == 1));
    assert_eq!(m.cpu.fetches, fetches);
    assert_eq!(m.regs.gpr[0], 0x0403_0201);
    assert_eq!(m.regs.rip, CODE + 2);
}

#[test]
fn store_to_user_space_is_committed_first() {
    // mov qword [rdi], 0x12345678
    let mut m = Machine::new(Mode::Long64, &[0x48, 0xc7, 0x07, 0x78, 0x56, 0x34, 0x12]);
    m.regs.gpr[7] = USER_DEVICES + 8;
    let exit = UserExit::MmioWrite {
        gpa: Gpa(USER_DEVICES + 8),
        len: 8,
        data: 0x1234_5678u64.to_le_bytes(),
    };
    assert_eq!(m.start(), Outcome::Exit(exit, Some(Completed::default())));
    assert_eq!(m.regs.rip, CODE + 7);
    assert!(m.emulator.is_pending());
    assert_eq!(m.resume(), Outcome::Drained);
    assert!(!m.emulator.is_pending());
}

#[test]
fn read_modify_write_reads_the_device_once() {
    // add [rdi], eax on a device in the kernel
    let mut m = Machine::new(Mode::Long64, &[0x01, 0x07]);
    m.regs.gpr[0] = 1;
    m.regs.gpr[7] = DEVICES;
    m.cpu.answers.extend([5, 0, 0, 0]);
    m.complete();
    assert_eq!(
        m.cpu.seen,
        [
            Seen::MmioRead(DEVICES, 4),
            Seen::MmioWrite(DEVICES, vec![6, 0, 0, 0])
        ]
    );
}

#[test]
fn vector_store_leaves_in_fragments() {
    // movups [rdi], xmm0
    let mut m = Machine::new(Mode::Long64, &[0x0f, 0x11, 0x07]);
    m.regs.gpr[7] = USER_DEVICES;
    for (n, b) in m.cpu.vectors[0].iter_mut().enumerate() {
        *b = n as u8;
    }
    let first = UserExit::MmioWrite {
        gpa: Gpa(USER_DEVICES),
        len: 8,
        data: [0, 1, 2, 3, 4, 5, 6, 7],
    };
    let second = UserExit::MmioWrite {
        gpa: Gpa(USER_DEVICES + 8),
        len: 8,
        data: [8, 9, 10, 11, 12, 13, 14, 15],
    };
    assert_eq!(m.start(), Outcome::Exit(first, Some(Completed::default())));
    assert_eq!(m.resume(), Outcome::Exit(second, None));
    assert_eq!(m.resume(), Outcome::Drained);
}

#[test]
fn vector_load_of_two_fragments() {
    // vmovdqu ymm3, [rdi]: four fragments; the first two are in the kernel and read once
    let mut m = Machine::new(Mode::Long64, &[0xc5, 0xfe, 0x6f, 0x1f]);
    m.regs.gpr[7] = USER_DEVICES - 16;
    m.cpu.answers.extend(0..16);
    for n in 0..2u64 {
        let exit = UserExit::MmioRead {
            gpa: Gpa(USER_DEVICES + 8 * n),
            len: 8,
        };
        let outcome = if n == 0 { m.start() } else { m.resume() };
        assert_eq!(outcome, Outcome::Exit(exit, None));
        m.emulator.data_mut().fill(0x40 + n as u8);
    }
    assert!(matches!(m.resume(), Outcome::Completed(_)));
    assert_eq!(m.cpu.seen.len(), 2);
    let v = m.cpu.vectors[3];
    assert_eq!(v[..16], (0..16).collect::<Vec<u8>>()[..]);
    assert_eq!((v[16], v[24], v[32]), (0x40, 0x41, 0));
}

#[test]
fn a_fault_leaves_nothing_behind() {
    // xchg [rdi], eax on memory that is not there
    let mut m = Machine::new(Mode::Long64, &[0x87, 0x07]);
    m.regs.gpr[7] = RAM;
    let before = m.regs;
    let outcome = m.start();
    assert!(matches!(outcome, Outcome::Inject(e, None) if e.vector == Vector::Pf));
    assert_eq!(m.regs, before);
}

#[test]
fn a_store_across_a_page_faults_before_it_writes() {
    // mov [rdi], rax
    let mut m = Machine::new(Mode::Long64, &[0x48, 0x89, 0x07]);
    m.regs.gpr[0] = u64::MAX;
    m.regs.gpr[7] = 0x8ffc;
    m.cpu.read_only.push(0x9000);
    assert!(matches!(m.start(), Outcome::Inject(e, None) if e.vector == Vector::Pf));
    assert_eq!(m.cpu.get(0x8ffc, 8), [0; 8]);
}

#[test]
fn locked_add_survives_contention() {
    // lock add dword [rdi], 2; not aligned, too, as long as it is in one cache line
    for at in [DATA, DATA + 3, DATA + 60] {
        let mut m = Machine::new(Mode::Long64, &[0xf0, 0x83, 0x07, 0x02]);
        m.regs.gpr[7] = at;
        m.cpu.contention = 3;
        m.complete();
        assert_eq!(m.cpu.get(at, 4), [3, 0, 0, 0]);
    }
    let mut m = Machine::new(Mode::Long64, &[0xf0, 0x83, 0x07, 0x02]);
    m.regs.gpr[7] = DATA + 61;
    m.cpu.contention = 3;
    m.complete();
    assert_eq!((m.cpu.get(DATA + 61, 1), m.cpu.contention), (&[2][..], 3));
}

#[test]
fn lock_on_a_register_is_ud() {
    // lock add eax, ecx
    let mut m = Machine::new(Mode::Long64, &[0xf0, 0x01, 0xc8]);
    assert_eq!(m.start(), Outcome::Inject(Exception::UD, None));
}

#[test]
fn non_canonical_address() {
    // mov eax, [rbp]: #SS; mov eax, [rdi]: #GP
    for (code, vector) in [
        ([0x8b, 0x45, 0x00], Vector::Ss),
        ([0x8b, 0x47, 0x00], Vector::Gp),
    ] {
        let mut m = Machine::new(Mode::Long64, &code);
        m.regs.gpr[5] = 1 << 63;
        m.regs.gpr[7] = 1 << 63;
        assert!(matches!(m.start(), Outcome::Inject(e, None) if e.vector == vector));
    }
}

#[test]
fn msr_read_by_user_space() {
    // rdmsr
    let mut m = Machine::new(Mode::Long64, &[0x0f, 0x32]);
    m.regs.gpr[1] = 0xf000_0000;
    let exit = UserExit::ReadMsr { index: 0xf000_0000 };
    assert_eq!(m.start(), Outcome::Exit(exit, None));
    m.emulator
        .data_mut()
        .copy_from_slice(&0x1_0000_0002u64.to_le_bytes());
    assert!(matches!(m.resume(), Outcome::Completed(_)));
    assert_eq!((m.regs.gpr[0], m.regs.gpr[2]), (2, 1));
}

#[test]
fn single_step_and_interrupt_shadow() {
    // nop with TF; sti; mov ss, ax with TF
    let mut m = Machine::new(Mode::Long64, &[0x90]);
    m.regs.rflags |= 0x100;
    assert_eq!(m.complete().trap, 1 << 14);
    let mut m = Machine::new(Mode::Long64, &[0xfb]);
    let done = m.complete();
    assert_eq!((done.shadow, done.rflags), (Shadow::Sti, true));
    let mut m = Machine::new(Mode::Real, &[0x8e, 0xd0]);
    m.regs.rflags |= 0x100;
    let done = m.complete();
    assert_eq!((done.shadow, done.trap), (Shadow::MovSs, 0));
}

#[test]
fn fxsave_and_fxrstor_move_what_the_mode_has() {
    // fxsave [rdi]; fxrstor [rdi]
    for (mode, osfxsr, bytes) in [
        (Mode::Long64, true, 416),
        (Mode::Prot32, true, 288),
        (Mode::Prot32, false, 160),
    ] {
        let mut m = Machine::new(mode, &[0x0f, 0xae, 0x07]);
        if !osfxsr {
            m.cpu.cr4 = 0;
        }
        m.cpu.fx.fill(0x5a);
        m.regs.gpr[7] = 0x8fe0;
        m.complete();
        assert_eq!(m.cpu.get(0x8fe0, bytes), vec![0x5a; bytes]);
        assert_eq!(m.cpu.get(0x8fe0 + bytes as u64, 16), [0; 16]);
        let mut m = Machine::new(mode, &[0x0f, 0xae, 0x0f]);
        if !osfxsr {
            m.cpu.cr4 = 0;
        }
        m.cpu.put(0x8fe0, &[0xa5; 512]);
        m.regs.gpr[7] = 0x8fe0;
        m.complete();
        assert!(m.cpu.fx[..bytes].iter().all(|b| *b == 0xa5));
        assert!(m.cpu.fx[bytes..].iter().all(|b| *b == 0));
    }
}

#[test]
fn the_place_of_the_code_makes_no_difference() {
    // MOVs with and without 66, FS, REX, SIB, displacement and immediate; each is fetched in two parts everywhere.
    let moves: [&[u8]; 10] = [
        &[0x89, 0x7e, 0x04],
        &[0x66, 0x89, 0x7e, 0x04],
        &[0x64, 0x8b, 0x46, 0x08],
        &[0x48, 0x8b, 0x46, 0x08],
        &[0x66, 0x45, 0x89, 0x41, 0x10],
        &[0x64, 0x4c, 0x8b, 0x46, 0x08],
        &[0x8a, 0x44, 0x0e, 0x02],
        &[0x41, 0xc6, 0x41, 0x08, 0x5a],
        &[0x66, 0xc7, 0x86, 0x10, 0, 0, 0, 0x34, 0x12],
        &[0x48, 0xc7, 0x46, 0x20, 0x78, 0x56, 0x34, 0x12],
    ];
    for code in moves {
        let run = |at: u64| {
            let mut m = Machine::new(Mode::Long64, &[]);
            m.cpu.put(at, code);
            m.regs.rip = at;
            m.regs.gpr = [0x1122_3344_5566_7788; 16];
            m.regs.gpr[1] = 1;
            m.regs.gpr[6] = DATA;
            m.regs.gpr[9] = DATA;
            m.cpu.put(DATA, &[0xa5; 64]);
            let outcome = m.start();
            let moved = m.regs.rip - at;
            (outcome, moved, m.regs.gpr, m.cpu.get(DATA, 64).to_vec())
        };
        let whole = run(CODE);
        assert_eq!(whole.1, code.len() as u64, "{code:x?}");
        for first in 1..code.len() as u64 {
            assert_eq!(whole, run(CODE + 0x1000 - first), "{code:x?} after {first}");
        }
    }
}
