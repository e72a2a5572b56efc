// SPDX-License-Identifier: GPL-2.0

//! Moves between vector registers and memory: guests copy to and from device memory with them.
//!
//! SDM volume 2, "MOVAPS", "MOVUPS", "MOVDQA", "MOVDQU", "MOVNTDQ", "LDDQU", "MOVSS", "MOVQ", ...

mod chosen;
mod mask;
mod mmx;
mod parts;
mod scalar;

pub(super) use parts::part_size_of;
pub(super) use scalar::scalar_size;

use crate::addr::Gva;
use crate::exception::Exception;
use crate::regs::{cr0, cr4};

use super::exec::Exec;
use super::insn::{Encoding, Insn, Rep, Rm};
use super::ops::{Access, AccessKind, Feature, Reply, Stop};
use super::state::{Cr, Mode, Width};
use super::table::{Loc, Op};
use mask::Mask;

/// The bytes of the memory operand of MOVDDUP and its kin with vectors of `bytes`: MOVDDUP reads half of the smallest.
pub(super) fn dup_size(insn: &Insn, bytes: u8) -> u8 {
    match insn.rep {
        Rep::Repne if bytes == 16 => 8,
        _ => bytes,
    }
}

/// XCR0: SSE and AVX state.
const XCR0_AVX: u64 = 6;
/// XCR0: SSE, AVX and the three parts of AVX-512 state.
const XCR0_AVX512: u64 = 0xe6;

impl Exec<'_> {
    /// The vector and MMX moves.
    pub(super) fn vector_move(&mut self, op: Op) -> Reply {
        match op {
            Op::MmxMov => self.mmx_move(),
            Op::VecScalar | Op::VecHalf => self.scalar_move(),
            Op::VecBroadcast => self.broadcast(),
            Op::VecExtract => self.extract(),
            Op::VecInsert => self.insert(),
            Op::VecMaskMov => self.choosing_move(),
            Op::MaskMov => self.choosing_store(),
            Op::VecDup => self.dup_move(),
            _ => self.whole_move(op == Op::VecMovAligned),
        }
    }

    /// #UD and #NM as the encoding demands.
    fn check_vector(&mut self) -> Reply {
        let wanted = match self.insn.encoding {
            Encoding::Legacy => return self.check_sse(),
            Encoding::Vex => XCR0_AVX,
            Encoding::Evex => XCR0_AVX512,
        };
        let enabled = self.cr(Cr::Cr4) & cr4::OSXSAVE != 0
            && self.ops.xcr0() & wanted == wanted
            && match self.insn.encoding {
                Encoding::Vex => self.ops.has(Feature::Avx),
                _ => self.ops.has(Feature::Avx512f),
            };
        if !enabled {
            return Err(Exception::UD.into());
        }
        if self.cr(Cr::Cr0) & cr0::TS != 0 {
            return Err(Exception::NM.into());
        }
        Ok(())
    }

    /// Bytes of a vector of this encoding.
    fn vector_bytes(&self) -> usize {
        match self.insn.encoding {
            Encoding::Legacy => 16,
            _ => usize::from(self.insn.vector_len),
        }
    }

    /// The vector register in ModRM.reg.
    fn vector_reg(&self) -> u8 {
        // EVEX.R' lies in bit 4.
        self.insn.reg | (self.insn.rex & 0x10)
    }

    /// The vector register in ModRM.rm.
    fn vector_rm(&self) -> u8 {
        let r = self.rm_register();
        // EVEX.X extends ModRM.rm of a register operand.
        match self.insn.encoding {
            Encoding::Evex => r | (self.insn.rex & 2) << 3,
            _ => r,
        }
    }

    /// The vector register in VEX.vvvv.
    fn vector_vvvv(&self) -> u8 {
        // EVEX.V' lies in bit 5.
        self.insn.vvvv | (self.insn.rex & 0x20) >> 1
    }

    /// Bytes of an element, of which each has its bit in the mask.
    fn element_bytes(&self) -> usize {
        let insn = self.insn;
        let by_prefix = |if_set, if_clear| if insn.opsize_prefix { if_set } else { if_clear };
        let wide = insn.wide();
        let part = matches!(
            insn.entry.op,
            Op::VecBroadcast | Op::VecExtract | Op::VecInsert
        );
        match (insn.opcode, insn.rep) {
            (0x78, _) if part => 1,
            (0x79, _) if part => 2,
            _ if part && wide => 8,
            _ if part => 4,
            (0x6f | 0x7f, Rep::Repne) if wide => 2,
            (0x6f | 0x7f, Rep::Repne) => 1,
            (0x12 | 0x16, Rep::Repne) => 8,
            (0x12 | 0x16, _) => 4,
            (0x6f | 0x7f, _) if wide => 8,
            (0x6f | 0x7f, _) => 4,
            _ => by_prefix(8, 4),
        }
    }

    /// The mask of this instruction for vectors of `bytes`; #UD for elements that the CPU does not have.
    fn mask(&mut self, bytes: usize) -> Reply<Mask> {
        if self.insn.encoding != Encoding::Evex {
            return Ok(Mask::all(bytes));
        }
        if bytes != 64 {
            self.need(Feature::Avx512vl)?;
        }
        let element = self.element_bytes();
        if element < 4 {
            self.need(Feature::Avx512bw)?;
        }
        if self.insn.opmask == 0 {
            return Ok(Mask::all(bytes));
        }
        let opmask = self.ops.read_opmask(self.insn.opmask)?;
        Ok(Mask::of(opmask, element, bytes))
    }

    /// Puts the bytes of `value` that `mask` has into a register; the others stay or, by EVEX.z, become 0.
    fn merge(&mut self, to: u8, value: &[u8], mask: Mask) -> Reply {
        let mut all = [0u8; 64];
        let Some(all) = all.get_mut(..value.len()) else {
            return Err(Stop::Unhandled);
        };
        if mask != Mask::all(value.len()) && !self.insn.zeroing {
            self.ops.read_vector(to, all)?;
        }
        for ((to, from), n) in all.iter_mut().zip(value).zip(0..64) {
            if mask.has(n) {
                *to = *from;
            }
        }
        let clear = self.insn.encoding != Encoding::Legacy;
        self.ops.write_vector(to, all, clear)
    }

    /// A move of a whole vector.
    fn whole_move(&mut self, aligned: bool) -> Reply {
        self.check_vector()?;
        let bytes = self.vector_bytes();
        let mask = self.mask(bytes)?;
        let mut value = [0u8; 64];
        let Some(value) = value.get_mut(..bytes) else {
            return Err(Stop::Unhandled);
        };
        let reg = self.vector_reg();
        let load = self.insn.entry.dst == Loc::Reg;
        if self.insn.rm != Rm::Mem {
            let rm = self.vector_rm();
            let (from, to) = if load { (rm, reg) } else { (reg, rm) };
            self.ops.read_vector(from, value)?;
            return self.merge(to, value, mask);
        }
        let aligned = if aligned { bytes } else { 1 };
        if load {
            self.load_vector(value, mask, aligned)?;
            return self.merge(reg, value, mask);
        }
        self.ops.read_vector(reg, value)?;
        if mask != Mask::all(bytes) {
            self.check_masked_alignment(mask, aligned)?;
            let at = self.effective_address();
            return self.write_masked(at, value, mask);
        }
        let at = self.vector_address(bytes, aligned, AccessKind::Write)?;
        self.write_bytes(at, value, Access::WRITE)
    }

    /// Reads the bytes of the memory operand that `mask` has; #GP(0) unless its address is a multiple of `aligned`.
    fn load_vector(&mut self, value: &mut [u8], mask: Mask, aligned: usize) -> Reply {
        if mask != Mask::all(value.len()) {
            self.check_masked_alignment(mask, aligned)?;
            let at = self.effective_address();
            return self.read_masked(at, value, mask);
        }
        let at = self.vector_address(value.len(), aligned, AccessKind::Read)?;
        self.read_bytes(at, value, Access::READ)
    }

    /// The alignment of an operand of which nothing is moved does not matter.
    fn check_masked_alignment(&mut self, mask: Mask, aligned: usize) -> Reply {
        if mask != Mask(0) && self.is_misaligned(aligned) {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }

    /// Whether the memory operand is at no multiple of `aligned`, a power of two.
    fn is_misaligned(&mut self, aligned: usize) -> bool {
        let base = self.base_of(self.insn.segment);
        let at = base.wrapping_add(self.effective_address());
        at & (aligned as u64).wrapping_sub(1) != 0
    }

    /// The linear address of the memory operand.
    fn vector_address(&mut self, bytes: usize, aligned: usize, kind: AccessKind) -> Reply<Gva> {
        // Alignment is checked before the address is found not to be canonical, but after the segment's limit.
        let misaligned = self.is_misaligned(aligned);
        if misaligned && self.mode == Mode::Long64 {
            return Err(Exception::GP0.into());
        }
        let offset = self.effective_address();
        let at = self.linear(self.insn.segment, offset, bytes as u64, kind)?;
        if misaligned {
            return Err(Exception::GP0.into());
        }
        Ok(at)
    }

    /// MOVDDUP, MOVSLDUP, MOVSHDUP: each even or each odd element twice. Masks suppress no faults here.
    fn dup_move(&mut self) -> Reply {
        self.check_vector()?;
        let insn = self.insn;
        let legacy = insn.encoding == Encoding::Legacy;
        if legacy {
            self.need(Feature::Sse3)?;
        }
        let bytes = self.vector_bytes();
        let mask = self.mask(bytes)?;
        let mut source = [0u8; 64];
        if insn.rm == Rm::Mem {
            let size = usize::from(dup_size(insn, bytes as u8));
            let from = source.get_mut(..size).unwrap_or_default();
            if size == 8 {
                let value = self.rm(Width::B8)?;
                for (to, byte) in from.iter_mut().zip(value.to_le_bytes()) {
                    *to = byte;
                }
            } else {
                let aligned = if legacy { bytes } else { 1 };
                self.load_vector(from, Mask::all(size), aligned)?;
            }
        } else {
            let rm = self.vector_rm();
            let from = source.get_mut(..bytes).unwrap_or_default();
            self.ops.read_vector(rm, from)?;
        }
        // The bit of a byte's number that tells even from odd elements.
        let odd = self.element_bytes();
        let mut value = [0u8; 64];
        for (to, n) in value.iter_mut().zip(0..64) {
            let from = if insn.opcode == 0x16 {
                n | odd
            } else {
                n & !odd
            };
            *to = source.get(from).copied().unwrap_or_default();
        }
        let value = value.get(..bytes).unwrap_or_default();
        self.merge(self.vector_reg(), value, mask)
    }
}
