// SPDX-License-Identifier: GPL-2.0

//! What has to be equal, and what the SDM leaves open.

use crate::native::{Registers, Trap, CODE, DATA, DATA_BYTES, RESERVED, RESERVED_BYTES};
use rkvm_core::emulate::table::{Loc, Op};
use rkvm_core::emulate::*;
use rkvm_core::exception::{Exception, Payload, Vector};
use rkvm_core::regs::rflags::{AF, CF, OF, PF, RF, SF, ZF};

/// How the emulator ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// The instruction is done.
    Completed,
    /// An exception.
    Fault(Exception),
    /// It cannot.
    Unhandled,
}

impl Ending {
    /// The vector of the exception, if it was one.
    pub fn vector(&self) -> Option<Vector> {
        match self {
            Self::Fault(e) => Some(e.vector),
            _ => None,
        }
    }
}

/// What a run of the emulator came to.
#[derive(Clone, Debug)]
pub struct After {
    /// How it ended.
    pub ending: Ending,
    /// General registers, RIP and flags.
    pub regs: Regs,
    /// ZMM registers.
    pub vectors: [[u8; 64]; 32],
    /// The data pages.
    pub data: Box<[u8; DATA_BYTES]>,
}

impl After {
    /// The same with another ending.
    pub fn but(&self, ending: Ending) -> Self {
        Self {
            ending,
            ..self.clone()
        }
    }
}

/// A difference.
pub struct Difference {
    /// In a word.
    pub kind: &'static str,
    /// In full.
    pub text: String,
}

/// The result of a comparison.
pub enum Verdict {
    /// No difference that counts.
    Same,
    /// A difference.
    Different(Difference),
}

/// Whether the native run can touch nothing but what both sides know.
pub fn safe(ending: &Ending, regs: &Regs, insn: &Insn) -> bool {
    let near = |at: u64| {
        let known = (RESERVED..RESERVED + RESERVED_BYTES).contains(&at);
        known && !(CODE..CODE + 0x1000).contains(&at)
    };
    match ending {
        Ending::Unhandled => false,
        Ending::Fault(e) => match e.payload {
            Payload::Cr2(at) => near(at.0),
            _ => true,
        },
        Ending::Completed => {
            // A branch may go to a breakpoint in the code page or to where nothing is, not into the instruction.
            let start = CODE + 0x800;
            let inside = regs.rip >= start && regs.rip < start + u64::from(insn.length);
            let in_code = (CODE..CODE + 0x1000).contains(&regs.rip);
            !inside && (in_code || near(regs.rip)) && !(DATA..DATA + 0x3000).contains(&regs.rip)
        }
    }
}

/// The flags whose value the SDM leaves open, and which the emulator does not claim to know.
fn undefined_flags(insn: &Insn, before: &Registers) -> u64 {
    let bits = insn.width.bits() as u64;
    let count = match insn.entry.src {
        Loc::One => 1,
        Loc::Cl => before.gpr[1] & 0xff,
        _ => insn.imm & 0xff,
    } & if insn.width == Width::B8 { 63 } else { 31 };
    match insn.entry.op {
        Op::And | Op::Or | Op::Xor | Op::Test => AF,
        Op::Shl | Op::Shr | Op::Sar if count == 0 => 0,
        Op::Shl | Op::Shr | Op::Sar => {
            let of = if count == 1 { 0 } else { OF };
            let cf = if count >= bits { CF } else { 0 };
            AF | of | cf
        }
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr => {
            if count <= 1 {
                0
            } else {
                OF
            }
        }
        Op::Shld | Op::Shrd if count == 0 => 0,
        Op::Shld | Op::Shrd if count > bits => AF | OF | CF | SF | ZF | PF,
        Op::Shld | Op::Shrd => AF | if count == 1 { 0 } else { OF },
        Op::Mul | Op::Imul | Op::Imul2 | Op::Imul3 => SF | ZF | AF | PF,
        Op::Div | Op::Idiv => CF | OF | SF | ZF | AF | PF,
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => OF | SF | AF | PF,
        Op::Bsf | Op::Bsr => CF | OF | SF | AF | PF,
        Op::Tzcnt | Op::Lzcnt => OF | SF | AF | PF,
        Op::Andn | Op::Bzhi | Op::Blsr | Op::Blsmsk | Op::Blsi => AF | PF,
        Op::Bextr => AF | SF | PF,
        Op::Daa | Op::Das => OF,
        Op::Aaa | Op::Aas => OF | SF | ZF | PF,
        Op::Aam | Op::Aad => OF | AF | CF,
        _ => 0,
    }
}

/// Compares the two sides.
pub fn compare(
    insn: &Insn,
    before: &Registers,
    (ours, vectors, ending): (&Regs, &[[u8; 64]; 32], &Ending),
    (native, trap): (&Registers, &Trap),
    same_data: bool,
) -> Verdict {
    let different = |kind, text| Verdict::Different(Difference { kind, text });
    let completed = completed_at(trap, native);
    match (ending, completed) {
        (Ending::Completed, Some(rip)) => {
            if rip != ours.rip {
                return different("rip", format!("rip {:x}, native {rip:x}", ours.rip));
            }
        }
        (Ending::Completed, None) => {
            return different("fault", format!("completed, native {trap:x?}"));
        }
        (Ending::Fault(e), Some(_)) => {
            return different("no fault", format!("{e:?}, native completed"));
        }
        (Ending::Fault(e), None) => {
            let cr2 = match e.payload {
                Payload::Cr2(at) => at.0,
                _ => trap.cr2,
            };
            let same = e.vector as u64 == trap.vector
                && u64::from(e.error_code.unwrap_or(0)) == trap.code
                && (e.vector != Vector::Pf || same_address(insn, cr2, trap.cr2));
            if !same {
                return different("other fault", format!("{e:x?}, native {trap:x?}"));
            }
            if native.rip != ours.rip {
                return different(
                    "rip",
                    format!("rip {:x}, native {:x}", ours.rip, native.rip),
                );
            }
        }
        (Ending::Unhandled, _) => {
            return different("unhandled", format!("native {trap:x?}"));
        }
    }
    // A count above the width of a 16-bit double shift leaves the result open.
    let open = matches!(insn.entry.op, Op::Shld | Op::Shrd)
        && insn.width == Width::B2
        && undefined_flags(insn, before) & ZF != 0;
    for n in 0..16 {
        // The processor keeps what a POPA has popped before it faults; the emulator starts it over.
        let popa = insn.entry.op == Op::Popa && matches!(ending, Ending::Fault(_));
        if ours.gpr[n] != native.gpr[n] && !open && !popa {
            return different(
                "register",
                format!(
                    "r{n} {:x}, native {:x}, from {:x?} flags {:x}",
                    ours.gpr[n], native.gpr[n], before.gpr, before.rflags
                ),
            );
        }
    }
    let mask = !(RF | undefined_flags(insn, before));
    if (ours.rflags ^ native.rflags) & mask != 0 {
        return different(
            "flags",
            format!(
                "flags {:x}, native {:x}, from {:x} {:x?}",
                ours.rflags, native.rflags, before.rflags, before.gpr
            ),
        );
    }
    if !same_data && !open {
        return different("memory", format!("from {:x?}", before.gpr));
    }
    for (n, (ours, native)) in vectors.iter().zip(&native.vectors).enumerate() {
        if ours != native {
            return different("vector", format!("zmm{n}"));
        }
    }
    if before.opmasks != native.opmasks {
        return different("opmask", format!("{:x?}", native.opmasks));
    }
    Verdict::Same
}

/// Whether two values of CR2 are the same as far as it counts: a masked store into a page that is not to be written has
/// the last byte of its operand there, chosen or not, if it began in the page before.
fn same_address(insn: &Insn, ours: u64, native: u64) -> bool {
    let masked = insn.opmask != 0 && insn.encoding == insn::Encoding::Evex;
    let chosen = insn.entry.op == Op::VecMaskMov;
    let store = (masked || chosen) && insn.entry.dst == Loc::Rm;
    ours == native || (store && ours & !0xfff == native & !0xfff && ours < native)
}

/// RIP after the instruction, if it completed: the breakpoint there was hit, or the fetch there faulted.
fn completed_at(trap: &Trap, native: &Registers) -> Option<u64> {
    let fetch = trap.vector == 14 && trap.code & 0x10 != 0 && trap.cr2 == native.rip;
    if trap.vector == 3 {
        return Some(native.rip.wrapping_sub(1));
    }
    fetch.then_some(native.rip)
}
