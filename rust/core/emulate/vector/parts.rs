// SPDX-License-Identifier: GPL-2.0

//! Moves between memory or a register and a part of a vector: broadcasts, inserts and extracts.
//!
//! SDM volume 2, "VBROADCAST", "VPBROADCAST", "PEXTRB/PEXTRD/PEXTRQ", "PEXTRW", "EXTRACTPS", "PINSRB/PINSRD/PINSRQ",
//! "PINSRW", "VEXTRACTF128/VEXTRACTF32x4/...", "VINSERTF128/VINSERTF32x4/...".

use super::super::exec::Exec;
use super::super::insn::{Encoding, Insn, Rm};
use super::super::ops::{Access, AccessKind, Feature, Reply, Stop};
use super::super::state::{Mode, Width};
use super::super::table::Op;
use super::mask::Mask;
use crate::addr::Gva;

/// The bytes of the part of a vector that is moved or repeated.
fn part_size(insn: &Insn) -> u8 {
    part_size_of(insn.entry.op, insn)
}

/// The same for an instruction whose operation, `op`, is not in its row yet.
pub(in super::super) fn part_size_of(op: Op, insn: &Insn) -> u8 {
    match (op, insn.opcode) {
        (Op::VecBroadcast, 0x78) => 1,
        (Op::VecBroadcast, 0x18 | 0x58) => 4,
        (Op::VecBroadcast, 0x19 | 0x59) => 8,
        (Op::VecBroadcast, 0x1a | 0x5a) => 16,
        (Op::VecBroadcast, 0x1b | 0x5b) => 32,
        (Op::VecExtract, 0x14) | (Op::VecInsert, 0x20) => 1,
        (Op::VecExtract, 0x17) => 4,
        (Op::VecExtract, 0x16) | (Op::VecInsert, 0x22) => match insn.wide() {
            true => 8,
            false => 4,
        },
        (Op::VecExtract, 0x19 | 0x39) | (Op::VecInsert, 0x18 | 0x38) => 16,
        (Op::VecExtract, 0x1b | 0x3b) | (Op::VecInsert, 0x1a | 0x3a) => 32,
        _ => 2,
    }
}

/// The width of a part of at most 8 bytes.
fn part_width(size: usize) -> Option<Width> {
    match size {
        1 => Some(Width::B1),
        2 => Some(Width::B2),
        4 => Some(Width::B4),
        8 => Some(Width::B8),
        _ => None,
    }
}

impl Exec<'_> {
    /// What has the instruction, besides AVX or AVX-512F.
    fn part_feature(&self) -> Option<Feature> {
        let insn = self.insn;
        let register = insn.rm != Rm::Mem;
        let dq_if = |wanted| (insn.wide() == wanted).then_some(Feature::Avx512dq);
        match (insn.encoding, insn.opcode) {
            (Encoding::Legacy, 0xc4) => Some(Feature::Sse2),
            (Encoding::Legacy, _) => Some(Feature::Sse41),
            (Encoding::Vex, 0x18 | 0x19) if insn.entry.op == Op::VecBroadcast => {
                register.then_some(Feature::Avx2)
            }
            (Encoding::Vex, 0x38 | 0x39 | 0x58 | 0x59 | 0x5a | 0x78 | 0x79) => Some(Feature::Avx2),
            (Encoding::Vex, _) => None,
            (Encoding::Evex, 0x14 | 0x15 | 0x20 | 0xc4 | 0x78 | 0x79) => Some(Feature::Avx512bw),
            (Encoding::Evex, 0x16 | 0x22) => Some(Feature::Avx512dq),
            (Encoding::Evex, 0x17 | 0x58) => None,
            (Encoding::Evex, 0x18) if insn.entry.op == Op::VecBroadcast => None,
            (Encoding::Evex, 0x19 | 0x59) if insn.entry.op == Op::VecBroadcast => dq_if(false),
            (Encoding::Evex, 0x18 | 0x19 | 0x38 | 0x39) => dq_if(true),
            // Of two elements of 8 bytes, or of eight of 4.
            (Encoding::Evex, _) => dq_if(part_size(insn) == 16),
        }
    }

    /// #UD and #NM.
    fn check_part(&mut self) -> Reply {
        self.check_vector()?;
        match self.part_feature() {
            Some(feature) => self.need(feature),
            None => Ok(()),
        }
    }

    /// A broadcast: every part of the vector becomes the source.
    pub(super) fn broadcast(&mut self) -> Reply {
        self.check_part()?;
        let bytes = self.vector_bytes();
        let mask = self.mask(bytes)?;
        let size = usize::from(part_size(self.insn));
        let mut source = [0u8; 64];
        if self.insn.rm == Rm::Mem {
            let part = source.get_mut(..size).unwrap_or_default();
            self.load_part(part, mask.folded(size))?;
        } else {
            let rm = self.vector_rm();
            let low = source.get_mut(..16).unwrap_or_default();
            self.ops.read_vector(rm, low)?;
        }
        let mut value = [0u8; 64];
        for (to, n) in value.iter_mut().zip(0..64usize) {
            let from = n & size.wrapping_sub(1);
            *to = source.get(from).copied().unwrap_or_default();
        }
        let value = value.get(..bytes).unwrap_or_default();
        self.merge(self.vector_reg(), value, mask)
    }

    /// Reads the bytes of the memory operand that `wanted` has.
    fn load_part(&mut self, part: &mut [u8], wanted: Mask) -> Reply {
        if wanted == Mask(0) {
            return Ok(());
        }
        let Some(width) = part_width(part.len()) else {
            return self.load_vector(part, wanted, 1);
        };
        if wanted != Mask::all(part.len()) {
            // One element of two: the alignment is still that of both.
            let at = self.base_of(self.insn.segment);
            let at = at.wrapping_add(self.effective_address());
            if self.mode == Mode::Long64 {
                self.check_canonical(self.insn.segment, at)?;
            }
            self.check_alignment(Gva(at), part.len() as u64)?;
            return self.load_vector(part, wanted, 1);
        }
        let value = self.rm(width)?;
        for (to, byte) in part.iter_mut().zip(value.to_le_bytes()) {
            *to = byte;
        }
        Ok(())
    }

    /// Where the part that the immediate chooses begins in a vector of `bytes`.
    fn chosen(&self, bytes: usize, size: usize) -> usize {
        // Both are powers of two.
        let parts = bytes.wrapping_shr(size.trailing_zeros());
        (self.insn.imm as usize & parts.wrapping_sub(1)).wrapping_mul(size)
    }

    /// An extract: a part of a vector to memory or a register.
    pub(super) fn extract(&mut self) -> Reply {
        self.check_part()?;
        let size = usize::from(part_size(self.insn));
        let Some(width) = part_width(size) else {
            return self.extract_lane(size);
        };
        let shift = self.chosen(16, size).wrapping_mul(8);
        let value = self.vector(self.vector_reg())?.wrapping_shr(shift as u32) as u64;
        match self.insn.rm {
            // Zero-extended.
            Rm::Reg(r) => {
                self.set_reg(r, width.max(Width::B4), value & width.mask());
                Ok(())
            }
            Rm::Mem => self.set_rm(width, value),
        }
    }

    /// An extract of 16 or 32 bytes.
    fn extract_lane(&mut self, size: usize) -> Reply {
        let bytes = self.vector_bytes();
        let mask = self.mask(bytes)?.first(size);
        let mut all = [0u8; 64];
        let all = all.get_mut(..bytes).unwrap_or_default();
        self.ops.read_vector(self.vector_reg(), all)?;
        let start = self.chosen(bytes, size);
        let Some(lane) = all.get(start..start.wrapping_add(size)) else {
            return Err(Stop::Unhandled);
        };
        if self.insn.rm != Rm::Mem {
            return self.merge(self.vector_rm(), lane, mask);
        }
        if mask != Mask::all(size) {
            // What is masked out is not written, but faults.
            let at = self.effective_address();
            self.check_run(at, 0, size, Access::WRITE)?;
            return self.write_masked(at, lane, mask);
        }
        let at = self.vector_address(size, 1, AccessKind::Write)?;
        self.write_bytes(at, lane, Access::WRITE)
    }

    /// An insert: a part of a vector from memory or a register, the rest from another vector.
    pub(super) fn insert(&mut self) -> Reply {
        self.check_part()?;
        let size = usize::from(part_size(self.insn));
        let Some(width) = part_width(size) else {
            return self.insert_lane(size);
        };
        let value = match self.insn.rm {
            Rm::Reg(r) => self.gpr(r) & width.mask(),
            Rm::Mem => self.rm(width)?,
        };
        let shift = self.chosen(16, size).wrapping_mul(8) as u32;
        let rest = self.other_half(self.vector_reg())?;
        let hole = u128::from(width.mask()).wrapping_shl(shift);
        let value = (rest & !hole) | u128::from(value).wrapping_shl(shift);
        self.set_low(self.vector_reg(), value)
    }

    /// An insert of 16 or 32 bytes.
    fn insert_lane(&mut self, size: usize) -> Reply {
        let bytes = self.vector_bytes();
        let mask = self.mask(bytes)?;
        let mut lane = [0u8; 32];
        let lane = lane.get_mut(..size).unwrap_or_default();
        if self.insn.rm == Rm::Mem {
            // A mask suppresses no faults here.
            self.load_vector(lane, Mask::all(size), 1)?;
        } else {
            self.ops.read_vector(self.vector_rm(), lane)?;
        }
        let mut all = [0u8; 64];
        let all = all.get_mut(..bytes).unwrap_or_default();
        self.ops.read_vector(self.vector_vvvv(), all)?;
        let start = self.chosen(bytes, size);
        match all.get_mut(start..start.wrapping_add(size)) {
            Some(hole) => hole.copy_from_slice(lane),
            None => return Err(Stop::Unhandled),
        }
        self.merge(self.vector_reg(), all, mask)
    }
}
