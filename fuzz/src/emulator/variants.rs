// SPDX-License-Identifier: GPL-2.0

//! The same instruction in the same state by different ways: all have to end alike.

use super::run::{difference, once, until_exit, End, Run, State};
use crate::mock::{Mock, Seen, DEVICES, DEVICES_END, RAM};
use crate::scene::{Action, Scene};
use rkvm_core::emulate::table::Op;
use rkvm_core::emulate::{Cause, Insn, Mode, MAX_LENGTH};
use rkvm_core::exception::{pfec, Payload, Vector};
use rkvm_core::regs::rflags;

/// The most iterations of a string instruction that is run to its end: more than are done in one go.
const MOST_ITERATIONS: u64 = 1100;

/// Starts until an instruction is at its end.
const MOST_STARTS: usize = 4000;

const STATUS: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF | rflags::OF;

fn same_memory(a: &Mock, b: &Mock) -> Result<(), String> {
    for page in 0..256 {
        if (a.touched[page / 64] | b.touched[page / 64]) & 1 << (page % 64) == 0 {
            continue;
        }
        let range = page * 4096..(page + 1) * 4096;
        if a.ram[range.clone()] != b.ram[range.clone()] {
            let at = range.into_iter().find(|at| a.ram[*at] != b.ram[*at]);
            return Err(format!("memory differs at {at:x?}"));
        }
    }
    Ok(())
}

/// What devices saw, element by element.
fn elements(seen: &[Seen], reads: bool) -> Vec<Seen> {
    let mut all = Vec::new();
    for s in seen {
        match s {
            Seen::PioIn(port, size, count) if reads => {
                all.extend((0..*count).map(|_| Seen::PioIn(*port, *size, 1)));
            }
            Seen::PioOut(port, size, data) => {
                let parts = data.chunks(usize::from(*size));
                all.extend(parts.map(|d| Seen::PioOut(*port, *size, d.to_vec())));
            }
            Seen::MmioRead(..) if reads => all.push(s.clone()),
            Seen::MmioWrite(..) => all.push(s.clone()),
            _ => {}
        }
    }
    all
}

/// An emulator that was left in the middle of something else does the same as a new one.
pub fn used_emulator(data: &[u8], first: &Run) {
    let (mut new, mut used) = (Scene::new(data), Scene::new(data));
    let mut other = Scene::new(&[5, 0, 0xf3, 0x48, 0xa7]);
    other.machine.cpu.user_devices = DEVICES;
    other.machine.regs.gpr[6] = DEVICES;
    other.machine.regs.gpr[7] = DEVICES + 8;
    other.start();
    other.machine.emulator.data_mut().fill(0x5a);
    other.machine.resume();
    std::mem::swap(&mut used.machine.emulator, &mut other.machine.emulator);
    once(&mut new);
    let again = once(&mut used);
    let ends = (first.end, again.end);
    assert_eq!(first.user_reads, again.user_reads);
    alike("a used emulator", &new, &used, ends, |_| {});
    assert_eq!(new.machine.cpu.seen, used.machine.cpu.seen);
}

/// Two runs ended alike, but for what `but` makes equal.
fn alike(what: &str, a: &Scene, b: &Scene, ends: (End, End), but: impl Fn(&mut State)) {
    let (x, y) = (&a.machine, &b.machine);
    let insn = x.emulator.insn();
    assert_eq!(ends.0, ends.1, "{what}: {:?}", insn.entry.op);
    let mut before = State::of(&x.regs, &x.cpu);
    let mut after = State::of(&y.regs, &y.cpu);
    but(&mut before);
    but(&mut after);
    assert!(
        before == after,
        "{what}: {:?}: {}",
        insn.entry.op,
        difference(&before, &after)
    );
    if let Err(e) = same_memory(&x.cpu, &y.cpu) {
        panic!("{what}: {:?}: {e}", insn.entry.op);
    }
}

/// An instruction that is run to its end, in as many pieces as it takes.
pub struct Whole<'a> {
    data: &'a [u8],
    insn: Insn,
    /// It ended so, all by itself.
    plain: Scene,
    end: End,
}

/// The ways to cut an instruction into pieces.
#[derive(Clone, Copy, Default)]
struct Cuts {
    /// Missing pages appear when they have faulted.
    repair: bool,
    /// Every start of the instruction is abandoned at its first exit after those that were abandoned before.
    abandon: bool,
}

/// Runs a scene to the end of its instruction.
fn whole(scene: &mut Scene, cuts: Cuts) -> End {
    let start = scene.machine.regs.rip;
    let mut abandoned = 0;
    for _ in 0..MOST_STARTS {
        let abandon = if cuts.abandon { abandoned } else { usize::MAX };
        let end = until_exit(scene, abandon).end;
        match end {
            End::Completed { more: true } if scene.machine.regs.rip == start => abandoned = 0,
            End::Abandoned => abandoned += 1,
            End::Retry if scene.machine.cpu.contention > 0 => {}
            End::Fault(e) if cuts.repair && e.vector == Vector::Pf => {
                let Payload::Cr2(at) = e.payload else {
                    panic!("#PF without an address");
                };
                let absent = &mut scene.machine.cpu.absent;
                let code = e.error_code.unwrap_or(0);
                let page = at.page_base().0;
                if code & pfec::PRESENT != 0 || !absent.contains(&page) {
                    return end;
                }
                absent.retain(|p| *p != page);
            }
            other => return other,
        }
    }
    panic!("an endless instruction");
}

impl<'a> Whole<'a> {
    /// Runs the instruction; `None` for a start that is no instruction, or one that changes itself.
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let mut plain = Scene::new(data);
        if plain.action != Action::Instruction(Cause::Exit) {
            return None;
        }
        shorten(&mut plain);
        plain.machine.cpu.absent.clear();
        let start = plain.machine.regs.rip & (RAM - 1);
        let code = plain.machine.cpu.get(start, MAX_LENGTH).to_vec();
        let end = whole(&mut plain, Cuts::default());
        if plain.machine.cpu.get(start, MAX_LENGTH) != code {
            return None;
        }
        let insn = *plain.machine.emulator.insn();
        Some(Self {
            data,
            insn,
            plain,
            end,
        })
    }

    fn scene(&self) -> Scene {
        let mut scene = Scene::new(self.data);
        shorten(&mut scene);
        scene
    }

    /// Compares with the plain run; `reads`: devices have seen the same reads, too.
    fn compare(&self, what: &str, other: &Scene, end: End, reads: bool, but: impl Fn(&mut State)) {
        // A string instruction that faults has RF of before the instruction, or of before the last start of it; a
        // CMPS or SCAS the status flags, too.
        let ignored = match (end, self.insn.entry.op) {
            (End::Fault(_), Op::Cmps | Op::Scas) => STATUS | rflags::RF,
            (End::Fault(_), _) if self.is_string() => rflags::RF,
            _ => 0,
        };
        alike(what, &self.plain, other, (self.end, end), |s| {
            s.regs.rflags &= !ignored;
            but(s);
        });
        // What an instruction had for a device in user space before it faulted (CALL: the return address) is dropped.
        if matches!(end, End::Fault(_)) && !self.is_string() {
            return;
        }
        let (a, b) = (&self.plain.machine.cpu.seen, &other.machine.cpu.seen);
        assert_eq!(
            elements(a, reads),
            elements(b, reads),
            "{what}: {:?}",
            self.insn.entry.op
        );
    }

    /// No device sees anything twice or in another order because it is in user space.
    pub fn devices_in_kernel_or_user_space(&self) {
        if !self.leaves_the_cpu() {
            return;
        }
        for user in [false, true] {
            let mut scene = self.scene();
            let cpu = &mut scene.machine.cpu;
            cpu.absent.clear();
            cpu.user_devices = if user { DEVICES } else { DEVICES_END };
            cpu.user_ports = if user { 0 } else { 1 << 16 };
            let end = whole(&mut scene, Cuts::default());
            self.compare("other devices", &scene, end, true, |_| {});
        }
    }

    /// An exit for a read may be forgotten, and the instruction started anew.
    pub fn abandoned_exits(&self) {
        if !self.leaves_the_cpu() {
            return;
        }
        let mut scene = self.scene();
        let cpu = &mut scene.machine.cpu;
        cpu.absent.clear();
        cpu.user_devices = DEVICES;
        cpu.user_ports = 0;
        let cuts = Cuts {
            abandon: true,
            ..Cuts::default()
        };
        let end = whole(&mut scene, cuts);
        self.compare("an abandoned exit", &scene, end, false, |_| {});
    }

    /// Page faults that the guest repairs leave no trace.
    pub fn pages_that_appear(&self) {
        let mut scene = self.scene();
        if scene.machine.cpu.absent.is_empty() || self.insn.entry.op == Op::Enter {
            return;
        }
        let cuts = Cuts {
            repair: true,
            ..Cuts::default()
        };
        let end = whole(&mut scene, cuts);
        scene.machine.cpu.absent.clear();
        self.compare("a page that appears", &scene, end, false, |_| {});
    }

    /// A string instruction in steps of one iteration.
    pub fn single_steps(&self) {
        if !self.is_string() {
            return;
        }
        let mut scene = self.scene();
        scene.machine.cpu.absent.clear();
        scene.machine.regs.rflags ^= rflags::TF;
        let end = whole(&mut scene, Cuts::default());
        self.compare("single steps", &scene, end, true, |s| {
            s.regs.rflags &= !(rflags::TF | rflags::RF);
        });
    }

    /// A prefix without a meaning sends a MOV through the general path.
    pub fn general_path(&self) {
        let bytes = &self.insn.bytes[..usize::from(self.insn.length)];
        if self.insn.entry.op != Op::Mov || bytes.len() >= 15 {
            return;
        }
        let mut scene = self.scene();
        let m = &mut scene.machine;
        if m.cpu.mode != Mode::Long64 {
            return;
        }
        m.cpu.absent.clear();
        m.regs.rip -= 1;
        let start = m.regs.rip;
        let end = whole(&mut scene, Cuts::default());
        self.compare("the general path", &scene, end, true, |s| {
            if s.regs.rip == start {
                s.regs.rip += 1;
            }
        });
    }

    /// Whether devices have anything to do with it. Of ENTER they may see writes again or not at all: it reads and
    /// writes in turn, and nobody has a stack frame in a device.
    fn leaves_the_cpu(&self) -> bool {
        if self.insn.entry.op == Op::Enter {
            return false;
        }
        let msr = matches!(self.insn.entry.op, Op::Rdmsr | Op::Wrmsr);
        msr || !self.plain.machine.cpu.seen.is_empty()
    }

    fn is_string(&self) -> bool {
        matches!(
            self.insn.entry.op,
            Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas | Op::Ins | Op::Outs
        )
    }
}

/// Makes the counter of a repeated string instruction so small that it comes to its end.
fn shorten(scene: &mut Scene) {
    let m = &mut scene.machine;
    m.regs.gpr[1] %= MOST_ITERATIONS;
}
