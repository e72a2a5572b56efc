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

#[test]
fn broadcasts_repeat_what_memory_has() {
    /// Code, bytes of the vector, bytes that are repeated.
    type Case = (&'static [u8], usize, u8);
    let cases: [Case; 10] = [
        // vbroadcastss xmm0, [rdi]; vbroadcastsd ymm0, [rdi]; vbroadcasti128 ymm0, [rdi]
        (&[0xc4, 0xe2, 0x79, 0x18, 0x07], 16, 4),
        (&[0xc4, 0xe2, 0x7d, 0x19, 0x07], 32, 8),
        (&[0xc4, 0xe2, 0x7d, 0x5a, 0x07], 32, 16),
        // vpbroadcastb ymm0, [rdi]; vpbroadcastw xmm0, [rdi]
        (&[0xc4, 0xe2, 0x7d, 0x78, 0x07], 32, 1),
        (&[0xc4, 0xe2, 0x79, 0x79, 0x07], 16, 2),
        // vpbroadcastd zmm0, [rdi]; vpbroadcastq zmm0, [rdi]; vbroadcasti32x2 zmm0, [rdi]
        (&[0x62, 0xf2, 0x7d, 0x48, 0x58, 0x07], 64, 4),
        (&[0x62, 0xf2, 0xfd, 0x48, 0x59, 0x07], 64, 8),
        (&[0x62, 0xf2, 0x7d, 0x48, 0x59, 0x07], 64, 8),
        // vbroadcastf64x2 zmm0, [rdi]; vbroadcastf32x8 zmm0, [rdi]
        (&[0x62, 0xf2, 0xfd, 0x48, 0x1a, 0x07], 64, 16),
        (&[0x62, 0xf2, 0x7d, 0x48, 0x1b, 0x07], 64, 32),
    ];
    for (code, len, part) in cases {
        let mut m = machine(code, DATA, 0);
        m.complete();
        let expected = bytes(|n| {
            if usize::from(n) < len {
                n & (part - 1)
            } else {
                0
            }
        });
        assert_eq!(m.cpu.vectors[0], expected, "{code:02x?}");
        // From a device, once, and no more than the part.
        let mut m = machine(code, DEVICES, 0);
        m.cpu.answers = (0..64).collect();
        m.complete();
        assert_eq!(m.cpu.vectors[0], expected, "{code:02x?}");
        let read: usize = m
            .cpu
            .seen
            .iter()
            .map(|s| match s {
                Seen::MmioRead(_, n) => *n,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(read, usize::from(part), "{code:02x?}");
        // In user space.
        let mut m = machine(code, USER_DEVICES, 0);
        let mut outcome = m.start();
        while let Outcome::Exit(UserExit::MmioRead { gpa, .. }, None) = outcome {
            let at = gpa.0 as u8;
            for (n, b) in m.emulator.data_mut().iter_mut().enumerate() {
                *b = at.wrapping_add(n as u8);
            }
            outcome = m.resume();
        }
        assert!(matches!(outcome, Outcome::Completed(_)), "{outcome:?}");
        assert_eq!(m.cpu.vectors[0], expected, "{code:02x?}");
    }
}

#[test]
fn broadcasts_read_what_the_mask_wants() {
    // vbroadcastf32x4 zmm0{k1}, [rdi]: elements 1 and 5 are both byte 4 to 7 of memory.
    let code = [0x62, 0xf2, 0x7d, 0x49, 0x1a, 0x07];
    let mut m = machine(&code, DEVICES, 1 << 5 | 1 << 1);
    m.cpu.answers = (4..8).collect();
    m.complete();
    assert_eq!(m.cpu.seen, [Seen::MmioRead(DEVICES + 4, 4)]);
    let moved = |n: u8| n / 4 == 1 || n / 4 == 5;
    let expected = bytes(|n| if moved(n) { n & 15 } else { 0x80 | n });
    assert_eq!(m.cpu.vectors[0], expected);
    // With none wanted nothing is read, mapped or not.
    for (code, at) in [
        (&code[..], 0xf000_0000),
        (&[0x62, 0xf2, 0x7d, 0x49, 0x18, 0x07], RAM),
    ] {
        machine(code, at, 0).complete();
    }
}

#[test]
fn parts_go_out_and_in() {
    let value = |m: &Machine, len| m.cpu.get(DATA + 0x100, len).to_vec();
    let at = DATA + 0x100;
    for (code, expected) in [
        // pextrb [rdi], xmm0, 0x13; pextrw [rdi], xmm0, 3; pextrd [rdi], xmm0, 2; pextrq [rdi], xmm0, 1
        (&[0x66, 0x0f, 0x3a, 0x14, 0x07, 0x13][..], 3..4u8),
        (&[0x66, 0x0f, 0x3a, 0x15, 0x07, 3], 6..8),
        (&[0x66, 0x0f, 0x3a, 0x16, 0x07, 2], 8..12),
        (&[0x66, 0x48, 0x0f, 0x3a, 0x16, 0x07, 1], 8..16),
        // vextractps [rdi], xmm0, 1; vextractf128 [rdi], ymm0, 1; vextracti32x8 [rdi], zmm0, 1
        (&[0xc4, 0xe3, 0x79, 0x17, 0x07, 1], 4..8),
        (&[0xc4, 0xe3, 0x7d, 0x19, 0x07, 1], 16..32),
        (&[0x62, 0xf3, 0x7d, 0x48, 0x3b, 0x07, 1], 32..64),
    ] {
        let mut m = machine(code, at, 0);
        m.complete();
        let expected: Vec<u8> = expected.map(|n| 0x80 | n).collect();
        assert_eq!(value(&m, expected.len()), expected, "{code:02x?}");
        assert_eq!(m.cpu.get(at + expected.len() as u64, 1), [0]);
    }
    // pextrb eax, xmm0, 5 clears the rest of RAX.
    let mut m = machine(&[0x66, 0x0f, 0x3a, 0x14, 0xc0, 5], 0, 0);
    m.regs.gpr[0] = u64::MAX;
    m.complete();
    assert_eq!(m.regs.gpr[0], 0x85);
    for (code, len, place) in [
        // pinsrb xmm0, [rdi], 5; pinsrw xmm0, [rdi], 3; vpinsrd xmm0, xmm0, [rdi], 1; pinsrq xmm0, [rdi], 1
        (&[0x66, 0x0f, 0x3a, 0x20, 0x07, 5][..], 16, 5..6u8),
        (&[0x66, 0x0f, 0xc4, 0x07, 3], 16, 6..8),
        (&[0xc4, 0xe3, 0x79, 0x22, 0x07, 1], 16, 4..8),
        (&[0x66, 0x48, 0x0f, 0x3a, 0x22, 0x07, 1], 16, 8..16),
        // vinserti128 ymm0, ymm0, [rdi], 1; vinsertf64x4 zmm0, zmm0, [rdi], 1
        (&[0xc4, 0xe3, 0x7d, 0x38, 0x07, 1], 32, 16..32),
        (&[0x62, 0xf3, 0xfd, 0x48, 0x1a, 0x07, 1], 64, 32..64),
    ] {
        let mut m = machine(code, DATA, 0);
        m.complete();
        let first = place.start;
        let expected = bytes(|n| {
            if place.contains(&n) {
                n - first
            } else {
                0x80 | n
            }
        });
        assert_eq!(m.cpu.vectors[0][..len], expected[..len], "{code:02x?}");
    }
}

#[test]
fn sign_bits_choose() {
    // vmaskmovps xmm0, xmm1, [rdi] and vpmaskmovq [rdi], ymm1, ymm0
    let mut m = machine(&[0xc4, 0xe2, 0x71, 0x2c, 0x07], DEVICES, 0);
    m.cpu.vectors[1][7] = 0x80;
    m.cpu.answers = (4..8).collect();
    m.complete();
    assert_eq!(m.cpu.seen, [Seen::MmioRead(DEVICES + 4, 4)]);
    assert_eq!(m.cpu.vectors[0], bytes(|n| if n / 4 == 1 { n } else { 0 }));
    let mut m = machine(&[0xc4, 0xe2, 0xf5, 0x8e, 0x07], DEVICES, 0);
    m.cpu.vectors[1][15] = 0x80;
    m.complete();
    let written = bytes(|n| 0x80 | n)[8..16].to_vec();
    assert_eq!(m.cpu.seen, [Seen::MmioWrite(DEVICES + 8, written)]);
    // maskmovdqu xmm0, xmm1, and maskmovq mm0, mm1
    let mut m = machine(&[0x66, 0x0f, 0xf7, 0xc1], DEVICES, 0);
    m.cpu.vectors[1][3] = 0x80;
    m.cpu.vectors[1][15] = 0xff;
    m.complete();
    let one = |n: u64| Seen::MmioWrite(DEVICES + n, vec![0x80 | n as u8]);
    assert_eq!(m.cpu.seen, [one(3), one(15)]);
    let mut m = machine(&[0x0f, 0xf7, 0xc1], DEVICES, 0);
    m.cpu.mmx[0] = 0x8786_8584_8382_8180;
    m.cpu.mmx[1] = 0x80 << 16;
    m.complete();
    assert_eq!(m.cpu.seen, [one(2)]);
}

#[test]
fn halves_of_single_precision_move() {
    // vmovsh xmm0, [rdi]; vmovsh [rdi], xmm0; vmovw xmm0, [rdi]; vmovw [rdi], xmm0; vmovw eax, xmm0
    for code in [
        [0x62, 0xf5, 0x7e, 0x08, 0x10, 0x07],
        [0x62, 0xf5, 0x7d, 0x08, 0x6e, 0x07],
    ] {
        let mut m = machine(&code, DATA + 2, 0);
        m.complete();
        assert_eq!(m.cpu.vectors[0], bytes(|n| if n < 2 { n + 2 } else { 0 }));
    }
    for code in [
        [0x62, 0xf5, 0x7e, 0x08, 0x11, 0x07],
        [0x62, 0xf5, 0x7d, 0x08, 0x7e, 0x07],
    ] {
        let mut m = machine(&code, DATA + 0x40, 0);
        m.complete();
        assert_eq!(m.cpu.get(DATA + 0x40, 3), [0x80, 0x81, 0]);
    }
    let mut m = machine(&[0x62, 0xf5, 0x7d, 0x08, 0x7e, 0xc0], 0, 0);
    m.regs.gpr[0] = u64::MAX;
    m.complete();
    assert_eq!(m.regs.gpr[0], 0x8180);
    m.regs.rip = CODE;
    m.cpu.without = vec![Feature::Avx512fp16];
    assert_eq!(
        m.start(),
        Outcome::Inject(rkvm_core::exception::Exception::UD, None)
    );
}
