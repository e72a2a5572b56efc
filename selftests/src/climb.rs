// SPDX-License-Identifier: GPL-2.0

//! The instructions by which a guest changes its operating mode itself, from real mode up to 64-bit mode, and the
//! descriptors that it needs for that.

use crate::asm::*;
use crate::ram::Ram;
use crate::setup::{GDT, PAGE_TABLES};

/// Selector of flat 32-bit code.
pub const SEL_CODE32: u16 = 0x08;
/// Selector of flat data.
pub const SEL_DATA: u16 = 0x10;
/// Selector of 64-bit code.
pub const SEL_CODE64: u16 = 0x18;
/// IA32_EFER.
pub const MSR_EFER: u32 = 0xc000_0080;
/// The null descriptor and those of the selectors here; a test may have more behind them.
const DESCRIPTORS: [u64; 4] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00af_9b00_0000_ffff,
];
/// What LGDT reads, behind the descriptors.
const GDT_POINTER: u64 = GDT + 0x40;

/// Writes the descriptors, those of `more` behind them, and what LGDT reads.
pub fn write_gdt(ram: &Ram, more: &[u64]) {
    let mut at = GDT;
    for descriptor in DESCRIPTORS.iter().chain(more) {
        ram.set64(at, *descriptor);
        at += 8;
    }
    assert!(at <= GDT_POINTER, "the descriptors reach the pointer");
    let limit = (at - GDT - 1) as u16;
    ram.write(GDT_POINTER, &limit.to_le_bytes());
    ram.write(GDT_POINTER + 2, &(GDT as u32).to_le_bytes());
}

/// LGDT in 16-bit code with DS 0; the 32-bit operand takes all of the base.
pub fn lgdt(a: &mut CodeAssembler) -> Asm {
    a.db(&[0x66, 0x0f, 0x01, 0x16])?;
    a.dw(&[GDT_POINTER as u16])
}

/// Sets CR0.PE. Uses EAX.
pub fn set_pe(a: &mut CodeAssembler) -> Asm {
    a.mov(eax, cr0)?;
    a.or(eax, 1)?;
    a.mov(cr0, eax)
}

/// Clears CR0.PE in 16-bit code. Uses EAX.
pub fn clear_pe(a: &mut CodeAssembler) -> Asm {
    a.mov(eax, cr0)?;
    a.and(al, !1i32 & 0xff)?;
    a.mov(cr0, eax)
}

/// JMP FAR to a 32-bit offset, from 16-bit code.
pub fn jump_to_32(a: &mut CodeAssembler, selector: u16, to: u64) -> Asm {
    a.db(&[0x66])?;
    jump_from_32(a, selector, to)
}

/// JMP FAR from 32-bit code.
pub fn jump_from_32(a: &mut CodeAssembler, selector: u16, to: u64) -> Asm {
    a.db(&[0xea])?;
    a.dd(&[to as u32])?;
    a.dw(&[selector])
}

/// Flat DS, ES and SS, in 32-bit code. Uses EAX.
pub fn flat_data(a: &mut CodeAssembler) -> Asm {
    a.mov(eax, u32::from(SEL_DATA))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)
}

/// From 32-bit code without paging to IA-32e mode, with the tables at [`PAGE_TABLES`]: 64-bit code is a
/// [`jump_from_32`] away. Uses EAX and EDX, and leaves [`MSR_EFER`] in ECX.
pub fn enable_long_mode(a: &mut CodeAssembler) -> Asm {
    a.mov(eax, 1u32 << 5)?;
    a.mov(cr4, eax)?;
    a.mov(eax, PAGE_TABLES as u32)?;
    a.mov(cr3, eax)?;
    a.mov(ecx, MSR_EFER)?;
    a.rdmsr()?;
    a.or(eax, 1 << 8)?;
    a.wrmsr()?;
    a.mov(eax, cr0)?;
    a.or(eax, 0x8000_0000u32 as i32)?;
    a.mov(cr0, eax)
}
