// SPDX-License-Identifier: GPL-2.0

//! Segment loads and what looks at descriptors.

use super::super::guest::*;
use super::*;

cases! {
    ANY, "MOV EAX, DS", [0x8c 0xd8];
    ANY, "MOV memory, SS", [0x8c 0x17];
    ANY, "MOV CS: #UD", [0x8e 0xc8];
    UNPROTECTED, "MOV ES, a paragraph", [0x8e 0xc0];
    UNPROTECTED, "MOV SS, a paragraph", [0x8e 0xd0], |g| g.regs.rax = 0x7008;
    PROTECTED, "MOV DS, null", [0x8e 0xd8], |g| g.regs.rax = 0;
    PROTECTED, "MOV DS, null with RPL 3", [0x8e 0xd8], |g| g.regs.rax = 3;
    PROTECTED, "MOV SS, null", [0x8e 0xd0], |g| g.regs.rax = 0;
    PROTECTED, "MOV DS, data", [0x8e 0xd8], |g| g.regs.rax = sel::NOT_ACCESSED.into();
    PROTECTED, "MOV FS, user data", [0x8e 0xe0], |g| g.regs.rax = sel::USER_DATA.into();
    PROTECTED, "MOV ES, of the LDT", [0x8e 0xc0], |g| g.regs.rax = sel::LOCAL.into();
    PROTECTED, "MOV ES, beyond the LDT", [0x8e 0xc0], |g| g.regs.rax = 0x1c;
    PROTECTED, "MOV DS, read-only data", [0x8e 0xd8], |g| g.regs.rax = sel::READ_ONLY.into();
    PROTECTED, "MOV DS, absent", [0x8e 0xd8], |g| g.regs.rax = sel::ABSENT.into();
    PROTECTED, "MOV DS, execute-only code", [0x8e 0xd8], |g| g.regs.rax = sel::EXECUTE_ONLY.into();
    PROTECTED, "MOV DS, readable code", [0x8e 0xd8], |g| g.regs.rax = sel::CONFORMING.into();
    PROTECTED, "MOV DS, a gate", [0x8e 0xd8], |g| g.regs.rax = sel::GATE.into();
    PROTECTED, "MOV DS, beyond the GDT", [0x8e 0xd8], |g| g.regs.rax = 0x1f8;
    PROT_KERNEL, "MOV SS, data", [0x8e 0xd0], |g| g.regs.rax = sel::NOT_ACCESSED.into();
    PROTECTED, "MOV SS, absent", [0x8e 0xd0], |g| g.regs.rax = sel::ABSENT.into();
    PROTECTED, "MOV SS, read-only data", [0x8e 0xd0], |g| g.regs.rax = sel::READ_ONLY.into();
    PROT_KERNEL, "MOV SS, of another level", [0x8e 0xd0], |g| g.regs.rax = sel::USER_DATA.into();
    PROTECTED, "MOV GS, expand-down data", [0x8e 0xe8], |g| g.regs.rax = sel::EXPAND_DOWN.into();
    LEGACY, "PUSH ES", [0x06];
    LEGACY, "POP DS", [0x1f], |g| g.stack(8, &[u64::from(g.sregs.ds.selector)]);
    LEGACY, "POP SS", [0x17], |g| g.stack(8, &[u64::from(g.sregs.ss.selector)]);
    ANY, "PUSH FS", [0x0f 0xa0];
    ANY, "PUSH GS, the other operand size", [0x66 0x0f 0xa8];
    ANY, "POP FS", [0x0f 0xa1], |g| g.stack(8, &[u64::from(g.sregs.ds.selector)]);
    PROTECTED, "POP GS, absent", [0x0f 0xa9], |g| g.stack(8, &[sel::ABSENT.into()]);
    LEGACY, "LES", [0xc4 0x07], |g| pointer(g, g.sregs.ds.selector);
    ANY, "LSS", [0x0f 0xb2 0x07], |g| pointer(g, g.sregs.ss.selector);
    ANY, "LFS", [0x0f 0xb4 0x07], |g| pointer(g, g.sregs.ds.selector);
    PROTECTED, "LGS, absent", [0x0f 0xb5 0x07], |g| pointer(g, sel::ABSENT);
    ANY, "LAR", [0x0f 0x02 0xc8], |g| g.regs.rax = sel::NOT_ACCESSED.into();
    ANY, "LAR of a gate", [0x0f 0x02 0xc8], |g| g.regs.rax = sel::USER_GATE.into();
    ANY, "LAR of null", [0x0f 0x02 0xc8], |g| g.regs.rax = 0;
    ANY, "LSL", [0x0f 0x03 0xc8], |g| g.regs.rax = sel::EXPAND_DOWN.into();
    ANY, "LSL of a gate", [0x0f 0x03 0xc8], |g| g.regs.rax = sel::GATE.into();
    ANY, "VERR", [0x0f 0x00 0xe0], |g| g.regs.rax = sel::USER_DATA.into();
    ANY, "VERR of execute-only code", [0x0f 0x00 0xe0], |g| g.regs.rax = sel::EXECUTE_ONLY.into();
    ANY, "VERW", [0x0f 0x00 0xe8], |g| g.regs.rax = sel::USER_DATA.into();
    ANY, "VERW of read-only data", [0x0f 0x00 0xe8], |g| g.regs.rax = sel::READ_ONLY.into();
    LEGACY, "ARPL", [0x63 0xc1], |g| (g.regs.rcx, g.regs.rax) = (0x10, 0x23);
}

/// A pointer of the operand size of the mode.
fn pointer(g: &mut Guest<'_>, selector: u16) {
    let size = if g.mode.bits() == 16 { 2 } else { 4 };
    let offset = g.offset(CODE + 0x300).to_le_bytes();
    g.operand(&[&offset[..size], &selector.to_le_bytes()].concat());
}
