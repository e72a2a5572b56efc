// SPDX-License-Identifier: GPL-2.0

//! From bytes to [`Insn`].
//!
//! SDM volume 2, "Instruction Format" and "Opcode Map". Decode knows the mode and the bytes; it asks for no register
//! and no CPUID bit, so a decoded instruction stays valid across a user exit. Faults come in the order in which
//! hardware meets them: a fetch fault or the 15-byte limit before #UD of what was not yet read.

mod evex;
mod modrm;
mod vex;

use crate::exception::Exception;
use crate::regs::SegReg;

use super::insn::{Base, Encoding, Insn, Rep, Rm, MAX_LENGTH};
use super::ops::{Reply, Stop};
use super::state::{Cr, Mode, Width};
use super::table::{self, Entry, Imm, Loc, Op};

/// Where instruction bytes come from.
pub trait CodeSource {
    /// Writes the bytes from offset `have` of the instruction on into `buf`; the number written, at least 1.
    fn more(&mut self, have: u8, buf: &mut [u8]) -> Reply<usize>;
}

/// Reads bytes of the instruction in turn.
struct Cursor<'a> {
    insn: &'a mut Insn,
    source: &'a mut dyn CodeSource,
    position: u8,
    /// The bytes from the position on, as far as they are fetched: the next one in the lowest bits.
    rest: u128,
    mode: Mode,
}

/// The legacy prefixes of one instruction besides those kept in [`Insn`].
struct Prefixes {
    address: bool,
    segment: Option<SegReg>,
}

/// Decodes one instruction of code that runs in `mode` into `insn`, whose old content is of no interest.
///
/// # Errors
///
/// #UD, #GP(0) for more than 15 bytes, whatever `source` answers.
pub fn decode(insn: &mut Insn, mode: Mode, source: &mut dyn CodeSource) -> Reply {
    reset(insn);
    let mut c = Cursor {
        insn,
        source,
        position: 0,
        rest: 0,
        mode,
    };
    c.instruction()
}

/// As [`decode()`], from bytes that are there already: the first in the lowest bits of `code`, `have` of them.
///
/// # Errors
///
/// As [`decode()`]; [`Stop::Retry`] if the instruction goes on behind them.
pub fn decode_bytes(insn: &mut Insn, mode: Mode, code: u128, have: u8) -> Reply {
    reset(insn);
    insn.fetched = have.min(MAX_LENGTH as u8);
    if let Some((bytes, _)) = code.to_le_bytes().split_first_chunk() {
        insn.bytes = *bytes;
    }
    let mut c = Cursor {
        insn,
        source: &mut NoMore,
        position: 0,
        rest: code,
        mode,
    };
    c.instruction()
}

/// The source of code that has all been fetched.
struct NoMore;

impl CodeSource for NoMore {
    fn more(&mut self, _have: u8, _buf: &mut [u8]) -> Reply<usize> {
        Err(Stop::Retry)
    }
}

/// Forgets what an earlier instruction has left, as far as decode does not always set it.
#[inline]
fn reset(insn: &mut Insn) {
    insn.fetched = 0;
    insn.lock = false;
    insn.rep = Rep::None;
    insn.opsize_prefix = false;
    insn.rex = 0;
    insn.encoding = Encoding::Legacy;
    insn.modrm = 0;
    insn.imm = 0;
}

impl Cursor<'_> {
    /// Makes sure that `count` bytes from the current position on have been fetched.
    #[inline]
    fn ensure(&mut self, count: u8) -> Reply {
        if self.position.wrapping_add(count) <= self.insn.fetched {
            return Ok(());
        }
        self.refill(count)
    }

    /// Fetches more. Once for most instructions, and out of the way of all that read what is there.
    #[cold]
    #[inline(never)]
    fn refill(&mut self, count: u8) -> Reply {
        let end = self.position.wrapping_add(count);
        if usize::from(end) > MAX_LENGTH {
            return Err(Exception::GP0.into());
        }
        while self.insn.fetched < end {
            let have = self.insn.fetched;
            let Some(room) = self.insn.bytes.get_mut(usize::from(have)..) else {
                return Err(Stop::Unhandled);
            };
            let room_len = room.len();
            let got = self.source.more(have, room)?;
            if got == 0 {
                return Err(Stop::Unhandled);
            }
            self.insn.fetched = have.wrapping_add(got.min(room_len) as u8);
        }
        let mut raw = [0u8; 16];
        if let Some((bytes, _)) = raw.split_first_chunk_mut() {
            *bytes = self.insn.bytes;
        }
        self.rest = u128::from_le_bytes(raw);
        self.pass(self.position);
        Ok(())
    }

    /// Takes `count` bytes off the rest.
    #[inline]
    fn pass(&mut self, count: u8) {
        self.rest = self.rest.wrapping_shr(u32::from(count).wrapping_mul(8));
    }

    /// The next byte.
    #[inline]
    fn byte(&mut self) -> Reply<u8> {
        let b = self.peek()?;
        self.pass(1);
        self.position = self.position.wrapping_add(1);
        Ok(b)
    }

    /// The next byte, without going past it.
    #[inline]
    fn peek(&mut self) -> Reply<u8> {
        self.ensure(1)?;
        Ok(self.rest as u8)
    }

    /// The next `width` bytes, little endian, zero-extended.
    #[inline]
    fn unsigned(&mut self, width: Width) -> Reply<u64> {
        self.ensure(width.bytes())?;
        let value = self.rest as u64 & width.mask();
        self.pass(width.bytes());
        self.position = self.position.wrapping_add(width.bytes());
        Ok(value)
    }

    /// The next `width` bytes, little endian, sign-extended.
    #[inline]
    fn signed(&mut self, width: Width) -> Reply<u64> {
        Ok(width.sign_extend(self.unsigned(width)?))
    }

    /// Prefixes, opcode and operands.
    fn instruction(&mut self) -> Reply {
        let mut p = Prefixes {
            address: false,
            segment: None,
        };
        let long = self.mode.is_long64();
        let opcode = loop {
            let b = self.byte()?;
            if long && b & 0xf0 == 0x40 {
                self.insn.rex = b;
                continue;
            }
            let row = one_byte(b);
            if row.op != Op::Prefix {
                break b;
            }
            self.insn.rex = 0;
            self.prefix(b, &mut p);
        };
        self.insn.address = match (self.mode, p.address) {
            (Mode::Long64, false) => Width::B8,
            (Mode::Long64, true) | (Mode::Prot32, false) => Width::B4,
            (Mode::Prot32, true) => Width::B2,
            (_, false) => Width::B2,
            (_, true) => Width::B4,
        };
        self.insn.segment = p.segment.unwrap_or(SegReg::Ds);
        let entry = self.opcode(opcode)?;
        let entry = self.resolve(entry)?;
        self.finish(entry, &p)
    }

    /// Takes one legacy prefix.
    fn prefix(&mut self, b: u8, p: &mut Prefixes) {
        let long = self.mode.is_long64();
        match b {
            0x66 => self.insn.opsize_prefix = true,
            0x67 => p.address = true,
            0xf0 => self.insn.lock = true,
            0xf2 => self.insn.rep = Rep::Repne,
            0xf3 => self.insn.rep = Rep::Rep,
            0x64 => p.segment = Some(SegReg::Fs),
            0x65 => p.segment = Some(SegReg::Gs),
            // Without effect in 64-bit mode, not even on an earlier FS or GS.
            _ if long => {}
            0x26 => p.segment = Some(SegReg::Es),
            0x2e => p.segment = Some(SegReg::Cs),
            0x36 => p.segment = Some(SegReg::Ss),
            _ => p.segment = Some(SegReg::Ds),
        }
    }

    /// The row of the opcode that starts with `first`; reads the rest of the opcode and VEX or EVEX.
    fn opcode(&mut self, first: u8) -> Reply<Entry> {
        self.insn.opcode = first;
        match first {
            0x0f => {
                let second = self.byte()?;
                self.insn.opcode = second;
                match second {
                    0x38 => {
                        let third = self.byte()?;
                        self.insn.opcode = third;
                        Ok(table::three_byte_38(third, false))
                    }
                    0x3a => {
                        let third = self.byte()?;
                        self.insn.opcode = third;
                        Ok(table::three_byte_3a(third, false))
                    }
                    _ => Ok(two_byte(second)),
                }
            }
            0x62 | 0xc4 | 0xc5 if self.mode.is_long64() || self.peek()? >= 0xc0 => self.vex(first),
            0x63 if !self.mode.is_long64() => Ok(Entry::of(
                Op::Arpl,
                Loc::Rm16,
                Loc::Reg,
                Imm::None,
                table::MODRM | table::PROT,
            )),
            0x90 if self.insn.rex & 1 == 0 => Ok(Entry::of(
                if self.insn.rep == Rep::Rep {
                    Op::Pause
                } else {
                    Op::Nop
                },
                Loc::None,
                Loc::None,
                Imm::None,
                0,
            )),
            _ => Ok(one_byte(first)),
        }
    }

    /// Follows group and mandatory-prefix links, reading ModRM once.
    fn resolve(&mut self, mut entry: Entry) -> Reply<Entry> {
        if !entry.any(table::MODRM) {
            return Ok(entry);
        }
        self.insn.modrm = self.byte()?;
        let modrm = self.insn.modrm;
        // The longest chain is group, group by ModRM.rm, mandatory prefix.
        for _ in 0..3 {
            let flags = entry.flags & table::NO64;
            entry = match entry.op {
                Op::Group => table::group_row(entry.group(), modrm >> 3, modrm >= 0xc0),
                Op::RmGroup => table::rm_row(entry.group(), modrm),
                Op::Prefixed => {
                    let column = match (self.insn.rep, self.insn.opsize_prefix) {
                        (Rep::Rep, _) => 2,
                        (Rep::Repne, _) => 3,
                        (Rep::None, true) => 1,
                        (Rep::None, false) => 0,
                    };
                    table::prefixed_row(entry.group(), column)
                }
                _ => break,
            };
            entry.flags |= flags;
        }
        Ok(entry)
    }

    /// Checks the row against mode and prefixes, reads what follows.
    fn finish(&mut self, mut entry: Entry, p: &Prefixes) -> Reply {
        let long = self.mode.is_long64();
        let encoding = self.insn.encoding;
        if entry.op == Op::Undefined {
            return Err(Exception::UD.into());
        }
        if encoding == Encoding::Legacy {
            if entry.any(table::VEX | table::EVEX) {
                return Err(Exception::UD.into());
            }
        } else {
            entry = self.vex_row(entry)?;
        }
        self.insn.width = self.operand_width(&entry);
        if entry.op == Op::Movsx && self.insn.opcode == 0x63 && self.insn.width == Width::B2 {
            entry.src = Loc::Rm16;
        }
        self.insn.entry = entry;
        if entry.any(table::MODRM) {
            self.modrm(&entry, p.segment)?;
        }
        self.immediate(entry.imm)?;
        self.insn.length = self.position;
        let memory = self.insn.rm == Rm::Mem && entry.any(table::MODRM);
        let bad = (long && entry.any(table::NO64))
            || (!long && entry.any(table::ONLY64))
            || (self.mode.is_real_like() && entry.any(table::PROT))
            || (entry.any(table::MEM) && !memory)
            || (entry.any(table::REG) && memory)
            || self.names_no_register(entry.op)
            || (entry.any(table::NP) && (self.insn.opsize_prefix || self.insn.rep != Rep::None))
            || (self.insn.lock && !(entry.any(table::LOCK) && memory && entry.dst == Loc::Rm));
        if bad {
            return Err(Exception::UD.into());
        }
        Ok(())
    }

    /// Whether a move from or to a control or debug register names one that does not exist: that is #UD at any CPL.
    #[inline]
    fn names_no_register(&self, op: Op) -> bool {
        match op {
            Op::MovFromCr | Op::MovToCr => Cr::from_number(self.insn.reg).is_none(),
            Op::MovFromDr | Op::MovToDr => self.insn.reg > 7,
            _ => false,
        }
    }

    /// The operand width that prefixes, mode and row give.
    #[inline]
    fn operand_width(&self, entry: &Entry) -> Width {
        let flags = entry.flags;
        if flags & table::BYTE != 0 {
            return Width::B1;
        }
        let long = self.mode.is_long64();
        let prefix = self.insn.opsize_prefix;
        if flags & (table::NATIVE | table::F64 | table::D64 | table::NO16) != 0 {
            if flags & table::NATIVE != 0 {
                return if long { Width::B8 } else { Width::B4 };
            }
            if long && flags & table::F64 != 0 {
                return Width::B8;
            }
            if long && flags & table::D64 != 0 {
                return if prefix && self.insn.rex & 8 == 0 {
                    Width::B2
                } else {
                    Width::B8
                };
            }
            if flags & table::NO16 != 0 {
                return if self.insn.rex & 8 != 0 {
                    Width::B8
                } else {
                    Width::B4
                };
            }
        }
        if self.insn.rex & 8 != 0 {
            return Width::B8;
        }
        match (self.mode.default_width(), prefix) {
            (Width::B4, true) | (Width::B2, false) => Width::B2,
            _ => Width::B4,
        }
    }

    /// Reads what follows the addressing bytes.
    #[inline]
    fn immediate(&mut self, kind: Imm) -> Reply {
        let width = self.insn.width;
        let value = match kind {
            Imm::None => return Ok(()),
            Imm::S8 => self.signed(Width::B1)?,
            Imm::U8 => self.unsigned(Width::B1)?,
            Imm::U16 => self.unsigned(Width::B2)?,
            Imm::Z => self.signed(width.min(Width::B4))?,
            Imm::V => self.signed(width)?,
            Imm::Moffs => {
                self.insn.rm = Rm::Mem;
                self.insn.base = Base::None;
                self.insn.index = None;
                self.insn.disp = self.unsigned(self.insn.address)?;
                return Ok(());
            }
            Imm::Far => {
                let offset = self.unsigned(width.min(Width::B4))?;
                self.insn.imm2 = self.unsigned(Width::B2)? as u16;
                offset
            }
            Imm::Enter => {
                let size = self.unsigned(Width::B2)?;
                self.insn.imm2 = self.unsigned(Width::B1)? as u16;
                size
            }
        };
        self.insn.imm = value;
        Ok(())
    }
}

/// The row of a one-byte opcode.
#[inline]
fn one_byte(opcode: u8) -> Entry {
    match table::ONE_BYTE.get(usize::from(opcode)) {
        Some(e) => *e,
        None => Insn::EMPTY.entry,
    }
}

/// The row of a two-byte opcode.
#[inline]
fn two_byte(opcode: u8) -> Entry {
    match table::TWO_BYTE.get(usize::from(opcode)) {
        Some(e) => *e,
        None => Insn::EMPTY.entry,
    }
}
