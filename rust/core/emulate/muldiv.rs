// SPDX-License-Identifier: GPL-2.0

//! Multiplication and division. There is no 128-bit division in the kernel, so the long form is done bit by bit.

use crate::regs::rflags::{CF, OF};

use super::alu::{flag_if, result_flags};
use super::state::Width;

/// Unsigned `a * b`: low half, high half, status flags. CF and OF tell that the high half is not 0; the flags that
/// the SDM leaves undefined follow the low half.
pub(crate) const fn mul(a: u64, b: u64, width: Width) -> (u64, u64, u64) {
    let product = ((a & width.mask()) as u128).wrapping_mul((b & width.mask()) as u128);
    let low = product as u64 & width.mask();
    let high = product.wrapping_shr(width.bits()) as u64 & width.mask();
    let flags = result_flags(low, width) | flag_if(high != 0, CF | OF);
    (low, high, flags)
}

/// Signed `a * b`: low half, high half, status flags. CF and OF tell that the low half does not hold the product.
pub(crate) const fn imul(a: u64, b: u64, width: Width) -> (u64, u64, u64) {
    let x = width.sign_extend(a) as i64 as i128;
    let y = width.sign_extend(b) as i64 as i128;
    let product = x.wrapping_mul(y);
    let low = product as u64 & width.mask();
    let high = product.wrapping_shr(width.bits()) as u64 & width.mask();
    let fits = width.sign_extend(low) as i64 as i128 == product;
    let flags = result_flags(low, width) | flag_if(!fits, CF | OF);
    (low, high, flags)
}

/// Unsigned `high:low / divisor`: quotient and remainder, or `None` for #DE.
pub(crate) const fn div(high: u64, low: u64, divisor: u64, width: Width) -> Option<(u64, u64)> {
    let d = divisor & width.mask();
    let h = high & width.mask();
    let l = low & width.mask();
    // A quotient that does not fit, which includes a divisor of 0.
    if h >= d {
        return None;
    }
    if !matches!(width, Width::B8) {
        let n = h.wrapping_shl(width.bits()) | l;
        return match (n.checked_div(d), n.checked_rem(d)) {
            (Some(q), Some(r)) => Some((q, r)),
            _ => None,
        };
    }
    if h == 0 {
        return match (l.checked_div(d), l.checked_rem(d)) {
            (Some(q), Some(r)) => Some((q, r)),
            _ => None,
        };
    }
    let mut rest = h;
    let mut quotient = 0u64;
    let mut bit = 64u32;
    while bit > 0 {
        bit = bit.wrapping_sub(1);
        let carry = rest & 1 << 63 != 0;
        rest = rest.wrapping_shl(1) | (l.wrapping_shr(bit) & 1);
        quotient = quotient.wrapping_shl(1);
        if carry || rest >= d {
            rest = rest.wrapping_sub(d);
            quotient |= 1;
        }
    }
    Some((quotient, rest))
}

/// Signed `high:low / divisor`, truncated: quotient and remainder, or `None` for #DE.
pub(crate) const fn idiv(high: u64, low: u64, divisor: u64, width: Width) -> Option<(u64, u64)> {
    let mask = width.mask();
    let negative = high & width.sign() != 0;
    let (h, l) = if negative {
        negate_pair(high, low, width)
    } else {
        (high & mask, low & mask)
    };
    let d = width.sign_extend(divisor) as i64;
    let (q, r) = match div(h, l, d.unsigned_abs(), width) {
        Some(qr) => qr,
        None => return None,
    };
    let quotient_negative = negative != (d < 0);
    let largest = if quotient_negative {
        width.sign()
    } else {
        width.sign().wrapping_sub(1)
    };
    if q > largest {
        return None;
    }
    let q = if quotient_negative {
        q.wrapping_neg()
    } else {
        q
    };
    let r = if negative { r.wrapping_neg() } else { r };
    Some((q & mask, r & mask))
}

/// The two's complement of a double-width number.
const fn negate_pair(high: u64, low: u64, width: Width) -> (u64, u64) {
    let l = low.wrapping_neg() & width.mask();
    let h = if l == 0 { high.wrapping_neg() } else { !high };
    (h & width.mask(), l)
}
