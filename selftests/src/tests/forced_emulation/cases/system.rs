// SPDX-License-Identifier: GPL-2.0

//! Control, debug and model-specific registers, descriptor tables, ports, flags.

use super::super::guest::*;
use super::*;

cases! {
    ANY, "MOV EAX, CR0", [0x0f 0x20 0xc0];
    ANY, "MOV ECX, CR2", [0x0f 0x20 0xd1], |g| g.sregs.cr2 = 0x1234_5678;
    ANY, "MOV EDX, CR3", [0x0f 0x20 0xda];
    ANY, "MOV EAX, CR4", [0x0f 0x20 0xe0];
    ANY, "MOV EAX, CR1: #UD", [0x0f 0x20 0xc8];
    LONG, "MOV RAX, CR8", [0x44 0x0f 0x20 0xc0], |g| g.sregs.cr8 = 5;
    KERNEL, "MOV CR0: TS", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 ^ TS;
    USER, "MOV CR0: #GP(0)", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 ^ TS;
    KERNEL, "MOV CR0: AM", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 ^ AM;
    KERNEL, "MOV CR0: NW without CD", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 | 1 << 29;
    KERNEL, "MOV CR0: PG without PE", [0x0f 0x22 0xc0], |g| g.regs.rax = (g.sregs.cr0 | PG) & !PE;
    PROT_KERNEL, "MOV CR0: no PG", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 & !PG;
    KERNEL64, "MOV CR0: a bit above 31", [0x0f 0x22 0xc0], |g| g.regs.rax = g.sregs.cr0 | 1 << 40;
    KERNEL, "MOV CR2", [0x0f 0x22 0xd0];
    KERNEL, "MOV CR3", [0x0f 0x22 0xd8], |g| g.regs.rax = g.sregs.cr3;
    KERNEL64, "MOV CR3: a reserved bit", [0x0f 0x22 0xd8], |g| g.regs.rax = g.sregs.cr3 | 1 << 60;
    KERNEL64, "MOV CR3: bit 63 without PCIDE", [0x0f 0x22 0xd8], |g| g.regs.rax = g.sregs.cr3 | 1 << 63;
    KERNEL, "MOV CR4: TSD", [0x0f 0x22 0xe0], |g| g.regs.rax = g.sregs.cr4 ^ CR4_TSD;
    KERNEL, "MOV CR4: PGE", [0x0f 0x22 0xe0], |g| g.regs.rax = g.sregs.cr4 ^ CR4_PGE;
    KERNEL, "MOV CR4: a reserved bit", [0x0f 0x22 0xe0], |g| g.regs.rax = g.sregs.cr4 | 1 << 15;
    KERNEL64, "MOV CR4: no PAE", [0x0f 0x22 0xe0], |g| g.regs.rax = g.sregs.cr4 & !CR4_PAE;
    KERNEL, "MOV CR4: PCIDE", [0x0f 0x22 0xe0], |g| g.regs.rax = g.sregs.cr4 | 1 << 17;
    LONG, "MOV CR8, 5", [0x44 0x0f 0x22 0xc0], |g| g.regs.rax = 5;
    LONG, "MOV CR8, 16", [0x44 0x0f 0x22 0xc0], |g| g.regs.rax = 16;
    ANY, "LOCK MOV EAX, CR0", [0xf0 0x0f 0x20 0xc0];
    ANY, "MOV EAX, DR0", [0x0f 0x21 0xc0], |g| g.debug.db[0] = 0x1234;
    ANY, "MOV EAX, DR6", [0x0f 0x21 0xf0];
    ANY, "MOV EAX, DR7", [0x0f 0x21 0xf8];
    ANY, "MOV EAX, DR4", [0x0f 0x21 0xe0];
    ANY, "MOV EAX, DR4 with CR4.DE", [0x0f 0x21 0xe0], |g| g.sregs.cr4 |= CR4_DE;
    ANY, "MOV DR1", [0x0f 0x23 0xc8];
    KERNEL, "MOV DR6", [0x0f 0x23 0xf0], |g| g.regs.rax = 0xffff_4ff1;
    KERNEL, "MOV DR7", [0x0f 0x23 0xf8], |g| g.regs.rax = 0x700;
    KERNEL, "MOV DR7: GD", [0x0f 0x23 0xf8], |g| g.regs.rax = 0x2400;
    KERNEL64, "MOV DR7: a bit above 31", [0x0f 0x23 0xf8], |g| g.regs.rax = 1 << 32;
    KERNEL64, "MOV DR6: a bit above 31", [0x0f 0x23 0xf0], |g| g.regs.rax = 1 << 32;
    KERNEL, "MOV EAX, DR0 with DR7.GD", [0x0f 0x21 0xc0], |g| g.debug.dr7 |= 1 << 13;

    ANY, "LGDT", [0x0f 0x01 0x17], table;
    ANY, "LIDT", [0x0f 0x01 0x1f], table;
    LEGACY, "LGDT, the other operand size", [0x66 0x0f 0x01 0x17], table;
    LONG, "LGDT of an address that is not canonical", [0x0f 0x01 0x17],
        |g| g.operand(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    ANY, "SGDT", [0x0f 0x01 0x07];
    ANY, "SIDT", [0x0f 0x01 0x0f];
    LEGACY, "SGDT, the other operand size", [0x66 0x0f 0x01 0x07];
    FLAT, "SGDT to a read-only page", [0x0f 0x01 0x07], |g| g.point(READ_ONLY + 0x10);
    ANY, "SGDT with UMIP", [0x0f 0x01 0x07], |g| g.sregs.cr4 |= CR4_UMIP;
    ANY, "SIDT with UMIP", [0x0f 0x01 0x0f], |g| g.sregs.cr4 |= CR4_UMIP;
    ANY, "SMSW EAX", [0x0f 0x01 0xe0];
    ANY, "SMSW EAX, the other operand size", [0x66 0x0f 0x01 0xe0];
    ANY, "SMSW memory", [0x0f 0x01 0x27];
    ANY, "SMSW EAX with UMIP", [0x0f 0x01 0xe0], |g| g.sregs.cr4 |= CR4_UMIP;
    ANY, "LMSW: TS", [0x0f 0x01 0xf0], |g| g.regs.rax = (g.sregs.cr0 | TS) & 0xffff;
    ANY, "LMSW does not clear PE", [0x0f 0x01 0xf0], |g| g.regs.rax = 0;
    PROTECTED, "LMSW memory", [0x0f 0x01 0x37], |g| g.operand(&[0x0b, 0]);
    ANY, "CLTS", [0x0f 0x06], |g| g.sregs.cr0 |= TS;
    ANY, "INVLPG", [0x0f 0x01 0x3f];
    LONG, "INVLPG of an address that is not canonical", [0x0f 0x01 0x3f], |g| g.regs.rdi = 1 << 63;
    ANY, "INVPCID of all", [0x66 0x0f 0x38 0x82 0x0f], |g| { g.regs.rcx = 2; g.operand(&[0; 16]) };
    ANY, "INVPCID of an address", [0x66 0x0f 0x38 0x82 0x0f], |g| { g.regs.rcx = 0; g.operand(&[0; 16]) };
    KERNEL, "INVPCID of type 4", [0x66 0x0f 0x38 0x82 0x0f], |g| { g.regs.rcx = 4; g.operand(&[0; 16]) };
    KERNEL, "INVPCID of a PCID without PCIDE", [0x66 0x0f 0x38 0x82 0x0f],
        |g| { g.regs.rcx = 1; g.operand(&1u128.to_le_bytes()) };
    KERNEL, "INVPCID with reserved bits", [0x66 0x0f 0x38 0x82 0x0f],
        |g| { g.regs.rcx = 3; g.operand(&0x1000u128.to_le_bytes()) };
    KERNEL64, "INVPCID of an address that is not canonical", [0x66 0x0f 0x38 0x82 0x0f],
        |g| { g.regs.rcx = 0; g.operand(&(1u128 << 127).to_le_bytes()) };
    ANY, "SLDT EAX", [0x0f 0x00 0xc0];
    ANY, "SLDT memory", [0x0f 0x00 0x07];
    ANY, "STR EAX", [0x0f 0x00 0xc8];
    ANY, "STR EAX with UMIP", [0x0f 0x00 0xc8], |g| g.sregs.cr4 |= CR4_UMIP;
    ANY, "LLDT 0", [0x0f 0x00 0xd0], |g| g.regs.rax = 0;
    ANY, "LLDT", [0x0f 0x00 0xd0], |g| g.regs.rax = sel::LDT.into();
    PROT_KERNEL, "LLDT of a data segment", [0x0f 0x00 0xd0], |g| g.regs.rax = sel::DATA.into();
    PROT_KERNEL, "LLDT beyond the GDT", [0x0f 0x00 0xd0], |g| g.regs.rax = 0x1f8;
    ANY, "LTR", [0x0f 0x00 0xd8], |g| g.regs.rax = sel::FREE_TSS.into();
    PROT_KERNEL, "LTR of a busy TSS", [0x0f 0x00 0xd8], |g| g.regs.rax = sel::TR.into();
    PROT_KERNEL, "LTR 0", [0x0f 0x00 0xd8], |g| g.regs.rax = 0;

    ANY, "RDMSR of SYSENTER_CS", [0x0f 0x32], |g| g.regs.rcx = 0x174;
    KERNEL, "RDMSR of PAT", [0x0f 0x32], |g| g.regs.rcx = 0x277;
    KERNEL, "RDMSR of EFER", [0x0f 0x32], |g| g.regs.rcx = 0xc000_0080;
    KERNEL, "RDMSR of nothing", [0x0f 0x32], |g| g.regs.rcx = 0x1234_5678;
    ANY, "WRMSR of SYSENTER_EIP", [0x0f 0x30], |g| (g.regs.rcx, g.regs.rdx) = (0x176, 0);
    KERNEL, "WRMSR of an address that is not canonical", [0x0f 0x30], |g| (g.regs.rcx, g.regs.rdx) = (0x176, 1 << 31);
    KERNEL, "WRMSR of a bad PAT", [0x0f 0x30], |g| g.regs.rcx = 0x277;
    KERNEL, "WRMSR of EFER: a reserved bit", [0x0f 0x30], |g| (g.regs.rcx, g.regs.rax) = (0xc000_0080, 0x503);
    KERNEL64, "WRMSR of FS_BASE", [0x0f 0x30], |g| (g.regs.rcx, g.regs.rdx) = (0xc000_0100, 0);
    ANY, "RDPMC", [0x0f 0x33], |g| g.regs.rcx = 0x777;
    ANY, "CPUID 0", [0x0f 0xa2], |g| g.regs.rax = 0;
    ANY, "CPUID 7", [0x0f 0xa2], |g| (g.regs.rax, g.regs.rcx) = (7, 0);
    USER, "RDTSC with TSD", [0x0f 0x31], |g| g.sregs.cr4 |= CR4_TSD;
    ANY, "XGETBV", [0x0f 0x01 0xd0], |g| g.regs.rcx = 0;
    ANY, "XGETBV of 2", [0x0f 0x01 0xd0], |g| g.regs.rcx = 2;
    ANY, "XSETBV", [0x0f 0x01 0xd1], |g| (g.regs.rcx, g.regs.rdx, g.regs.rax) = (0, 0, 7);
    KERNEL, "XSETBV without x87", [0x0f 0x01 0xd1], |g| (g.regs.rcx, g.regs.rdx, g.regs.rax) = (0, 0, 6);
    ANY, "XGETBV without OSXSAVE", [0x0f 0x01 0xd0], |g| (g.regs.rcx, g.sregs.cr4) = (0, g.sregs.cr4 & !(1 << 18));
    ANY, "SWAPGS", [0x0f 0x01 0xf8];
    LONG, "RDFSBASE", [0xf3 0x48 0x0f 0xae 0xc0], |g| g.sregs.cr4 |= CR4_FSGSBASE;
    LONG, "WRGSBASE", [0xf3 0x0f 0xae 0xd8], |g| g.sregs.cr4 |= CR4_FSGSBASE;
    LONG, "WRGSBASE of an address that is not canonical", [0xf3 0x48 0x0f 0xae 0xd8],
        |g| (g.regs.rax, g.sregs.cr4) = (1 << 62, g.sregs.cr4 | CR4_FSGSBASE);
    LONG, "RDFSBASE without FSGSBASE", [0xf3 0x48 0x0f 0xae 0xc0];
    ANY, "WBINVD", [0x0f 0x09];
    ANY, "HLT", [0xf4];

    ANY, "IN AL, 40h", [0xe4 0x40];
    ANY, "IN EAX, 40h", [0xe5 0x40];
    ANY, "IN AX, the other operand size", [0x66 0xe5 0x40];
    ANY, "IN AL, 44h", [0xe4 0x44];
    ANY, "IN AL, 44h with IOPL 3", [0xe4 0x44], |g| g.regs.rflags |= IOPL3;
    ANY, "OUT 40h, AL", [0xe6 0x40];
    ANY, "OUT 42h, EAX: 44h is forbidden", [0xe7 0x42];
    ANY, "IN AL, DX", [0xec];
    ANY, "IN EAX, DX", [0xed];
    ANY, "OUT DX, AL", [0xee];
    ANY, "OUT DX, EAX", [0xef];
    ANY, "OUT DX, AL beyond the bitmap", [0xee], |g| g.regs.rdx = 0x3f8;
    ANY, "INSB", [0x6c];
    ANY, "REP INSB", [0xf3 0x6c];
    ANY, "REP INSD", [0xf3 0x6d];
    ANY, "REP INSB backwards", [0xf3 0x6c], |g| g.regs.rflags |= DF;
    ANY, "OUTSB", [0x6e];
    ANY, "REP OUTSB", [0xf3 0x6e];
    ANY, "REP OUTSD", [0xf3 0x6f];
    FLAT, "INSB to a read-only page", [0x6c], |g| g.point(READ_ONLY);
    FLAT, "OUTSB from an absent page", [0x6e], |g| g.regs.rsi = ABSENT + 8;

    ANY, "CLI", [0xfa], |g| g.regs.rflags |= IF;
    ANY, "CLI with IOPL 3", [0xfa], |g| g.regs.rflags |= IF | IOPL3;
    ANY, "STI with IOPL 0", [0xfb];
    USER, "CLI with VME", [0xfa], |g| g.sregs.cr4 |= CR4_VME;
    ANY, "PUSHF", [0x9c], |g| g.regs.rflags |= DF | CF | IOPL3;
    ANY, "PUSHF, the other operand size", [0x66 0x9c], |g| g.regs.rflags |= IOPL3;
    ANY, "PUSHF with IOPL 0", [0x9c];
    ANY, "POPF", [0x9d], |g| g.stack(8, &[0x3_dcd5 & !TF]);
    ANY, "POPF with IOPL 3", [0x9d], |g| { g.stack(8, &[0x3_dcd5 & !TF]); g.regs.rflags |= IOPL3 };
    ANY, "POPF, the other operand size", [0x66 0x9d], |g| { g.stack(8, &[0x4cd5]); g.regs.rflags |= IOPL3 };
    ANY, "POPF: AC and ID", [0x9d], |g| g.stack(8, &[0x24_0002]);
    ANY, "CLC with TF", [0xf8], |g| g.regs.rflags |= TF | CF;
    ANY, "MOV EAX, CR0 with TF", [0x0f 0x20 0xc0], |g| g.regs.rflags |= TF;
    ANY, "OUT 40h, AL with TF", [0xe6 0x40], |g| g.regs.rflags |= TF;
    ANY, "POPF that clears TF", [0x9d], |g| { g.stack(8, &[2]); g.regs.rflags |= TF };
    KERNEL, "MOV DR7 with TF", [0x0f 0x23 0xf8], |g| (g.regs.rax, g.regs.rflags) = (0x400, g.regs.rflags | TF);
}

/// A table of 80h bytes at the place of the old one.
fn table(g: &mut Guest<'_>) {
    let mut bytes = vec![0x7f, 0];
    bytes.extend_from_slice(&GDT.to_le_bytes());
    g.operand(&bytes);
}
