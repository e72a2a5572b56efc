// SPDX-License-Identifier: GPL-2.0

//! Data: moves, arithmetic, strings, locked instructions, and the faults of memory operands.

use super::super::guest::*;
use super::*;

cases! {
    ANY, "MOV memory, EAX", [0x89 0x07];
    ANY, "MOV AL, memory", [0x8a 0x07];
    ANY, "ADD memory, EAX", [0x01 0x07];
    ANY, "SBB EAX, memory", [0x1b 0x07], |g| g.regs.rflags |= CF;
    ANY, "LOCK ADD memory, EAX", [0xf0 0x01 0x07];
    ANY, "LOCK ADD EAX, memory: #UD", [0xf0 0x03 0x07];
    ANY, "LOCK MOV: #UD", [0xf0 0x89 0x07];
    ANY, "XCHG memory, EAX", [0x87 0x07];
    ANY, "LOCK XADD", [0xf0 0x0f 0xc1 0x07];
    ANY, "CMPXCHG unequal", [0x0f 0xb1 0x0f];
    ANY, "LOCK CMPXCHG equal", [0xf0 0x0f 0xb1 0x0f], |g| g.operand(&g.regs.rax.to_le_bytes());
    ANY, "LOCK CMPXCHG8B", [0xf0 0x0f 0xc7 0x0f];
    LONG, "LOCK CMPXCHG16B", [0xf0 0x48 0x0f 0xc7 0x0f];
    LONG, "CMPXCHG16B misaligned", [0x48 0x0f 0xc7 0x0f], |g| g.regs.rdi += 8;
    ANY, "LOCK BTS memory, ECX", [0xf0 0x0f 0xab 0x0f], |g| g.regs.rcx = 13;
    ANY, "NEG memory", [0xf7 0x1f];
    ANY, "INC memory", [0xfe 0x07];
    ANY, "DIV by 0", [0xf7 0xf1], |g| g.regs.rcx = 0;
    ANY, "IDIV that overflows", [0xf7 0xf9], |g| (g.regs.rdx, g.regs.rcx) = (0x7fff_7fff, 1);
    LEGACY, "AAM 0", [0xd4 0x00];
    LEGACY, "PUSHA", [0x60];
    LEGACY, "POPA", [0x61];
    ANY, "PUSH memory", [0xff 0x37];
    ANY, "POP memory", [0x8f 0x07];
    ANY, "PUSH SP", [0x54];
    ANY, "POP SP", [0x5c];
    ANY, "ENTER 8, 2", [0xc8 0x08 0x00 0x02];
    ANY, "LEAVE", [0xc9];
    ANY, "XLAT", [0xd7], |g| g.regs.rax = 0x21;
    ANY, "MOVZX EAX, memory", [0x0f 0xb6 0x07];
    ANY, "MOVSX EAX, memory", [0x0f 0xbf 0x07];
    ANY, "MOVBE EAX, memory", [0x0f 0x38 0xf0 0x07];
    ANY, "POPCNT", [0xf3 0x0f 0xb8 0x07];
    ANY, "CRC32", [0xf2 0x0f 0x38 0xf1 0x07];
    ANY, "MOVNTI", [0x0f 0xc3 0x07];
    PROTECTED, "ANDN", [0xc4 0xe2 0x70 0xf2 0x07];
    PROTECTED, "SHLX", [0xc4 0xe2 0x71 0xf7 0x07];
    ANY, "LEA of a register: #UD", [0x8d 0xc0];
    ANY, "15 bytes", [0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x89 0x07];
    ANY, "16 bytes", [0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x3e 0x89 0x07];
    ANY, "CLFLUSH", [0x0f 0xae 0x3f];
    FLAT, "CLFLUSH of an absent page", [0x0f 0xae 0x3f], |g| g.point(ABSENT);
    ANY, "MFENCE", [0x0f 0xae 0xf0];
    ANY, "PREFETCHT0", [0x0f 0x18 0x0f];
    ANY, "RDPID", [0xf3 0x0f 0xc7 0xf8];

    ANY, "MOVSB", [0xa4];
    ANY, "REP MOVSB", [0xf3 0xa4];
    ANY, "REP MOVSD", [0xf3 0xa5];
    ANY, "REP MOVSB backwards", [0xf3 0xa4], |g| g.regs.rflags |= DF;
    // In 64-bit mode Bochs fails an assertion of its own.
    LEGACY, "REP MOVSB, the other address size", [0x67 0xf3 0xa4];
    ANY, "REP MOVSB of nothing", [0xf3 0xa4], |g| g.regs.rcx = 0;
    ANY, "REP STOSD", [0xf3 0xab];
    ANY, "REP LODSD", [0xf3 0xad];
    ANY, "REPE CMPSB", [0xf3 0xa6];
    ANY, "REPNE SCASB", [0xf2 0xae];
    FLAT, "REP STOSB into a read-only page", [0xf3 0xaa], |g| g.regs.rdi = READ_ONLY - 2;
    FLAT, "REP STOSD across into a read-only page", [0xf3 0xab], |g| g.regs.rdi = READ_ONLY - 6;
    FLAT, "REP MOVSB from an absent page", [0xf3 0xa4], |g| g.regs.rsi = ABSENT - 1;
    ANY, "REP MOVSB with TF", [0xf3 0xa4], |g| g.regs.rflags |= TF;

    FLAT, "MOV to a read-only page", [0x89 0x07], |g| g.point(READ_ONLY + 0x20);
    FLAT_KERNEL, "MOV to a read-only page without WP", [0x89 0x07],
        |g| { g.point(READ_ONLY + 0x20); g.sregs.cr0 &= !(1 << 16) };
    FLAT, "ADD to a read-only page", [0x01 0x07], |g| g.point(READ_ONLY + 0x20);
    FLAT, "CMPXCHG unequal, to a read-only page", [0x0f 0xb1 0x0f], |g| g.point(READ_ONLY + 0x20);
    FLAT, "MOV from an absent page", [0x8b 0x07], |g| g.point(ABSENT + 0x20);
    FLAT, "MOV to an absent page", [0x89 0x07], |g| g.point(ABSENT + 0x20);
    FLAT, "MOV from a supervisor page", [0x8b 0x07], |g| g.point(SUPERVISOR + 0x20);
    FLAT, "MOV across into an absent page", [0x8b 0x07], |g| g.point(ABSENT - 2);
    FLAT, "MOV across into a read-only page", [0x89 0x07], |g| g.point(READ_ONLY - 2);
    FLAT, "MOV across two pages", [0x89 0x07], |g| g.point(DATA + 0xffe);
    FLAT, "PUSH to an absent page", [0x50], |g| g.regs.rsp = ABSENT + 0x80;
    LONG, "MOV from an address that is not canonical", [0x8b 0x07], |g| g.point(1 << 60);
    LONG, "MOV from the stack at an address that is not canonical", [0x8b 0x45 0x00], |g| g.regs.rbp = 1 << 60;
    LONG, "PUSH at an address that is not canonical", [0x50], |g| g.regs.rsp = 1 << 60;
    CODE16, "MOV across the limit", [0x89 0x07], |g| g.regs.rbx = 0xffff;
    CODE16, "PUSH across the limit", [0x50], |g| g.regs.rsp = 1;
    PROT16 | CODE32, "MOV beyond the limit", [0x8b 0x07], |g| { g.sregs.ds.limit = 0x80; g.sregs.ds.g = 0 };
    PROT16 | CODE32, "MOV by a null selector", [0x8b 0x07], |g| (g.sregs.ds.unusable, g.sregs.ds.selector) = (1, 0);
    UNPROTECTED, "MOV with 32-bit address beyond the limit", [0x67 0x8b 0x07], |g| g.regs.rdi = 0x1_0000;
    USER, "MOV misaligned with AC", [0x8b 0x07], misaligned;
    USER, "PUSH misaligned with AC", [0x50], |g| { misaligned(g); g.regs.rsp -= 1 };
    KERNEL, "MOV misaligned with AC at level 0", [0x8b 0x07], misaligned;
}

/// Alignment checks on, the pointer odd.
fn misaligned(g: &mut Guest<'_>) {
    g.regs.rflags |= AC;
    g.sregs.cr0 |= AM;
    g.advance(1);
}
