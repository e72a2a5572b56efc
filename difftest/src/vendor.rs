// SPDX-License-Identifier: GPL-2.0

//! What AMD's processors do otherwise than Intel's, which the emulator follows: rkvm needs VMX.
//!
//! Instructions that AMD's decode otherwise, or that lead elsewhere there, are not run on them at all: what lies there
//! would be run, too. Where only the outcome differs, AMD's is made from the emulator's, and the processor's has to be the
//! one or the other, whole: not every processor of AMD's differs in all of this. On processors of other vendors nothing of
//! this file counts.
//!
//! "APM" is AMD's Architecture Programmer's Manual. What has no reference was seen on a processor of the family 19H with
//! AVX-512.

#[cfg(test)]
mod tests;

use crate::compare::{After, Ending};
use crate::generate::Case;
use crate::mirror::Mirror;
use crate::native::{Registers, DATA};
use rkvm_core::addr::Gva;
use rkvm_core::emulate::insn::{Encoding, Rep, Rm};
use rkvm_core::emulate::table::{self, Op};
use rkvm_core::emulate::*;
use rkvm_core::exception::{Exception, Vector};
use rkvm_core::regs::{is_canonical, rflags};
use std::fmt;

/// Who made a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, or Hygon, whose processors are AMD's.
    Amd,
    /// Somebody else.
    Other,
}

impl Vendor {
    /// Who made this machine's processor: CPUID leaf 0.
    pub fn here() -> Self {
        Self::of(crate::native::vendor())
    }

    fn of(id: [u8; 12]) -> Self {
        match &id {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Other,
        }
    }

    /// Why an instruction is not to be run on the vendor's processors, if it is not.
    pub fn leaves_out(self, insn: &Insn, case: &Case, mirror: &mut Mirror) -> Option<&'static str> {
        match self {
            Self::Amd => branches_otherwise(insn, case.long)
                .or_else(|| leaves_address_space(insn, case, mirror)),
            _ => None,
        }
    }

    /// How the outcome of some instructions differs on the vendor's processors.
    pub fn deviations(self) -> &'static [Deviation] {
        match self {
            Self::Amd => &AMD,
            _ => &[],
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intel => "Intel",
            Self::Amd => "AMD",
            Self::Other => "other",
        })
    }
}

/// Branches that lead elsewhere on AMD's processors, or are of another length there.
fn branches_otherwise(insn: &Insn, long: bool) -> Option<&'static str> {
    let near = matches!(
        insn.entry.op,
        Op::Jcc | Op::Jmp | Op::Call | Op::Ret | Op::Loop | Op::Loope | Op::Loopne | Op::Jcxz
    );
    if near && long && insn.opsize_prefix && !insn.wide() {
        // APM volume 1, "Near Branches in 64-Bit Mode": the operand size can be overridden to 16 bits, which is that of
        // RIP, of what is pushed and popped, and of a displacement that is not a byte. Intel's ignore the prefix.
        return Some("near branches of 16 bits in 64-bit code");
    }
    match (insn.entry.op, insn.rep) {
        // The prefixes replace the condition. APM volume 3, "Instructions that Cannot Use Repeat Prefixes", leaves open
        // what they do; Intel's ignore them.
        (Op::Loope, Rep::Repne) | (Op::Loopne, Rep::Rep) => Some("LOOPcc with a repeat prefix"),
        _ => None,
    }
}

/// Operands across the end of the addresses that there are. Which of this, a missing page and the alignment is told then
/// differs, more so with masked elements, and AMD's tell of pages that are not the program's.
fn leaves_address_space(insn: &Insn, case: &Case, mirror: &mut Mirror) -> Option<&'static str> {
    const MOST: u64 = 64;
    let base = mirror.segment(insn.segment).base;
    let at = base.wrapping_add(operand(insn, case)?);
    let last = at.wrapping_add(MOST - 1);
    let leaves = match case.long {
        true => is_canonical(at, 48) != is_canonical(last, 48),
        false => last > u64::from(u32::MAX),
    };
    leaves.then_some("operands across the end of the address space")
}

/// The offset of the memory operand, if there is one.
fn operand(insn: &Insn, case: &Case) -> Option<u64> {
    let gpr = |r| case.registers.gpr[usize::from(r)];
    let memory = insn.entry.any(table::MODRM) && insn.rm == Rm::Mem;
    memory.then(|| insn.effective_address(case.registers.rip, gpr))
}

/// A case whose outcome is in question.
pub struct Question<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its instruction.
    pub insn: &'a Insn,
    /// What it starts from; nothing has ended yet.
    pub start: &'a After,
    /// To emulate again.
    pub mirror: &'a mut Mirror,
    /// The same.
    pub emulator: &'a mut Emulator,
}

impl Question<'_> {
    /// An exception, and nothing changes.
    fn faults(&self, e: Exception) -> After {
        After {
            ending: Ending::Fault(e),
            ..self.start.clone()
        }
    }

    /// What the emulator makes of the instruction from other registers.
    fn again(&mut self, registers: &Registers) -> After {
        self.mirror.data.copy_from_slice(&self.start.data[..]);
        let (regs, ending) = self.mirror.emulate(self.emulator, self.case, registers);
        self.mirror.after(regs, ending)
    }

    /// The exception of an access to `bytes` of data, if there is one: the first byte that can't be had tells.
    fn access_fault(&mut self, offset: u64, bytes: u64, access: Access) -> Option<Exception> {
        let segment = self.mirror.segment(self.insn.segment);
        if !self.case.long && segment.has(ar::UNUSABLE) {
            return Some(Exception::GP0);
        }
        let at = segment.base.wrapping_add(offset & self.insn.address.mask());
        let last = at.wrapping_add(bytes - 1);
        let in_last_page = at.max(last & !0xfff);
        let fault = |at| self.mirror.fault(Gva(at), access);
        fault(at).or_else(|| fault(in_last_page))
    }

    /// The offset of the memory operand, if there is one.
    fn operand(&self) -> Option<u64> {
        operand(self.insn, self.case)
    }

    fn checks_alignment(&self) -> bool {
        self.case.registers.rflags & rflags::AC != 0
    }
}

/// A way in which the outcome of some instructions differs.
pub struct Deviation {
    /// What differs.
    pub what: &'static str,
    /// The vendor's outcome, made from another one; `None` for all other instructions.
    pub outcome: fn(&mut Question<'_>, &After) -> Option<After>,
}

/// The ways of AMD's processors. A case may have several: each goes on from the outcome of the one before.
static AMD: [Deviation; 10] = [
    // APM volume 3, "PREFETCH, PREFETCHW", has operands in memory only. With Intel's it is a NOP.
    Deviation {
        what: "PREFETCH of a register is invalid",
        outcome: |q, _| {
            let i = q.insn;
            let prefetch = i.entry.op == Op::Nop && i.opcode == 0x0d && i.rm != Rm::Mem;
            prefetch.then(|| q.faults(Exception::UD))
        },
    },
    // No 64-bit operand outside 64-bit mode; Intel's ignore VEX.W there.
    Deviation {
        what: "VPEXTRQ and VPINSRQ are invalid in 32-bit code",
        outcome: |q, _| {
            let op = (q.insn.entry.op, q.insn.opcode);
            let part = matches!(op, (Op::VecExtract, 0x16) | (Op::VecInsert, 0x22));
            (part && !q.case.long && vex_w(q.insn)).then(|| q.faults(Exception::UD))
        },
    },
    // SDM volume 2, "PUSH", has both.
    Deviation {
        what: "PUSH of a segment register writes its slot whole",
        outcome: whole_slot,
    },
    Deviation {
        what: "CALL finds a bad target before it pushes",
        outcome: |q, ours| {
            let bad_target =
                q.insn.entry.op == Op::Call && ours.ending.vector() == Some(Vector::Gp);
            bad_target.then(|| q.faults(Exception::GP0))
        },
    },
    // With Intel's they are as before the instruction (SDM volume 2, "REP/REPE/REPZ/REPNE/REPNZ").
    Deviation {
        what: "flags of an interrupted CMPS or SCAS are those of its last comparison",
        outcome: last_flags,
    },
    // It has a fast way of its own; other CMPS read the second operand first, as Intel's do.
    Deviation {
        what: "REPE CMPSB reads its first operand first",
        outcome: |q, ours| {
            let i = q.insn;
            let fast = i.entry.op == Op::Cmps && i.opcode == 0xa6 && i.rep == Rep::Rep;
            if !fast || ours.ending.vector() != Some(Vector::Pf) {
                return None;
            }
            let e = q.access_fault(ours.regs.gpr[6], 1, Access::READ)?;
            Some(ours.but(Ending::Fault(e)))
        },
    },
    Deviation {
        what: "MASKMOVDQU writes all bytes at once",
        outcome: first_byte,
    },
    // APM volume 4 has, in its tables of exceptions: "Alignment checking enabled and: 256-bit memory operand not 32-byte
    // aligned". SDM volume 3, "Alignment Check Exception (#AC)", leaves it open for moves that need no alignment.
    Deviation {
        what: "#AC of vectors in memory",
        outcome: |q, _| {
            let at = q.operand()?;
            let misaligned = at & vector_bytes(q.insn)?.wrapping_sub(1) != 0;
            (misaligned && q.checks_alignment()).then(|| q.faults(Exception::AC))
        },
    },
    Deviation {
        what: "#AC of masked elements by themselves",
        outcome: single_elements,
    },
    // With Intel's, MOVSXD of 16 bits reads two (SDM volume 2, "MOVSX/MOVSXD").
    Deviation {
        what: "MOVSXD reads four bytes",
        outcome: |q, _| {
            let i = q.insn;
            let narrow = i.entry.op == Op::Movsx && i.opcode == 0x63 && i.width == Width::B2;
            let at = q.operand().filter(|_| narrow)?;
            let e = match q.checks_alignment() && at & 3 != 0 {
                true => Some(Exception::AC),
                false => q.access_fault(at, 4, Access::READ),
            };
            e.map(|e| q.faults(e))
        },
    },
];

/// VEX.W as it stands there; decode forgets it where it means nothing.
fn vex_w(insn: &Insn) -> bool {
    const C4: u8 = 0xc4;
    let mut rest = insn.bytes.iter().skip_while(|b| **b != C4);
    insn.encoding == Encoding::Vex && rest.nth(2).is_some_and(|b| b & 0x80 != 0)
}

/// PUSH of a segment register in 32-bit code: the selector and two bytes of zeros.
fn whole_slot(q: &mut Question<'_>, ours: &After) -> Option<After> {
    let push = q.insn.entry.op == Op::PushSeg && q.insn.width == Width::B4;
    if !push || !matches!(ours.ending, Ending::Completed) {
        return None;
    }
    let slot = ours.regs.gpr[4].wrapping_sub(DATA) as usize;
    let mut amd = ours.clone();
    amd.data.get_mut(slot + 2..slot + 4)?.fill(0);
    Some(amd)
}

/// Repeated CMPS or SCAS that has done some iterations: it ends with their flags if it has to do no more than them.
fn last_flags(q: &mut Question<'_>, ours: &After) -> Option<After> {
    let compares = matches!(q.insn.entry.op, Op::Cmps | Op::Scas) && q.insn.rep != Rep::None;
    let fault = ours.ending.vector().is_some();
    let done = q.case.registers.gpr[1].wrapping_sub(ours.regs.gpr[1]) & q.insn.address.mask();
    if !compares || !fault || done == 0 {
        return None;
    }
    let mut registers = q.case.registers.clone();
    registers.gpr[1] = done;
    let short = q.again(&registers);
    let mut amd = ours.clone();
    amd.regs.rflags = short.regs.rflags;
    Some(amd)
}

/// MASKMOVDQU: the address of a #PF is the first one that can't be written. Intel's take the upper half first.
fn first_byte(q: &mut Question<'_>, ours: &After) -> Option<After> {
    let masked = q.insn.entry.op == Op::MaskMov;
    if !masked || ours.ending.vector() != Some(Vector::Pf) {
        return None;
    }
    let e = q.access_fault(q.case.registers.gpr[7], 16, Access::WRITE)?;
    Some(ours.but(Ending::Fault(e)))
}

/// The bytes of a memory operand that is a vector, and one that may be misaligned.
fn vector_bytes(insn: &Insn) -> Option<u64> {
    Some(match (insn.entry.op, insn.opcode) {
        (Op::VecMov | Op::VecDup, _) => insn.vector_len.into(),
        (Op::VecBroadcast, 0x1a | 0x5a) => 16,
        (Op::VecBroadcast, 0x1b | 0x5b) => 32,
        (Op::VecExtract, 0x19 | 0x39) | (Op::VecInsert, 0x18 | 0x38) => 16,
        (Op::VecExtract, 0x1b | 0x3b) | (Op::VecInsert, 0x1a | 0x3a) => 32,
        _ => return None,
    })
}

/// A broadcast of two elements, masked: each has to be aligned by itself. Intel's want the pair aligned.
fn single_elements(q: &mut Question<'_>, ours: &After) -> Option<After> {
    let i = q.insn;
    let pair = i.entry.op == Op::VecBroadcast && matches!(i.opcode, 0x19 | 0x59) && !i.wide();
    let masked = i.encoding == Encoding::Evex && i.opmask != 0;
    if !pair || !masked || ours.ending.vector() != Some(Vector::Ac) || q.operand()? & 3 != 0 {
        return None;
    }
    let mut registers = q.case.registers.clone();
    registers.rflags &= !rflags::AC;
    let mut amd = q.again(&registers);
    amd.regs.rflags |= rflags::AC;
    Some(amd)
}
