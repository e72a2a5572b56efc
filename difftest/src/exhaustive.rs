// SPDX-License-Identifier: GPL-2.0

//! The arithmetic kernels beside the processor: bytes with every operand and every carry, the wider widths with every
//! pair of values at which a bit pattern changes its character.
//!
//! Documentation/emulator.rst ("Arithmetic") says why the two together are enough.

use crate::mirror::Mirror;
use crate::native::CODE;
use rkvm_core::emulate::*;
use rkvm_core::exception::Vector;
use rkvm_core::regs::rflags::{AF, CF, OF, PF, SF, ZF};
use std::arch::asm;

const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// RAX, RCX, RDX.
type Operands = [u64; 3];

/// Runs an instruction on the processor with these operands and flags; the flags that follow.
type Native = fn(&mut Operands, u64) -> u64;

macro_rules! native {
    ($text:expr) => {{
        fn run(regs: &mut Operands, flags: u64) -> u64 {
            let mut flags = flags | 0x202;
            // SAFETY: The instruction works on RAX, RCX, RDX and the flags, which are those of an ordinary program.
            unsafe {
                asm!(
                    "push {f}",
                    "popfq",
                    $text,
                    "pushfq",
                    "pop {f}",
                    f = inout(reg) flags,
                    inout("rax") regs[0],
                    inout("rcx") regs[1],
                    inout("rdx") regs[2],
                );
            }
            flags & STATUS
        }
        run as Native
    }};
}

/// One instruction in the four widths: the processor's, and the ModRM.reg or opcode of the emulator's.
struct Kernel {
    name: &'static str,
    /// Opcode of the byte form; that of the wider ones is one more.
    opcode: u8,
    modrm: u8,
    native: [Native; 4],
    /// Flags that the SDM leaves undefined, by the operands.
    undefined: fn(width: Width, regs: &Operands) -> u64,
}

macro_rules! kernel {
    ($name:literal, $opcode:literal, $modrm:literal, $operands:tt, $undefined:expr) => {
        Kernel {
            name: $name,
            opcode: $opcode,
            modrm: $modrm,
            native: kernel!(@ $name, $operands),
            undefined: $undefined,
        }
    };
    (@ $name:literal, (a, c)) => {
        [native!(concat!($name, " al, cl")), native!(concat!($name, " ax, cx")),
         native!(concat!($name, " eax, ecx")), native!(concat!($name, " rax, rcx"))]
    };
    (@ $name:literal, (a, count)) => {
        [native!(concat!($name, " al, cl")), native!(concat!($name, " ax, cl")),
         native!(concat!($name, " eax, cl")), native!(concat!($name, " rax, cl"))]
    };
    (@ $name:literal, (a)) => {
        [native!(concat!($name, " al")), native!(concat!($name, " ax")),
         native!(concat!($name, " eax")), native!(concat!($name, " rax"))]
    };
    (@ $name:literal, (c)) => {
        [native!(concat!($name, " cl")), native!(concat!($name, " cx")),
         native!(concat!($name, " ecx")), native!(concat!($name, " rcx"))]
    };
}

fn none(_: Width, _: &Operands) -> u64 {
    0
}

fn only_af(_: Width, _: &Operands) -> u64 {
    AF
}

fn count(width: Width, regs: &Operands) -> u64 {
    regs[1] & if width == Width::B8 { 63 } else { 31 }
}

fn of_shift(width: Width, regs: &Operands) -> u64 {
    let n = count(width, regs);
    let of = if n == 1 { 0 } else { OF };
    let cf = if n >= width.bits().into() { CF } else { 0 };
    if n == 0 {
        0
    } else {
        AF | of | cf
    }
}

fn of_rotation(width: Width, regs: &Operands) -> u64 {
    if count(width, regs) <= 1 {
        0
    } else {
        OF
    }
}

fn binary() -> Vec<Kernel> {
    vec![
        kernel!("add", 0x00, 0xc8, (a, c), none),
        kernel!("or", 0x08, 0xc8, (a, c), only_af),
        kernel!("adc", 0x10, 0xc8, (a, c), none),
        kernel!("sbb", 0x18, 0xc8, (a, c), none),
        kernel!("and", 0x20, 0xc8, (a, c), only_af),
        kernel!("sub", 0x28, 0xc8, (a, c), none),
        kernel!("xor", 0x30, 0xc8, (a, c), only_af),
        kernel!("cmp", 0x38, 0xc8, (a, c), none),
        kernel!("test", 0x84, 0xc8, (a, c), only_af),
        kernel!("mul", 0xf6, 0xe1, (c), |_, _| SF | ZF | AF | PF),
        kernel!("imul", 0xf6, 0xe9, (c), |_, _| SF | ZF | AF | PF),
        kernel!("inc", 0xfe, 0xc0, (a), none),
        kernel!("dec", 0xfe, 0xc8, (a), none),
        kernel!("not", 0xf6, 0xd0, (a), none),
        kernel!("neg", 0xf6, 0xd8, (a), none),
    ]
}

fn shifts() -> Vec<Kernel> {
    vec![
        kernel!("rol", 0xd2, 0xc0, (a, count), of_rotation),
        kernel!("ror", 0xd2, 0xc8, (a, count), of_rotation),
        kernel!("rcl", 0xd2, 0xd0, (a, count), of_rotation),
        kernel!("rcr", 0xd2, 0xd8, (a, count), of_rotation),
        kernel!("shl", 0xd2, 0xe0, (a, count), of_shift),
        kernel!("shr", 0xd2, 0xe8, (a, count), of_shift),
        kernel!("sar", 0xd2, 0xf8, (a, count), |w, r| of_shift(w, r) & !CF),
    ]
}

const WIDTHS: [Width; 4] = [Width::B1, Width::B2, Width::B4, Width::B8];

/// The emulator with one instruction.
struct Emulated {
    emulator: Emulator,
    mirror: Mirror,
}

impl Emulated {
    fn new(opcode: u8, modrm: u8, width: Width) -> Self {
        let wide = opcode | 1;
        let code: &[u8] = match width {
            Width::B1 => &[opcode, modrm],
            Width::B2 => &[0x66, wide, modrm],
            Width::B4 => &[wide, modrm],
            Width::B8 => &[0x48, wide, modrm],
        };
        let mut mirror = Mirror::new();
        mirror.code[..code.len()].copy_from_slice(code);
        Self {
            emulator: Emulator::new(),
            mirror,
        }
    }

    /// The flags that follow, or `None` for #DE.
    fn run(&mut self, operands: &mut Operands, flags: u64) -> Option<u64> {
        let mut regs = Regs {
            rip: CODE + 0x800,
            rflags: flags | 0x202,
            ..Regs::default()
        };
        regs.gpr[..3].copy_from_slice(operands);
        let end = self
            .emulator
            .start(&mut regs, &mut self.mirror, Cause::Exit);
        match end {
            Outcome::Completed(_) => {
                operands.copy_from_slice(&regs.gpr[..3]);
                Some(regs.rflags & STATUS)
            }
            Outcome::Inject(e, None) if e.vector == Vector::De => None,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs a kernel both ways on all operands that `cases` gives.
fn compare(kernel: &Kernel, width: Width, cases: impl Iterator<Item = Operands>) {
    let mut emulated = Emulated::new(kernel.opcode, kernel.modrm, width);
    let native = kernel.native[width.bytes().trailing_zeros() as usize];
    for operands in cases {
        let kept = (kernel.undefined)(width, &operands);
        for flags in [0, CF, STATUS] {
            let (mut ours, mut theirs) = (operands, operands);
            let our_flags = emulated.run(&mut ours, flags).expect("no fault");
            let their_flags = native(&mut theirs, flags);
            assert_eq!(
                (ours, our_flags & !kept),
                (theirs, their_flags & !kept),
                "{} {width:?} of {operands:x?} with flags {flags:x}",
                kernel.name
            );
        }
    }
}

/// Every pair of bytes; what lies above them must not matter.
fn all_bytes() -> impl Iterator<Item = Operands> {
    (0..1u64 << 16).map(|n| [n & 0xff | 0x5a5a_5a00, n >> 8 | 0xa5a5_0000, 0x1234])
}

/// Values of a width at which something changes: single bits and their neighbours, runs of ones, signs, patterns.
fn borders(width: Width) -> Vec<u64> {
    let mut all = vec![
        0x5555_5555_5555_5555,
        0xaaaa_aaaa_aaaa_aaaa,
        0x0123_4567_89ab_cdef,
    ];
    for bit in 0..width.bits() {
        let one = 1u64 << bit;
        all.extend([one, one - 1, one.wrapping_neg(), !one]);
    }
    for v in &mut all {
        *v &= width.mask();
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn border_pairs(width: Width) -> impl Iterator<Item = Operands> {
    let all = borders(width);
    let second = all.clone();
    all.into_iter()
        .flat_map(move |a| second.clone().into_iter().map(move |b| [a, b, 0x1234]))
}

/// Border values with every count.
fn border_counts(width: Width) -> impl Iterator<Item = Operands> {
    borders(width)
        .into_iter()
        .flat_map(|a| (0..256).map(move |n| [a, n, 0x1234]))
}

#[test]
fn bytes_with_every_operand() {
    for kernel in binary().iter().chain(&shifts()) {
        compare(kernel, Width::B1, all_bytes());
    }
}

#[test]
fn wider_operands_at_their_borders() {
    for width in WIDTHS {
        for kernel in binary() {
            compare(&kernel, width, border_pairs(width));
        }
        for kernel in shifts() {
            compare(&kernel, width, border_counts(width));
        }
    }
}

/// Quotient and remainder in a wider type; `None` for #DE.
fn divide(dividend: i128, divisor: i128, least: i128, most: i128) -> Option<(i128, i128)> {
    let quotient = dividend.checked_div(divisor)?;
    (least..=most)
        .contains(&quotient)
        .then(|| (quotient, dividend % divisor))
}

fn signed(value: u128, bits: u32) -> i128 {
    let shift = 128 - bits;
    (value << shift) as i128 >> shift
}

/// DIV (or IDIV) of the double-width `dividend` against arithmetic in a wider type; the flags are undefined.
fn compare_division(
    emulated: &mut Emulated,
    is_signed: bool,
    width: Width,
    dividend: u128,
    divisor: u64,
) {
    let bits = width.bits();
    let mask = u128::from(width.mask());
    let expected = if is_signed {
        let most = i128::from(width.mask() >> 1);
        let (n, d) = (signed(dividend, 2 * bits), signed(divisor.into(), bits));
        divide(n, d, -most - 1, most)
    } else if divisor == 0 {
        None
    } else {
        let (q, r) = (
            dividend / u128::from(divisor),
            dividend % u128::from(divisor),
        );
        (q <= mask).then_some((q as i128, r as i128))
    };
    let (low, high) = ((dividend & mask) as u64, (dividend >> bits & mask) as u64);
    let mut regs = match width {
        Width::B1 => [low | high << 8, divisor, 0],
        _ => [low, divisor, high],
    };
    let done = emulated.run(&mut regs, 0).is_some();
    let result = done.then(|| match width {
        Width::B1 => (regs[0] & 0xff, regs[0] >> 8 & 0xff),
        _ => (regs[0], regs[2]),
    });
    let expected = expected.map(|(q, r)| ((q as u128 & mask) as u64, (r as u128 & mask) as u64));
    assert_eq!(
        result, expected,
        "{width:?} {dividend:x} by {divisor:x}, signed {is_signed}"
    );
}

#[test]
fn every_division_of_bytes() {
    for (modrm, is_signed) in [(0xf1, false), (0xf9, true)] {
        let mut emulated = Emulated::new(0xf6, modrm, Width::B1);
        for dividend in 0..1 << 16 {
            for divisor in 0..256 {
                compare_division(&mut emulated, is_signed, Width::B1, dividend, divisor);
            }
        }
    }
}

#[test]
fn wider_divisions_at_their_borders() {
    for (modrm, is_signed) in [(0xf1, false), (0xf9, true)] {
        for width in WIDTHS {
            let mut emulated = Emulated::new(0xf6, modrm, width);
            let values = borders(width);
            for high in &values {
                for low in values.iter().step_by(3) {
                    let dividend = u128::from(*high) << width.bits() | u128::from(*low);
                    for divisor in values.iter().step_by(2) {
                        compare_division(&mut emulated, is_signed, width, dividend, *divisor);
                    }
                }
            }
        }
    }
}

#[test]
fn double_shifts_at_their_borders() {
    let natives: [[Native; 3]; 2] = [
        [
            native!("shld ax, dx, cl"),
            native!("shld eax, edx, cl"),
            native!("shld rax, rdx, cl"),
        ],
        [
            native!("shrd ax, dx, cl"),
            native!("shrd eax, edx, cl"),
            native!("shrd rax, rdx, cl"),
        ],
    ];
    for (opcode, natives) in [0xa5, 0xad].into_iter().zip(natives) {
        for (width, native) in WIDTHS[1..].iter().zip(natives) {
            let mut emulated = Emulated::new(0, 0, Width::B1);
            let prefix: &[u8] = match width {
                Width::B2 => &[0x66],
                Width::B8 => &[0x48],
                _ => &[],
            };
            let code = [prefix, &[0x0f, opcode, 0xd0]].concat();
            emulated.mirror.code[..code.len()].copy_from_slice(&code);
            let values = borders(*width);
            for a in values.iter() {
                for d in values.iter().step_by(5) {
                    // Counts above 16 leave the result of 16 bits undefined.
                    for n in (0..64).filter(|n| *width != Width::B2 || n & 31 <= 16) {
                        let operands = [*a, n, *d];
                        let kept = match count(*width, &operands) {
                            0 => 0,
                            1 => AF,
                            _ => AF | OF,
                        };
                        let (mut ours, mut theirs) = (operands, operands);
                        let our_flags = emulated.run(&mut ours, CF).expect("no fault");
                        let their_flags = native(&mut theirs, CF);
                        assert_eq!(
                            (ours, our_flags & !kept),
                            (theirs, their_flags & !kept),
                            "{opcode:x} {width:?} of {operands:x?}"
                        );
                    }
                }
            }
        }
    }
}

/// The decimal instructions as the SDM writes them down: AX and the flags AF and CF that follow.
fn decimal(opcode: u8, ax: u16, base: u8, af: bool, cf: bool) -> Option<(u16, bool, bool)> {
    let [al, ah] = ax.to_le_bytes();
    let adjust = al & 0xf > 9 || af;
    Some(match opcode {
        0x27 => {
            let carry = al > 0x99 || cf;
            let low = if adjust { al.wrapping_add(6) } else { al };
            let r = if carry { low.wrapping_add(0x60) } else { low };
            (u16::from_le_bytes([r, ah]), adjust, carry)
        }
        0x2f => {
            let (mut r, mut carry) = (al, false);
            if adjust {
                let (difference, under) = r.overflowing_sub(6);
                (r, carry) = (difference, cf || under);
            }
            if al > 0x99 || cf {
                (r, carry) = (r.wrapping_sub(0x60), true);
            }
            (u16::from_le_bytes([r, ah]), adjust, carry)
        }
        0x37 if adjust => (ax.wrapping_add(0x106) & 0xff0f, true, true),
        0x3f if adjust => (ax.wrapping_sub(0x106) & 0xff0f, true, true),
        0x37 | 0x3f => (ax & 0xff0f, false, false),
        0xd4 => (
            u16::from_le_bytes([al.checked_rem(base)?, al.checked_div(base)?]),
            af,
            cf,
        ),
        _ => (al.wrapping_add(ah.wrapping_mul(base)).into(), af, cf),
    })
}

#[test]
fn decimal_instructions_with_every_operand() {
    for opcode in [0x27, 0x2f, 0x37, 0x3f, 0xd4, 0xd5] {
        let bases = if opcode >= 0xd4 { 0..=255 } else { 10..=10 };
        // The last two leave AF and CF undefined. 17 divides 65535: every value of AL comes, and every one of AH.
        let step = if opcode >= 0xd4 { 17 } else { 1 };
        for base in bases {
            let mut emulated = Emulated::new(0, 0, Width::B1);
            emulated.mirror.mode = Mode::Prot32;
            emulated.mirror.code[..2].copy_from_slice(&[opcode, base]);
            for ax in (0..=u16::MAX).step_by(step) {
                for flags in [0, AF, CF, AF | CF] {
                    let (af, cf) = (flags & AF != 0, flags & CF != 0);
                    let expected = decimal(opcode, ax, base, af, cf);
                    let mut regs = [u64::from(ax), 0, 0];
                    let after = emulated.run(&mut regs, flags);
                    let result = after.map(|f| match opcode {
                        0xd4 | 0xd5 => (regs[0] as u16, af, cf),
                        _ => (regs[0] as u16, f & AF != 0, f & CF != 0),
                    });
                    assert_eq!(
                        result, expected,
                        "{opcode:x} {base:x} of {ax:x}, flags {flags:x}"
                    );
                }
            }
        }
    }
}
