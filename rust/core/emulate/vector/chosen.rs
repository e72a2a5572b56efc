// SPDX-License-Identifier: GPL-2.0

//! Moves of the elements that a vector register chooses by sign bits.
//!
//! SDM volume 2, "VMASKMOV", "VPMASKMOV", "MASKMOVDQU", "MASKMOVQ".

use super::super::exec::Exec;
use super::super::ops::{Access, AccessKind, Feature, Reply};
use super::super::table::Loc;
use super::mask::Mask;
use crate::regs::Gpr;

/// The bytes of the elements of `element` bytes, a power of two, whose sign bit is set in `control`.
fn chosen(control: &[u8], element: usize) -> Mask {
    let mut mask = 0;
    for n in 0..control.len().min(64) {
        let top = n | element.wrapping_sub(1);
        let sign = control.get(top).copied().unwrap_or_default() >> 7;
        mask |= u64::from(sign).wrapping_shl(n as u32);
    }
    Mask(mask)
}

impl Exec<'_> {
    /// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ. What is not chosen is not touched; loads make it 0.
    pub(super) fn choosing_move(&mut self) -> Reply {
        self.check_vector()?;
        let insn = self.insn;
        let element = match insn.opcode {
            0x2c | 0x2e => 4,
            0x2d | 0x2f => 8,
            _ => {
                self.need(Feature::Avx2)?;
                match insn.wide() {
                    true => 8,
                    false => 4,
                }
            }
        };
        let bytes = self.vector_bytes();
        let mut control = [0u8; 32];
        let control = control.get_mut(..bytes).unwrap_or_default();
        self.ops.read_vector(self.vector_vvvv(), control)?;
        let mask = chosen(control, element);
        let at = self.effective_address();
        let mut value = [0u8; 32];
        let value = value.get_mut(..bytes).unwrap_or_default();
        if insn.entry.dst == Loc::Reg {
            self.read_masked(at, value, mask)?;
            return self.ops.write_vector(self.vector_reg(), value, true);
        }
        self.ops.read_vector(self.vector_reg(), value)?;
        self.write_masked(at, value, mask)
    }

    /// MASKMOVDQU and MASKMOVQ: the chosen bytes, to where rDI points.
    pub(super) fn choosing_store(&mut self) -> Reply {
        let at = self.named(Gpr::Rdi, self.insn.address);
        if !self.insn.opsize_prefix {
            self.check_mmx()?;
            let control = self.ops.read_mmx(self.rm_register() & 7)?.to_le_bytes();
            let value = self.ops.read_mmx(self.insn.reg & 7)?.to_le_bytes();
            return self.store_chosen(at, &value, chosen(&control, 1));
        }
        self.check_vector()?;
        let mut control = [0u8; 16];
        self.ops.read_vector(self.vector_rm(), &mut control)?;
        let mut value = [0u8; 16];
        self.ops.read_vector(self.vector_reg(), &mut value)?;
        self.store_chosen(at, &value, chosen(&control, 1))
    }

    /// Stores the chosen ones of 8 or 16 bytes. The processor takes eight at a time, the upper ones first, and wants all of
    /// them to be writable and aligned.
    fn store_chosen(&mut self, at: u64, value: &[u8], mask: Mask) -> Reply {
        for start in (0..value.len()).step_by(8).rev() {
            let first = self.run_address(at, start, 8, AccessKind::Write)?;
            self.check_alignment(first, 8)?;
            self.check_run(at, start, 8, Access::WRITE)?;
        }
        self.write_masked(at, value, mask)
    }
}
