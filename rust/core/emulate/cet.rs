// SPDX-License-Identifier: GPL-2.0

//! Control-flow enforcement of near branches: the shadow stack and the tracker of indirect branches.
//!
//! SDM volume 1, "Control-flow Enforcement Technology (CET)"; volume 2, "CALL", "RET", "JMP", "ENDBR32", "ENDBR64",
//! "RDSSPD/RDSSPQ". Control transfers that change CS or the privilege are refused while CR4.CET is set.

use crate::addr::Gva;
use crate::exception::{cpec, Exception};
use crate::regs::{cet, cr4, SegReg};

use super::exec::Exec;
use super::ops::{Access, Reply, Stop};
use super::state::{Cr, Mode, Width};
use super::table::Op;

/// Control-flow enforcement at the current privilege. It applies in protected and long mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cet {
    /// IA32_U_CET at CPL 3, IA32_S_CET below.
    pub control: u64,
    /// The shadow-stack pointer, a multiple of 4.
    pub ssp: u64,
}

impl Cet {
    /// Whether there is a shadow stack (the SDM's ShadowStackEnabled).
    pub(super) fn has_shadow_stack(&self) -> bool {
        self.control & cet::SH_STK_EN != 0
    }

    /// Whether the next instruction has to be an ENDBRANCH.
    fn waits(&self) -> bool {
        let both = cet::ENDBR_EN | cet::TRACKER;
        self.control & both == both
    }

    /// An indirect branch is taken, perhaps with the no-track prefix.
    pub(super) fn track(&mut self, no_track: bool) {
        let enabled = self.control & (cet::ENDBR_EN | cet::SUPPRESS) == cet::ENDBR_EN;
        let exempt = no_track && self.control & cet::NO_TRACK_EN != 0;
        if enabled && !exempt {
            self.control |= cet::TRACKER;
        }
    }

    /// An indirect branch has led into legacy code.
    fn reach_legacy_code(&mut self) {
        self.control &= !cet::TRACKER;
        if self.control & cet::SUPPRESS_DIS == 0 {
            self.control |= cet::SUPPRESS;
        }
    }
}

/// The width of an element of the shadow stack: a 16-bit return address has 32 bits there.
fn element(width: Width) -> Width {
    width.max(Width::B4)
}

impl Exec<'_> {
    /// The state of control-flow enforcement with what this instruction has changed already; `None` if it is off.
    pub(super) fn cet(&mut self) -> Reply<Option<Cet>> {
        if self.cet.is_some() || self.mode.is_real_like() {
            return Ok(self.cet);
        }
        self.ops.cet()
    }

    /// What far transfers, fast system calls and task switches do to shadow stacks and trackers is not emulated.
    pub(super) fn refuse_if_enforced(&mut self) -> Reply {
        if self.cr(Cr::Cr4) & cr4::CET != 0 {
            return Err(Stop::Unhandled);
        }
        Ok(())
    }

    /// #CP(ENDBRANCH) if an indirect branch has led here and here is no ENDBRANCH (SDM, "Indirect Branch Tracking").
    /// INT3 may stand in its place. `decoded`: there is an instruction.
    pub(super) fn expect_endbranch(&mut self, decoded: bool) -> Reply {
        let Some(mut cet) = self.cet()?.filter(Cet::waits) else {
            return Ok(());
        };
        if decoded && (self.is_endbranch() || self.insn.entry.op == Op::Int3) {
            return Ok(());
        }
        if cet.control & cet::LEG_IW_EN == 0 || !self.is_legacy_code(&cet)? {
            return Err(Exception::cp(cpec::ENDBRANCH).into());
        }
        cet.reach_legacy_code();
        self.cet = Some(cet);
        Ok(())
    }

    /// Whether this is the ENDBRANCH of the mode.
    fn is_endbranch(&self) -> bool {
        let modrm = match self.mode {
            Mode::Long64 => 0xfa,
            _ => 0xfb,
        };
        self.insn.entry.op == Op::Endbr && self.insn.modrm == modrm
    }

    /// Whether the bitmap has a bit for the page of this instruction (SDM, "Legacy Compatibility Treatment").
    fn is_legacy_code(&mut self, cet: &Cet) -> Reply<bool> {
        // What an exit has said of the instruction's operand is not said of this one.
        self.ops.decoded(false);
        let (long, wide) = (self.mode == Mode::Long64, self.cr(Cr::Cr4) & cr4::LA57 != 0);
        let used = match (long, wide) {
            (true, true) => u64::MAX >> 7,
            (true, false) => u64::MAX >> 16,
            _ => u64::MAX >> 32,
        };
        let page = (self.base_of(SegReg::Cs).wrapping_add(self.regs.rip) & used) >> 12;
        let at = (cet.control & cet::EB_LEG_BITMAP_BASE).wrapping_add(page >> 3);
        let at = self.flat_address(at, 1)?;
        let bits = self.read_linear(at, Width::B1, Access::READ)?;
        Ok(bits.wrapping_shr(page as u32 & 7) & 1 != 0)
    }

    /// ENDBR32, ENDBR64, RDSSP; each does nothing where it does not apply.
    pub(super) fn endbranch(&mut self) -> Reply {
        let Some(mut cet) = self.cet()? else {
            return Ok(());
        };
        let rdssp = self.insn.modrm & 0xf8 == 0xc8;
        if self.is_endbranch() && cet.control & cet::ENDBR_EN != 0 {
            cet.control &= !(cet::TRACKER | cet::SUPPRESS);
            self.cet = Some(cet);
        } else if rdssp && cet.has_shadow_stack() {
            let width = match self.insn.wide() {
                true => Width::B8,
                false => Width::B4,
            };
            let r = self.rm_register();
            self.set_reg(r, width, cet.ssp);
        }
        Ok(())
    }

    /// Moves SSP down for a return address of a branch of `width`; where that goes, which can be written.
    pub(super) fn shadow_push_slot(&mut self, cet: &mut Cet, width: Width) -> Reply<Gva> {
        let bytes = u64::from(element(width).bytes());
        let at = self.flat_address(cet.ssp.wrapping_sub(bytes), bytes)?;
        self.probe_bytes(at, bytes, Access::SHADOW_WRITE)?;
        cet.ssp = at.0;
        Ok(at)
    }

    /// Writes the return address of a branch of `width` to its place.
    pub(super) fn write_shadow(&mut self, slot: Gva, width: Width, value: u64) -> Reply {
        let raw = (value & width.mask()).to_le_bytes();
        let data = raw.get(..element(width).size()).unwrap_or_default();
        self.write_bytes(slot, data, Access::SHADOW_WRITE)
    }

    /// Takes the return address of a branch of `width` off the shadow stack.
    pub(super) fn shadow_pop(&mut self, cet: &mut Cet, width: Width) -> Reply<u64> {
        let width = element(width);
        let bytes = u64::from(width.bytes());
        let at = self.flat_address(cet.ssp, bytes)?;
        let value = self.read_linear(at, width, Access::SHADOW_READ)?;
        cet.ssp = self.after(at, bytes).0;
        Ok(value)
    }

    /// The linear address of `bytes` of the shadow stack or the bitmap, which lie in no segment.
    fn flat_address(&mut self, at: u64, bytes: u64) -> Reply<Gva> {
        if self.mode != Mode::Long64 {
            return Ok(Gva(at & 0xffff_ffff));
        }
        let last = at.wrapping_add(bytes.wrapping_sub(1));
        if self.canonical(at) && self.canonical(last) {
            Ok(Gva(at))
        } else {
            Err(Exception::GP0.into())
        }
    }
}
