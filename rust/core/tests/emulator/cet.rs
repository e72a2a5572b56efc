// SPDX-License-Identifier: GPL-2.0

//! Near branches with shadow stacks and indirect-branch tracking, after the SDM's pseudo-code of CALL, RET, JMP, ENDBR.

use crate::mock::*;
use proptest::prelude::*;
use rkvm_core::addr::Gva;
use rkvm_core::emulate::*;
use rkvm_core::exception::{cpec, pfec, Exception};
use rkvm_core::regs::{cet::*, cr4, SegReg};

const SHADOW: u64 = 0xa000;
const SSP: u64 = SHADOW + 0x800;
const TARGET: u64 = 0x2000;

/// A machine with a shadow stack and control bits for its privilege; RAX is `TARGET`.
fn machine(mode: Mode, cpl: u8, code: &[u8], control: u64) -> Machine {
    let mut m = Machine::new(mode, code);
    m.cpu.cpl = cpl;
    m.cpu.cr4 |= cr4::CET;
    m.cpu.ssp = SSP;
    m.cpu.shadow = vec![SHADOW];
    m.regs.gpr[0] = TARGET;
    *control_of(&mut m.cpu) = control;
    m
}

fn control_of(cpu: &mut Mock) -> &mut u64 {
    match cpu.cpl {
        3 => &mut cpu.u_cet,
        _ => &mut cpu.s_cet,
    }
}

/// Expects a fault that leaves registers and enforcement as they were, and the shadow stack's memory too.
fn faults(mut m: Machine, e: Exception) {
    let before = (m.regs, m.cpu.u_cet, m.cpu.s_cet, m.cpu.ssp);
    let shadow = m.cpu.get(SHADOW, 4096).to_vec();
    assert_eq!(m.start(), Outcome::Inject(e, None));
    let after = (m.regs, m.cpu.u_cet, m.cpu.s_cet, m.cpu.ssp);
    assert_eq!(before, after);
    assert!(shadow == m.cpu.get(SHADOW, 4096));
}

const NEAR_RET: Exception = Exception::cp(cpec::NEAR_RET);
const ENDBRANCH: Exception = Exception::cp(cpec::ENDBRANCH);

/// Mode, CALL to `TARGET`, bytes of an element of the shadow stack.
const CALLS: [(Mode, &[u8], u64); 8] = [
    (Mode::Long64, &[0xe8, 0xfb, 0x0f, 0, 0], 8),
    (Mode::Long64, &[0xff, 0xd0], 8),
    (Mode::Prot32, &[0xe8, 0xfb, 0x0f, 0, 0], 4),
    (Mode::Prot32, &[0x66, 0xff, 0xd0], 4),
    (Mode::Prot32, &[0xff, 0xd0], 4),
    (Mode::Prot16, &[0xe8, 0xfd, 0x0f], 4),
    (Mode::Prot16, &[0x66, 0xff, 0xd0], 4),
    (Mode::Prot16, &[0xff, 0xd0], 4),
];

#[test]
fn a_call_leaves_its_return_address_on_both_stacks() {
    for (mode, call, bytes) in CALLS {
        for cpl in [0, 3] {
            let mut m = machine(mode, cpl, call, SH_STK_EN);
            m.complete();
            assert_eq!((m.regs.rip, m.cpu.ssp), (TARGET, SSP - bytes), "{call:x?}");
            let next = CODE + call.len() as u64;
            let data = m.cpu.get(SSP - bytes, bytes as usize);
            assert_eq!(data, &next.to_le_bytes()[..bytes as usize]);
            assert_eq!(
                m.cpu.get(SSP - 8, 8)[..(8 - bytes) as usize],
                [0; 4][..(8 - bytes) as usize]
            );
            assert_eq!(m.cpu.get(m.regs.gpr[4], 2), &next.to_le_bytes()[..2]);
            // The control bits of the other privilege are of no interest.
            let mut m = machine(mode, cpl, call, 0);
            m.cpu.cpl ^= 3;
            *control_of(&mut m.cpu) = SH_STK_EN;
            m.cpu.cpl ^= 3;
            m.complete();
            assert_eq!((m.regs.rip, m.cpu.ssp), (TARGET, SSP));
        }
    }
}

#[test]
fn a_call_to_the_next_instruction_is_not_recorded() {
    let mut m = machine(Mode::Long64, 0, &[0xe8, 0, 0, 0, 0], SH_STK_EN);
    m.complete();
    assert_eq!((m.regs.rip, m.cpu.ssp), (CODE + 5, SSP));
    // But an indirect one is.
    let mut m = machine(Mode::Long64, 0, &[0xff, 0xd0], SH_STK_EN);
    m.regs.gpr[0] = CODE + 2;
    m.complete();
    assert_eq!((m.regs.rip, m.cpu.ssp), (CODE + 2, SSP - 8));
}

#[test]
fn a_return_needs_the_same_address_on_both_stacks() {
    for (mode, ret, bytes) in [
        (Mode::Long64, &[0xc3u8][..], 8),
        (Mode::Long64, &[0xc2, 16, 0], 8),
        (Mode::Prot32, &[0xc3], 4),
        (Mode::Prot32, &[0x66, 0xc3], 4),
        (Mode::Prot16, &[0xc3], 4),
    ] {
        let with = |shadow: u64| {
            let mut m = machine(mode, 3, ret, SH_STK_EN);
            m.cpu.put(0x7000, &TARGET.to_le_bytes());
            m.cpu.put(SSP, &shadow.to_le_bytes());
            m
        };
        let mut m = with(TARGET);
        m.complete();
        assert_eq!((m.regs.rip, m.cpu.ssp), (TARGET, SSP + bytes));
        // All of the element counts, also what a 16-bit return address does not have.
        for bit in 0..bytes * 8 {
            faults(with(TARGET ^ 1 << bit), NEAR_RET);
        }
    }
}

#[test]
fn faults_come_in_order() {
    let pf = |at, code| Exception::pf(Gva(at), code);
    let call = || machine(Mode::Long64, 0, &[0xff, 0xd0], SH_STK_EN | ENDBR_EN);
    // The stack, the shadow stack, the target.
    let mut m = call();
    m.cpu.absent = vec![0x6000, SHADOW];
    m.regs.gpr[0] = 1 << 63;
    faults(m, pf(0x6ff8, pfec::WRITE));
    let mut m = call();
    m.cpu.absent = vec![SHADOW];
    m.regs.gpr[0] = 1 << 63;
    faults(m, pf(SSP - 8, pfec::WRITE | pfec::SS));
    let mut m = call();
    m.regs.gpr[0] = 1 << 63;
    faults(m, Exception::GP0);
    // An ordinary page is no shadow stack, and a shadow stack is no stack.
    let mut m = call();
    m.cpu.shadow.clear();
    faults(m, pf(SSP - 8, pfec::WRITE | pfec::SS | pfec::PRESENT));
    let mut m = call();
    m.regs.gpr[4] = SSP;
    faults(m, pf(SSP - 8, pfec::WRITE | pfec::PRESENT));
    // An element across two pages of which the second is missing, and one that is not canonical.
    let mut m = call();
    m.cpu.ssp = SHADOW + 4;
    m.cpu.shadow.push(SHADOW - 0x1000);
    m.cpu.absent = vec![SHADOW];
    faults(m, pf(SHADOW, pfec::WRITE | pfec::SS));
    let mut m = call();
    m.cpu.ssp = (1 << 47) + 8;
    faults(m, Exception::GP0);

    let ret = |mode, code: &[u8]| {
        let mut m = machine(mode, 0, code, SH_STK_EN);
        m.cpu.segments[SegReg::Cs as usize].limit = 0xfff;
        m.cpu.put(0x7000, &TARGET.to_le_bytes());
        m
    };
    // 16 bits: the limit, then the shadow stack; else the other way round.
    faults(ret(Mode::Prot32, &[0xc3]), Exception::GP0);
    let wide = |code: &[u8]| {
        let mut m = ret(Mode::Prot32, code);
        m.cpu.segments[SegReg::Cs as usize].limit = CODE as u32 + 15;
        m
    };
    faults(wide(&[0xc3]), NEAR_RET);
    faults(wide(&[0x66, 0xc3]), Exception::GP0);
    let mut m = wide(&[0xc3]);
    m.cpu.put(SSP, &TARGET.to_le_bytes());
    faults(m, Exception::GP0);
    let mut m = wide(&[0xc3]);
    m.cpu.absent = vec![SHADOW];
    faults(m, pf(SSP, pfec::SS));
}

#[test]
fn a_shadow_stack_may_cross_a_page() {
    let mut m = machine(Mode::Long64, 0, &[0xff, 0xd0], SH_STK_EN);
    m.cpu.ssp = SHADOW + 4;
    m.cpu.shadow.push(SHADOW - 0x1000);
    m.complete();
    assert_eq!(m.cpu.get(SHADOW - 4, 8), (CODE + 2).to_le_bytes());
    m.cpu.put(TARGET, &[0xc3]);
    m.complete();
    assert_eq!((m.regs.rip, m.cpu.ssp), (CODE + 2, SHADOW + 4));
}

#[test]
fn indirect_branches_start_the_tracker() {
    let wait = ENDBR_EN | TRACKER;
    let cases: [(&[u8], u64, u64); 14] = [
        // CALL and JMP by register, and by memory at RBX.
        (&[0xff, 0xd0], ENDBR_EN, wait),
        (&[0xff, 0xe0], ENDBR_EN, wait),
        (&[0xff, 0x13], ENDBR_EN, wait),
        (&[0xff, 0x23], ENDBR_EN, wait),
        (&[0xff, 0xe0], 0, 0),
        (&[0xff, 0xe0], ENDBR_EN | SUPPRESS, ENDBR_EN | SUPPRESS),
        // The no-track prefix, alone and with others on either side.
        (&[0x3e, 0xff, 0xe0], ENDBR_EN, wait),
        (
            &[0x3e, 0xff, 0xe0],
            ENDBR_EN | NO_TRACK_EN,
            ENDBR_EN | NO_TRACK_EN,
        ),
        (
            &[0x3e, 0x64, 0x48, 0xff, 0x13],
            ENDBR_EN | NO_TRACK_EN,
            ENDBR_EN | NO_TRACK_EN,
        ),
        (
            &[0x67, 0x3e, 0xff, 0xd0],
            ENDBR_EN | NO_TRACK_EN,
            ENDBR_EN | NO_TRACK_EN,
        ),
        (&[0xff, 0xe0], ENDBR_EN | NO_TRACK_EN, wait | NO_TRACK_EN),
        // Direct branches and RET.
        (&[0xe8, 0, 1, 0, 0], ENDBR_EN, ENDBR_EN),
        (&[0xe9, 0, 1, 0, 0], ENDBR_EN, ENDBR_EN),
        (&[0xc3], ENDBR_EN, ENDBR_EN),
    ];
    for (code, before, after) in cases {
        for cpl in [0, 3] {
            let mut m = machine(Mode::Long64, cpl, code, before);
            m.regs.gpr[3] = DATA;
            m.cpu.put(DATA, &TARGET.to_le_bytes());
            m.complete();
            assert_eq!(*control_of(&mut m.cpu), after, "{code:x?}");
            m.cpu.cpl ^= 3;
            assert_eq!(*control_of(&mut m.cpu), 0);
        }
    }
    // The displacement of the no-track prefix's value is no prefix.
    let mut m = machine(Mode::Long64, 0, &[0xff, 0x63, 0x3e], ENDBR_EN | NO_TRACK_EN);
    m.regs.gpr[3] = DATA - 0x3e;
    m.cpu.put(DATA, &TARGET.to_le_bytes());
    m.complete();
    assert_eq!(m.cpu.s_cet, ENDBR_EN | NO_TRACK_EN | TRACKER);
}

#[test]
fn a_waiting_tracker_takes_endbranch_only() {
    let wait = ENDBR_EN | TRACKER;
    let (endbr64, endbr32) = ([0xf3, 0x0f, 0x1e, 0xfa], [0xf3, 0x0f, 0x1e, 0xfb]);
    for (mode, good, bad) in [
        (Mode::Long64, endbr64, endbr32),
        (Mode::Prot32, endbr32, endbr64),
        (Mode::Prot16, endbr32, endbr64),
    ] {
        let mut m = machine(mode, 3, &good, wait);
        m.complete();
        assert_eq!((m.cpu.u_cet, m.regs.rip), (ENDBR_EN, CODE + 4));
        let mut m = machine(mode, 3, &good, ENDBR_EN | SUPPRESS);
        m.complete();
        assert_eq!(m.cpu.u_cet, ENDBR_EN);
        faults(machine(mode, 3, &bad, wait), ENDBRANCH);
        // Without tracking the bits stay.
        let mut m = machine(mode, 3, &good, TRACKER);
        m.complete();
        assert_eq!(m.cpu.u_cet, TRACKER);
    }
    // NOP, MOV to a device, UD2, LOCK NOP, a privileged and a far one, 15 prefixes: none gets to its own fault.
    for code in [
        &[0x90][..],
        &[0x89, 0x07],
        &[0x0f, 0x0b],
        &[0xf0, 0x90],
        &[0xf4],
        &[0xcf],
        &[0xcd, 3],
        &[0xf3, 0x0f, 0x1e, 0xc8],
        &[0x66; 15],
    ] {
        faults(machine(Mode::Long64, 3, code, wait), ENDBRANCH);
    }
    // INT3 may stand for the ENDBRANCH, which is still to come.
    let mut m = machine(Mode::Long64, 3, &[0xcc], wait);
    assert!(matches!(m.start(), Outcome::Soft(s) if s.vector == 3));
    assert_eq!(m.cpu.u_cet, wait);
    // What can't be fetched is no missing ENDBRANCH.
    let mut m = machine(Mode::Long64, 3, &[], wait);
    m.regs.rip = RAM;
    faults(m, Exception::pf(Gva(RAM), 0));
}

#[test]
fn legacy_code_pages_need_no_endbranch() {
    const BITMAP: u64 = 0xc000;
    let wait = ENDBR_EN | TRACKER | LEG_IW_EN | BITMAP;
    let idle = ENDBR_EN | LEG_IW_EN | BITMAP;
    let page = CODE >> 12;
    for mode in [Mode::Long64, Mode::Prot32] {
        for (control, bits, after) in [
            (wait, 1u8 << page, Some(idle | SUPPRESS)),
            (wait | SUPPRESS_DIS, 1 << page, Some(idle | SUPPRESS_DIS)),
            (wait, !(1 << page), None),
            (wait & !LEG_IW_EN, 0xff, None),
        ] {
            let mut m = machine(mode, 0, &[0x90], control);
            m.cpu.put(BITMAP, &[bits]);
            match after {
                None => faults(m, ENDBRANCH),
                Some(after) => {
                    m.complete();
                    assert_eq!(m.cpu.s_cet, after);
                }
            }
        }
        // The bitmap is missing.
        let mut m = machine(mode, 0, &[0x90], wait);
        m.cpu.absent = vec![BITMAP];
        faults(m, Exception::pf(Gva(BITMAP), 0));
        // An indirect branch right there is not tracked: suspended.
        let mut m = machine(mode, 0, &[0xff, 0xe0], wait);
        m.cpu.put(BITMAP, &[1 << page]);
        m.complete();
        assert_eq!(m.cpu.s_cet, idle | SUPPRESS);
        // One that faults leaves it to the next attempt.
        let mut m = machine(mode, 0, &[0x0f, 0x0b], wait);
        m.cpu.put(BITMAP, &[1 << page]);
        faults(m, Exception::UD);
    }
    // 4 KiB of code above the first 32 KiB, by the linear address.
    let mut m = machine(Mode::Prot32, 0, &[], wait);
    m.cpu.segments[SegReg::Cs as usize].base = 0xd000;
    m.cpu.put(CODE + 0xd000, &[0x90]);
    m.cpu.put(BITMAP + 1, &[1 << 6]);
    m.complete();
    assert_eq!(m.cpu.s_cet, idle | SUPPRESS);
}

#[test]
fn user_exits_do_not_disturb_enforcement() {
    // CALL by a pointer in a device of user space, in legacy code.
    const BITMAP: u64 = 0xc000;
    let control = SH_STK_EN | ENDBR_EN | LEG_IW_EN | SUPPRESS_DIS | BITMAP;
    let mut m = machine(Mode::Long64, 0, &[0xff, 0x13], control | TRACKER);
    m.cpu.put(BITMAP, &[0xff]);
    m.regs.gpr[3] = USER_DEVICES;
    assert!(matches!(
        m.start(),
        Outcome::Exit(UserExit::MmioRead { .. }, None)
    ));
    assert_eq!((m.cpu.ssp, m.cpu.s_cet), (SSP, control | TRACKER));
    m.emulator.data_mut().copy_from_slice(&TARGET.to_le_bytes());
    assert!(matches!(m.resume(), Outcome::Completed(_)));
    assert_eq!((m.regs.rip, m.cpu.ssp), (TARGET, SSP - 8));
    assert_eq!(m.cpu.s_cet, control | TRACKER);
    assert_eq!(m.cpu.get(SSP - 8, 8), (CODE + 2).to_le_bytes());
}

#[test]
fn the_pointer_of_the_shadow_stack_can_be_read() {
    let (rdsspq, rdsspd) = (&[0xf3, 0x48, 0x0f, 0x1e, 0xc8], &[0xf3, 0x0f, 0x1e, 0xc8]);
    let read = |code: &[u8], control| {
        let mut m = machine(Mode::Long64, 3, code, control);
        m.cpu.ssp |= 1 << 40;
        m.regs.gpr[0] = u64::MAX;
        m.complete();
        m.regs.gpr[0]
    };
    assert_eq!(read(rdsspq, SH_STK_EN), SSP | 1 << 40);
    assert_eq!(read(rdsspd, SH_STK_EN), SSP);
    assert_eq!(read(rdsspq, ENDBR_EN), u64::MAX);
}

#[test]
fn real_modes_know_no_enforcement() {
    for mode in [Mode::Real, Mode::Vm86] {
        let all = SH_STK_EN | ENDBR_EN | TRACKER;
        let mut m = machine(
            mode,
            if mode == Mode::Vm86 { 3 } else { 0 },
            &[0xff, 0xd0],
            all,
        );
        m.complete();
        assert_eq!((m.regs.rip, m.cpu.ssp), (TARGET, SSP));
        assert_eq!(*control_of(&mut m.cpu), all);
    }
}

#[test]
fn what_is_not_emulated_says_so() {
    let unhandled = |mode, code: &[u8]| {
        let mut m = machine(mode, 0, code, 0);
        assert!(matches!(m.start(), Outcome::Unhandled(_)), "{code:x?}");
    };
    // CALL, JMP and RET far, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT; what changes shadow stacks explicitly.
    for code in [
        &[0xff, 0x1b][..],
        &[0xff, 0x2b],
        &[0xcb],
        &[0xca, 8, 0],
        &[0x48, 0xcf],
        &[0x0f, 0x05],
        &[0x0f, 0x07],
        &[0x0f, 0x34],
        &[0x0f, 0x35],
        &[0xf3, 0x48, 0x0f, 0xae, 0xe8],
        &[0xf3, 0x0f, 0x01, 0xea],
        &[0xf3, 0x0f, 0x01, 0x2b],
        &[0x0f, 0x38, 0xf6, 0x03],
    ] {
        unhandled(Mode::Long64, code);
    }
    unhandled(Mode::Prot32, &[0xea, 0, 0x20, 0, 0, 8, 0]);
    unhandled(Mode::Prot32, &[0x9a, 0, 0x20, 0, 0, 8, 0]);
    let mut m = machine(Mode::Prot32, 0, &[], 0);
    let end = m
        .emulator
        .task_switch(&mut m.regs, &mut m.cpu, 8, TaskSwitch::Jump, None, 5);
    assert!(matches!(end, Outcome::Unhandled(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// RET after CALL goes on behind the CALL with all stacks as before, wherever they are; and if a page is missing on the
    /// way, nothing has happened.
    #[test]
    fn a_return_undoes_a_call(
        n in 0..CALLS.len(),
        cpl in prop::sample::select(vec![0u8, 3]),
        ssp in (SHADOW + 8..SHADOW + 0x2000).prop_map(|a| a & !3),
        sp in 0x7010u64..0x9000,
        absent in prop::option::of(prop::sample::select(vec![0x7000u64, 0x8000, SHADOW, SHADOW + 0x1000])),
    ) {
        let (mode, call, bytes) = CALLS[n];
        let mut m = machine(mode, cpl, call, SH_STK_EN);
        m.cpu.shadow.push(SHADOW + 0x1000);
        m.cpu.ssp = ssp;
        m.regs.gpr[4] = sp;
        m.cpu.absent.extend(absent);
        let before = m.regs;
        match m.start() {
            Outcome::Completed(_) => {}
            Outcome::Inject(_, None) => {
                prop_assert!(absent.is_some());
                prop_assert_eq!((m.regs, m.cpu.ssp), (before, ssp));
                prop_assert!(m.cpu.get(SHADOW, 0x2000).iter().all(|b| *b == 0));
                return Ok(());
            }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
        prop_assert_eq!(m.cpu.ssp, ssp - bytes);
        let pushed = before.gpr[4] - m.regs.gpr[4];
        let operand_prefix = match (mode, pushed) {
            (Mode::Prot32, 2) | (Mode::Prot16, 4) => &[0x66][..],
            _ => &[],
        };
        m.cpu.put(TARGET, &[operand_prefix, &[0xc3]].concat());
        m.complete();
        let after = Regs { rip: CODE + call.len() as u64, ..before };
        prop_assert_eq!((m.regs, m.cpu.ssp), (after, ssp));
    }
}
