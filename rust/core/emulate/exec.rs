// SPDX-License-Identifier: GPL-2.0

//! The state of one execution, operand access, and the dispatch from [`Op`] to the functions that do the work.

use crate::exception::Exception;
use crate::regs::{cr0, cr4, rflags, Gpr};

use super::alu;
use super::cet::Cet;
use super::insn::{Insn, Rm};
use super::ops::{Access, Reply, Stop, VcpuOps};
use super::outcome::{Shadow, SoftInterrupt, SoftKind};
use super::state::{Cr, Mode, Regs, Width};
use super::table::{self, Loc, Op};
use super::work::Work;

/// One instruction on its way from decoded to committed.
pub(super) struct Exec<'a> {
    pub(super) insn: &'a Insn,
    pub(super) regs: &'a Regs,
    pub(super) ops: &'a mut dyn VcpuOps,
    pub(super) work: &'a mut Work,
    pub(super) mode: Mode,
    /// RIP after commit.
    pub(super) rip: u64,
    /// RFLAGS after commit.
    pub(super) rflags: u64,
    /// Interrupt shadow after commit.
    pub(super) shadow: Shadow,
    /// DR6 bits of a trap that the instruction itself causes (task switch).
    pub(super) trap: u64,
    /// A string instruction has staged the state after some iterations.
    pub(super) progress: bool,
    /// Control-flow enforcement after commit, if that changes.
    pub(super) cet: Option<Cet>,
}

/// How an execution that did not stop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Commit.
    Done,
    /// Commit, but RIP stays: a string instruction has iterations left.
    More,
    /// Nothing to commit: an interrupt is to be injected.
    Soft(SoftInterrupt),
    /// Commit, then deliver this: a task switch went through, but the new task's state is bad.
    Faulted(Exception),
}

impl Exec<'_> {
    /// A general register, with what this instruction has changed already.
    #[inline]
    pub(super) fn gpr(&self, r: u8) -> u64 {
        if self.work.dirty & 1u16.wrapping_shl(u32::from(r & 15)) != 0 {
            return self
                .work
                .gpr
                .get(usize::from(r & 15))
                .copied()
                .unwrap_or_default();
        }
        self.regs.read(r)
    }

    /// Stages all 64 bits of a general register.
    #[inline]
    pub(super) fn set_gpr(&mut self, r: u8, value: u64) {
        if let Some(slot) = self.work.gpr.get_mut(usize::from(r & 15)) {
            *slot = value;
            self.work.dirty |= 1u16.wrapping_shl(u32::from(r & 15));
        }
    }

    /// A register operand: AH to BH for byte registers 4 to 7 without REX.
    #[inline]
    pub(super) fn reg(&self, r: u8, width: Width) -> u64 {
        if width == Width::B1 && self.insn.high_byte(r) {
            return self.gpr(r & 3) >> 8 & 0xff;
        }
        self.gpr(r) & width.mask()
    }

    /// Stages a register operand: 32-bit values clear the upper half, narrower ones keep the rest.
    #[inline]
    pub(super) fn set_reg(&mut self, r: u8, width: Width, value: u64) {
        if width == Width::B1 && self.insn.high_byte(r) {
            let r = r & 3;
            self.set_gpr(r, (self.gpr(r) & !0xff00) | (value & 0xff) << 8);
        } else {
            self.set_gpr(r, width.merge(self.gpr(r), value));
        }
    }

    /// A register by name at some width (never AH to BH).
    #[inline]
    pub(super) fn named(&self, r: Gpr, width: Width) -> u64 {
        self.gpr(r as u8) & width.mask()
    }

    /// Stages a register by name (never AH to BH).
    #[inline]
    pub(super) fn set_named(&mut self, r: Gpr, width: Width, value: u64) {
        let r = r as u8;
        self.set_gpr(r, width.merge(self.gpr(r), value));
    }

    /// The offset of the memory operand in its segment.
    #[inline]
    pub(super) fn effective_address(&self) -> u64 {
        self.insn.effective_address(self.regs.rip, |r| self.gpr(r))
    }

    /// The general register that ModRM.rm names; only for rows that exclude memory, else RAX.
    #[inline]
    pub(super) fn rm_register(&self) -> u8 {
        match self.insn.rm {
            Rm::Reg(r) => r,
            Rm::Mem => 0,
        }
    }

    /// The value of ModRM.rm, which is to be read only.
    #[inline]
    pub(super) fn rm(&mut self, width: Width) -> Reply<u64> {
        self.rm_for(width, Access::READ)
    }

    /// The value of ModRM.rm; memory is read with `access`.
    #[inline]
    pub(super) fn rm_for(&mut self, width: Width, access: Access) -> Reply<u64> {
        match self.insn.rm {
            Rm::Reg(r) => Ok(self.reg(r, width)),
            Rm::Mem => {
                let at = self.effective_address();
                self.load(self.insn.segment, at, width, access)
            }
        }
    }

    /// Replaces ModRM.rm.
    #[inline]
    pub(super) fn set_rm(&mut self, width: Width, value: u64) -> Reply {
        match self.insn.rm {
            Rm::Reg(r) => {
                self.set_reg(r, width, value);
                Ok(())
            }
            Rm::Mem => {
                let at = self.effective_address();
                self.store(self.insn.segment, at, width, value)
            }
        }
    }

    /// The value of a source operand.
    #[inline]
    pub(super) fn source(&mut self, loc: Loc, width: Width) -> Reply<u64> {
        Ok(match loc {
            Loc::Rm => return self.rm(width),
            Loc::Reg => self.reg(self.insn.reg, width),
            Loc::Imm => self.insn.imm & width.mask(),
            Loc::Acc => self.named(Gpr::Rax, width),
            Loc::Low3 => self.reg(self.low3(), width),
            Loc::Rm8 => return self.rm(Width::B1),
            Loc::Rm16 => return self.rm(Width::B2),
            Loc::Rm32 => return self.rm(Width::B4),
            Loc::One => 1,
            Loc::Cl => self.named(Gpr::Rcx, Width::B1),
            Loc::Dx => self.named(Gpr::Rdx, Width::B2),
            Loc::None => 0,
        })
    }

    /// Replaces a destination operand.
    #[inline]
    pub(super) fn target(&mut self, loc: Loc, width: Width, value: u64) -> Reply {
        match loc {
            Loc::Rm => return self.set_rm(width, value),
            Loc::Rm8 => return self.set_rm(Width::B1, value),
            Loc::Rm16 => return self.set_rm(Width::B2, value),
            Loc::Rm32 => return self.set_rm(Width::B4, value),
            Loc::Reg => self.set_reg(self.insn.reg, width, value),
            Loc::Low3 => self.set_reg(self.low3(), width, value),
            Loc::Acc => self.set_named(Gpr::Rax, width, value),
            _ => {}
        }
        Ok(())
    }

    /// The register in the low bits of the opcode.
    #[inline]
    pub(super) fn low3(&self) -> u8 {
        (self.insn.opcode & 7) | (self.insn.rex & 1) << 3
    }

    /// Replaces the status flags.
    #[inline]
    pub(super) fn set_status(&mut self, flags: u64) {
        self.rflags = (self.rflags & !alu::STATUS) | (flags & alu::STATUS);
    }

    /// CF.
    #[inline]
    pub(super) fn carry(&self) -> bool {
        self.rflags & rflags::CF != 0
    }

    /// A control register.
    #[inline]
    pub(super) fn cr(&mut self, which: Cr) -> u64 {
        self.ops.cr(which)
    }

    /// I/O privilege level.
    #[inline]
    pub(super) fn iopl(&self) -> u8 {
        (self.regs.rflags >> 12 & 3) as u8
    }

    /// #NM, #UD for x87 and SIMD instructions as CR0 and CR4 demand.
    pub(super) fn check_sse(&mut self) -> Reply {
        let c0 = self.cr(Cr::Cr0);
        if c0 & cr0::EM != 0 || self.cr(Cr::Cr4) & cr4::OSFXSR == 0 {
            return Err(Exception::UD.into());
        }
        if c0 & cr0::TS != 0 {
            return Err(Exception::NM.into());
        }
        Ok(())
    }

    /// Does the instruction.
    pub(super) fn run(&mut self) -> Reply<Flow> {
        let entry = self.insn.entry;
        if entry.op == Op::Mov {
            if entry.dst == Loc::Rm && entry.src == Loc::Reg {
                let value = self.reg(self.insn.reg, self.insn.width);
                return self.set_rm(self.insn.width, value).map(|()| Flow::Done);
            }
            if entry.src == Loc::Rm && entry.dst == Loc::Reg {
                let value = self.rm(self.insn.width)?;
                self.set_reg(self.insn.reg, self.insn.width, value);
                return Ok(Flow::Done);
            }
            let value = self.source(entry.src, self.insn.width)?;
            self.target(entry.dst, self.insn.width, value)?;
            return Ok(Flow::Done);
        }
        if entry.any(table::PRIV) && self.ops.cpl() != 0 {
            return Err(self.privilege_fault());
        }
        if entry.any(table::STRING) {
            return self.string();
        }
        match entry.op {
            Op::Int | Op::Int3 | Op::Int1 | Op::Into => self.software_interrupt(),
            Op::JmpFar | Op::CallFar | Op::RetFar | Op::Iret => self.far_branch(entry.op),
            _ => self.one(entry.op).map(|()| Flow::Done),
        }
    }

    /// What a privileged instruction gets above CPL 0.
    fn privilege_fault(&self) -> Stop {
        match self.insn.entry.op {
            Op::Monitor | Op::Mwait => Exception::UD.into(),
            _ => Exception::GP0.into(),
        }
    }

    /// The interrupt of an INT family instruction.
    fn software_interrupt(&mut self) -> Reply<Flow> {
        let (vector, kind) = match self.insn.entry.op {
            Op::Int3 => (3, SoftKind::Exception),
            Op::Int1 => (1, SoftKind::Privileged),
            Op::Into if self.rflags & rflags::OF == 0 => return Ok(Flow::Done),
            Op::Into => (4, SoftKind::Exception),
            _ => (self.insn.imm as u8, SoftKind::Int),
        };
        if self.mode == Mode::Real {
            self.real_interrupt(vector)?;
            return Ok(Flow::Done);
        }
        if self.mode == Mode::Vm86 && kind == SoftKind::Int {
            if self.cr(Cr::Cr4) & cr4::VME != 0 && self.is_redirected(vector)? {
                self.redirected_interrupt(vector)?;
                return Ok(Flow::Done);
            }
            if self.iopl() < 3 {
                return Err(Exception::GP0.into());
            }
        }
        Ok(Flow::Soft(SoftInterrupt {
            vector,
            kind,
            length: self.insn.length,
        }))
    }

    /// All instructions but MOV, the strings and the software interrupts.
    fn one(&mut self, op: Op) -> Reply {
        match op {
            Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => self.binary(op),
            Op::Cmp | Op::Test => self.compare(op),
            Op::Inc | Op::Dec | Op::Not | Op::Neg => self.unary(op),
            Op::Movzx => self.movzx(),
            Op::Movsx => self.movsx(),
            Op::Lea => self.lea(),
            Op::Xchg => self.xchg(),
            Op::Cmpxchg => self.cmpxchg(),
            Op::Cmpxchg8b => self.cmpxchg8b(),
            Op::Xadd => self.xadd(),
            Op::Movnti | Op::Movdiri => self.mov_direct(op),
            Op::Movbe => self.movbe(),
            Op::Movdir64b => self.movdir64b(),
            Op::Mul | Op::Imul | Op::Div | Op::Idiv => self.wide_arithmetic(op),
            Op::Imul2 | Op::Imul3 => self.imul(op),
            Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => self.shift(op),
            Op::Shld | Op::Shrd => self.shift_double(op),
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit_test(op),
            Op::Bsf | Op::Bsr | Op::Tzcnt | Op::Lzcnt | Op::Popcnt => self.bit_scan(op),
            Op::Bswap => self.bswap(),
            Op::Crc32 => self.crc32(),
            Op::Adcx | Op::Adox => self.add_carry_only(op),
            Op::Andn
            | Op::Bextr
            | Op::Blsr
            | Op::Blsmsk
            | Op::Blsi
            | Op::Bzhi
            | Op::Mulx
            | Op::Pdep
            | Op::Pext
            | Op::Rorx
            | Op::Sarx
            | Op::Shlx
            | Op::Shrx => self.bmi(op),
            Op::Cbw | Op::Cwd => self.widen(op),
            Op::Daa | Op::Das | Op::Aaa | Op::Aas | Op::Aam | Op::Aad => self.decimal(op),
            Op::Salc | Op::Lahf | Op::Sahf | Op::Xlat => self.accumulator(op),
            Op::Setcc | Op::Cmovcc => self.conditional(op),
            Op::Jcc | Op::Jmp | Op::Call | Op::Ret => self.near_branch(op),
            Op::Loop | Op::Loope | Op::Loopne | Op::Jcxz => self.count_branch(op),
            Op::Push
            | Op::Pop
            | Op::Pusha
            | Op::Popa
            | Op::Pushf
            | Op::Popf
            | Op::Enter
            | Op::Leave => self.stack(op),
            Op::PushSeg | Op::PopSeg | Op::MovFromSeg | Op::MovToSeg | Op::LoadFar => {
                self.segment_move(op)
            }
            Op::In | Op::Out => self.port(op),
            Op::Clc | Op::Stc | Op::Cmc | Op::Cld | Op::Std | Op::Clac | Op::Stac => {
                self.set_flag(op)
            }
            Op::Cli | Op::Sti => self.interrupt_flag(op),
            Op::Nop | Op::Pause | Op::Fence | Op::Fwait | Op::Monitor | Op::Mwait => self.idle(op),
            Op::Endbr => self.endbranch(),
            Op::Touch => self.touch(),
            Op::Bound => self.bound(),
            Op::Fxsave | Op::Fxrstor | Op::Fninit | Op::Fnstcw | Op::Fnstsw => self.x87(op),
            Op::VecMov
            | Op::VecMovAligned
            | Op::VecScalar
            | Op::VecHalf
            | Op::VecDup
            | Op::VecBroadcast
            | Op::VecExtract
            | Op::VecInsert
            | Op::VecMaskMov
            | Op::MaskMov
            | Op::MmxMov => self.vector_move(op),
            _ => self.system(op),
        }
    }
}
