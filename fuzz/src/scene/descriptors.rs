// SPDX-License-Identifier: GPL-2.0

//! The descriptor tables of a scene with a bit of everything, and its tasks.

use crate::mock::Machine;
use rkvm_core::emulate::{Segment, TableReg};
use rkvm_core::regs::SegReg;

pub(super) const GDT: u64 = 0x2000;
pub(super) const LDT: u64 = 0x2400;
const IDT: u64 = 0x2800;
/// The task that runs, and one to switch to, for each of the two sizes.
const TASKS: [u64; 3] = [0x3000, 0x3400, 0x3800];
/// A page with level-0 stacks, another with those of the other levels.
pub(super) const STACK: u64 = 0x6000;

const fn descriptor(base: u64, limit: u64, access: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (access >> 12 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

const fn gate(kind: u64, selector: u64, offset: u64, count: u64) -> u64 {
    offset & 0xffff | selector << 16 | (count & 31) << 32 | kind << 40 | (offset >> 16) << 48
}

/// The GDT: the selectors are 8 times the index.
const DESCRIPTORS: [u64; 32] = [
    0,
    descriptor(0, 0xf_ffff, 0xa09b),
    descriptor(0, 0xf_ffff, 0xc093),
    descriptor(0, 0xf_ffff, 0xc09a),
    descriptor(0, 0xffff, 0x009a),
    descriptor(0, 0xf_ffff, 0xa0fa),
    descriptor(0, 0xf_ffff, 0xc0f2),
    descriptor(0, 0xf_ffff, 0xc0fa),
    // The running task, and two to switch to: 32 bit (64 bit in long mode) and 16 bit. Each takes two places.
    descriptor(TASKS[0], 0x3ff, 0x008b),
    0,
    descriptor(TASKS[1], 0x3ff, 0x00e9),
    0,
    descriptor(TASKS[2], 0x3ff, 0x00e1),
    0,
    descriptor(LDT, 0x7f, 0x0082),
    0,
    // Call gates of 32 (64) and 16 bits, and a task gate.
    gate(0xec, 0x18, 0x5000, 0),
    0,
    gate(0xec, 0x08, 0x5000, 0),
    0,
    gate(0xec, 0x18, 0x5000, 3),
    gate(0xe4, 0x20, 0x5000, 2),
    gate(0xe5, 0x50, 0, 0),
    // Conforming, expand-down, not present, not writable, a call gate of level 0.
    descriptor(0, 0xf_ffff, 0xc09e),
    descriptor(0, 0x0_ffff, 0x4096),
    descriptor(0, 0xf_ffff, 0xc013),
    descriptor(0, 0xf_ffff, 0xc0f0),
    gate(0x8c, 0x18, 0x5000, 0),
    descriptor(0, 0xf_ffff, 0xe09b),
    descriptor(0x100, 0x10, 0x40f3),
    descriptor(0x1_0000, 0xffff, 0x0092),
    descriptor(0, 0xf_ffff, 0xc098),
];

/// Writes the tables and tasks into memory, and lets the vCPU know of them.
pub(super) fn furnish(m: &mut Machine, long: bool) {
    for (n, d) in DESCRIPTORS.iter().enumerate() {
        m.cpu.put(GDT + 8 * n as u64, &d.to_le_bytes());
    }
    for (n, d) in DESCRIPTORS[..16].iter().enumerate() {
        m.cpu.put(LDT + 8 * n as u64, &d.to_le_bytes());
    }
    for n in 0..16u64 {
        let selector = if long { 0x08 } else { 0x18 };
        let step = if long { 16 } else { 8 };
        m.cpu.put(
            IDT + n * step,
            &gate(0xee, selector, 0x5000, 0).to_le_bytes(),
        );
        // The interrupt table of real mode, at 0.
        m.cpu.put(4 * n, &[0x00, 0x50, 0x00, 0x00]);
    }
    task_32(m, TASKS[0], long);
    task_32(m, TASKS[1], long);
    task_16(m, TASKS[2]);
    m.cpu.gdt = TableReg {
        base: GDT,
        limit: 0xff,
    };
    if !m.cpu.mode.is_real_like() {
        m.cpu.idt = TableReg {
            base: IDT,
            limit: 0xff,
        };
    }
    m.cpu.segments[SegReg::Tr as usize] = Segment {
        selector: 0x40,
        base: TASKS[0],
        limit: 0x3ff,
        access: 0x8b,
    };
    m.cpu.segments[SegReg::Ldtr as usize] = Segment {
        selector: 0x70,
        base: LDT,
        limit: 0x7f,
        access: 0x82,
    };
}

fn task_32(m: &mut Machine, at: u64, long: bool) {
    for level in 0..3u64 {
        let stack = STACK + 0x400 * (level + 1);
        if long {
            m.cpu.put(at + 4 + 8 * level, &stack.to_le_bytes());
            m.cpu.put(at + 0x24 + 8 * level, &stack.to_le_bytes());
        } else {
            m.cpu.put(at + 4 + 8 * level, &stack.to_le_bytes());
            m.cpu.put(at + 8 + 8 * level, &[0x10 + level as u8, 0]);
        }
    }
    if !long {
        m.cpu.put(at + 0x1c, &0x4000u32.to_le_bytes());
        m.cpu.put(at + 0x20, &0x5000u32.to_le_bytes());
        m.cpu.put(at + 0x24, &2u32.to_le_bytes());
        m.cpu.put(at + 0x38, &0x7000u32.to_le_bytes());
        for (slot, selector) in [0x10u8, 0x18, 0x10, 0x10, 0x10, 0, 0x70].iter().enumerate() {
            m.cpu.put(at + 0x48 + 4 * slot as u64, &[*selector]);
        }
    }
    m.cpu.put(at + 0x66, &0x80u16.to_le_bytes());
}

fn task_16(m: &mut Machine, at: u64) {
    m.cpu.put(at + 0x0e, &0x5000u16.to_le_bytes());
    m.cpu.put(at + 0x10, &2u16.to_le_bytes());
    m.cpu.put(at + 0x1a, &0x7000u16.to_le_bytes());
    for (slot, selector) in [0x10u8, 0x20, 0x10, 0x10, 0x70].iter().enumerate() {
        m.cpu.put(at + 0x22 + 2 * slot as u64, &[*selector]);
    }
}
