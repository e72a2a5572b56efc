// SPDX-License-Identifier: GPL-2.0

//! A guest like a BIOS: from the reset vector to a boot sector, through unreal mode, to protected mode and back, to
//! 64-bit mode and back. On a host without unrestricted guest each stage runs another way.

use crate::asm::*;
use crate::climb::{self, MSR_EFER, SEL_CODE32, SEL_CODE64, SEL_DATA};
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, GDT, PAGE_TABLES};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// The page of the reset vector.
const ROM: u64 = 0xffff_f000;
const RESET_OFFSET: u64 = 0xff0;
const SECTOR: u64 = 0x7c00;
/// Where the boot sector goes on after its first part.
const UNREAL: u64 = 0x6800;
/// 16-bit code that goes back to real mode.
const BACK: u64 = 0x7000;
const AGAIN: u64 = 0x7200;
const HANDLERS: u64 = 0x6000;
/// A far procedure in a segment of its own.
const FAR_SEGMENT: u32 = 0x500;
const FAR: u64 = 0x5010;
const CODE32: u64 = CODE;
const CODE32_TO_64: u64 = CODE + 0x1000;
const CODE64: u64 = CODE + 0x2000;
const COMPAT: u64 = CODE + 0x3000;
/// What LIDT reads: the vector table at 0, and another one.
const IDT_POINTER: u64 = GDT + 0x48;
const OTHER_IDT_POINTER: u64 = GDT + 0x50;
const OTHER_IDT: u64 = 0x5400;
const SEL_CODE16: u16 = 0x20;
const SEL_DATA16: u32 = 0x28;
/// Where the strings are.
const FROM: u64 = 0x4000;
const TO: u64 = 0x4800;
/// Beyond what segments of real mode reach.
const FAR_AWAY: u64 = 0x12_3450;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_IOPL_VM: u64 = 3 << 12 | 1 << 17;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, 2 * MIB)?;
    let rom = vm.add_ram(1, ROM, 0x1000)?;
    let mut vcpu = vm.vcpu(0)?;
    // JMP FAR 0000:7c00.
    rom.write(ROM + RESET_OFFSET, &[0xea, 0x00, 0x7c, 0x00, 0x00]);
    load(&ram);

    boot_sector(t, &ram, &mut vcpu)?;
    unreal_mode(t, &mut vcpu)?;
    protected_mode(t, &mut vcpu)?;
    back_in_real_mode(t, &mut vcpu, 1)?;
    long_mode(t, &mut vcpu)?;
    back_in_real_mode(t, &mut vcpu, 2)?;
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    Ok(())
}

/// Writes programs and tables.
fn load(ram: &Ram) {
    ram.write(SECTOR, &sector());
    ram.write(UNREAL, &unreal());
    ram.write(BACK, &back());
    ram.write(AGAIN, &again());
    ram.write(
        FAR,
        &assemble(16, 0x10, |a| {
            a.inc(dx)?;
            // The segment of the caller is on the stack.
            a.retf()
        }),
    );
    handler(ram, 0x00, 0, |a| {
        // The return address of a fault is the instruction: DIV BL has two bytes.
        a.mov(bp, sp)?;
        a.add(word_ptr(bp), 2)?;
        a.mov(al, 0xd0)?;
        a.out(0x40, al)?;
        a.iret()
    });
    handler(ram, 0x60, 1, |a| {
        a.out(0x41, ax)?;
        a.iret()
    });
    handler(ram, 0x61, 2, |a| {
        a.push(ax)?;
        a.mov(al, 0x61)?;
        a.out(0x42, al)?;
        a.pop(ax)?;
        a.iret()
    });
    handler(ram, 0x0d, 3, |a| {
        // MOV AL, [EBX] has three bytes.
        a.mov(bp, sp)?;
        a.add(word_ptr(bp), 3)?;
        a.mov(al, 0x0d)?;
        a.out(0x40, al)?;
        a.iret()
    });
    ram.write(
        HANDLERS + 4 * 32,
        &assemble(16, HANDLERS + 4 * 32, |a| {
            a.out(0x43, al)?;
            a.iret()
        }),
    );
    ram.write(CODE32, &protected());
    ram.write(CODE32_TO_64, &climb());
    ram.write(CODE64, &long());
    ram.write(COMPAT, &compat());
    setup::identity_tables(ram, Mode::Long);
    // 16-bit code and data.
    climb::write_gdt(ram, &[0x0000_9b00_0000_ffff, 0x0000_9300_0000_ffff]);
    ram.write(IDT_POINTER, &[0xff, 0x03, 0, 0, 0, 0]);
    ram.write(OTHER_IDT_POINTER, &[0xff, 0x03, 0x00, 0x54, 0, 0]);
    ram.set32(OTHER_IDT + 4 * 0x60, (HANDLERS + 4 * 32) as u32);
    ram.write(FROM, b"moved by a boot sector, forwards");
    ram.set32(FAR_AWAY, 0x0ddb_a115);
}

/// A handler in segment 0, one of 32 bytes each.
fn handler(ram: &Ram, vector: u64, place: u64, f: impl FnOnce(&mut CodeAssembler) -> Asm) {
    let at = HANDLERS + place * 32;
    ram.write(at, &assemble(16, at, f));
    ram.set32(vector * 4, at as u32);
}

/// JMP FAR to a 16-bit offset.
fn jump16(a: &mut CodeAssembler, selector: u16, to: u64) -> Asm {
    a.db(&[0xea])?;
    a.dw(&[to as u16, selector])
}

/// LIDT with a 16-bit operand: a base of 24 bits.
fn lidt(a: &mut CodeAssembler, pointer: u64) -> Asm {
    a.db(&[0x0f, 0x01, 0x1e])?;
    a.dw(&[pointer as u16])
}

fn sector() -> Vec<u8> {
    assemble(16, SECTOR, |a| {
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, SECTOR as u32)?;
        a.mov(ax, 0x1234)?;
        a.out(0x10, ax)?;
        // A service by INT, twice: the second with the interrupt flag set.
        a.int(0x60)?;
        a.sti()?;
        a.inc(ax)?;
        a.int(0x60)?;
        // Where user space injects an interrupt.
        a.out(0x11, al)?;
        a.nop()?;
        a.cli()?;
        // CALL FAR and back.
        a.mov(dx, 41)?;
        a.db(&[0x9a])?;
        a.dw(&[0x10, FAR_SEGMENT as u16])?;
        a.mov(ax, dx)?;
        a.out(0x12, ax)?;
        a.mov(si, FROM as u32)?;
        a.mov(di, TO as u32)?;
        a.mov(cx, 16)?;
        a.cld()?;
        a.rep().movsw()?;
        a.mov(ax, di)?;
        a.out(0x13, ax)?;
        // A fault that BIOSes handle.
        a.xor(bx, bx)?;
        a.db(&[0xf6, 0xf3])?;
        // An offset that the segment does not reach.
        a.mov(ebx, 0x1_0000)?;
        a.mov(al, byte_ptr(ebx))?;
        a.in_(al, 0x14)?;
        a.out(0x15, al)?;
        // Another vector table, and the old one again.
        lidt(a, OTHER_IDT_POINTER)?;
        a.int(0x60)?;
        lidt(a, IDT_POINTER)?;
        a.int(0x60)?;
        jump16(a, 0, UNREAL)
    })
}

fn unreal() -> Vec<u8> {
    assemble(16, UNREAL, |a| {
        climb::lgdt(a)?;
        climb::set_pe(a)?;
        a.mov(bx, u32::from(SEL_DATA))?;
        a.mov(fs, bx)?;
        climb::clear_pe(a)?;
        // FS reaches all memory, in real mode.
        a.mov(ebx, FAR_AWAY as u32)?;
        a.mov(eax, dword_ptr(ebx).fs())?;
        a.out(0x20, eax)?;
        a.int(0x60)?;
        // A loop, with an interrupt in it.
        a.mov(cx, 200)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(dword_ptr(ebx).fs())?;
        a.loop_(again)?;
        a.mov(eax, dword_ptr(ebx).fs())?;
        a.out(0x21, eax)?;
        a.sti()?;
        a.out(0x22, al)?;
        a.nop()?;
        a.cli()?;
        a.in_(al, 0x23)?;
        a.out(0x24, al)?;
        // A selector of real mode: the base changes, the limit stays.
        a.xor(ax, ax)?;
        a.mov(fs, ax)?;
        a.mov(eax, dword_ptr(ebx).fs())?;
        a.out(0x25, eax)?;
        // To protected mode.
        climb::set_pe(a)?;
        climb::jump_to_32(a, SEL_CODE32, CODE32)
    })
}

/// 32-bit code without paging.
fn protected() -> Vec<u8> {
    assemble(32, CODE32, |a| {
        climb::flat_data(a)?;
        a.mov(fs, eax)?;
        a.mov(esp, SECTOR as u32)?;
        a.mov(eax, cr0)?;
        a.out(0x30, eax)?;
        // CR3 is memory as long as there is no paging.
        a.mov(eax, 0x00ab_c000)?;
        a.mov(cr3, eax)?;
        a.mov(ebx, cr3)?;
        a.mov(eax, ebx)?;
        a.out(0x31, eax)?;
        // All of memory is there, without page tables.
        a.mov(eax, dword_ptr(FAR_AWAY))?;
        a.out(0x32, eax)?;
        a.xor(esi, esi)?;
        climb::jump_from_32(a, SEL_CODE16, BACK)
    })
}

/// From 16-bit protected mode to real mode, with segments of 64 KiB.
fn back() -> Vec<u8> {
    assemble(16, BACK, |a| {
        a.mov(ax, SEL_DATA16)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(fs, ax)?;
        a.mov(gs, ax)?;
        a.mov(ss, ax)?;
        climb::clear_pe(a)?;
        jump16(a, 0, AGAIN)
    })
}

/// Real mode again; ESI tells whence.
fn again() -> Vec<u8> {
    assemble(16, AGAIN, |a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(fs, ax)?;
        a.mov(gs, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, SECTOR as u32)?;
        a.mov(ax, si)?;
        a.out(0x50, ax)?;
        a.int(0x60)?;
        let mut done = a.create_label();
        a.test(si, si)?;
        a.jne(done)?;
        climb::set_pe(a)?;
        climb::jump_to_32(a, SEL_CODE32, CODE32_TO_64)?;
        a.set_label(&mut done)?;
        a.hlt()
    })
}

/// To IA-32e mode.
fn climb() -> Vec<u8> {
    assemble(32, CODE32_TO_64, |a| {
        climb::flat_data(a)?;
        climb::enable_long_mode(a)?;
        climb::jump_from_32(a, SEL_CODE64, CODE64)
    })
}

fn long() -> Vec<u8> {
    assemble(64, CODE64, |a| {
        a.mov(rsp, SECTOR)?;
        a.mov(rax, 0x1_0000_0002u64)?;
        a.shr(rax, 1)?;
        a.out(0x60, eax)?;
        a.push(i32::from(SEL_CODE32))?;
        a.push(COMPAT as i32)?;
        // RETF with REX.W.
        a.db(&[0x48, 0xcb])
    })
}

/// Compatibility mode: paging goes off, and IA-32e mode with it.
fn compat() -> Vec<u8> {
    assemble(32, COMPAT, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, MSR_EFER)?;
        a.rdmsr()?;
        a.and(eax, !(1i32 << 8))?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.out(0x61, eax)?;
        a.mov(esi, 1)?;
        climb::jump_from_32(a, SEL_CODE16, BACK)
    })
}

fn boot_sector(t: &mut Tap, ram: &Ram, vcpu: &mut Vcpu) -> Outcome {
    t.eq(
        "from the reset vector to the boot sector",
        vcpu.run()?,
        Exit::out16(0x10, 0x1234),
    );
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "CS is real mode's",
        (s.cs.selector, s.cs.base, s.cs.limit, s.cs.dpl),
        (0, 0, 0xffff, 0),
    );
    t.eq("CR0.PE and CR0.PG are clear", s.cr0 & 0x8000_0001, 0);
    t.eq("CR3 is what it was after reset", s.cr3, 0);
    t.eq(
        "TR is what it was after reset",
        (s.tr.base, s.tr.limit),
        (0, 0xffff),
    );
    t.eq(
        "RFLAGS has neither VM nor IOPL",
        vcpu.regs()?.rflags & RFLAGS_IOPL_VM,
        0,
    );
    t.eq("INT", vcpu.run()?, Exit::out16(0x41, 0x1234));
    t.eq("INT clears IF", vcpu.regs()?.rflags & RFLAGS_IF, 0);
    t.eq("INT after STI", vcpu.run()?, Exit::out16(0x41, 0x1235));
    t.eq("IRET restores IF", vcpu.run()?, Exit::out8(0x11, 0x35));
    t.eq("so it is set", vcpu.regs()?.rflags & RFLAGS_IF, RFLAGS_IF);
    vcpu.interrupt(0x61)?;
    t.eq("an interrupt", vcpu.run()?, Exit::out8(0x42, 0x61));
    t.eq("CALL FAR and RETF", vcpu.run()?, Exit::out16(0x12, 42));
    t.eq(
        "REP MOVSW ends behind the string",
        vcpu.run()?,
        Exit::out16(0x13, TO as u16 + 32),
    );
    t.eq("which it has moved", ram.read(TO, 32), ram.read(FROM, 32));
    t.eq("#DE to its vector", vcpu.run()?, Exit::out8(0x40, 0xd0));
    t.eq("#GP beyond the limit", vcpu.run()?, Exit::out8(0x40, 0x0d));
    t.eq(
        "IN",
        vcpu.run()?,
        Exit::In {
            port: 0x14,
            size: 1,
            count: 1,
        },
    );
    vcpu.reply(&[0x77]);
    t.eq("has the answer", vcpu.run()?, Exit::out8(0x15, 0x77));
    t.eq(
        "INT takes the table that IDTR points to",
        vcpu.run()?,
        Exit::out8(0x43, 0x77),
    );
    match vcpu.run()? {
        Exit::Out { port: 0x41, .. } => t.ok("and the old one again", true),
        other => t.eq("and the old one again", other, Exit::out16(0x41, 0x77)),
    };
    Ok(())
}

fn unreal_mode(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    t.eq(
        "a segment of 4 GiB in real mode",
        vcpu.run()?,
        Exit::out32(0x20, 0x0ddb_a115),
    );
    let s = vcpu.fd.get_sregs()?;
    t.eq("in real mode, indeed", s.cr0 & 1, 0);
    t.eq("its limit is told", s.fs.limit, u32::MAX);
    t.eq("INT meanwhile", vcpu.run()?, Exit::out16(0x41, 0xa115));
    t.eq(
        "a loop over far memory",
        vcpu.run()?,
        Exit::out32(0x21, 0x0ddb_a115 + 200),
    );
    t.eq("STI", vcpu.run()?, Exit::out8(0x22, 0xdd));
    vcpu.interrupt(0x61)?;
    t.eq("an interrupt", vcpu.run()?, Exit::out8(0x42, 0x61));
    t.eq(
        "IN",
        vcpu.run()?,
        Exit::In {
            port: 0x23,
            size: 1,
            count: 1,
        },
    );
    vcpu.reply(&[0x78]);
    t.eq("has the answer", vcpu.run()?, Exit::out8(0x24, 0x78));
    t.eq(
        "another selector, the same limit",
        vcpu.run()?,
        Exit::out32(0x25, 0x0ddb_a115 + 200),
    );
    Ok(())
}

fn protected_mode(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    match vcpu.run()? {
        Exit::Out {
            port: 0x30, data, ..
        } => t.eq(
            "protected mode without paging",
            (data[0] & 1, data[3] >> 7),
            (1, 0),
        ),
        other => t.eq("protected mode is reached", other, Exit::out32(0x30, 0)),
    };
    t.eq(
        "CR3 keeps what is written to it",
        vcpu.run()?,
        Exit::out32(0x31, 0x00ab_c000),
    );
    let s = vcpu.fd.get_sregs()?;
    t.eq("and tells it", s.cr3, 0x00ab_c000);
    t.eq(
        "CS and SS are flat",
        (s.cs.selector, s.cs.limit, s.ss.selector),
        (SEL_CODE32, u32::MAX, SEL_DATA),
    );
    t.eq(
        "linear addresses are physical",
        vcpu.run()?,
        Exit::out32(0x32, 0x0ddb_a115 + 200),
    );
    Ok(())
}

fn back_in_real_mode(t: &mut Tap, vcpu: &mut Vcpu, time: u16) -> Outcome {
    t.eq("real mode again", vcpu.run()?, Exit::out16(0x50, time - 1));
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "with segments of 64 KiB",
        (s.cr0 & 0x8000_0001, s.ds.limit, s.ss.base, s.efer >> 8 & 5),
        (0, 0xffff, 0, 0),
    );
    t.eq("INT", vcpu.run()?, Exit::out16(0x41, time - 1));
    Ok(())
}

fn long_mode(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    t.eq("64-bit mode", vcpu.run()?, Exit::out32(0x60, 0x8000_0001));
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "with its own page tables",
        (s.cs.l, s.cr3, s.efer >> 8 & 5),
        (1, PAGE_TABLES, 5),
    );
    t.eq("and out of it", vcpu.run()?, Exit::out32(0x61, 0));
    Ok(())
}
