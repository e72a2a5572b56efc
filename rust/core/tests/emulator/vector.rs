// SPDX-License-Identifier: GPL-2.0

//! Vector moves: EVEX masks with their suppression of faults, and the duplicating moves.

use crate::mock::*;
use rkvm_core::addr::Gpa;
use rkvm_core::emulate::*;
use rkvm_core::exception::{Payload, Vector};

/// A machine for one instruction with RDI = `at`, memory and registers full of numbers, k1 = `mask`.
fn machine(code: &[u8], at: u64, mask: u64) -> Machine {
    let mut m = Machine::new(Mode::Long64, code);
    m.regs.gpr[7] = at;
    m.cpu.opmasks[1] = mask;
    for n in 0..64u8 {
        m.cpu.put(DATA + u64::from(n), &[n]);
        m.cpu.vectors[0][usize::from(n)] = 0x80 | n;
        m.cpu.vectors[17][usize::from(n)] = 0x40 | n;
    }
    m
}

/// What `f` gives for 0 to 63.
fn bytes(f: impl Fn(u8) -> u8) -> [u8; 64] {
    std::array::from_fn(|n| f(n as u8))
}

#[test]
fn masked_load_merges_or_clears() {
    // vmovdqu32 zmm0{k1}, [rdi]
    let mut m = machine(&[0x62, 0xf1, 0x7e, 0x49, 0x6f, 0x07], DATA, 0b101);
    m.complete();
    let moved = |n: u8| n < 4 || (8..12).contains(&n);
    assert_eq!(
        m.cpu.vectors[0],
        bytes(|n| if moved(n) { n } else { 0x80 | n })
    );
    // vmovdqu32 ymm0{k1}{z}, [rdi]
    let mut m = machine(&[0x62, 0xf1, 0x7e, 0xa9, 0x6f, 0x07], DATA, 0b101);
    m.complete();
    assert_eq!(m.cpu.vectors[0], bytes(|n| if moved(n) { n } else { 0 }));
}

#[test]
fn masked_move_between_registers() {
    // vmovdqu8 zmm17{k1}, zmm0
    let mut m = machine(
        &[0x62, 0xe1, 0x7f, 0x49, 0x6f, 0xc8],
        DATA,
        1 << 63 | 1 << 5,
    );
    m.complete();
    let moved = |n: u8| n == 63 || n == 5;
    assert_eq!(
        m.cpu.vectors[17],
        bytes(|n| n | if moved(n) { 0x80 } else { 0x40 })
    );
}

#[test]
fn masked_store_leaves_the_rest() {
    // vmovupd [rdi]{k1}, zmm17
    let mut m = machine(&[0x62, 0xe1, 0xfd, 0x49, 0x11, 0x0f], DATA, 0b1000_0010);
    m.complete();
    let moved = |n: u8| (8..16).contains(&n) || n >= 56;
    let expected = bytes(|n| if moved(n) { 0x40 | n } else { n });
    assert_eq!(m.cpu.get(DATA, 64), expected);
}

#[test]
fn what_is_masked_out_does_not_fault() {
    // vmovups [rdi]{k1}, zmm0 with its upper half in a read-only page
    let code = [0x62, 0xf1, 0x7c, 0x49, 0x11, 0x07];
    let mut m = machine(&code, 0x8fe0, 0xff);
    m.cpu.read_only.push(0x9000);
    m.complete();
    // Element 12 is 16 bytes into that page: the fault is there, and nothing is written before it.
    let mut m = machine(&code, 0x8fe0, 1 << 12 | 1);
    m.cpu.read_only.push(0x9000);
    let before = m.cpu.ram.clone();
    match m.start() {
        Outcome::Inject(e, None) => {
            assert_eq!(e.vector, Vector::Pf);
            assert_eq!(e.payload, Payload::Cr2(rkvm_core::addr::Gva(0x9010)));
        }
        other => panic!("{other:?}"),
    }
    assert!(before == m.cpu.ram);
}

#[test]
fn an_empty_mask_touches_nothing() {
    // vmovaps zmm0{k1}, [rdi], not even aligned or canonical
    let code = [0x62, 0xf1, 0x7c, 0x49, 0x28, 0x07];
    machine(&code, 1 << 63 | 4, 0).complete();
    let mut m = machine(&code, DATA + 4, 1);
    assert!(matches!(m.start(), Outcome::Inject(e, None) if e.vector == Vector::Gp));
    // vmovss xmm0{k1}, [rdi]
    let mut m = machine(&[0x62, 0xf1, 0x7e, 0x09, 0x10, 0x07], 1 << 63, 0);
    m.complete();
    assert_eq!(
        m.cpu.vectors[0],
        bytes(|n| if n < 4 { 0x80 | n } else { 0 })
    );
}

#[test]
fn masked_load_of_a_device_reads_each_run_once() {
    // vmovdqu32 xmm0{k1}{z}, [rdi]
    let mut m = machine(&[0x62, 0xf1, 0x7e, 0x89, 0x6f, 0x07], USER_DEVICES, 0b1101);
    let read = |gpa, len| {
        let gpa = Gpa(USER_DEVICES + gpa);
        Outcome::Exit(UserExit::MmioRead { gpa, len }, None)
    };
    assert_eq!(m.start(), read(0, 4));
    m.emulator.data_mut().fill(1);
    assert_eq!(m.resume(), read(8, 8));
    m.emulator.data_mut().fill(2);
    assert!(matches!(m.resume(), Outcome::Completed(_)));
    let low = [1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2];
    assert_eq!(m.cpu.vectors[0][..16], low);
}

#[test]
fn evex_scalars_name_all_registers() {
    // vmovsd xmm17{k1}{z}, xmm17, xmm0
    let mut m = machine(&[0x62, 0xe1, 0xf7, 0x81, 0x10, 0xc8], DATA, 0);
    m.complete();
    let high = |n: u8| (8..16).contains(&n);
    assert_eq!(
        m.cpu.vectors[17],
        bytes(|n| if high(n) { 0x40 | n } else { 0 })
    );
    // vmovd xmm17, [rdi]; vmovq xmm17, [rdi]; vmovlpd xmm17, xmm17, [rdi]
    for (code, moved, kept) in [
        (&[0x62, 0xe1, 0x7d, 0x08, 0x6e, 0x0f], 4u8, 0u8),
        (&[0x62, 0xe1, 0xfe, 0x08, 0x7e, 0x0f], 8, 0),
        (&[0x62, 0xe1, 0xf5, 0x00, 0x12, 0x0f], 8, 0x40),
    ] {
        let mut m = machine(code, DATA, 0);
        let other = m.cpu.vectors[1];
        m.complete();
        let expected = |n| match n {
            n if n < moved => n,
            8..=15 if kept != 0 => kept | n,
            _ => 0,
        };
        assert_eq!(m.cpu.vectors[17], bytes(expected), "{code:x?}");
        assert_eq!(m.cpu.vectors[1], other);
    }
    // vmovq [rdi + 8], xmm17
    let mut m = machine(&[0x62, 0xe1, 0xfd, 0x08, 0xd6, 0x4f, 0x01], DATA, 0);
    m.complete();
    assert_eq!(m.cpu.get(DATA + 8, 8), &bytes(|n| 0x40 | n)[..8]);
}

#[test]
fn a_mask_is_forgotten_with_its_instruction() {
    // vmovss xmm0{k1}, [rdi], then movss xmm0, [rdi] in its place.
    let mut m = machine(&[0x62, 0xf1, 0x7e, 0x09, 0x10, 0x07], DATA, 0);
    m.complete();
    m.regs.rip = CODE;
    m.cpu.put(CODE, &[0xf3, 0x0f, 0x10, 0x07]);
    m.complete();
    assert_eq!(m.cpu.vectors[0][..4], [0, 1, 2, 3]);
}

#[test]
fn duplicating_moves() {
    /// Code, bytes of the vector, what each byte becomes.
    type Case = (&'static [u8], usize, fn(u8) -> u8);
    let cases: [Case; 5] = [
        // movddup xmm0, [rdi]
        (&[0xf2, 0x0f, 0x12, 0x07], 16, |n| n & 7),
        // movsldup xmm0, [rdi]
        (&[0xf3, 0x0f, 0x12, 0x07], 16, |n| n & !4),
        // movshdup xmm0, [rdi]
        (&[0xf3, 0x0f, 0x16, 0x07], 16, |n| n | 4),
        // vmovddup ymm0, [rdi]
        (&[0xc5, 0xff, 0x12, 0x07], 32, |n| n & !8),
        // vmovshdup zmm0, zmm17
        (&[0x62, 0xb1, 0x7e, 0x48, 0x16, 0xc1], 64, |n| 0x40 | n | 4),
    ];
    for (code, len, expected) in cases {
        let mut m = machine(code, DATA, 0);
        m.complete();
        assert_eq!(
            m.cpu.vectors[0][..len],
            bytes(expected)[..len],
            "{code:02x?}"
        );
    }
    // movsldup xmm0, [rdi], misaligned
    let mut m = machine(&[0xf3, 0x0f, 0x12, 0x07], DATA + 8, 0);
    assert!(matches!(m.start(), Outcome::Inject(e, None) if e.vector == Vector::Gp));
}
