// SPDX-License-Identifier: GPL-2.0

//! EVEX masks: which bytes of a vector move, and memory operands of which only those are touched.
//!
//! SDM volume 2, "Opmask Register Encoding", "Masking Support", "Exception Classifications of EVEX-Encoded
//! instructions" (fault suppression).

use super::super::exec::Exec;
use super::super::memory::segment_fault;
use super::super::ops::{Access, AccessKind, Reply};
use crate::addr::Gva;

/// The bytes of a vector that a masked move moves, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask(pub(super) u64);

impl Mask {
    /// The first `bytes` bytes.
    pub(super) fn all(bytes: usize) -> Self {
        Self(match bytes {
            64.. => u64::MAX,
            _ => 1u64.wrapping_shl(bytes as u32).wrapping_sub(1),
        })
    }

    /// What an opmask register with a bit for each element of `element` bytes, a power of two, says of `bytes` bytes.
    pub(super) fn of(opmask: u64, element: usize, bytes: usize) -> Self {
        let shift = element.trailing_zeros();
        let mut mask = 0;
        for n in 0..bytes.min(64) as u32 {
            let bit = opmask.wrapping_shr(n.wrapping_shr(shift)) & 1;
            mask |= bit.wrapping_shl(n);
        }
        Self(mask)
    }

    /// Whether byte `n` moves.
    pub(super) fn has(self, n: usize) -> bool {
        n < 64 && self.0.wrapping_shr(n as u32) & 1 != 0
    }

    /// The part of it that is about the first `bytes` bytes.
    pub(super) fn first(self, bytes: usize) -> Self {
        Self(self.0 & Self::all(bytes).0)
    }

    /// The bytes of a part of `size`, a power of two, that are moved in any of its repetitions.
    pub(super) fn folded(self, size: usize) -> Self {
        let mut all = 0;
        for n in (0..64u32).step_by(size.clamp(1, 64)) {
            all |= self.0.wrapping_shr(n);
        }
        Self(all).first(size)
    }

    /// Takes the first run of bytes off: where it begins and how long it is.
    fn next_run(&mut self) -> Option<(usize, usize)> {
        if self.0 == 0 {
            return None;
        }
        let start = self.0.trailing_zeros();
        let len = self.0.wrapping_shr(start).trailing_ones();
        let end = start.wrapping_add(len);
        self.0 &= match end {
            64.. => 0,
            _ => u64::MAX.wrapping_shl(end),
        };
        Some((start as usize, len as usize))
    }
}

impl Exec<'_> {
    /// The linear addresses of the runs of `mask` in the operand at `offset` are checked, and their pages.
    fn check_runs(&mut self, offset: u64, mut mask: Mask, access: Access) -> Reply {
        while let Some((start, len)) = mask.next_run() {
            self.check_run(offset, start, len, access)?;
        }
        Ok(())
    }

    /// Checks `len` bytes from byte `start` of the operand at `offset`, and their pages.
    pub(super) fn check_run(
        &mut self,
        offset: u64,
        start: usize,
        len: usize,
        access: Access,
    ) -> Reply {
        let at = self.run_address(offset, start, len, access.kind)?;
        self.probe_bytes(at, len as u64, access)
    }

    /// The linear address of `len` bytes from byte `start` of the operand at `offset`.
    pub(super) fn run_address(
        &mut self,
        offset: u64,
        start: usize,
        len: usize,
        kind: AccessKind,
    ) -> Reply<Gva> {
        let offset = offset.wrapping_add(start as u64) & self.insn.address.mask();
        self.linear(self.insn.segment, offset, len as u64, kind)
    }

    /// Reads the bytes of `mask` of the operand at `offset`; the others of `into` stay, and can't fault.
    pub(super) fn read_masked(&mut self, offset: u64, into: &mut [u8], mask: Mask) -> Reply {
        self.check_runs(offset, mask, Access::READ)?;
        let mut left = mask;
        while let Some((start, len)) = left.next_run() {
            let at = self.run_address(offset, start, len, AccessKind::Read)?;
            let Some(part) = into.get_mut(start..start.wrapping_add(len)) else {
                return Err(segment_fault(self.insn.segment));
            };
            self.read_bytes(at, part, Access::READ)?;
        }
        Ok(())
    }

    /// Writes the bytes of `mask` to the operand at `offset`; the others can't fault.
    pub(super) fn write_masked(&mut self, offset: u64, from: &[u8], mask: Mask) -> Reply {
        self.check_runs(offset, mask, Access::WRITE)?;
        let mut left = mask;
        while let Some((start, len)) = left.next_run() {
            let at = self.run_address(offset, start, len, AccessKind::Write)?;
            let Some(part) = from.get(start..start.wrapping_add(len)) else {
                return Err(segment_fault(self.insn.segment));
            };
            self.write_bytes(at, part, Access::WRITE)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Mask;

    #[test]
    fn opmask_bits_become_bytes() {
        assert_eq!(Mask::of(0b101, 4, 16), Mask(0x0f0f));
        assert_eq!(Mask::of(u64::MAX, 8, 64), Mask::all(64));
        assert_eq!(Mask::of(1 << 63, 1, 64), Mask(1 << 63));
        assert_eq!(Mask::of(0xff, 2, 16), Mask::all(16));
    }

    #[test]
    fn repetitions_fold() {
        assert_eq!(Mask(0x0f00_f000).folded(16), Mask(0xff00));
        assert_eq!(Mask(1 << 63 | 1).folded(32), Mask(1 << 31 | 1));
        assert_eq!(Mask(0).folded(4), Mask(0));
        assert_eq!(Mask(1 << 63).folded(1), Mask(1));
    }

    #[test]
    fn runs_cover_the_mask_once() {
        for mask in [0, 1, 0x0f0f, u64::MAX, 1 << 63, 0xff00_0000_0000_00f0] {
            let (mut left, mut seen) = (Mask(mask), 0u64);
            let mut end = 0;
            while let Some((start, len)) = left.next_run() {
                assert!(len > 0 && (start > end || start == 0), "{mask:x}");
                seen |= Mask::all(len).0 << start;
                end = start + len;
            }
            assert_eq!(seen, mask);
        }
    }
}
