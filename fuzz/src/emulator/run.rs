// SPDX-License-Identifier: GPL-2.0

//! One instruction from its start to its end, through user exits, and what has to hold on the way.

use crate::mock::{Mock, Seen};
use crate::scene::Scene;
use rkvm_core::emulate::*;
use rkvm_core::exception::Exception;
use std::collections::BTreeMap;

/// Accesses to memory and devices that one instruction may make: a string instruction does 1024 iterations with a dozen,
/// user exits with their repetition included.
const MOST_ACCESSES: usize = 16 * 1024;

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is over, or (`more`) an iteration of it.
    Completed { more: bool },
    /// An exception.
    Fault(Exception),
    /// A software interrupt.
    Soft(SoftInterrupt),
    /// To be started again.
    Retry,
    /// A triple fault.
    Shutdown,
    /// Beyond the emulator.
    Unhandled,
    /// A user exit was abandoned before anything was committed.
    Abandoned,
}

/// All of a vCPU that an instruction can change, but memory.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub regs: Regs,
    pub mode: Mode,
    pub cpl: u8,
    pub segments: [Segment; 8],
    pub tables: [TableReg; 2],
    pub cr: [u64; 5],
    pub cet: [u64; 3],
    pub dr: [u64; 8],
    pub efer: u64,
    pub msrs: BTreeMap<u32, u64>,
    pub effects: Vec<Effect>,
    pub vectors: [[u8; 64]; 32],
    pub mmx: [u64; 8],
    pub fx: [u8; 512],
}

impl State {
    /// The state of a vCPU.
    pub fn of(regs: &Regs, cpu: &Mock) -> Self {
        Self {
            regs: *regs,
            mode: cpu.mode,
            cpl: cpu.cpl,
            segments: cpu.segments,
            tables: [cpu.gdt, cpu.idt],
            cr: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.cr8],
            cet: [cpu.u_cet, cpu.s_cet, cpu.ssp],
            dr: cpu.dr,
            efer: cpu.efer,
            msrs: cpu.msrs.clone(),
            effects: cpu.effects.clone(),
            vectors: cpu.vectors,
            mmx: cpu.mmx,
            fx: cpu.fx,
        }
    }
}

/// What an instruction was seen to do.
pub struct Run {
    pub end: End,
    /// Reads that user space answered.
    pub user_reads: usize,
}

/// Runs the instruction to its end.
pub fn once(scene: &mut Scene) -> Run {
    until_exit(scene, usize::MAX)
}

/// Runs the instruction to its end, or until user space was asked for a read for the time `abandon` (from 0): then the
/// exit is forgotten.
pub fn until_exit(scene: &mut Scene, abandon: usize) -> Run {
    let before = State::of(&scene.machine.regs, &scene.machine.cpu);
    let mut regs = before.regs;
    let accesses = scene.machine.cpu.accesses;
    let mut outcome = scene.start();
    let mut user_reads = 0;
    let mut committed = false;
    let mut more = false;
    let end = loop {
        let done = match outcome {
            Outcome::Completed(done) => Some(done),
            Outcome::Exit(_, done) | Outcome::Inject(_, done) => done,
            _ => None,
        };
        if let Some(done) = done {
            commit(&mut regs, &scene.machine.regs, &done);
            committed = true;
            more = done.more;
        }
        // What is not committed has not happened.
        assert_eq!(regs, scene.machine.regs, "registers changed: {outcome:x?}");
        match outcome {
            Outcome::Exit(exit, _) => {
                if serve(scene, exit) {
                    if user_reads == abandon {
                        scene.machine.emulator.cancel();
                        break if committed {
                            End::Completed { more: true }
                        } else {
                            End::Abandoned
                        };
                    }
                    user_reads += 1;
                }
                outcome = scene.machine.resume();
            }
            Outcome::Completed(_) | Outcome::Drained => break End::Completed { more },
            Outcome::Inject(e, _) => break End::Fault(e),
            Outcome::Soft(soft) => break End::Soft(soft),
            Outcome::Retry => break End::Retry,
            Outcome::Shutdown => break End::Shutdown,
            Outcome::Unhandled(_) => break End::Unhandled,
        }
    };
    let m = &scene.machine;
    assert!(
        m.cpu.accesses - accesses < MOST_ACCESSES,
        "an endless instruction"
    );
    let insn = m.emulator.insn();
    assert!(usize::from(insn.length.max(insn.fetched)) <= MAX_LENGTH);
    if committed {
        valid(&State::of(&m.regs, &m.cpu));
    } else {
        let after = State::of(&m.regs, &m.cpu);
        assert!(
            before == after,
            "{end:x?} left something behind: {}",
            difference(&before, &after)
        );
    }
    Run { end, user_reads }
}

/// Takes over what `done` says was changed, as the glue does.
fn commit(regs: &mut Regs, now: &Regs, done: &Completed) {
    for r in 0..16 {
        if done.gprs & 1 << r != 0 {
            regs.gpr[r] = now.gpr[r];
        }
    }
    if done.rflags {
        regs.rflags = now.rflags;
    }
    regs.rip = now.rip;
}

/// Does what user space is asked for; whether that was a read. Devices answer as those in the kernel do.
fn serve(scene: &mut Scene, exit: UserExit) -> bool {
    let m = &mut scene.machine;
    m.cpu.accesses += 1;
    match exit {
        UserExit::MmioRead { gpa, len } => {
            assert_eq!(m.emulator.data_mut().len(), usize::from(len));
            assert!(matches!(len, 1..=8));
            for (n, b) in m.emulator.data_mut().iter_mut().enumerate() {
                *b = (gpa.0 as u8).wrapping_add(n as u8);
            }
            m.cpu.seen.push(Seen::MmioRead(gpa.0, len.into()));
            true
        }
        UserExit::MmioWrite { gpa, len, data } => {
            assert!(matches!(len, 1..=8));
            let data = data[..usize::from(len)].to_vec();
            m.cpu.seen.push(Seen::MmioWrite(gpa.0, data));
            false
        }
        UserExit::PioIn { port, size, count } => {
            assert_eq!(
                m.emulator.data_mut().len(),
                usize::from(size) * count as usize
            );
            m.emulator.data_mut().fill(port as u8);
            m.cpu.seen.push(Seen::PioIn(port, size, count as usize));
            true
        }
        UserExit::PioOut { port, size, count } => {
            let data = m.emulator.data().to_vec();
            assert_eq!(data.len(), usize::from(size) * count as usize);
            m.cpu.seen.push(Seen::PioOut(port, size, data));
            false
        }
        UserExit::ReadMsr { index } => {
            m.emulator.data_mut().fill(index as u8);
            true
        }
        UserExit::WriteMsr { .. } => true,
    }
}

/// A state that a processor can be in, given that it was in one before.
fn valid(s: &State) {
    let reserved = !0x3f_7fd5;
    assert_eq!(s.regs.rflags & reserved, 2, "flags {:x}", s.regs.rflags);
    if s.mode == Mode::Long64 {
        let bits = if s.cr[3] & 1 << 12 != 0 { 57 } else { 48 };
        let high = (s.regs.rip as i64) >> (bits - 1);
        assert!(high == 0 || high == -1, "rip {:x}", s.regs.rip);
    } else {
        assert!(s.regs.rip <= 0xffff_ffff, "rip {:x}", s.regs.rip);
    }
}

/// The first thing that differs, in words.
pub fn difference(a: &State, b: &State) -> String {
    for r in 0..16 {
        if a.regs.gpr[r] != b.regs.gpr[r] {
            return format!("r{r} {:x} {:x}", a.regs.gpr[r], b.regs.gpr[r]);
        }
    }
    if a.regs != b.regs {
        return format!(
            "rip {:x} {:x}, flags {:x} {:x}",
            a.regs.rip, b.regs.rip, a.regs.rflags, b.regs.rflags
        );
    }
    for n in 0..8 {
        if a.segments[n] != b.segments[n] {
            return format!("segment {n}: {:x?} {:x?}", a.segments[n], b.segments[n]);
        }
    }
    if (a.mode, a.cpl, a.tables, a.cr, a.efer) != (b.mode, b.cpl, b.tables, b.cr, b.efer) {
        return format!(
            "{:x?} {:x?}",
            (a.mode, a.cpl, a.tables, a.cr, a.efer),
            (b.mode, b.cpl, b.tables, b.cr, b.efer)
        );
    }
    if (a.dr, &a.msrs, &a.effects) != (b.dr, &b.msrs, &b.effects) {
        return format!(
            "{:x?} {:x?}",
            (a.dr, &a.msrs, &a.effects),
            (b.dr, &b.msrs, &b.effects)
        );
    }
    "vector registers".into()
}
