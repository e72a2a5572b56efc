// SPDX-License-Identifier: GPL-2.0

//! Moves between vector registers and memory: guests copy to and from device memory with them.
//!
//! SDM volume 2, "MOVAPS", "MOVUPS", "MOVDQA", "MOVDQU", "MOVNTDQ", "LDDQU", "MOVSS", "MOVQ", ...

use crate::exception::Exception;
use crate::regs::{cr0, cr4};

use super::exec::Exec;
use super::insn::{Encoding, Insn, Rep, Rm};
use super::ops::{Access, AccessKind, Feature, Reply, Stop};
use super::state::Cr;
use super::table::{Loc, Op};

/// The bytes of the memory operand of a scalar vector move.
pub(super) fn scalar_size(insn: &Insn) -> u8 {
    match (insn.opcode, insn.rep) {
        (0x10 | 0x11, Rep::Rep) => 4,
        (0x6e | 0x7e, Rep::None) if !insn.wide() => 4,
        _ => 8,
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
            Op::VecScalar => {
                self.check_vector()?;
                Err(Stop::Unhandled)
            }
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
        if !enabled || self.insn.vvvv != 0 {
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

    /// A move of a whole vector.
    fn whole_move(&mut self, aligned: bool) -> Reply {
        self.check_vector()?;
        // Masked forms and broadcasts are beyond the emulator.
        if self.insn.encoding == Encoding::Evex
            && (self.insn.opmask != 0 || self.insn.zeroing || self.insn.rex & 0x40 != 0)
        {
            return Err(Stop::Unhandled);
        }
        let clear = self.insn.encoding != Encoding::Legacy;
        let bytes = self.vector_bytes();
        let mut value = [0u8; 64];
        let Some(value) = value.get_mut(..bytes) else {
            return Err(Stop::Unhandled);
        };
        let reg = self.vector_reg();
        let load = self.insn.entry.dst == Loc::Reg;
        if let Rm::Reg(rm) = self.insn.rm {
            // EVEX.X extends ModRM.rm of a register operand.
            let rm = if self.insn.encoding == Encoding::Evex {
                rm | (self.insn.rex & 2) << 3
            } else {
                rm
            };
            let (from, to) = if load { (rm, reg) } else { (reg, rm) };
            self.ops.read_vector(from, value)?;
            return self.ops.write_vector(to, value, clear);
        }
        let offset = self.effective_address();
        let kind = if load {
            AccessKind::Read
        } else {
            AccessKind::Write
        };
        let at = self.linear(self.insn.segment, offset, bytes as u64, kind)?;
        if aligned && at.0 & (bytes as u64).wrapping_sub(1) != 0 {
            return Err(Exception::GP0.into());
        }
        if load {
            self.read_bytes(at, value, Access::READ)?;
            self.ops.write_vector(reg, value, clear)
        } else {
            self.ops.read_vector(reg, value)?;
            self.write_bytes(at, value, Access::WRITE)
        }
    }

    /// MOVQ, MOVD and MOVNTQ of MMX.
    fn mmx_move(&mut self) -> Reply {
        let c0 = self.cr(Cr::Cr0);
        if c0 & cr0::EM != 0 {
            return Err(Exception::UD.into());
        }
        if c0 & cr0::TS != 0 {
            return Err(Exception::NM.into());
        }
        if self.insn.opcode == 0x6e || self.insn.opcode == 0x7e {
            return Err(Stop::Unhandled);
        }
        let load = self.insn.entry.dst == Loc::Reg;
        let reg = self.insn.reg & 7;
        let width = super::state::Width::B8;
        match (self.insn.rm, load) {
            (Rm::Reg(rm), true) => {
                let value = self.ops.read_mmx(rm & 7)?;
                self.ops.write_mmx(reg, value)
            }
            (Rm::Reg(rm), false) => {
                let value = self.ops.read_mmx(reg)?;
                self.ops.write_mmx(rm & 7, value)
            }
            (Rm::Mem, true) => {
                let at = self.effective_address();
                let value = self.load(self.insn.segment, at, width, Access::READ)?;
                self.ops.write_mmx(reg, value)
            }
            (Rm::Mem, false) => {
                let value = self.ops.read_mmx(reg)?;
                let at = self.effective_address();
                self.store(self.insn.segment, at, width, value)
            }
        }
    }
}
