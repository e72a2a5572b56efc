// SPDX-License-Identifier: GPL-2.0

//! A vCPU with memory and devices, made of arbitrary bytes.
//!
//! The first bytes are what is done, the mode, and an instruction. What follows is a list of changes to a state in
//! which most instructions find something to do: descriptor tables with a bit of everything, two tasks, registers that
//! point to memory. Each change is a byte that says what and some bytes of value, so that inserting, removing and
//! exchanging them gives another state that makes sense.

mod descriptors;

use crate::input::Input;
use crate::mock::{Machine, Mock, CODE, DATA, DEVICES, RAM, USER_DEVICES};
use descriptors::{furnish, GDT, LDT, STACK};
use rkvm_core::emulate::*;
use rkvm_core::regs::cr4;
use std::cell::RefCell;

/// What the emulator is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The instruction at RIP.
    Instruction(Cause),
    /// A task switch that hardware leaves to the hypervisor.
    TaskSwitch(u16, TaskSwitch, Option<u32>),
    /// An interrupt in real mode.
    Interrupt(u8),
}

/// A state, and what happens in it.
pub struct Scene {
    /// The vCPU.
    pub machine: Machine,
    /// What is done.
    pub action: Action,
}

/// IA32_U_CET without its reserved bits and the bitmap's address.
const CET_BITS: u64 = 0xc3f;

/// An address where something is, or nothing: often just beside a border.
fn place(input: &mut Input<'_>) -> u64 {
    let [kind, low] = input.array();
    let low = u64::from(low);
    let beside = |border: u64| (border - 32).wrapping_add(low & 63);
    let at = match kind & 7 {
        0 => low,
        1 => DATA + 8 * low,
        2 => beside(DATA + 0x1000),
        3 => beside(RAM),
        4 => DEVICES + 8 * low,
        5 => beside(USER_DEVICES),
        6 => GDT + 16 * low,
        _ => beside(1 << 47),
    };
    match kind >> 6 {
        0 => at,
        1 => at | 0xdead_beef << 32,
        2 => at.wrapping_neg(),
        _ => beside(1 << 32),
    }
}

/// Extensions that a guest may lack.
const FEATURES: [Feature; 16] = [
    Feature::Sysenter,
    Feature::Syscall,
    Feature::Cx8,
    Feature::Cx16,
    Feature::Movbe,
    Feature::Popcnt,
    Feature::Lzcnt,
    Feature::Bmi1,
    Feature::Bmi2,
    Feature::Adx,
    Feature::Sse42,
    Feature::Rdpid,
    Feature::Movdiri,
    Feature::Movdir64b,
    Feature::Avx,
    Feature::Avx512f,
];

/// MSRs that are there.
const MSRS: [u32; 12] = [
    0x10,
    0x174,
    0x175,
    0x176,
    0x1d9,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
];

const PAGE: u64 = 0x1000;

/// Flags that can be set, but VM.
const FLAGS: u32 = 0x3d_7fd5;

thread_local! {
    /// Memories of scenes that are over, all zero: to make one anew takes longer than most instructions.
    static MEMORIES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn memory() -> Vec<u8> {
    let old = MEMORIES.with_borrow_mut(|all| all.pop());
    old.unwrap_or_else(|| vec![0; RAM as usize])
}

impl Drop for Scene {
    fn drop(&mut self) {
        let cpu = &mut self.machine.cpu;
        let mut ram = std::mem::take(&mut cpu.ram);
        for (page, bytes) in ram.chunks_mut(PAGE as usize).enumerate() {
            if cpu.touched[page / 64] & 1 << (page % 64) != 0 {
                bytes.fill(0);
            }
        }
        MEMORIES.with_borrow_mut(|all| all.push(ram));
    }
}

fn initial(mode: Mode, cpl: u8, code: &[u8; 15], at: u64) -> Machine {
    let mut m = Machine {
        emulator: Emulator::new(),
        regs: Regs {
            rflags: 2,
            ..Regs::default()
        },
        cpu: Mock::with_memory(mode, memory()),
    };
    furnish(&mut m, mode == Mode::Long64);
    // Before it lies a prefix without a meaning.
    m.cpu.put(at - 1, &[0x3e]);
    m.cpu.put(at, code);
    m.regs.rip = at;
    if mode == Mode::Vm86 {
        m.regs.rflags |= 1 << 17;
    }
    m.regs.gpr = [
        DATA,
        5,
        0x8000,
        DATA + 8,
        0x6ff0,
        STACK,
        DATA,
        DATA + 0x800,
        0x18,
        0x5000,
        DATA,
        3,
        DATA,
        DATA,
        DATA,
        DATA,
    ];
    for (n, msr) in MSRS.iter().enumerate() {
        m.cpu.msrs.insert(*msr, 0x10 + n as u64);
    }
    m.cpu.echo = true;
    if matches!(mode, Mode::Long64 | Mode::Prot16 | Mode::Prot32) {
        m.cpu.cpl = cpl;
        for s in 0..6 {
            m.cpu.segments[s].selector |= u16::from(cpl);
            m.cpu.segments[s].access |= u32::from(cpl) << 5;
        }
    }
    m
}

/// Does one change to the state.
fn change(m: &mut Machine, input: &mut Input<'_>) {
    let what = input.byte();
    let n = usize::from(what & 15);
    match what >> 4 {
        0..=3 => m.regs.gpr[n] = place(input),
        4 => m.regs.gpr[n] = input.quad(),
        5 => {
            let vm = m.regs.rflags & 1 << 17;
            m.regs.rflags = u64::from(input.long() & FLAGS) | 2 | vm;
        }
        6 => {
            let s = &mut m.cpu.segments[n & 7];
            s.selector = input.word();
            s.access = u32::from(input.word());
            s.access = s.access & 0xf0ff | (s.access & 0x100) << 8;
            s.limit = if n & 8 != 0 {
                input.long()
            } else {
                input.word().into()
            };
        }
        7 => m.cpu.segments[n & 7].base = place(input),
        8 | 9 => {
            let at = place(input);
            let bytes = input.array::<8>();
            if at <= RAM - 8 {
                m.cpu.put(at, &bytes);
            }
        }
        10 => {
            let slot = u64::from(input.byte() & 31);
            let table = if n & 1 != 0 { LDT } else { GDT };
            m.cpu.put(table + 8 * slot, &input.array::<8>());
        }
        11 => {
            let page = place(input) & !(PAGE - 1);
            let list = if n & 1 != 0 {
                &mut m.cpu.absent
            } else {
                &mut m.cpu.read_only
            };
            if list.len() < 16 {
                list.push(page);
            }
        }
        12 => control(m, n, input),
        13 => m.cpu.without.push(FEATURES[n]),
        14 => {
            let msr = MSRS.get(n).copied().unwrap_or(input.long());
            m.cpu.msrs.insert(msr, input.quad());
        }
        _ => m.cpu.vectors[n].fill(input.byte()),
    }
}

/// Does one change to control registers, tables and the like.
fn control(m: &mut Machine, n: usize, input: &mut Input<'_>) {
    match n {
        0 | 1 => {
            let kept = m.cpu.cr0 & 0x8000_0001;
            m.cpu.cr0 = u64::from(input.long() & 0x6005_003e) | kept;
        }
        2 => m.cpu.cr4 = u64::from(input.long()),
        3 => {
            m.cpu.cr4 |= cr4::CET;
            m.cpu.u_cet = u64::from(input.word()) & CET_BITS | place(input) & !(PAGE - 1);
            m.cpu.s_cet = m.cpu.u_cet;
            m.cpu.ssp = place(input) & !3;
            m.cpu.shadow = vec![m.cpu.ssp & !(PAGE - 1)];
        }
        4 if m.cpu.mode != Mode::Long64 => m.cpu.efer ^= 0x500,
        5 => m.cpu.efer ^= u64::from(input.byte()) & 1,
        6 => m.cpu.gdt.limit = input.word(),
        7 => m.cpu.idt.limit = input.word(),
        8 => m.cpu.gdt.base = place(input),
        9 => m.cpu.idt.base = place(input),
        10 => m.cpu.dr[usize::from(input.byte() & 7)] = input.quad(),
        11 => m.cpu.contention = u32::from(input.byte() & 31),
        12 => m.cpu.fx = [input.byte(); 512],
        13 => m.cpu.user_ports = u32::from(input.word()),
        14 => m.cpu.user_devices = DEVICES + u64::from(input.word()),
        _ => m.cpu.mmx[usize::from(input.byte() & 7)] = input.quad(),
    }
}

impl Scene {
    /// The state that `data` describe.
    pub fn new(data: &[u8]) -> Self {
        let mut input = Input(data);
        let [head, position] = input.array();
        let mode = match head & 7 {
            0 => Mode::Real,
            1 => Mode::Vm86,
            2 => Mode::Prot16,
            3 | 4 => Mode::Prot32,
            _ => Mode::Long64,
        };
        let cpl = head >> 3 & 3;
        let action = match head >> 5 {
            5 => Action::Instruction(Cause::UndefinedOpcode),
            6 => Action::TaskSwitch(
                input.word(),
                match position & 3 {
                    0 => TaskSwitch::Call,
                    1 => TaskSwitch::Jump,
                    2 => TaskSwitch::Return,
                    _ => TaskSwitch::Gate,
                },
                (position & 4 != 0).then_some(0x1234),
            ),
            7 if mode == Mode::Real => Action::Interrupt(position),
            _ => Action::Instruction(Cause::Exit),
        };
        // The instruction may cross a page.
        let at = match u64::from(position & 31) {
            back @ 1..=15 => CODE + PAGE - back,
            _ => CODE,
        };
        let code = input.array::<15>();
        let mut machine = initial(mode, cpl, &code, at);
        let mut changes = 0;
        while !input.is_over() && changes < 64 {
            change(&mut machine, &mut input);
            changes += 1;
        }
        Self { machine, action }
    }

    /// Starts what is to be done.
    pub fn start(&mut self) -> Outcome {
        let m = &mut self.machine;
        let (regs, cpu) = (&mut m.regs, &mut m.cpu);
        match self.action {
            Action::Instruction(cause) => m.emulator.start(regs, cpu, cause),
            Action::TaskSwitch(selector, reason, code) => {
                m.emulator.task_switch(regs, cpu, selector, reason, code, 2)
            }
            Action::Interrupt(vector) => m.emulator.real_interrupt(regs, cpu, vector, 2),
        }
    }
}
