// SPDX-License-Identifier: GPL-2.0

//! What is made of some instructions for AMD's processors, on whatever processor this runs.

use super::*;
use rkvm_core::exception::{pfec, Payload};

const RIP: u64 = crate::native::CODE + 0x800;
const RCX: usize = 1;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
/// The byte after the data.
const END: u64 = DATA + crate::native::DATA_BYTES as u64;

/// A case with registers as in data that are all FFH.
fn case(long: bool, code: &[u8], gpr: &[(usize, u64)]) -> Case {
    let mut registers = Registers {
        gpr: [0; 16],
        rip: RIP,
        rflags: 0x202,
        vectors: [[0; 64]; 32],
        opmasks: [0; 8],
    };
    for (n, value) in gpr {
        registers.gpr[*n] = *value;
    }
    Case {
        long,
        code: code.to_vec(),
        registers,
        data: None,
    }
}

fn checked(mut case: Case) -> Case {
    case.registers.rflags |= rflags::AC;
    case
}

/// The emulator's outcome, and those that are made of it for a vendor.
fn outcomes(vendor: Vendor, case: &Case) -> (After, Vec<After>) {
    let (mut mirror, mut emulator) = (Mirror::new(), Emulator::new());
    mirror.data.fill(0xff);
    let start = After {
        ending: Ending::Unhandled,
        regs: case.registers.general(),
        vectors: case.registers.vectors,
        data: mirror.data.clone(),
    };
    let (regs, ending) = mirror.emulate(&mut emulator, case, &case.registers);
    let ours = mirror.after(regs, ending);
    let insn = *emulator.insn();
    let mut question = Question {
        case,
        insn: &insn,
        start: &start,
        mirror: &mut mirror,
        emulator: &mut emulator,
    };
    let (mut now, mut all) = (ours.clone(), Vec::new());
    for deviation in vendor.deviations() {
        if let Some(next) = (deviation.outcome)(&mut question, &now) {
            all.push(next.clone());
            now = next;
        }
    }
    (ours, all)
}

/// The exception of AMD's only other outcome, if there is one; nothing else has changed.
fn fault(case: &Case) -> Option<Exception> {
    let (_, all) = outcomes(Vendor::Amd, case);
    assert!(all.len() <= 1, "{} outcomes", all.len());
    let Ending::Fault(e) = all.first()?.ending else {
        panic!("no fault");
    };
    assert_eq!(all[0].regs, case.registers.general());
    assert!(all[0].data.iter().all(|b| *b == 0xff));
    Some(e)
}

fn is_left_out(vendor: Vendor, case: &Case) -> bool {
    let (mut mirror, mut emulator) = (Mirror::new(), Emulator::new());
    // MOV EAX, GS:[RSI]: its operand counts no more.
    let earlier = Case {
        code: vec![0x65, 0x8b, 0x06],
        registers: case.registers.clone(),
        ..*case
    };
    mirror.emulate(&mut emulator, &earlier, &case.registers);
    mirror.emulate(&mut emulator, case, &case.registers);
    let why = vendor.leaves_out(emulator.insn(), case, &mut mirror);
    why.is_some()
}

fn left_out(vendor: Vendor, long: bool, code: &[u8]) -> bool {
    is_left_out(vendor, &case(long, code, &[(RSP, DATA + 0x100)]))
}

#[test]
fn vendors_have_their_names() {
    assert_eq!(Vendor::of(*b"GenuineIntel"), Vendor::Intel);
    assert_eq!(Vendor::of(*b"AuthenticAMD"), Vendor::Amd);
    assert_eq!(Vendor::of(*b"HygonGenuine"), Vendor::Amd);
    assert_eq!(Vendor::of(*b"  Shanghai  "), Vendor::Other);
}

#[test]
fn near_branches_of_16_bits_are_left_out() {
    let branches: [&[u8]; 9] = [
        &[0x66, 0x70, 0x10],
        &[0x66, 0x0f, 0x81, 1, 2, 3, 0],
        &[0x66, 0xe8, 1, 2, 3, 0],
        &[0x66, 0xe9, 1, 2, 3, 0],
        &[0x66, 0xe3, 0x10],
        &[0x66, 0xe2, 0x10],
        &[0x66, 0xc3],
        &[0x66, 0xff, 0xd0],
        &[0x66, 0xff, 0xe0],
    ];
    for code in branches {
        assert!(left_out(Vendor::Amd, true, code), "{code:x?}");
        assert!(!left_out(Vendor::Intel, true, code), "{code:x?}");
        assert!(!left_out(Vendor::Amd, true, &code[1..]), "{code:x?}");
        // 16 bits for all there.
        assert!(!left_out(Vendor::Amd, false, code), "{code:x?}");
        // REX.W counts more.
        let wide = [&[0x66, 0x48], &code[1..]].concat();
        assert!(!left_out(Vendor::Amd, true, &wide), "{wide:x?}");
    }
    assert!(!left_out(Vendor::Amd, true, &[0x66, 0x01, 0xc8]));
}

#[test]
fn loops_with_the_other_condition_are_left_out() {
    for (code, otherwise) in [
        ([0xf2, 0xe1, 0x10], true),
        ([0xf3, 0xe0, 0x10], true),
        ([0xf3, 0xe1, 0x10], false),
        ([0xf2, 0xe0, 0x10], false),
        ([0xf2, 0xe2, 0x10], false),
    ] {
        for long in [false, true] {
            assert_eq!(left_out(Vendor::Amd, long, &code), otherwise, "{code:x?}");
            assert!(!left_out(Vendor::Intel, long, &code), "{code:x?}");
        }
    }
}

#[test]
fn other_vendors_do_as_the_emulator() {
    let push = case(false, &[0x1e], &[(RSP, DATA + 0x104)]);
    for vendor in [Vendor::Intel, Vendor::Other] {
        assert!(outcomes(vendor, &push).1.is_empty());
    }
}

#[test]
fn selectors_are_pushed_with_zeros() {
    let (ours, all) = outcomes(Vendor::Amd, &case(false, &[0x1e], &[(RSP, DATA + 0x104)]));
    let [amd] = &all[..] else {
        panic!("{} outcomes", all.len());
    };
    assert_eq!(ours.data[0x100..0x105], [0x2b, 0, 0xff, 0xff, 0xff]);
    assert_eq!(amd.data[0x100..0x105], [0x2b, 0, 0, 0, 0xff]);
    assert_eq!(amd.regs, ours.regs);
    for (long, code) in [(false, &[0x66, 0x1e][..]), (true, &[0x0f, 0xa0])] {
        let (_, all) = outcomes(Vendor::Amd, &case(long, code, &[(RSP, DATA + 0x108)]));
        assert!(all.is_empty(), "{code:x?}");
    }
}

#[test]
fn instructions_that_are_not_there_are_invalid() {
    for (long, code, invalid) in [
        (true, &[0x0f, 0x0d, 0xc1][..], true),
        (true, &[0x0f, 0x0d, 0x0e], false),
        (true, &[0x0f, 0x1f, 0xc1], false),
        (false, &[0xc4, 0xe3, 0xf9, 0x16, 0xc0, 0], true),
        (false, &[0xc4, 0xe3, 0x79, 0x16, 0xc0, 0], false),
        (true, &[0xc4, 0xe3, 0xf9, 0x16, 0xc0, 0], false),
    ] {
        let e = fault(&case(long, code, &[(RSI, DATA)]));
        assert_eq!(e, invalid.then_some(Exception::UD), "{code:x?}");
    }
}

#[test]
fn calls_to_nowhere_push_nothing() {
    let target = (0, 1 << 63);
    let call = case(true, &[0xff, 0xd0], &[target, (RSP, DATA + 0x108)]);
    let (ours, _) = outcomes(Vendor::Amd, &call);
    assert_ne!(ours.data[0x100], 0xff);
    assert_eq!(fault(&call), Some(Exception::GP0));
}

#[test]
fn interrupted_comparisons_have_their_flags() {
    // REPNE SCASB downwards: two bytes FFH are no 1, then the data are over.
    let mut scas = case(true, &[0xf2, 0xae], &[(0, 1), (RCX, 9), (RDI, DATA + 1)]);
    scas.registers.rflags |= rflags::DF | rflags::OF | rflags::ZF;
    let (ours, all) = outcomes(Vendor::Amd, &scas);
    let [amd] = &all[..] else {
        panic!("{} outcomes", all.len());
    };
    assert_eq!(ours.regs.rflags, scas.registers.rflags);
    assert_eq!(amd.regs.gpr, ours.regs.gpr);
    assert_eq!(amd.regs.gpr[RCX], 7);
    // 1 - FFH = 2, with a borrow.
    assert_eq!(
        amd.regs.rflags,
        0x202 | rflags::DF | rflags::CF | rflags::AF
    );
    scas.registers.gpr[RDI] = DATA - 1;
    assert!(outcomes(Vendor::Amd, &scas).1.is_empty());
}

fn page_fault(at: u64, code: u32) -> Exception {
    Exception {
        vector: Vector::Pf,
        error_code: Some(code),
        payload: Payload::Cr2(Gva(at)),
    }
}

#[test]
fn the_first_of_two_faults_is_told() {
    let read = |at| Some(page_fault(at, pfec::USER));
    let written = |at| Some(page_fault(at, pfec::USER | pfec::WRITE));
    let out = [(RCX, 3), (RSI, END + 3), (RDI, DATA - 5)];
    assert_eq!(fault(&case(true, &[0xf3, 0xa6], &out)), read(END + 3));
    // GS has a base in 64-bit code, and is unusable in the other.
    let by_gs = |long| fault(&case(long, &[0x65, 0xf3, 0xa6], &out));
    assert_eq!(by_gs(true), read(DATA + END + 3));
    assert_eq!(by_gs(false), Some(Exception::GP0));
    // Not so of words, nor with REPNE.
    assert_eq!(fault(&case(true, &[0xf3, 0xa7], &out)), None);
    assert_eq!(fault(&case(true, &[0xf2, 0xa6], &out)), None);

    let maskmov = |rdi| case(true, &[0x66, 0x0f, 0xf7, 0xc1], &[(RDI, rdi)]);
    assert_eq!(fault(&maskmov(END + 5)), written(END + 5));
    assert_eq!(fault(&maskmov(DATA - 3)), written(DATA - 3));
    assert_eq!(fault(&maskmov(DATA + 5)), None);
    let read_only = pfec::USER | pfec::WRITE | pfec::PRESENT;
    let end = crate::native::READ_ONLY;
    assert_eq!(fault(&maskmov(end - 6)), Some(page_fault(end, read_only)));
}

#[test]
fn vectors_are_aligned_if_that_is_checked() {
    let load = |offset| case(true, &[0x0f, 0x10, 0x06], &[(RSI, DATA + offset)]);
    assert_eq!(fault(&checked(load(8))), Some(Exception::AC));
    assert_eq!(fault(&checked(load(16))), None);
    assert_eq!(fault(&load(8)), None);
    let scalar = case(true, &[0xf3, 0x0f, 0x10, 0x06], &[(RSI, DATA + 4)]);
    assert_eq!(fault(&checked(scalar)), None);
    let register = case(true, &[0x0f, 0x10, 0xc6], &[(RSI, DATA + 8)]);
    assert_eq!(fault(&checked(register)), None);
}

#[test]
fn masked_elements_are_aligned_one_by_one() {
    // VBROADCASTF32X2 with the first of its two elements.
    let at = (RSI, DATA + 4);
    let masked = |mask| checked(case(true, &[0x62, 0xf2, 0x7d, mask, 0x19, 0x0e], &[at]));
    let mut broadcast = masked(0x49);
    broadcast.registers.opmasks[1] = 1;
    let (ours, all) = outcomes(Vendor::Amd, &broadcast);
    if !crate::native::has_avx512() {
        assert_eq!(ours.ending.vector(), Some(Vector::Ud));
        return;
    }
    assert_eq!(ours.ending.vector(), Some(Vector::Ac));
    let [amd] = &all[..] else {
        panic!("{} outcomes", all.len());
    };
    assert!(matches!(amd.ending, Ending::Completed));
    assert_eq!(amd.regs.rflags, broadcast.registers.rflags);
    assert_eq!(amd.vectors[1][..8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert!(outcomes(Vendor::Amd, &masked(0x48)).1.is_empty());
}

#[test]
fn movsxd_reads_four_bytes() {
    let read = |at| Some(page_fault(at, pfec::USER));
    let narrow = |at| case(true, &[0x66, 0x63, 0x06], &[(RSI, at)]);
    assert_eq!(fault(&narrow(END - 2)), read(END));
    assert_eq!(fault(&narrow(END - 4)), None);
    assert_eq!(fault(&checked(narrow(DATA + 2))), Some(Exception::AC));
    assert_eq!(fault(&checked(narrow(DATA + 4))), None);
    assert_eq!(fault(&case(true, &[0x63, 0x06], &[(RSI, END - 2)])), None);
}

#[test]
fn operands_across_the_end_are_left_out() {
    let load = |long, at| case(long, &[0x65, 0x8b, 0x06], &[(RSI, at)]);
    // GS has a base in 64-bit code.
    for (long, end) in [(false, 1 << 32), (true, (1 << 47) - DATA)] {
        for (at, across) in [(end - 64, false), (end - 63, true), (end - 1, true)] {
            assert_eq!(is_left_out(Vendor::Amd, &load(long, at)), across);
            assert!(!is_left_out(Vendor::Intel, &load(long, at)));
        }
    }
    for code in [&[0x65, 0x8b, 0xc6][..], &[0x65, 0x50]] {
        let none = case(true, code, &[(RSI, (1 << 47) - DATA - 1)]);
        assert!(!is_left_out(Vendor::Amd, &none), "{code:x?}");
    }
}
