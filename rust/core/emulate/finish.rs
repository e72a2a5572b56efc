// SPDX-License-Identifier: GPL-2.0

//! How an execution ends: the staged state becomes the vCPU's, writes and wishes go to user space, and its answers come
//! back for the replay.

use super::outcome::{Bytes, Completed, Outcome, Shadow, UserExit};
use super::state::Regs;
use super::work::{Answer, Wanted};
use super::{portio, Emulator, Phase, Stop};

impl Emulator {
    /// Turns what user space has put into the buffer into an answer for the replay; `false` if there is no room for it.
    pub(super) fn take_answer(&mut self) -> bool {
        let mut kept = true;
        self.work.answer = Answer::None;
        match self.work.wanted {
            Wanted::Nothing => {}
            Wanted::Mmio { gpa, len } => {
                if let Some(data) = self.work.data.get(..usize::from(len)) {
                    kept = self.work.reads.record(gpa, data);
                }
            }
            Wanted::Port(port) => self.work.answer = Answer::Port(port),
            Wanted::ReadMsr(index) => {
                let value = portio::little_endian(self.work.data.get(..8).unwrap_or_default());
                self.work.answer = Answer::ReadMsr(index, value);
            }
            Wanted::WriteMsr(index, _) => self.work.answer = Answer::WriteMsr(index),
        }
        self.work.reads.rewind();
        kept
    }

    /// Makes the staged state the vCPU's.
    pub(super) fn commit(
        &mut self,
        regs: &mut Regs,
        rip: u64,
        flags: u64,
        shadow: Shadow,
        trap: u64,
        more: bool,
    ) -> Completed {
        let mut left = self.work.dirty;
        while left != 0 {
            let r = left.trailing_zeros() as u8;
            left &= left.wrapping_sub(1);
            let value = self
                .work
                .gpr
                .get(usize::from(r & 15))
                .copied()
                .unwrap_or_default();
            regs.write(r, value);
        }
        let done = Completed {
            gprs: self.work.dirty,
            rflags: regs.rflags != flags,
            shadow,
            trap,
            more,
        };
        regs.rip = rip;
        regs.rflags = flags;
        done
    }

    /// The outcome of a committed instruction: done, or its writes go to user space first.
    #[inline]
    pub(super) fn deliver(&mut self, done: Completed) -> Outcome {
        if self.work.writes.is_empty() && self.work.port_out.is_none() {
            return Outcome::Completed(done);
        }
        self.phase = Phase::Writing;
        self.next_write(Some(done))
    }

    /// The next queued write.
    pub(super) fn next_write(&mut self, done: Option<Completed>) -> Outcome {
        if let Some(f) = self.work.writes.pop() {
            let exit = UserExit::MmioWrite {
                gpa: f.gpa,
                len: f.len,
                data: f.data,
            };
            return Outcome::Exit(exit, done);
        }
        if let Some(p) = self.work.port_out.take() {
            self.data_len = (u32::from(p.size).wrapping_mul(p.count)) as u16;
            let exit = UserExit::PioOut {
                port: p.port,
                size: p.size,
                count: p.count,
            };
            return Outcome::Exit(exit, done);
        }
        self.phase = Phase::Idle;
        Outcome::Drained
    }

    /// The outcome of an instruction that did not complete.
    pub(super) fn stopped(&mut self, stop: Stop, before: Option<Completed>) -> Outcome {
        if let (Stop::Retry | Stop::Unhandled | Stop::Shutdown, Some(done)) = (stop, before) {
            // What stopped the next iteration will stop it again when it is the first.
            return Outcome::Completed(done);
        }
        match stop {
            Stop::Fault(e) => Outcome::Inject(e, before),
            Stop::Retry => Outcome::Retry,
            Stop::Shutdown => Outcome::Shutdown,
            Stop::Unhandled => Outcome::Unhandled(Bytes {
                len: self.insn.fetched,
                bytes: self.insn.bytes,
            }),
            Stop::User => match self.wanted() {
                Some(exit) => Outcome::Exit(exit, before),
                None => Outcome::Unhandled(Bytes {
                    len: self.insn.fetched,
                    bytes: self.insn.bytes,
                }),
            },
        }
    }

    /// The exit that the wish of the execution amounts to; sizes the buffer for it.
    fn wanted(&mut self) -> Option<UserExit> {
        let (len, exit) = match self.work.wanted {
            Wanted::Nothing => {
                self.phase = Phase::Idle;
                return None;
            }
            Wanted::Mmio { gpa, len } => (u16::from(len), UserExit::MmioRead { gpa, len }),
            Wanted::Port(p) => (
                u32::from(p.size).wrapping_mul(p.count) as u16,
                UserExit::PioIn {
                    port: p.port,
                    size: p.size,
                    count: p.count,
                },
            ),
            Wanted::ReadMsr(index) => (8, UserExit::ReadMsr { index }),
            Wanted::WriteMsr(index, value) => (0, UserExit::WriteMsr { index, value }),
        };
        self.data_len = len;
        Some(exit)
    }
}
