// SPDX-License-Identifier: GPL-2.0

//! String instructions: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, with and without a repeat prefix.
//!
//! Registers are staged after each iteration, when all its accesses have succeeded: whatever stops the next iteration,
//! what is staged is the state after the ones before, and the instruction goes on from there. A bounded number of
//! iterations is done at a time, so that events and signals are seen.

use crate::addr::Gva;
use crate::regs::{rflags, Gpr, SegReg};

use super::alu;
use super::exec::{Exec, Flow};
use super::insn::Rep;
use super::ops::{Access, AccessKind, Backing, IoReply, Reply, Stop};
use super::state::Width;
use super::table::Op;
use super::work::{Answer, Port, Wanted, DATA_BYTES};

impl Exec<'_> {
    /// Does one chunk of a string instruction.
    pub(super) fn string(&mut self) -> Reply<Flow> {
        let op = self.insn.entry.op;
        let counter = self.insn.address;
        let repeated = self.insn.rep != Rep::None;
        let mut left = if repeated {
            self.named(Gpr::Rcx, counter)
        } else {
            1
        };
        if left == 0 {
            return Ok(Flow::Done);
        }
        if matches!(op, Op::Ins | Op::Outs) {
            self.check_port(self.named(Gpr::Rdx, Width::B2) as u16, self.port_width())?;
        }
        let single_step = self.rflags & rflags::TF != 0;
        if single_step {
            self.work.budget = 1;
        }
        while self.work.budget > 0 {
            let most = left.min(self.work.budget);
            let done = match op {
                Op::Ins => self.ins(most)?,
                Op::Outs => self.outs(most)?,
                _ => self.element(op, most)?,
            };
            left = left.wrapping_sub(done);
            self.work.budget = self.work.budget.saturating_sub(done);
            if repeated {
                self.set_named(Gpr::Rcx, counter, left);
            }
            self.progress = true;
            self.work.reads.clear();
            if left == 0 || self.ended_by_flag(op) {
                return Ok(Flow::Done);
            }
            if !self.work.writes.is_empty() || self.work.port_out.is_some() {
                break;
            }
        }
        Ok(Flow::More)
    }

    /// REPE and REPNE end CMPS and SCAS by ZF.
    fn ended_by_flag(&self, op: Op) -> bool {
        let zero = self.rflags & rflags::ZF != 0;
        match (op, self.insn.rep) {
            (Op::Cmps | Op::Scas, Rep::Rep) => !zero,
            (Op::Cmps | Op::Scas, Rep::Repne) => zero,
            _ => false,
        }
    }

    /// Moves an index register by `count` elements of `size` in the direction of DF.
    fn advance(&mut self, r: Gpr, count: u64, size: Width) {
        let width = self.insn.address;
        let bytes = count.wrapping_mul(u64::from(size.bytes()));
        let old = self.named(r, width);
        let new = if self.rflags & rflags::DF != 0 {
            old.wrapping_sub(bytes)
        } else {
            old.wrapping_add(bytes)
        };
        self.set_named(r, width, new);
    }

    /// The element at DS:RSI, or what a segment override makes of it.
    fn load_source(&mut self) -> Reply<u64> {
        let at = self.named(Gpr::Rsi, self.insn.address);
        self.load(self.insn.segment, at, self.insn.width, Access::READ)
    }

    /// One iteration of all but INS and OUTS; how many were done.
    fn element(&mut self, op: Op, most: u64) -> Reply<u64> {
        let width = self.insn.width;
        let address = self.insn.address;
        match op {
            Op::Movs => {
                if let Some(done) = self.move_block(most)? {
                    return Ok(done);
                }
                let value = self.load_source()?;
                let to = self.named(Gpr::Rdi, address);
                self.store(SegReg::Es, to, width, value)?;
                self.advance(Gpr::Rsi, 1, width);
                self.advance(Gpr::Rdi, 1, width);
            }
            Op::Stos => {
                let to = self.named(Gpr::Rdi, address);
                let value = self.named(Gpr::Rax, width);
                self.store(SegReg::Es, to, width, value)?;
                self.advance(Gpr::Rdi, 1, width);
            }
            Op::Lods => {
                let value = self.load_source()?;
                self.set_named(Gpr::Rax, width, value);
                self.advance(Gpr::Rsi, 1, width);
            }
            _ => {
                let at = self.named(Gpr::Rdi, address);
                let b = self.load(SegReg::Es, at, width, Access::READ)?;
                let a = if op == Op::Cmps {
                    self.load_source()?
                } else {
                    self.named(Gpr::Rax, width)
                };
                let (_, flags) = alu::sub(a, b, false, width);
                self.set_status(flags);
                if op == Op::Cmps {
                    self.advance(Gpr::Rsi, 1, width);
                }
                self.advance(Gpr::Rdi, 1, width);
            }
        }
        Ok(1)
    }

    /// Bytes from `at` on, which is at `offset` in its segment, that can be accessed at once: to the end of the page, or to
    /// where the index register wraps, and no more than the buffer holds.
    fn room(&self, at: Gva, offset: u64) -> u64 {
        let wraps = self.insn.address.mask().wrapping_sub(offset);
        at.bytes_to_page_end()
            .min(wraps.saturating_add(1))
            .min(DATA_BYTES as u64)
    }

    /// Several iterations of MOVS at once where both sides are memory in one page each, upwards and not overlapping
    /// in the direction that would make them see their own stores. `None`: do one iteration the plain way.
    fn move_block(&mut self, most: u64) -> Reply<Option<u64>> {
        if most < 8 || self.rflags & (rflags::DF | rflags::AC) != 0 {
            return Ok(None);
        }
        let address = self.insn.address;
        let width = self.insn.width;
        let size = u64::from(width.bytes());
        let from = self.named(Gpr::Rsi, address);
        let to = self.named(Gpr::Rdi, address);
        let Ok(source) = self.linear(self.insn.segment, from, size, AccessKind::Read) else {
            return Ok(None);
        };
        let Ok(target) = self.linear(SegReg::Es, to, size, AccessKind::Write) else {
            return Ok(None);
        };
        let room = self.room(source, from).min(self.room(target, to));
        let count = most.min(room.checked_div(size).unwrap_or(0));
        let bytes = count.wrapping_mul(size);
        let own_stores = target.0.wrapping_sub(source.0) < bytes;
        if count < 2 || own_stores {
            return Ok(None);
        }
        let inside = self
            .linear(self.insn.segment, from, bytes, AccessKind::Read)
            .is_ok()
            && self
                .linear(SegReg::Es, to, bytes, AccessKind::Write)
                .is_ok();
        if !inside {
            return Ok(None);
        }
        let Some(buf) = self.work.data.get_mut(..bytes as usize) else {
            return Ok(None);
        };
        // The source faults before the target.
        if self.ops.read(source, buf, Access::READ)? != Backing::Ram
            || self.ops.probe(target, Access::WRITE)? != Backing::Ram
        {
            return Ok(None);
        }
        if self.ops.write(target, buf, Access::WRITE)? != Backing::Ram {
            return Err(Stop::Retry);
        }
        self.advance(Gpr::Rsi, count, width);
        self.advance(Gpr::Rdi, count, width);
        Ok(Some(count))
    }

    /// The linear address of up to `most` elements and how many of them to do at once: several only upwards, inside
    /// one page of memory and inside the segment.
    fn block(
        &mut self,
        which: SegReg,
        r: Gpr,
        most: u64,
        access: Access,
    ) -> Reply<(Gva, u64, Backing)> {
        let size = u64::from(self.port_width().bytes());
        let offset = self.named(r, self.insn.address);
        let at = self.linear(which, offset, size, access.kind)?;
        let crossing = at.bytes_to_page_end() < size;
        let backing = self.ops.probe(at, access)?;
        if crossing {
            let second = self.after(at, at.bytes_to_page_end());
            self.ops.probe(second, access)?;
        }
        let upwards = self.rflags & rflags::DF == 0;
        let room = self.room(at, offset);
        let count = most.min(room.checked_div(size).unwrap_or(1));
        let bytes = count.wrapping_mul(size);
        let whole = count > 1
            && upwards
            && backing == Backing::Ram
            && self.linear(which, offset, bytes, access.kind).is_ok();
        Ok((at, if whole { count } else { 1 }, backing))
    }

    /// INS: reads up to `most` elements from the port, then stores them; how many.
    fn ins(&mut self, most: u64) -> Reply<u64> {
        let size = self.port_width();
        let port = self.named(Gpr::Rdx, Width::B2) as u16;
        let (at, count, _) = self.block(SegReg::Es, Gpr::Rdi, most, Access::WRITE)?;
        let count = match self.work.answer {
            // The data are here already, for a number of elements that was right when they were asked for.
            Answer::Port(p) if p.port == port && p.size == size.bytes() => {
                count.min(u64::from(p.count))
            }
            _ => {
                self.port_read(port, size, count as u32)?;
                count
            }
        };
        self.work.answer = Answer::None;
        let bytes = (count as usize).wrapping_mul(size.size());
        let Some(data) = self.work.data.get(..bytes) else {
            return Err(Stop::Unhandled);
        };
        if count > 1 {
            if self.ops.write(at, data, Access::WRITE)? != Backing::Ram {
                return Err(Stop::Unhandled);
            }
        } else {
            let value = super::portio::little_endian(data);
            self.write_linear(at, size, value)?;
        }
        self.advance(Gpr::Rdi, count, size);
        Ok(count)
    }

    /// OUTS: reads up to `most` elements from memory, then writes them to the port; how many.
    fn outs(&mut self, most: u64) -> Reply<u64> {
        let size = self.port_width();
        let port = self.named(Gpr::Rdx, Width::B2) as u16;
        let (at, count, _) = self.block(self.insn.segment, Gpr::Rsi, most, Access::READ)?;
        let bytes = (count as usize).wrapping_mul(size.size());
        if count > 1 {
            let Some(data) = self.work.data.get_mut(..bytes) else {
                return Err(Stop::Unhandled);
            };
            if self.ops.read(at, data, Access::READ)? != Backing::Ram {
                return Err(Stop::Retry);
            }
        } else {
            let value = self.read_linear(at, size, Access::READ)?.to_le_bytes();
            if let (Some(to), Some(from)) = (self.work.data.get_mut(..bytes), value.get(..bytes)) {
                to.copy_from_slice(from);
            }
        }
        let Some(data) = self.work.data.get(..bytes) else {
            return Err(Stop::Unhandled);
        };
        if self.ops.pio_out(port, size.bytes(), data) == IoReply::User {
            self.work.port_out = Some(Port {
                port,
                size: size.bytes(),
                count: count as u32,
            });
        }
        self.advance(Gpr::Rsi, count, size);
        Ok(count)
    }

    /// Reads elements from a port into the buffer.
    pub(super) fn port_read(&mut self, port: u16, size: Width, count: u32) -> Reply {
        let bytes = (count as usize).wrapping_mul(size.size());
        let Some(buf) = self.work.data.get_mut(..bytes) else {
            return Err(Stop::Unhandled);
        };
        if self.ops.pio_in(port, size.bytes(), buf) == IoReply::User {
            self.work.wanted = Wanted::Port(Port {
                port,
                size: size.bytes(),
                count,
            });
            return Err(Stop::User);
        }
        Ok(())
    }
}
