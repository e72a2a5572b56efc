// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator: bytes and a state in; a state change, memory operations and faults out.
//!
//! The counterpart in C KVM is `arch/x86/kvm/emulate.c`. It runs what hardware can't run for the guest: accesses to
//! memory that is not there (KVM_EXIT_MMIO, in-kernel devices) or is only to be read, string I/O, instructions on
//! descriptor tables where they exit, task switches, what can't be entered without unrestricted guest.
//!
//! # How an instruction goes through
//!
//! [`Emulator::start()`] fetches and decodes ([`decode()`], a function of bytes and mode only) and executes. Execution
//! *stages* register changes and commits them once, at the end. All device reads of an instruction come before its
//! first write.
//!
//! # User exits
//!
//! There is one model for all of them: **replay of the decoded instruction**.
//!
//! - A *read* that only user space can answer (MMIO, port, MSR) ends execution with [`Outcome::Exit`]; what was staged
//!   is dropped. The decoded instruction and the device reads that were answered already stay in the [`Emulator`].
//!   [`Emulator::resume()`] adds the new answer and executes the same decoded instruction from its start; device reads
//!   it has made before get their recorded values, so no device sees a read twice. Nothing is fetched again.
//! - A *write* that only user space can do is queued and the instruction commits; [`Outcome::Exit`] says so by its
//!   [`Completed`]. [`Emulator::resume()`] hands out the rest of the queue, a fragment of at most 8 bytes at a time,
//!   then ends with [`Outcome::Drained`].
//!
//! The [`Emulator`] holds no reference to anything: no borrow lives across a user exit.
//!
//! # Limits
//!
//! No heap, no recursion, no panic. The largest stack use is that of a task switch, below 2 KiB.

mod alu;
mod bits;
mod branch;
mod cet;
mod code;
mod data;
pub mod decode;
mod exchange;
mod exec;
mod far;
mod finish;
pub mod insn;
mod memory;
mod moves;
mod msr;
mod muldiv;
pub mod ops;
pub mod outcome;
mod portio;
#[cfg(not(CONFIG_RUST))]
pub mod register_file;
mod segment;
mod stack;
pub mod state;
mod string;
mod system;
pub mod table;
mod vector;
mod work;
mod x87;

pub use cet::Cet;
pub use decode::{decode, CodeSource};
pub use far::TaskSwitch;
pub use insn::{Insn, MAX_LENGTH};
pub use moves::{Load, Move};
pub use ops::{
    Access, AccessKind, Backing, Effect, Feature, IoReply, Reply, Stop, Swap, VcpuOps, X87,
};
pub use outcome::{Bytes, Completed, Outcome, Shadow, SoftInterrupt, SoftKind, UserExit};
pub use state::{ar, Cr, Mode, Regs, Segment, TableKind, TableReg, Width};
pub use work::DATA_BYTES;

use crate::exception::Exception;
use crate::regs::{dr, rflags, SegReg};

use code::Code;
use exec::{Exec, Flow};
use work::{Answer, Wanted, Work, BUDGET};

/// Why the emulator is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An exit that hardware could not complete, or the force-emulation prefix: any instruction.
    Exit,
    /// Hardware raised #UD: only instructions that are emulated although the host lacks them; for others the #UD is
    /// given to the guest.
    UndefinedOpcode,
}

/// What the emulator waits for between two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    Idle,
    /// The answer to a read; then the instruction is executed again in this mode.
    Reading(Mode),
    /// User space to take the queued writes of a committed instruction.
    Writing,
}

/// The emulator of one vCPU, to be kept in the vCPU (about 2.5 KiB).
#[derive(Debug)]
pub struct Emulator {
    insn: Insn,
    phase: Phase,
    data_len: u16,
    work: Work,
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new()
    }
}

impl Emulator {
    /// An emulator with nothing under way.
    pub const fn new() -> Self {
        Self {
            insn: Insn::EMPTY,
            phase: Phase::Idle,
            data_len: 0,
            work: Work::new(),
        }
    }

    /// Fetches, decodes and executes the instruction at RIP. What an earlier call left under way is dropped.
    pub fn start(&mut self, regs: &mut Regs, ops: &mut dyn VcpuOps, cause: Cause) -> Outcome {
        self.phase = Phase::Idle;
        self.forget();
        let mode = ops.mode();
        let long = mode.is_long64();
        let (start, room) = if long {
            (regs.rip, u64::MAX)
        } else {
            let cs = ops.segment(SegReg::Cs);
            let room = u64::from(cs.limit).wrapping_add(1).saturating_sub(regs.rip);
            (cs.base.wrapping_add(regs.rip), room)
        };
        let mut code = Code {
            ops,
            start,
            room,
            long,
            failed: false,
        };
        if let Err(stop) = decode(&mut self.insn, mode, &mut code) {
            if code.failed {
                return self.stopped(stop, None);
            }
            // What is no instruction is no ENDBRANCH either, and that fault comes first.
            return self.execute_with(regs, ops, mode, false, |exec| {
                exec.expect_endbranch(false)?;
                Err(stop)
            });
        }
        if cause == Cause::UndefinedOpcode && !self.insn.entry.any(table::ON_UD) {
            return Outcome::Inject(Exception::UD, None);
        }
        ops.decoded(self.insn.has_single_memory_operand());
        self.execute(regs, ops, mode)
    }

    /// Switches tasks for an exit that hardware leaves to the hypervisor (SDM, "Task switch" in "Instructions That
    /// Cause VM Exits Unconditionally"): to the TSS of `selector`. `length` is that of the instruction at RIP that
    /// caused it, 0 for exceptions and external interrupts; `error_code` is for the new task's stack.
    pub fn task_switch(
        &mut self,
        regs: &mut Regs,
        ops: &mut dyn VcpuOps,
        selector: u16,
        reason: TaskSwitch,
        error_code: Option<u32>,
        length: u8,
    ) -> Outcome {
        self.without_insn(length);
        let mode = ops.mode();
        self.execute_with(regs, ops, mode, false, |exec| {
            exec.switch_task(selector, reason, error_code)
        })
    }

    /// Delivers an interrupt or exception in real mode where hardware cannot (no unrestricted guest). `length` is that
    /// of the INT instruction at RIP, 0 for all else.
    pub fn real_interrupt(
        &mut self,
        regs: &mut Regs,
        ops: &mut dyn VcpuOps,
        vector: u8,
        length: u8,
    ) -> Outcome {
        self.without_insn(length);
        self.execute_with(regs, ops, Mode::Real, false, |exec| {
            exec.real_interrupt(vector).map(|()| Flow::Done)
        })
    }

    /// Prepares for an event that is no instruction.
    fn without_insn(&mut self, length: u8) {
        self.phase = Phase::Idle;
        self.forget();
        self.insn = Insn {
            length,
            ..Insn::EMPTY
        };
    }

    /// Drops the records of the last instruction.
    #[inline]
    fn forget(&mut self) {
        self.work.reads.clear();
        self.work.writes.clear();
        self.work.port_out = None;
        self.work.answer = Answer::None;
        self.work.budget = BUDGET;
    }

    /// Goes on after user space has served an [`Outcome::Exit`]; for a read, its data are in
    /// [`Self::data_mut()`].
    pub fn resume(&mut self, regs: &mut Regs, ops: &mut dyn VcpuOps) -> Outcome {
        match self.phase {
            Phase::Idle => Outcome::Drained,
            Phase::Writing => self.next_write(None),
            Phase::Reading(mode) => {
                self.phase = Phase::Idle;
                if !self.take_answer() {
                    return self.stopped(Stop::Unhandled, None);
                }
                self.execute(regs, ops, mode)
            }
        }
    }

    /// Whether a user exit is to be followed by [`Self::resume()`].
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Forgets what is under way (vCPU reset, or user space refused an MSR access).
    pub fn cancel(&mut self) {
        self.phase = Phase::Idle;
    }

    /// The bytes of a [`UserExit::PioOut`].
    pub fn data(&self) -> &[u8] {
        self.work
            .data
            .get(..usize::from(self.data_len))
            .unwrap_or_default()
    }

    /// Where the bytes that a read exit asks for are to be put.
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.work
            .data
            .get_mut(..usize::from(self.data_len))
            .unwrap_or_default()
    }

    /// Decodes the instruction at RIP from bytes that are there already (see [`decode::decode_bytes()`]), ahead of what the
    /// glue then does with it itself; nothing is under way. `None` if they do not hold a valid instruction.
    #[inline]
    pub fn decode_ahead(&mut self, mode: Mode, code: u128, have: u8) -> Option<&Insn> {
        decode::decode_bytes(&mut self.insn, mode, code, have).ok()?;
        Some(&self.insn)
    }

    /// The instruction that was decoded last.
    #[inline]
    pub fn insn(&self) -> &Insn {
        &self.insn
    }

    /// Executes the decoded instruction and commits.
    fn execute(&mut self, regs: &mut Regs, ops: &mut dyn VcpuOps, mode: Mode) -> Outcome {
        self.execute_with(regs, ops, mode, true, |exec| {
            exec.expect_endbranch(true)?;
            exec.run()
        })
    }

    /// Does `action` and commits; `step`: TF makes a trap of it.
    #[inline]
    fn execute_with(
        &mut self,
        regs: &mut Regs,
        ops: &mut dyn VcpuOps,
        mode: Mode,
        step: bool,
        action: impl FnOnce(&mut Exec<'_>) -> Reply<Flow>,
    ) -> Outcome {
        self.work.dirty = 0;
        self.work.wanted = Wanted::Nothing;
        let next = regs.rip.wrapping_add(u64::from(self.insn.length));
        let mut exec = Exec {
            insn: &self.insn,
            regs,
            ops,
            work: &mut self.work,
            mode,
            rip: if mode.is_long64() {
                next
            } else {
                next & 0xffff_ffff
            },
            rflags: regs.rflags & !rflags::RF,
            shadow: Shadow::None,
            trap: 0,
            progress: false,
            cet: None,
        };
        let result = action(&mut exec);
        // A single-step trap follows what TF was before the instruction.
        let step = step && regs.rflags & rflags::TF != 0 && exec.shadow != Shadow::MovSs;
        let trap = exec.trap | if step { dr::DR6_BS } else { 0 };
        let (rip, flags, shadow, progress) = (exec.rip, exec.rflags, exec.shadow, exec.progress);
        if let Some(cet) = exec.cet.filter(|_| progress || result.is_ok()) {
            ops.set_cet(&cet);
        }
        match result {
            Ok(Flow::Done) => {
                let done = self.commit(regs, rip, flags, shadow, trap, false);
                self.deliver(done)
            }
            Ok(Flow::More) => {
                // Whatever comes between two iterations finds RF set (SDM, "Instruction-Breakpoint Exception Condition").
                let flags = flags | rflags::RF;
                let rip = regs.rip;
                let done = self.commit(regs, rip, flags, shadow, trap, true);
                self.deliver(done)
            }
            Ok(Flow::Soft(soft)) => Outcome::Soft(soft),
            Ok(Flow::Faulted(e)) => {
                let done = self.commit(regs, rip, flags, shadow, 0, false);
                Outcome::Inject(e, Some(done))
            }
            Err(stop) => {
                let before = progress.then(|| {
                    // CMPS and SCAS that stop halfway leave the flags of before the instruction (SDM, "REP").
                    let flags = regs.rflags;
                    let rip = regs.rip;
                    self.commit(regs, rip, flags, Shadow::None, 0, true)
                });
                if stop == Stop::User {
                    self.phase = Phase::Reading(mode);
                }
                self.stopped(stop, before)
            }
        }
    }
}
