// SPDX-License-Identifier: GPL-2.0

//! Vector moves of a smaller memory operand.
//!
//! SDM volume 2, "MOVSS", "MOVSD", "MOVD/MOVQ", "MOVQ", "MOVLPS", "MOVHPS", "MOVLHPS", "MOVHLPS", "VMOVSH", "VMOVW".

use super::super::exec::Exec;
use super::super::insn::{Encoding, Insn, Rep, Rm};
use super::super::ops::{Feature, Reply};
use super::super::state::Width;
use super::super::table::Op;

/// The bytes of the memory operand of a scalar vector move.
pub(in super::super) fn scalar_size(insn: &Insn) -> u8 {
    match (insn.opcode, insn.rep) {
        _ if insn.entry.op == Op::VecHalf => 2,
        (0x10 | 0x11, Rep::Rep) => 4,
        (0x6e | 0x7e, Rep::None) if !insn.wide() => 4,
        _ => 8,
    }
}

impl Exec<'_> {
    /// A move of one element: MOVSS, MOVSD, MOVLPS, MOVHPS and their kin, MOVD and MOVQ.
    pub(super) fn scalar_move(&mut self) -> Reply {
        self.check_vector()?;
        let insn = self.insn;
        if insn.entry.op == Op::VecHalf {
            self.need(Feature::Avx512fp16)?;
        }
        let width = match scalar_size(insn) {
            2 => Width::B2,
            4 => Width::B4,
            _ => Width::B8,
        };
        match (insn.opcode, insn.rep) {
            // Between a general register or memory and the low element.
            (0x6e, _) => {
                let value = self.rm(width)?;
                self.set_low(self.vector_reg(), u128::from(value))
            }
            (0x7e, Rep::None) => {
                let value = self.vector(self.vector_reg())? as u64;
                if let (Rm::Reg(r), Width::B2) = (insn.rm, width) {
                    self.set_reg(r, Width::B4, value & 0xffff);
                    return Ok(());
                }
                self.set_rm(width, value)
            }
            // MOVQ between vector registers or memory.
            (0x7e, _) => {
                let value = self.vector_element(width, 0)?;
                self.set_low(self.vector_reg(), u128::from(value))
            }
            (0xd6, _) => match insn.rm {
                Rm::Reg(_) => {
                    let value = self.vector(self.vector_reg())? as u64;
                    let rm = self.vector_rm();
                    self.set_low(rm, u128::from(value))
                }
                Rm::Mem => self.store_element(width, 0),
            },
            (0x10 | 0x11, _) => self.single_move(width),
            (0x13, _) => self.store_element(width, 0),
            (0x17, _) => self.store_element(width, 64),
            _ => self.half_move(width),
        }
    }

    /// MOVSS and MOVSD, of which EVEX can mask the element.
    fn single_move(&mut self, width: Width) -> Reply {
        let load = self.insn.opcode == 0x10;
        let reg = self.vector_reg();
        let moves = match (self.insn.encoding, self.insn.opmask) {
            (Encoding::Evex, k @ 1..) => self.ops.read_opmask(k)? & 1 != 0,
            _ => true,
        };
        let low = u128::from(width.mask());
        let (to, from, rest) = if self.insn.rm == Rm::Mem {
            if !load {
                return if moves {
                    self.store_element(width, 0)
                } else {
                    Ok(())
                };
            }
            let from = if moves { self.rm(width)? } else { 0 };
            (reg, u128::from(from), 0)
        } else {
            let rm = self.vector_rm();
            let (to, from) = if load { (reg, rm) } else { (rm, reg) };
            (to, self.vector(from)?, self.other_half(to)?)
        };
        let from = if moves {
            from
        } else if self.insn.zeroing {
            0
        } else {
            self.vector(to)?
        };
        self.set_low(to, (rest & !low) | (from & low))
    }

    /// MOVLPS, MOVLPD, MOVHLPS, MOVHPS, MOVHPD, MOVLHPS to a register.
    fn half_move(&mut self, width: Width) -> Reply {
        let high = self.insn.opcode == 0x16;
        // The register forms take the other half of their source.
        let value = u128::from(self.vector_element(width, if high { 0 } else { 64 })?);
        let rest = self.other_half(self.vector_reg())?;
        let low = u128::from(u64::MAX);
        let value = if high {
            (rest & low) | value.wrapping_shl(64)
        } else {
            (rest & !low) | value
        };
        self.set_low(self.vector_reg(), value)
    }

    /// What a move of a part leaves in the destination: its own content, or that of VEX.vvvv.
    pub(super) fn other_half(&mut self, to: u8) -> Reply<u128> {
        match self.insn.encoding {
            Encoding::Legacy => self.vector(to),
            _ => self.vector(self.vector_vvvv()),
        }
    }

    /// The low 128 bits of a vector register.
    pub(super) fn vector(&mut self, r: u8) -> Reply<u128> {
        let mut raw = [0u8; 16];
        self.ops.read_vector(r, &mut raw)?;
        Ok(u128::from_le_bytes(raw))
    }

    /// Replaces the low 128 bits of a vector register; VEX and EVEX forms clear the rest.
    pub(super) fn set_low(&mut self, r: u8, value: u128) -> Reply {
        let clear = self.insn.encoding != Encoding::Legacy;
        self.ops.write_vector(r, &value.to_le_bytes(), clear)
    }

    /// The source element: memory, or 64 bits of a register from bit `from` on.
    fn vector_element(&mut self, width: Width, from: u32) -> Reply<u64> {
        match self.insn.rm {
            Rm::Reg(_) => {
                let rm = self.vector_rm();
                Ok(self.vector(rm)?.wrapping_shr(from) as u64)
            }
            Rm::Mem => self.rm(width),
        }
    }

    /// Stores bits of the register in ModRM.reg from bit `from` on.
    fn store_element(&mut self, width: Width, from: u32) -> Reply {
        let value = self.vector(self.vector_reg())?.wrapping_shr(from) as u64;
        self.set_rm(width, value)
    }
}
