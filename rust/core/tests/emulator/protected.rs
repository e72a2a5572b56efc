// SPDX-License-Identifier: GPL-2.0

//! Segments, gates, tasks and returns in protected and long mode.

use crate::mock::*;
use rkvm_core::emulate::*;
use rkvm_core::exception::{Exception, Vector};
use rkvm_core::regs::SegReg;

const GDT: u64 = 0x2000;
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_CODE: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const TSS: u16 = 0x28;
const GATE: u16 = 0x38;
const OTHER_TSS: u16 = 0x40;
const TSS_BASE: u64 = 0x3000;
const OTHER_TSS_BASE: u64 = 0x3100;

fn descriptor(base: u64, limit: u64, access: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (access >> 12 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

/// A machine with a GDT of flat segments for two levels, two tasks and a call gate to level 0.
fn machine(mode: Mode, code: &[u8]) -> Machine {
    let mut m = Machine::new(mode, code);
    let long = mode == Mode::Long64;
    let code_bits = if long { 0xa000 } else { 0xc000 };
    let gate = 0x5000 | u64::from(KERNEL_CODE) << 16 | 0xec00 << 32;
    let entries = [
        0,
        descriptor(0, 0xf_ffff, code_bits | 0x9a),
        descriptor(0, 0xf_ffff, 0xc092),
        descriptor(0, 0xf_ffff, code_bits | 0xfa),
        descriptor(0, 0xf_ffff, 0xc0f2),
        descriptor(TSS_BASE, 0x67, 0x8b),
        0,
        gate,
        if long {
            0
        } else {
            descriptor(OTHER_TSS_BASE, 0x67, 0xe9)
        },
    ];
    for (n, e) in entries.iter().enumerate() {
        m.cpu.put(GDT + 8 * n as u64, &e.to_le_bytes());
    }
    m.cpu.gdt = TableReg {
        base: GDT,
        limit: 0x47,
    };
    m.cpu.segments[SegReg::Tr as usize] = Segment {
        selector: TSS,
        base: TSS_BASE,
        limit: 0x67,
        access: 0x8b,
    };
    // The stack of level 0.
    if long {
        m.cpu.put(TSS_BASE + 4, &0x6800u64.to_le_bytes());
    } else {
        m.cpu.put(TSS_BASE + 4, &0x6800u32.to_le_bytes());
        m.cpu.put(TSS_BASE + 8, &KERNEL_DATA.to_le_bytes());
    }
    m
}

fn to_user(m: &mut Machine) {
    let code = m.cpu.segments[1].access | 0x60;
    m.cpu.segments[1] = Segment {
        selector: USER_CODE,
        access: code,
        ..m.cpu.segments[1]
    };
    for s in [0, 2, 3] {
        m.cpu.segments[s] = Segment {
            selector: USER_DATA,
            access: 0xc0f3,
            ..m.cpu.segments[s]
        };
    }
    m.cpu.cpl = 3;
}

fn words(m: &Machine, at: u64, n: usize, size: usize) -> Vec<u64> {
    (0..n)
        .map(|i| {
            let mut raw = [0; 8];
            raw[..size].copy_from_slice(m.cpu.get(at + (i * size) as u64, size));
            u64::from_le_bytes(raw)
        })
        .collect()
}

#[test]
fn call_gate_to_level_0_and_back() {
    // call far [eax]; at the target: retf
    let mut m = machine(Mode::Prot32, &[0xff, 0x18]);
    to_user(&mut m);
    m.cpu.put(0x8000, &[0, 0, 0, 0]);
    m.cpu.put(0x8004, &(GATE | 3).to_le_bytes());
    m.cpu.put(0x5000, &[0xcb]);
    m.regs.gpr[0] = 0x8000;
    m.regs.gpr[4] = 0x7000;
    m.complete();
    assert_eq!((m.regs.rip, m.cpu.cpl), (0x5000, 0));
    assert_eq!(m.cpu.segments[1].selector, KERNEL_CODE);
    assert_eq!(m.regs.gpr[4], 0x67f0);
    assert_eq!(
        words(&m, 0x67f0, 4, 4),
        [CODE + 2, u64::from(USER_CODE), 0x7000, u64::from(USER_DATA)]
    );
    // DS is one of level 0 now, and must not come along.
    m.cpu.segments[3] = Segment {
        selector: KERNEL_DATA,
        base: 0,
        limit: 0xffff_ffff,
        access: 0xc093,
    };
    m.complete();
    assert_eq!(
        (m.regs.rip, m.cpu.cpl, m.regs.gpr[4]),
        (CODE + 2, 3, 0x7000)
    );
    assert_eq!(m.cpu.segments[1].selector, USER_CODE);
    assert_eq!(m.cpu.segments[2].selector, USER_DATA);
    assert!(m.cpu.segments[3].has(ar::UNUSABLE));
    assert_eq!(m.cpu.segments[0].selector, USER_DATA);
}

#[test]
fn far_jump_sets_the_accessed_bit() {
    // jmp 8:0x5000
    let mut m = machine(Mode::Prot32, &[0xea, 0x00, 0x50, 0, 0, 0x08, 0]);
    m.complete();
    assert_eq!(m.regs.rip, 0x5000);
    assert_eq!(m.cpu.get(GDT + 8 + 5, 1), [0x9b]);
}

#[test]
fn far_jump_faults() {
    for (selector, vector, code) in [
        (0u16, Vector::Gp, 0),
        // Data, beyond the limit, of another level.
        (KERNEL_DATA, Vector::Gp, 0x10),
        (0x100, Vector::Gp, 0x100),
        (USER_CODE, Vector::Gp, 0x18),
    ] {
        let mut insn = vec![0xea, 0x00, 0x50, 0, 0];
        insn.extend(selector.to_le_bytes());
        let mut m = machine(Mode::Prot32, &insn);
        let before = m.regs;
        let e = Exception::with_code(vector, code);
        assert_eq!(m.start(), Outcome::Inject(e, None), "{selector:x}");
        assert_eq!(m.regs, before);
    }
}

#[test]
fn iretq_to_user_and_its_checks() {
    let mut m = machine(Mode::Long64, &[0x48, 0xcf]);
    let frame = [
        0x5000,
        u64::from(USER_CODE),
        0x3202,
        0x9000,
        u64::from(USER_DATA),
    ];
    for (n, v) in frame.iter().enumerate() {
        m.cpu.put(0x7000 + 8 * n as u64, &v.to_le_bytes());
    }
    let done = m.complete();
    assert!(done.rflags);
    assert_eq!((m.regs.rip, m.regs.gpr[4], m.cpu.cpl), (0x5000, 0x9000, 3));
    assert_eq!(m.regs.rflags, 0x3202);
    assert_eq!(m.cpu.effects, [Effect::UnblockNmi]);
    // To a non-canonical address: #GP(0), nothing changed.
    let mut m = machine(Mode::Long64, &[0x48, 0xcf]);
    for (n, v) in frame.iter().enumerate() {
        m.cpu.put(0x7000 + 8 * n as u64, &v.to_le_bytes());
    }
    m.cpu.put(0x7000, &(1u64 << 63).to_le_bytes());
    let before = m.regs;
    assert_eq!(m.start(), Outcome::Inject(Exception::GP0, None));
    assert_eq!((m.regs, m.cpu.cpl), (before, 0));
}

#[test]
fn iret_to_vm86() {
    let mut m = machine(Mode::Prot32, &[0xcf]);
    let frame = [
        0x123u32, 0x1000, 0x2_3202, 0xfff0, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000,
    ];
    for (n, v) in frame.iter().enumerate() {
        m.cpu.put(0x7000 + 4 * n as u64, &v.to_le_bytes());
    }
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[4], m.regs.rflags),
        (0x123, 0xfff0, 0x2_3202)
    );
    let selectors: Vec<u16> = (0..6).map(|s| m.cpu.segments[s].selector).collect();
    assert_eq!(selectors, [0x3000, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000]);
    assert_eq!(m.cpu.segments[1].base, 0x1_0000);
}

fn other_task(m: &mut Machine) {
    let mut tss = [0u8; 104];
    let mut put = |at: usize, v: u32| tss[at..at + 4].copy_from_slice(&v.to_le_bytes());
    put(32, 0x5000);
    put(36, 0x202);
    for r in 0..8 {
        put(40 + 4 * r, 0x1_0000 + r as u32);
    }
    put(56, 0x6000);
    for (n, s) in [KERNEL_DATA, KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, 0, 0]
        .iter()
        .enumerate()
    {
        put(72 + 4 * n, u32::from(*s));
    }
    m.cpu.put(OTHER_TSS_BASE, &tss);
}

#[test]
fn task_call_and_return() {
    // call 0x40:0; there: iret
    let mut m = machine(Mode::Prot32, &[0x9a, 0, 0, 0, 0, 0x40, 0]);
    other_task(&mut m);
    m.cpu.put(0x5000, &[0xcf]);
    m.cpu.segments[SegReg::Cs as usize].selector = KERNEL_CODE;
    m.regs.gpr[3] = 0xb0b0_b0b0;
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[4], m.regs.gpr[0]),
        (0x5000, 0x6000, 0x1_0000)
    );
    assert_eq!(m.regs.rflags & 0x4000, 0x4000);
    assert_eq!(m.cpu.segments[SegReg::Tr as usize].selector, OTHER_TSS);
    assert_eq!(m.cpu.get(OTHER_TSS_BASE, 2), TSS.to_le_bytes());
    assert_eq!(m.cpu.get(GDT + 0x40 + 5, 1), [0xeb]);
    assert_ne!(m.cpu.cr0 & 8, 0);
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[3], m.regs.gpr[4]),
        (CODE + 7, 0xb0b0_b0b0, 0x7000)
    );
    assert_eq!(m.cpu.segments[SegReg::Tr as usize].selector, TSS);
    // No longer busy, and NT was cleared in what was saved.
    assert_eq!(m.cpu.get(GDT + 0x40 + 5, 1), [0xe9]);
    assert_eq!(words(&m, OTHER_TSS_BASE + 36, 1, 4)[0] & 0x4000, 0);
}

#[test]
fn a_bad_segment_is_the_new_tasks_fault() {
    let mut m = machine(Mode::Prot32, &[0x9a, 0, 0, 0, 0, 0x40, 0]);
    other_task(&mut m);
    m.cpu.put(OTHER_TSS_BASE + 84, &0x100u32.to_le_bytes());
    match m.start() {
        Outcome::Inject(e, Some(_)) => assert_eq!(e, Exception::with_code(Vector::Ts, 0x100)),
        other => panic!("{other:?}"),
    }
    assert_eq!(m.regs.rip, 0x5000);
    assert_eq!(m.cpu.segments[SegReg::Tr as usize].selector, OTHER_TSS);
}

#[test]
fn task_gate_exit_pushes_the_error_code() {
    let mut m = machine(Mode::Prot32, &[0x90]);
    other_task(&mut m);
    let outcome = m.emulator.task_switch(
        &mut m.regs,
        &mut m.cpu,
        OTHER_TSS,
        TaskSwitch::Gate,
        Some(0x1234),
        0,
    );
    assert!(matches!(outcome, Outcome::Completed(_)), "{outcome:?}");
    assert_eq!(m.regs.gpr[4], 0x5ffc);
    assert_eq!(words(&m, 0x5ffc, 1, 4), [0x1234]);
    // The interrupted instruction is the one to come back to.
    assert_eq!(words(&m, TSS_BASE + 32, 1, 4), [CODE]);
}

#[test]
fn syscall_and_sysret() {
    let mut m = machine(Mode::Long64, &[0x0f, 0x05]);
    to_user(&mut m);
    m.cpu.efer |= 1;
    m.cpu.msrs.insert(0xc000_0081, 0x0010_0008_0000_0000);
    m.cpu.msrs.insert(0xc000_0082, 0x5000);
    m.cpu.msrs.insert(0xc000_0084, 0x200);
    m.regs.rflags = 0x202;
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[1], m.regs.gpr[11]),
        (0x5000, CODE + 2, 0x202)
    );
    assert_eq!((m.regs.rflags, m.cpu.cpl), (2, 0));
    m.cpu.put(0x5000, &[0x48, 0x0f, 0x07]);
    m.complete();
    assert_eq!((m.regs.rip, m.regs.rflags, m.cpu.cpl), (CODE + 2, 0x202, 3));
    assert_eq!(m.cpu.segments[1].selector, 0x23);
}

#[test]
fn real_mode_interrupt_and_return() {
    // int 0x21; there: iret
    let mut m = Machine::new(Mode::Real, &[0xcd, 0x21]);
    m.cpu.put(0x84, &[0x00, 0x50, 0x00, 0x00]);
    m.cpu.put(0x5000, &[0xcf]);
    m.regs.rflags = 0x202;
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[4], m.regs.rflags),
        (0x5000, 0x6ffa, 2)
    );
    m.complete();
    assert_eq!(
        (m.regs.rip, m.regs.gpr[4], m.regs.rflags),
        (CODE + 2, 0x7000, 0x202)
    );
}

#[test]
fn segment_loads() {
    // mov ds, ax
    for (mode, selector, expected) in [
        (Mode::Prot32, USER_DATA, Ok(())),
        (Mode::Prot32, 0, Ok(())),
        (Mode::Prot32, TSS, Err(Exception::gp(TSS))),
        (Mode::Prot32, 0x104, Err(Exception::gp(0x104))),
    ] {
        let mut m = machine(mode, &[0x8e, 0xd8]);
        m.regs.gpr[0] = u64::from(selector);
        match expected {
            Ok(()) => {
                m.complete();
                assert_eq!(m.cpu.segments[3].selector, selector);
                assert_eq!(m.cpu.segments[3].has(ar::UNUSABLE), selector == 0);
            }
            Err(e) => assert_eq!(m.start(), Outcome::Inject(e, None)),
        }
    }
}
