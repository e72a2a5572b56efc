// SPDX-License-Identifier: GPL-2.0

//! Near and far branches, interrupts and returns.

use super::super::guest::*;
use super::*;

cases! {
    ANY, "JMP short", [0xeb 0x10];
    ANY, "JE not taken", [0x74 0x10];
    ANY, "JNE taken", [0x75 0x10];
    ANY, "LOOP", [0xe2 0x08];
    ANY, "JCXZ", [0xe3 0x08], |g| g.regs.rcx = 0;
    CODE16, "CALL near", [0xe8 0x20 0x01];
    FLAT, "CALL near", [0xe8 0x20 0x01 0x00 0x00];
    ANY, "RET", [0xc3], |g| g.stack(8, &[g.offset(CODE + 0x333)]);
    ANY, "RET 8", [0xc2 0x08 0x00], |g| g.stack(8, &[g.offset(CODE + 0x333)]);
    LONG, "RET to an address that is not canonical", [0xc3], |g| g.stack(8, &[1 << 60]);
    ANY, "CALL memory", [0xff 0x17], |g| g.operand(&g.offset(CODE + 0x444).to_le_bytes());
    LONG, "CALL to an address that is not canonical", [0xff 0x17], |g| g.operand(&(1u64 << 60).to_le_bytes());
    ANY, "JMP memory", [0xff 0x27], |g| g.operand(&g.offset(CODE + 0x444).to_le_bytes());
    CODE16, "JMP beyond the limit", [0x66 0xff 0x27], |g| g.operand(&0x1_0000u32.to_le_bytes());
    FLAT, "CALL with an absent stack", [0xff 0xd0], |g| (g.regs.rax, g.regs.rsp) = (CODE + 0x333, ABSENT + 8);

    ANY, "CALL far, same code", [0xff 0x1f], |g| far(g, g.mode.cs());
    ANY, "JMP far, same code", [0xff 0x2f], |g| far(g, g.mode.cs());
    ANY, "JMP far, the other operand size", [0x66 0xff 0x2f], |g| far66(g, g.mode.cs());
    ANY, "CALL far, the other operand size", [0x66 0xff 0x1f], |g| far66(g, g.mode.cs());
    LONG, "JMP far with REX.W", [0x48 0xff 0x2f], |g| far_w(g, g.mode.cs());
    LONG, "CALL far with REX.W", [0x48 0xff 0x1f], |g| far_w(g, g.mode.cs());
    FLAT, "JMP far to conforming code", [0xff 0x2f], |g| far(g, sel::CONFORMING);
    FLAT, "CALL far to conforming code", [0xff 0x1f], |g| far(g, sel::CONFORMING);
    FLAT_KERNEL, "JMP far to 32-bit code", [0xff 0x2f], |g| far(g, sel::CODE32);
    FLAT & USER, "JMP far to 32-bit code of level 3", [0xff 0x2f], |g| far(g, sel::USER_CODE32);
    PROTECTED, "JMP far to execute-only code", [0xff 0x2f], |g| far(g, sel::EXECUTE_ONLY);
    PROTECTED, "JMP far to data", [0xff 0x2f], |g| far(g, sel::DATA);
    PROTECTED, "JMP far to absent code", [0xff 0x2f], |g| far(g, sel::ABSENT_CODE);
    PROTECTED, "JMP far to null", [0xff 0x2f], |g| far(g, 0);
    PROTECTED, "JMP far beyond the GDT", [0xff 0x2f], |g| far(g, 0x1f8);
    PROTECTED, "CALL far to null", [0xff 0x1f], |g| far(g, 0);
    PROTECTED, "CALL far to absent code", [0xff 0x1f], |g| far(g, sel::ABSENT_CODE);
    PROTECTED, "CALL far by a gate", [0xff 0x1f], |g| far(g, sel::GATE);
    PROTECTED, "JMP far by a gate", [0xff 0x2f], |g| far(g, sel::GATE);
    PROTECTED, "CALL far by an absent gate", [0xff 0x1f], |g| far(g, sel::ABSENT_GATE);
    PROTECTED, "CALL far by a gate for everybody", [0xff 0x1f], |g| far(g, sel::USER_GATE);
    PROTECTED, "JMP far by a gate for everybody", [0xff 0x2f], |g| far(g, sel::USER_GATE);
    PROTECTED, "CALL far to the LDT", [0xff 0x1f], |g| far(g, sel::LDT);
    CODE16, "JMP far immediate", [0xea 0x34 0x03 0x00 0x10];
    CODE32, "JMP far immediate", [0xea 0x34 0x03 0x01 0x00 0x28 0x00];
    CODE32, "CALL far immediate", [0x9a 0x34 0x03 0x01 0x00 0x28 0x00];
    LONG, "CALL far immediate: #UD", [0x9a 0x34 0x03 0x01 0x00 0x28 0x00];

    ANY, "RETF", [0xcb], |g| returns(g, g.mode.cs());
    ANY, "RETF 4", [0xca 0x04 0x00], |g| returns(g, g.mode.cs());
    ANY, "RETF, the other operand size", [0x66 0xcb],
        |g| g.stack(if g.mode.bits() == 16 { 4 } else { 2 }, &[g.offset(CODE + 0x333), g.mode.cs().into()]);
    LONG, "RETF with REX.W", [0x48 0xcb], |g| g.stack(8, &[CODE + 0x333, g.mode.cs().into()]);
    PROTECTED, "RETF to null", [0xcb], |g| returns(g, 0);
    PROTECTED, "RETF to data", [0xcb], |g| returns(g, sel::DATA);
    PROTECTED, "RETF to absent code", [0xcb], |g| returns(g, sel::ABSENT_CODE);
    FLAT_KERNEL, "RETF to level 3", [0xcb], |g| outer(g, sel::USER_CODE32, sel::USER_DATA);
    FLAT_KERNEL, "RETF to level 3, null SS", [0xcb], |g| outer(g, sel::USER_CODE32, 0);
    FLAT_KERNEL, "RETF to level 3, absent SS", [0xcb], |g| outer(g, sel::USER_CODE32, sel::ABSENT | 3);
    KERNEL64, "RETF to 64-bit level 3", [0x48 0xcb],
        |g| g.stack(8, &[CODE + 0x333, sel::USER_CODE64.into(), STACK + 0x600, sel::USER_DATA.into()]);

    ANY, "IRET", [0xcf], |g| interrupted(g, g.mode.cs(), 0x4cd7);
    ANY, "IRET with IOPL 3", [0xcf], |g| { interrupted(g, g.mode.cs(), 0x7cd7); g.regs.rflags |= IOPL3 };
    // 16 bits in 64-bit mode is where Bochs differs in the stack pointer, see `frame`.
    LEGACY, "IRET, the other operand size", [0x66 0xcf], |g| frame(g, if g.mode.bits() == 16 { 4 } else { 2 }, g.mode.cs(), 0x24d7);
    LONG, "IRETQ", [0x48 0xcf], |g| iretq(g, g.mode.cs(), g.sregs.ss.selector);
    KERNEL64, "IRETQ to level 3", [0x48 0xcf], |g| iretq(g, sel::USER_CODE64, sel::USER_DATA);
    KERNEL64, "IRETQ to compatibility mode", [0x48 0xcf], |g| iretq(g, sel::USER_CODE32, sel::USER_DATA);
    KERNEL64, "IRETQ with a null SS", [0x48 0xcf], |g| iretq(g, sel::CODE64, 0);
    KERNEL64, "IRETQ to an absent code segment", [0x48 0xcf], |g| iretq(g, sel::ABSENT_CODE, sel::DATA);
    KERNEL64, "IRETQ to an address that is not canonical", [0x48 0xcf],
        |g| g.stack(8, &[1 << 55, sel::CODE64.into(), 2, STACK + 0x600, sel::DATA.into()]);
    KERNEL32, "IRETD to level 3", [0xcf],
        |g| g.stack(4, &[CODE + 0x333, sel::USER_CODE32.into(), 0x3202, STACK + 0x600, sel::USER_DATA.into()]);
    PROT32, "IRETD to virtual-8086 mode", [0xcf],
        |g| g.stack(4, &[0x333, 0x1000, 0x2_0002, 0x600, 0x7000, 0x2000, 0x2000, 0x2010, 0x2020]);
    PROT_KERNEL, "IRET to null", [0xcf], |g| interrupted(g, 0, 2);
    LONG, "IRET with NT", [0xcf], |g| g.regs.rflags |= NT;

    ANY, "INT3", [0xcc];
    ANY, "INT 50h", [0xcd 0x50];
    ANY, "INT 50h with IOPL 3", [0xcd 0x50], |g| g.regs.rflags |= IOPL3;
    ANY, "INT 51h: absent", [0xcd 0x51];
    ANY, "INT 20h: not for level 3", [0xcd 0x20];
    PROTECTED, "INT F0h: beyond the IDT", [0xcd 0xf0];
    VM86, "INT 50h with VME", [0xcd 0x50], |g| g.sregs.cr4 |= CR4_VME;
    VM86, "INT 50h with VME and VIF", [0xcd 0x50], |g| { g.sregs.cr4 |= CR4_VME; g.regs.rflags |= VIF | CF };
    VM86, "INT 50h with VME and IOPL 3", [0xcd 0x50],
        |g| { g.sregs.cr4 |= CR4_VME; g.regs.rflags |= IOPL3 | IF };
    VM86, "INT 50h with VME, not redirected", [0xcd 0x50], not_redirected;
    VM86, "INT 50h with VME and IOPL 3, not redirected", [0xcd 0x50],
        |g| { not_redirected(g); g.regs.rflags |= IOPL3 };
    VM86, "INT 50h with VME and a short TSS", [0xcd 0x50],
        |g| { g.sregs.cr4 |= CR4_VME; g.sregs.tr.limit = 0x51 };
    VM86, "INT3 with VME", [0xcc], |g| g.sregs.cr4 |= CR4_VME;
    LEGACY, "INTO taken", [0xce], |g| g.regs.rflags |= 1 << 11;
    ANY, "INTO not taken", [0xce];
    ANY, "INT1", [0xf1];
    ANY, "UD2", [0x0f 0x0b];
    LEGACY, "BOUND inside", [0x62 0x07], |g| { g.regs.rax = 3; g.operand(&[0, 0, 0xff, 0, 0xff, 0, 0xff, 0]) };
    LEGACY, "BOUND outside", [0x62 0x07], |g| { g.regs.rax = 0x7fff_7fff; g.operand(&[0; 8]) };

    LONG, "SYSCALL", [0x0f 0x05];
    KERNEL64, "SYSCALL without SCE", [0x0f 0x05], |g| g.sregs.efer &= !1;
    KERNEL64, "SYSRETQ", [0x48 0x0f 0x07], |g| g.regs.rcx = CODE + 0x333;
    KERNEL64, "SYSRETL", [0x0f 0x07], |g| g.regs.rcx = CODE + 0x333;
    Mode::UserLong as u16, "SYSRET at level 3", [0x48 0x0f 0x07];
    ANY, "SYSENTER", [0x0f 0x34];
    FLAT_KERNEL, "SYSEXIT", [0x0f 0x35], |g| (g.regs.rcx, g.regs.rdx) = (STACK + 0x600, CODE + 0x333);
    USER, "SYSEXIT at level 3", [0x0f 0x35];
}

/// CR4.VME, and a set bit for INT 50h in the redirection bitmap.
fn not_redirected(g: &mut Guest<'_>) {
    g.sregs.cr4 |= CR4_VME;
    g.ram.write(TSS + REDIRECTION + 0x50 / 8, &[1]);
}

/// A far pointer of the operand size of the mode: in 64-bit mode 16:32.
fn far(g: &mut Guest<'_>, selector: u16) {
    far_of(g, if g.mode.bits() == 16 { 2 } else { 4 }, selector);
}

/// A far pointer of the other operand size.
fn far66(g: &mut Guest<'_>, selector: u16) {
    far_of(g, if g.mode.bits() == 16 { 4 } else { 2 }, selector);
}

/// A far pointer 16:64.
fn far_w(g: &mut Guest<'_>, selector: u16) {
    far_of(g, 8, selector);
}

fn far_of(g: &mut Guest<'_>, size: usize, selector: u16) {
    let ip = g.offset(CODE + 0x300).to_le_bytes();
    g.operand(&[&ip[..size], &selector.to_le_bytes()].concat());
}

/// The bytes of a stack slot without prefixes: RETF and IRET have 32 bits in 64-bit mode.
fn slot(g: &Guest<'_>) -> usize {
    if g.mode.bits() == 16 {
        2
    } else {
        4
    }
}

fn returns(g: &mut Guest<'_>, selector: u16) {
    g.stack(slot(g), &[g.offset(CODE + 0x333), selector.into()]);
}

fn outer(g: &mut Guest<'_>, cs: u16, ss: u16) {
    g.stack(4, &[CODE + 0x333, cs.into(), STACK + 0x600, ss.into()]);
}

fn interrupted(g: &mut Guest<'_>, cs: u16, flags: u64) {
    frame(g, slot(g), cs, flags & !TF);
}

/// A frame of five slots. 64-bit mode pops all of them, whatever the operand size (SDM, "IRET in IA-32e Mode"); Bochs pops
/// three unless it is 64 bits. So the stack pointer in the frame is what three leave.
fn frame(g: &mut Guest<'_>, size: usize, cs: u16, flags: u64) {
    let ip = g.offset(CODE + 0x333);
    let (sp, ss) = (g.regs.rsp + 3 * size as u64, g.sregs.ss.selector);
    g.stack(size, &[ip, cs.into(), flags, sp, ss.into()]);
}

fn iretq(g: &mut Guest<'_>, cs: u16, ss: u16) {
    g.stack(
        8,
        &[CODE + 0x333, cs.into(), 0x4_4cd7, STACK + 0x600, ss.into()],
    );
}
