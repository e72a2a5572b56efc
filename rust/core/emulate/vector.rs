// SPDX-License-Identifier: GPL-2.0

//! Moves between vector registers and memory: guests copy to and from device memory with them.
//!
//! SDM volume 2, "MOVAPS", "MOVUPS", "MOVDQA", "MOVDQU", "MOVNTDQ", "LDDQU", "MOVSS", "MOVQ", ...

use crate::exception::Exception;
use crate::regs::{cr0, cr4};

use super::exec::Exec;
use super::insn::{Encoding, Insn, Rep, Rm};
use super::ops::{Access, AccessKind, Feature, Reply, Stop};
use super::state::{Cr, Mode, Width};
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
            Op::VecScalar => self.scalar_move(),
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
        // Alignment is checked before the address is found not to be canonical, but after the segment's limit.
        let misaligned = aligned && {
            let base = self.base_of(self.insn.segment);
            base.wrapping_add(offset) & (bytes as u64).wrapping_sub(1) != 0
        };
        if misaligned && self.mode == Mode::Long64 {
            return Err(Exception::GP0.into());
        }
        let at = self.linear(self.insn.segment, offset, bytes as u64, kind)?;
        if misaligned {
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

    /// A move of one element: MOVSS, MOVSD, MOVLPS, MOVHPS and their kin, MOVD and MOVQ.
    fn scalar_move(&mut self) -> Reply {
        self.check_vector()?;
        let insn = self.insn;
        let width = match scalar_size(insn) {
            4 => Width::B4,
            _ => Width::B8,
        };
        match (insn.opcode, insn.rep) {
            // Between a general register or memory and the low element.
            (0x6e, _) => {
                let value = self.rm(width)?;
                self.set_low(self.insn.reg, u128::from(value))
            }
            (0x7e, Rep::None) => {
                let value = self.vector(insn.reg)? as u64;
                self.set_rm(width, value)
            }
            // MOVQ between vector registers or memory.
            (0x7e, _) => {
                let value = self.vector_element(width, 0)?;
                self.set_low(insn.reg, u128::from(value))
            }
            (0xd6, _) => match insn.rm {
                Rm::Reg(r) => {
                    let value = self.vector(insn.reg)? as u64;
                    self.set_low(r, u128::from(value))
                }
                Rm::Mem => self.store_element(width, 0),
            },
            (0x10 | 0x11, _) => self.single_move(width),
            (0x13, _) => self.store_element(width, 0),
            (0x17, _) => self.store_element(width, 64),
            _ => self.half_move(width),
        }
    }

    /// MOVSS and MOVSD.
    fn single_move(&mut self, width: Width) -> Reply {
        let load = self.insn.opcode == 0x10;
        let Rm::Reg(rm) = self.insn.rm else {
            if load {
                let value = self.vector_element(width, 0)?;
                return self.set_low(self.insn.reg, u128::from(value));
            }
            return self.store_element(width, 0);
        };
        let (from, to) = if load {
            (rm, self.insn.reg)
        } else {
            (self.insn.reg, rm)
        };
        let mask = u128::from(width.mask());
        let value = (self.other_half(to)? & !mask) | (self.vector(from)? & mask);
        self.set_low(to, value)
    }

    /// MOVLPS, MOVLPD, MOVHLPS, MOVHPS, MOVHPD, MOVLHPS to a register.
    fn half_move(&mut self, width: Width) -> Reply {
        let high = self.insn.opcode == 0x16;
        // The register forms take the other half of their source.
        let value = u128::from(self.vector_element(width, if high { 0 } else { 64 })?);
        let rest = self.other_half(self.insn.reg)?;
        let low = u128::from(u64::MAX);
        let value = if high {
            (rest & low) | value.wrapping_shl(64)
        } else {
            (rest & !low) | value
        };
        self.set_low(self.insn.reg, value)
    }

    /// What a move of a part leaves in the destination: its own content, or that of VEX.vvvv.
    fn other_half(&mut self, to: u8) -> Reply<u128> {
        match self.insn.encoding {
            Encoding::Legacy => self.vector(to),
            _ => self.vector(self.insn.vvvv),
        }
    }

    /// The low 128 bits of a vector register.
    fn vector(&mut self, r: u8) -> Reply<u128> {
        let mut raw = [0u8; 16];
        self.ops.read_vector(r, &mut raw)?;
        Ok(u128::from_le_bytes(raw))
    }

    /// Replaces the low 128 bits of a vector register; VEX forms clear the rest.
    fn set_low(&mut self, r: u8, value: u128) -> Reply {
        let clear = self.insn.encoding != Encoding::Legacy;
        self.ops.write_vector(r, &value.to_le_bytes(), clear)
    }

    /// The source element: memory, or 64 bits of a register from bit `from` on.
    fn vector_element(&mut self, width: Width, from: u32) -> Reply<u64> {
        match self.insn.rm {
            Rm::Reg(r) => Ok(self.vector(r)?.wrapping_shr(from) as u64),
            Rm::Mem => self.rm(width),
        }
    }

    /// Stores bits of the register in ModRM.reg from bit `from` on.
    fn store_element(&mut self, width: Width, from: u32) -> Reply {
        let value = self.vector(self.insn.reg)?.wrapping_shr(from) as u64;
        self.set_rm(width, value)
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
        let load = self.insn.entry.dst == Loc::Reg;
        let reg = self.insn.reg & 7;
        if self.insn.opcode == 0x6e || self.insn.opcode == 0x7e {
            // MOVD and MOVQ between MMX and a general register or memory.
            let width = if self.insn.wide() {
                Width::B8
            } else {
                Width::B4
            };
            if load {
                let value = self.rm(width)?;
                return self.ops.write_mmx(reg, value);
            }
            let value = self.ops.read_mmx(reg)?;
            return self.set_rm(width, value);
        }
        let width = Width::B8;
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
