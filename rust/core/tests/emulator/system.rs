// SPDX-License-Identifier: GPL-2.0

//! FWAIT, INVPCID, and INT n with the interrupt redirection bitmap.

use crate::mock::*;
use rkvm_core::addr::Gva;
use rkvm_core::emulate::*;
use rkvm_core::exception::Exception;
use rkvm_core::regs::{cr0, cr4, rflags, SegReg};

#[test]
fn fwait_gives_a_pending_exception() {
    let mut m = Machine::new(Mode::Long64, &[0x9b]);
    m.complete();
    let mut m = Machine::new(Mode::Long64, &[0x9b]);
    m.cpu.x87_status = 1 << 7 | 1;
    assert_eq!(m.start(), Outcome::Inject(Exception::MF, None));
    // #NM comes first.
    m.cpu.cr0 |= cr0::TS | cr0::MP;
    assert_eq!(m.start(), Outcome::Inject(Exception::NM, None));
}

#[test]
fn invpcid_checks_type_and_descriptor() {
    // invpcid rcx, [rdi]
    let run = |kind: u64, descriptor: u128, pcide: bool| {
        let mut m = Machine::new(Mode::Long64, &[0x66, 0x0f, 0x38, 0x82, 0x0f]);
        m.regs.gpr[1] = kind;
        m.regs.gpr[7] = DATA;
        m.cpu.put(DATA, &descriptor.to_le_bytes());
        m.cpu.cr4 |= if pcide { cr4::PCIDE } else { 0 };
        (m.start(), m.cpu.effects)
    };
    let good = |kind, descriptor: u128, pcide| {
        let (outcome, effects) = run(kind, descriptor, pcide);
        assert!(matches!(outcome, Outcome::Completed(_)), "{outcome:?}");
        let effect = Effect::Invpcid {
            kind,
            pcid: descriptor as u64,
            address: Gva((descriptor >> 64) as u64),
        };
        assert_eq!(effects, [effect]);
    };
    let bad = |kind, descriptor, pcide| {
        let expected = (Outcome::Inject(Exception::GP0, None), vec![]);
        assert_eq!(run(kind, descriptor, pcide), expected);
    };
    let far = 1u128 << 127;
    good(0, 0x1000 << 64 | 5, true);
    bad(0, 0x1000 << 64 | 5, false);
    bad(0, far, true);
    good(1, far, true);
    bad(1, 5, false);
    good(2, far | 5, false);
    good(3, 5, false);
    bad(3, 0x1000, true);
    bad(4, 0, true);
}

#[test]
fn user_space_answers_no_msr_that_is_only_implied() {
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const FMASK: u32 = 0xc000_0084;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    const TSC_AUX: u32 = 0xc000_0103;
    let run = |code: &[u8]| {
        let mut m = Machine::new(Mode::Long64, code);
        m.cpu.efer |= 1;
        m.cpu.user_msrs = true;
        for msr in [STAR, LSTAR, FMASK] {
            m.cpu.msrs.insert(msr, 0);
        }
        m.cpu.msrs.insert(KERNEL_GS_BASE, 0x5000);
        m.cpu.msrs.insert(TSC_AUX, 7);
        m.regs.gpr[1] = u64::from(TSC_AUX);
        (m.start(), m)
    };
    let (outcome, _) = run(&[0x0f, 0x32]);
    let exit = UserExit::ReadMsr { index: TSC_AUX };
    assert_eq!(outcome, Outcome::Exit(exit, None), "rdmsr");
    for (what, code) in [
        ("rdpid rax", &[0xf3, 0x0f, 0xc7, 0xf8][..]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("syscall", &[0x0f, 0x05]),
    ] {
        let (outcome, m) = run(code);
        assert!(
            matches!(outcome, Outcome::Completed(_)),
            "{what}: {outcome:?}"
        );
        match what {
            "rdpid rax" => assert_eq!(m.regs.gpr[0], 7),
            "rdtscp" => assert_eq!(m.regs.gpr[1], 7),
            "swapgs" => assert_eq!(m.cpu.segments[SegReg::Gs as usize].base, 0x5000),
            _ => {}
        }
    }
}

/// A virtual-8086 machine with INT 50h at IP 100h of segment 0, and the redirection bit of 50h as told.
fn vm86(iopl: u64, redirected: bool) -> Machine {
    let mut m = Machine::new(Mode::Vm86, &[]);
    m.cpu.put(CODE, &[0xcd, 0x50]);
    m.cpu.cr4 |= cr4::VME;
    m.regs.rflags = 2 | rflags::VM | iopl << 12 | rflags::IF | rflags::TF;
    let tss = 0x3000;
    m.cpu.segments[SegReg::Tr as usize] = Segment {
        selector: 0x18,
        base: tss,
        limit: 0x90,
        access: 0x8b,
    };
    m.cpu.put(tss + 102, &[0x68, 0]);
    m.cpu
        .put(tss + 0x48 + 10, &[if redirected { 0 } else { 1 }]);
    m.cpu.put(4 * 0x50, &[0x34, 0x12, 0x00, 0x20]);
    m
}

#[test]
fn redirected_interrupt_stays_in_the_program() {
    for (iopl, change) in [(0u64, rflags::VIF), (3, rflags::IF)] {
        let mut m = vm86(iopl, true);
        m.regs.rflags |= rflags::VIF;
        let before = m.regs.rflags;
        m.complete();
        assert_eq!(m.regs.rip, 0x1234);
        assert_eq!(m.cpu.segments[SegReg::Cs as usize].selector, 0x2000);
        assert_eq!(m.regs.rflags, before & !(change | rflags::TF));
        // IOPL 3, and IF, which below IOPL 3 is VIF.
        let flags = (2 | rflags::TF | rflags::IF | 3 << 12) as u16;
        assert_eq!(m.regs.gpr[4], 0x6ffa);
        let frame = [CODE as u16 + 2, 0, flags].map(u16::to_le_bytes);
        assert_eq!(m.cpu.get(0x6ffa, 6), frame.concat());
    }
}

#[test]
fn what_is_not_redirected_asks_for_iopl() {
    assert_eq!(
        vm86(0, false).start(),
        Outcome::Inject(Exception::GP0, None)
    );
    assert!(matches!(vm86(3, false).start(), Outcome::Soft(s) if s.vector == 0x50));
    // The bitmap is beyond the limit.
    let mut m = vm86(3, true);
    m.cpu.segments[SegReg::Tr as usize].limit = 0x51;
    assert_eq!(m.start(), Outcome::Inject(Exception::GP0, None));
}
