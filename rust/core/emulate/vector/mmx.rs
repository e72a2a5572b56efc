// SPDX-License-Identifier: GPL-2.0

//! Moves between MMX registers, general registers and memory.
//!
//! SDM volume 2, "MOVD/MOVQ", "MOVQ", "MOVNTQ".

use crate::exception::Exception;
use crate::regs::cr0;

use super::super::exec::Exec;
use super::super::insn::Rm;
use super::super::ops::{Access, Reply};
use super::super::state::{Cr, Width};
use super::super::table::Loc;

impl Exec<'_> {
    /// #UD and #NM.
    pub(super) fn check_mmx(&mut self) -> Reply {
        let c0 = self.cr(Cr::Cr0);
        if c0 & cr0::EM != 0 {
            return Err(Exception::UD.into());
        }
        if c0 & cr0::TS != 0 {
            return Err(Exception::NM.into());
        }
        Ok(())
    }

    /// MOVQ, MOVD and MOVNTQ of MMX.
    pub(super) fn mmx_move(&mut self) -> Reply {
        self.check_mmx()?;
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
