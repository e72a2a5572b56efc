// SPDX-License-Identifier: GPL-2.0

//! Integer arithmetic with flags: pure functions of operands, width and old RFLAGS.
//!
//! SDM volume 2, the "Flags Affected" part of each instruction. Flags that the SDM leaves undefined get what recent
//! Intel processors were seen to give where that is simple, and are listed in Documentation/emulator.rst.

use crate::regs::rflags::{AF, CF, OF, PF, SF, ZF};

use super::state::Width;

/// The six flags that arithmetic changes.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// `flag` if `condition`.
#[inline]
pub(crate) const fn flag_if(condition: bool, flag: u64) -> u64 {
    if condition {
        flag
    } else {
        0
    }
}

/// SF, ZF and PF of a result.
#[inline]
pub(crate) const fn result_flags(result: u64, width: Width) -> u64 {
    let r = result & width.mask();
    let parity = flag_if((r as u8).count_ones() & 1 == 0, PF);
    flag_if(r == 0, ZF) | flag_if(r & width.sign() != 0, SF) | parity
}

/// `a + b + carry`; the sum and the status flags.
#[inline]
pub(crate) const fn add(a: u64, b: u64, carry: bool, width: Width) -> (u64, u64) {
    let r = a.wrapping_add(b).wrapping_add(carry as u64);
    let carries = (a & b) | ((a | b) & !r);
    let overflow = (a ^ r) & (b ^ r);
    let flags = result_flags(r, width)
        | flag_if(carries & width.sign() != 0, CF)
        | flag_if(overflow & width.sign() != 0, OF)
        | ((a ^ b ^ r) & AF);
    (r & width.mask(), flags)
}

/// `a - b - borrow`; the difference and the status flags.
#[inline]
pub(crate) const fn sub(a: u64, b: u64, borrow: bool, width: Width) -> (u64, u64) {
    let r = a.wrapping_sub(b).wrapping_sub(borrow as u64);
    let borrows = (!a & b) | ((!a | b) & r);
    let overflow = (a ^ b) & (a ^ r);
    let flags = result_flags(r, width)
        | flag_if(borrows & width.sign() != 0, CF)
        | flag_if(overflow & width.sign() != 0, OF)
        | ((a ^ b ^ r) & AF);
    (r & width.mask(), flags)
}

/// Status flags of AND, OR, XOR and TEST: CF and OF are cleared, AF (undefined) too.
#[inline]
pub(crate) const fn logic(result: u64, width: Width) -> (u64, u64) {
    (result & width.mask(), result_flags(result, width))
}

/// What a shift or rotate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the SDM's mnemonics
pub(crate) enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// A shift or rotate of `a` by `count` (unmasked); the result and the new status flags in `flags`.
///
/// With a masked count of 0 nothing changes. OF is defined for a count of 1 only; for others it follows the same
/// formula.
pub(crate) const fn shift(kind: Shift, a: u64, count: u8, width: Width, flags: u64) -> (u64, u64) {
    let bits = width.bits();
    let limit = if matches!(width, Width::B8) { 63 } else { 31 };
    let n = (count & limit) as u32;
    let a = a & width.mask();
    if n == 0 {
        return (a, flags);
    }
    match kind {
        Shift::Rol | Shift::Ror => rotate(matches!(kind, Shift::Rol), a, n, width, flags),
        Shift::Rcl | Shift::Rcr => rotate_carry(matches!(kind, Shift::Rcl), a, n, width, flags),
        Shift::Shl => {
            let wide = (a as u128).wrapping_shl(n);
            let r = (wide as u64) & width.mask();
            let carry = n <= bits && wide.wrapping_shr(bits) & 1 != 0;
            let overflow = (r & width.sign() != 0) != carry;
            (r, shifted(r, carry, overflow, width, flags))
        }
        Shift::Shr => {
            let r = if n >= 64 { 0 } else { a.wrapping_shr(n) };
            let carry = a.wrapping_shr(n.wrapping_sub(1)) & 1 != 0;
            let overflow = a & width.sign() != 0;
            (r, shifted(r, carry, overflow, width, flags))
        }
        Shift::Sar => {
            let s = width.sign_extend(a) as i64;
            let r = s.wrapping_shr(n) as u64 & width.mask();
            let carry = s.wrapping_shr(n.wrapping_sub(1)) & 1 != 0;
            (r, shifted(r, carry, false, width, flags))
        }
    }
}

/// Flags of SHL, SHR and SAR; AF (undefined) is cleared.
const fn shifted(r: u64, carry: bool, overflow: bool, width: Width, flags: u64) -> u64 {
    (flags & !STATUS) | result_flags(r, width) | flag_if(carry, CF) | flag_if(overflow, OF)
}

/// ROL and ROR by 1 to 63: only CF and OF change.
const fn rotate(left: bool, a: u64, n: u32, width: Width, flags: u64) -> (u64, u64) {
    let bits = width.bits();
    let n = n & bits.wrapping_sub(1);
    let back = bits.wrapping_sub(n) & bits.wrapping_sub(1);
    let r = if left {
        a.wrapping_shl(n) | a.wrapping_shr(back)
    } else {
        a.wrapping_shr(n) | a.wrapping_shl(back)
    } & width.mask();
    let top = r & width.sign() != 0;
    let (carry, overflow) = if left {
        let carry = r & 1 != 0;
        (carry, carry != top)
    } else {
        let second = r & width.sign().wrapping_shr(1) != 0;
        (top, top != second)
    };
    let kept = flags & !(CF | OF);
    (r, kept | flag_if(carry, CF) | flag_if(overflow, OF))
}

/// RCL and RCR by 1 to 63: a rotation of width + 1 bits.
const fn rotate_carry(left: bool, a: u64, n: u32, width: Width, flags: u64) -> (u64, u64) {
    let bits = width.bits();
    let ring = bits.wrapping_add(1);
    let n = match width {
        Width::B1 => n % 9,
        Width::B2 => n % 17,
        _ => n,
    };
    if n == 0 {
        // A whole turn: the value and CF stay; OF follows its formula.
        let carry = flags & CF != 0;
        let overflow = overflow_of_rotation(left, a, carry, width);
        return (a, (flags & !OF) | flag_if(overflow, OF));
    }
    let all = (a as u128) | (((flags & CF) as u128).wrapping_shl(bits));
    let rest = ring.wrapping_sub(n);
    let turned = if left {
        all.wrapping_shl(n) | all.wrapping_shr(rest)
    } else {
        all.wrapping_shr(n) | all.wrapping_shl(rest)
    };
    let r = turned as u64 & width.mask();
    let carry = turned.wrapping_shr(bits) & 1 != 0;
    let overflow = overflow_of_rotation(left, r, carry, width);
    let kept = flags & !(CF | OF);
    (r, kept | flag_if(carry, CF) | flag_if(overflow, OF))
}

const fn overflow_of_rotation(left: bool, r: u64, carry: bool, width: Width) -> bool {
    let top = r & width.sign() != 0;
    if left {
        top != carry
    } else {
        top != (r & width.sign().wrapping_shr(1) != 0)
    }
}

/// SHLD (`left`) or SHRD of `a` with bits from `b`; as [`shift()`]. A count above the width of 16-bit operands is
/// undefined and gives what a shift of the doubled operands gives.
pub(crate) const fn shift_double(
    left: bool,
    a: u64,
    b: u64,
    count: u8,
    width: Width,
    flags: u64,
) -> (u64, u64) {
    let bits = width.bits();
    let limit = if matches!(width, Width::B8) { 63 } else { 31 };
    let n = (count & limit) as u32;
    let a = a & width.mask();
    let b = b & width.mask();
    if n == 0 {
        return (a, flags);
    }
    let (r, carry) = if left {
        // a:b:a, so that counts above 16 have something to shift in.
        let high = (a as u128).wrapping_shl(bits) | b as u128;
        let (wide, top) = if bits == 16 {
            (high.wrapping_shl(16) | a as u128, 48u32)
        } else {
            (high, bits.wrapping_mul(2))
        };
        let start = top.wrapping_sub(n);
        let r = wide.wrapping_shr(start.wrapping_sub(bits)) as u64 & width.mask();
        (r, wide.wrapping_shr(start) & 1 != 0)
    } else {
        let low = (b as u128).wrapping_shl(bits) | a as u128;
        let wide = if bits == 16 {
            low | (a as u128).wrapping_shl(32)
        } else {
            low
        };
        let r = wide.wrapping_shr(n) as u64 & width.mask();
        (r, wide.wrapping_shr(n.wrapping_sub(1)) & 1 != 0)
    };
    let overflow = (a ^ r) & width.sign() != 0;
    (r, shifted(r, carry, overflow, width, flags))
}

/// Whether a condition code (low four bits of Jcc, SETcc, CMOVcc) holds.
#[inline]
pub(crate) const fn condition(code: u8, flags: u64) -> bool {
    let less = (flags & SF != 0) != (flags & OF != 0);
    let holds = match code >> 1 & 7 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => flags & ZF != 0 || less,
    };
    holds != (code & 1 != 0)
}
