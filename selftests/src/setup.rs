// SPDX-License-Identifier: GPL-2.0

//! Puts a vCPU into an operating mode, with descriptor tables and page tables in guest memory.
//!
//! The layout of the first mebibyte is the same for all tests:
//!
//! | address  | what                                             |
//! |----------|--------------------------------------------------|
//! | 0x0000   | real-mode interrupt vectors                      |
//! | 0x1000   | GDT                                              |
//! | 0x2000   | IDT                                              |
//! | 0x3000   | TSS                                              |
//! | 0x7ff0   | top of the real-mode stack                       |
//! | 0x8000   | page tables                                      |
//! | 0x10000  | code                                             |
//! | 0x20000  | data, free for the test                          |
//! | 0x80000  | top of the stack                                 |

use crate::errno::Errno;
use crate::ram::Ram;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::MIB;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};

/// Global descriptor table.
pub const GDT: u64 = 0x1000;
/// Interrupt descriptor table of the protected modes.
pub const IDT: u64 = 0x2000;
/// Task state segment.
pub const TSS: u64 = 0x3000;
/// The stack pointer of real mode (SS is 0).
pub const REAL_STACK: u64 = 0x7ff0;
/// Root of the page tables; the rest follows.
pub const PAGE_TABLES: u64 = 0x8000;
/// Where code begins.
pub const CODE: u64 = 0x1_0000;
/// The offset in CS of the first instruction in real mode.
pub const REAL_IP: u64 = 0;
/// Memory free for the test.
pub const DATA: u64 = 0x2_0000;
/// The stack pointer of the protected modes.
pub const STACK: u64 = 0x8_0000;

/// Selector of the flat ring-0 code segment.
pub const CS: u16 = 0x08;
/// Selector of the flat ring-0 data segment.
pub const DS: u16 = 0x10;
/// Selector of the task register.
pub const TR: u16 = 0x18;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PRESENT_WRITE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// The operating modes a guest starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit real mode, CS based at [`CODE`].
    Real,
    /// 32-bit flat protected mode without paging.
    Protected,
    /// 32-bit paging, identity over 4 GiB by 4 MiB pages.
    Paging32,
    /// PAE paging, identity over 4 GiB by 2 MiB pages.
    Pae,
    /// 64-bit mode, identity over 4 GiB by 2 MiB pages.
    Long,
}

impl Mode {
    /// The size of code, in bits.
    pub fn bits(self) -> u32 {
        match self {
            Mode::Real => 16,
            Mode::Long => 64,
            _ => 32,
        }
    }
}

fn segment(selector: u16, type_: u8, s: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn write_gdt(ram: &Ram, long: bool) {
    let code: u64 = if long {
        0x00af_9b00_0000_ffff
    } else {
        0x00cf_9b00_0000_ffff
    };
    let tss_type: u64 = 0x8b;
    ram.set64(GDT, 0);
    ram.set64(GDT + 8, code);
    ram.set64(GDT + 16, 0x00cf_9300_0000_ffff);
    ram.set64(
        GDT + 24,
        0x67 | ((TSS & 0xff_ffff) << 16) | (tss_type << 40),
    );
    ram.set64(GDT + 32, 0);
}

fn large_pages(ram: &Ram, table: u64, entries: u64, first: u64, shift: u32) {
    for i in 0..entries {
        let wide = ((first + i) << shift) | PRESENT_WRITE | LARGE;
        if shift == 22 {
            ram.set32(table + i * 4, wide as u32);
        } else {
            ram.set64(table + i * 8, wide);
        }
    }
}

/// Four page directories of 2 MiB pages: identity over 4 GiB. Answers the first one's address.
fn directories(ram: &Ram, at: u64) {
    for d in 0..4 {
        large_pages(ram, at + d * 0x1000, 512, d * 512, 21);
    }
}

/// Writes the page tables that `mode` starts with, and answers their root.
pub fn identity_tables(ram: &Ram, mode: Mode) -> u64 {
    match mode {
        Mode::Real | Mode::Protected => {}
        Mode::Paging32 => large_pages(ram, PAGE_TABLES, 1024, 0, 22),
        Mode::Pae => {
            directories(ram, PAGE_TABLES + 0x1000);
            for d in 0..4 {
                ram.set64(PAGE_TABLES + d * 8, (PAGE_TABLES + 0x1000 * (d + 1)) | 1);
            }
        }
        Mode::Long => {
            directories(ram, PAGE_TABLES + 0x2000);
            ram.set64(PAGE_TABLES, (PAGE_TABLES + 0x1000) | PRESENT_WRITE);
            for d in 0..4 {
                let directory = PAGE_TABLES + 0x2000 + d * 0x1000;
                ram.set64(PAGE_TABLES + 0x1000 + d * 8, directory | PRESENT_WRITE);
            }
        }
    }
    PAGE_TABLES
}

/// Gives `vm` memory and a vCPU whose next run executes `code` in `mode`, interrupts off.
pub fn guest(vm: &Vm, mode: Mode, code: &[u8]) -> Result<(Vcpu, Ram), Errno> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    start(&vcpu, &ram, mode, code)?;
    Ok((vcpu, ram))
}

/// Writes tables and `code` into `ram` (which begins at 0) and sets all registers, so that the
/// next run executes the code in `mode`, interrupts off.
pub fn start(vcpu: &Vcpu, ram: &Ram, mode: Mode, code: &[u8]) -> Result<(), Errno> {
    ram.write(CODE, code);
    if mode != Mode::Real {
        write_gdt(ram, mode == Mode::Long);
        identity_tables(ram, mode);
    }
    enter(vcpu, mode, CODE, STACK)
}

/// Sets the registers for `mode` with the instruction pointer at `ip` and the stack at `sp`
/// (both ignored in real mode). The tables have to be in place already.
pub fn enter(vcpu: &Vcpu, mode: Mode, ip: u64, sp: u64) -> Result<(), Errno> {
    let mut s = vcpu.fd.get_sregs()?;
    let mut regs = kvm_regs {
        rflags: 2,
        ..Default::default()
    };
    if mode == Mode::Real {
        s.cs.base = CODE;
        s.cs.selector = (CODE >> 4) as u16;
        regs.rip = REAL_IP;
        regs.rsp = REAL_STACK;
    } else {
        let long = mode == Mode::Long;
        let data = segment(DS, 3, 1, false);
        s.cs = segment(CS, 0xb, 1, long);
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        s.tr = kvm_segment {
            base: TSS,
            limit: 0x67,
            g: 0,
            db: 0,
            ..segment(TR, 0xb, 0, false)
        };
        s.ldt = kvm_segment {
            unusable: 1,
            ..Default::default()
        };
        s.gdt = kvm_dtable {
            base: GDT,
            limit: 0x27,
            ..Default::default()
        };
        s.idt = kvm_dtable {
            base: IDT,
            limit: 0xfff,
            ..Default::default()
        };
        s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP;
        s.cr3 = PAGE_TABLES;
        s.cr4 = CR4_OSFXSR;
        match mode {
            Mode::Paging32 => s.cr4 |= CR4_PSE,
            Mode::Pae | Mode::Long => s.cr4 |= CR4_PAE,
            _ => {}
        }
        if !matches!(mode, Mode::Protected) {
            s.cr0 |= CR0_PG;
        }
        s.efer = if long { EFER_LME | EFER_LMA } else { 0 };
        regs.rip = ip;
        regs.rsp = sp;
    }
    vcpu.fd.set_sregs(&s)?;
    vcpu.fd.set_regs(&regs)?;
    Ok(())
}

/// An interrupt gate for the handler at `handler` in the IDT of `mode`.
pub fn gate(ram: &Ram, mode: Mode, vector: u8, handler: u64) {
    let v = u64::from(vector);
    let low = (handler & 0xffff)
        | (u64::from(CS) << 16)
        | (0x8e00 << 32)
        | ((handler & 0xffff_0000) << 32);
    match mode {
        Mode::Real => {
            ram.set32(
                v * 4,
                (((CODE >> 4) as u32) << 16) | (handler - CODE) as u32,
            );
        }
        Mode::Long => {
            ram.set64(IDT + v * 16, low);
            ram.set64(IDT + v * 16 + 8, handler >> 32);
        }
        _ => ram.set64(IDT + v * 8, low),
    }
}
