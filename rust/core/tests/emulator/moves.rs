// SPDX-License-Identifier: GPL-2.0

//! `Insn::as_move()` and `Insn::is_at()`, by which the glue serves device registers, against the emulator's execution of
//! the same bytes.

use crate::mock::*;
use proptest::prelude::*;
use rkvm_core::addr::Gpa;
use rkvm_core::emulate::insn::{Base, Rm};
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

/// One of the opcodes in question, or any other.
fn opcode() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0x88u8..0x8c).prop_map(|b| vec![b]),
        4 => (0xa0u8..0xa4).prop_map(|b| vec![b]),
        4 => (0xc6u8..0xc8).prop_map(|b| vec![b]),
        4 => prop::sample::select(&[0xb6u8, 0xb7, 0xbe, 0xbf][..]).prop_map(|b| vec![0x0f, b]),
        1 => Just(vec![0x63]),
        2 => any::<u8>().prop_map(|b| vec![b]),
        1 => any::<u8>().prop_map(|b| vec![0x0f, b]),
    ]
}

fn prefixes() -> impl Strategy<Value = Vec<u8>> {
    let legacy = prop::sample::select(
        &[
            0x66u8, 0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf2, 0xf3, 0xf0,
        ][..],
    );
    let rex = prop::option::of(0x40u8..0x50);
    (prop::collection::vec(legacy, 0..4), rex).prop_map(|(mut all, rex)| {
        all.extend(rex);
        all
    })
}

fn code() -> impl Strategy<Value = Vec<u8>> {
    let modrm = prop_oneof![4 => 0u8..8, 4 => any::<u8>()];
    let tail = prop::collection::vec(any::<u8>(), 15);
    (prefixes(), opcode(), modrm, tail).prop_map(|(prefixes, opcode, modrm, tail)| {
        let mut all = [prefixes, opcode, vec![modrm], tail].concat();
        all.truncate(15);
        all
    })
}

/// The base of each segment as addressing uses it.
fn base(m: &Machine, which: SegReg) -> u64 {
    m.cpu.segments[which as usize].base
}

/// Moves segments or registers so that the memory operand begins at `target`. False if nothing reaches it.
fn aim(m: &mut Machine, insn: &Insn, target: u64) -> bool {
    let offset = |m: &Machine| insn.effective_address(m.regs.rip, |r| m.regs.read(r));
    let flat = m.cpu.mode == Mode::Long64 && !matches!(insn.segment, SegReg::Fs | SegReg::Gs);
    if !flat {
        let wanted = target.wrapping_sub(offset(m));
        m.cpu.segments[insn.segment as usize].base = if m.cpu.mode == Mode::Long64 {
            wanted
        } else {
            wanted & 0xffff_ffff
        };
        return insn.segment != SegReg::Cs;
    }
    match insn.base {
        Base::Reg(r) if insn.index != Some(r) => {
            let missing = target.wrapping_sub(offset(m));
            m.regs.write(r, m.regs.read(r).wrapping_add(missing));
            offset(m) == target
        }
        _ => offset(m) == target,
    }
}

/// The bytes of an answer, repeated over what a device is asked for.
fn answered(answer: u64, bytes: u8) -> Vec<u8> {
    answer.to_le_bytes()[..usize::from(bytes)].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(60_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn moves_are_what_the_emulator_does(
        mode in modes(),
        code in code(),
        gpr in any::<[u64; 16]>(),
        offset in 0u64..0x1000,
        answer in any::<u64>(),
    ) {
        let mut m = Machine::new(mode, &code);
        m.regs.gpr = gpr;
        for which in [SegReg::Es, SegReg::Cs, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            m.cpu.segments[which as usize].limit = u32::MAX;
        }
        let mut raw = [0; 16];
        raw[..15].copy_from_slice(&code);
        let mut ahead = Emulator::new();
        let Some(insn) = ahead.decode_ahead(mode, u128::from_le_bytes(raw), 15).copied() else {
            return Ok(());
        };
        let target = DEVICES + offset;
        if insn.rm != Rm::Mem || !aim(&mut m, &insn, target) {
            return Ok(());
        }
        let before = m.regs;
        let Some(what) = insn.as_move(|r| before.read(r)) else {
            return Ok(());
        };
        let width = what.width();
        let is_at = |gpa| {
            let gpr = |r| before.read(r);
            insn.is_at(Gpa(gpa), width, mode, before.rip, gpr, |s| base(&m, s))
        };
        let inside = offset + u64::from(width.bytes()) <= 0x1000;
        prop_assert_eq!(is_at(target), inside);
        prop_assert!(!is_at(target ^ 1));
        if !inside {
            return Ok(());
        }

        m.cpu.answers.extend(answer.to_le_bytes());
        let done = m.complete();
        prop_assert_eq!(done.trap, 0);
        let mut expected = before;
        expected.rip += u64::from(insn.length);
        match what {
            Move::Store(width, value) => {
                let data = answered(value, width.bytes());
                prop_assert_eq!(&m.cpu.seen, &[Seen::MmioWrite(target, data)]);
                prop_assert_eq!(value & !width.mask(), 0);
            }
            Move::Load(load) => {
                prop_assert_eq!(&m.cpu.seen, &[Seen::MmioRead(target, width.size())]);
                let old = before.read(load.register);
                expected.write(load.register, load.merge(old, answer));
            }
        }
        prop_assert_eq!(m.regs, expected);
    }
}

/// The forms that drivers use, and some that are none of these: the property above must not have passed them over.
#[test]
fn what_counts_as_a_move() {
    let long: &[(&[u8], bool)] = &[
        (&[0x89, 0x07], true),                   // mov [rdi], eax
        (&[0x8a, 0x27], true),                   // mov ah, [rdi]
        (&[0x66, 0x89, 0x07], true),             // mov [rdi], ax
        (&[0x48, 0xc7, 0x07, 1, 0, 0, 0], true), // mov qword [rdi], 1
        (&[0x65, 0x8b, 0x07], true),             // mov eax, gs:[rdi]
        (&[0xa1, 0, 0, 0, 0, 0, 0, 0, 0], true), // mov eax, [0]
        (&[0x0f, 0xb6, 0x07], true),             // movzx eax, byte [rdi]
        (&[0x48, 0x63, 0x07], true),             // movsxd rax, dword [rdi]
        (&[0x89, 0xc7], false),                  // mov edi, eax
        (&[0xb8, 1, 0, 0, 0], false),            // mov eax, 1
        (&[0x01, 0x07], false),                  // add [rdi], eax
        (&[0x87, 0x07], false),                  // xchg [rdi], eax
        (&[0xab], false),                        // stosd
        (&[0x0f, 0xc3, 0x07], false),            // movnti [rdi], eax
        (&[0xf0, 0x89, 0x07], false),            // lock mov: #UD
    ];
    for (code, is) in long {
        let mut raw = [0; 16];
        raw[..code.len()].copy_from_slice(code);
        let mut emulator = Emulator::new();
        let what = emulator
            .decode_ahead(Mode::Long64, u128::from_le_bytes(raw), 15)
            .and_then(|insn| insn.as_move(|_| 0));
        assert_eq!(what.is_some(), *is, "{code:02x?}");
    }
}

#[test]
fn bytes_that_are_missing_are_not_made_up() {
    // mov qword [rdi + 0x11223344], 0x55667788
    let code = [
        0x48, 0xc7, 0x87, 0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, 0, 0, 0, 0, 0,
    ];
    let mut emulator = Emulator::new();
    for have in 0..=15 {
        let insn = emulator.decode_ahead(Mode::Long64, u128::from_le_bytes(code), have);
        assert_eq!(insn.is_some(), have >= 11, "{have}");
    }
}
