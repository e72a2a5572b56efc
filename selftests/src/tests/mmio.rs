// SPDX-License-Identifier: GPL-2.0

//! Memory accesses where no RAM is: every size, extension, string moves, a page-crossing access.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// Where no slot is.
const DEVICE: u64 = 0xd000_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    writes(t, &mut vcpu, &ram)?;
    reads(t, &mut vcpu, &ram)?;
    modify(t, &mut vcpu, &ram)?;
    strings(t, &mut vcpu, &ram)?;
    crossing(t, &mut vcpu, &ram)
}

fn read(t: &mut Tap, vcpu: &mut Vcpu, what: &str, gpa: u64, answer: &[u8]) -> Outcome {
    t.eq(
        what,
        vcpu.run()?,
        Exit::MmioRead {
            gpa,
            len: answer.len() as u32,
        },
    );
    vcpu.reply(answer);
    Ok(())
}

fn writes(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.mov(rax, 0x8877_6655_4433_2211u64)?;
        a.mov(byte_ptr(rbx), al)?;
        a.mov(byte_ptr(rbx + 1), ah)?;
        a.mov(word_ptr(rbx + 2), ax)?;
        a.mov(dword_ptr(rbx + 4), eax)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.mov(dword_ptr(rbx + 0x10), 0x0102_0304u32)?;
        a.mov(qword_ptr(rbx + 0x18), -2i32)?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    t.eq("8 bits", vcpu.run()?, Exit::mmio_write(DEVICE, &[0x11]));
    t.eq(
        "8 bits from AH",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 1, &[0x22]),
    );
    t.eq(
        "16 bits",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 2, &[0x11, 0x22]),
    );
    t.eq(
        "32 bits",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 4, &[0x11, 0x22, 0x33, 0x44]),
    );
    t.eq(
        "64 bits",
        vcpu.run()?,
        Exit::mmio_write(
            DEVICE + 8,
            &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88],
        ),
    );
    t.eq(
        "an immediate",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x10, &[4, 3, 2, 1]),
    );
    t.eq(
        "a sign-extended immediate",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x18, &(-2i64).to_le_bytes()),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    Ok(())
}

fn reads(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.mov(rax, u64::MAX)?;
        a.mov(r8, rax)?;
        a.mov(r9, rax)?;
        a.mov(r10, rax)?;
        a.mov(r8b, byte_ptr(rbx))?;
        a.mov(r9w, word_ptr(rbx + 2))?;
        a.mov(r10d, dword_ptr(rbx + 4))?;
        a.mov(r11, qword_ptr(rbx + 8))?;
        a.movzx(r12d, byte_ptr(rbx + 1))?;
        a.movsx(r13, word_ptr(rbx + 6))?;
        a.movsxd(r14, dword_ptr(rbx + 0xc))?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    read(t, vcpu, "read 8", DEVICE, &[0x80])?;
    read(t, vcpu, "read 16", DEVICE + 2, &[0x34, 0x92])?;
    read(t, vcpu, "read 32", DEVICE + 4, &[1, 2, 3, 0x84])?;
    read(t, vcpu, "read 64", DEVICE + 8, &[1, 2, 3, 4, 5, 6, 7, 8])?;
    read(t, vcpu, "MOVZX", DEVICE + 1, &[0xfe])?;
    read(t, vcpu, "MOVSX", DEVICE + 6, &[0, 0x80])?;
    read(t, vcpu, "MOVSXD", DEVICE + 0xc, &[0xff, 0xff, 0xff, 0xff])?;
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let r = vcpu.regs()?;
    t.eq("8 bits keep the rest", r.r8, 0xffff_ffff_ffff_ff80);
    t.eq("16 bits keep the rest", r.r9, 0xffff_ffff_ffff_9234);
    t.eq("32 bits clear the rest", r.r10, 0x8403_0201);
    t.eq("64 bits", r.r11, 0x0807_0605_0403_0201);
    t.eq("zero extension", r.r12, 0xfe);
    t.eq("sign extension from 16", r.r13, 0xffff_ffff_ffff_8000);
    t.eq("sign extension from 32", r.r14, u64::MAX);
    Ok(())
}

/// Instructions that read and write the same place, with flags.
fn modify(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.or(dword_ptr(rbx), 0x0f00u32)?;
        a.sub(byte_ptr(rbx + 4), 1)?;
        a.pushfq()?;
        a.pop(r8)?;
        a.cmp(word_ptr(rbx + 8), 0x1234)?;
        a.pushfq()?;
        a.pop(r9)?;
        a.mov(eax, 0x55)?;
        a.xchg(dword_ptr(rbx + 0xc), eax)?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    read(t, vcpu, "OR reads", DEVICE, &[1, 0, 0, 0])?;
    t.eq(
        "and writes",
        vcpu.run()?,
        Exit::mmio_write(DEVICE, &[1, 0x0f, 0, 0]),
    );
    read(t, vcpu, "SUB reads", DEVICE + 4, &[0])?;
    t.eq(
        "and writes",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 4, &[0xff]),
    );
    read(t, vcpu, "CMP reads only", DEVICE + 8, &[0x34, 0x12])?;
    read(t, vcpu, "XCHG reads", DEVICE + 0xc, &[7, 0, 0, 0])?;
    t.eq(
        "and writes",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0xc, &[0x55, 0, 0, 0]),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let r = vcpu.regs()?;
    // CF, PF, AF, ZF, SF, OF.
    t.eq("flags of 0 - 1", r.r8 & 0x8d5, 0x95);
    t.eq("flags of equal operands", r.r9 & 0x8d5, 0x44);
    t.eq("XCHG took the old value", r.rax, 7);
    Ok(())
}

/// REP STOS and REP MOVS between memory and a device.
fn strings(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.cld()?;
        a.mov(rdi, DEVICE)?;
        a.mov(eax, 0x4433_2211u32)?;
        a.mov(ecx, 3)?;
        a.rep().stosd()?;
        a.mov(rsi, DEVICE + 0x100)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 2)?;
        a.rep().movsw()?;
        a.mov(rsi, DATA + 0x100)?;
        a.mov(rdi, DEVICE + 0x200)?;
        a.movsb()?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    ram.write(DATA + 0x100, &[0xee]);
    for i in 0..3 {
        t.eq(
            format!("STOSD {i}"),
            vcpu.run()?,
            Exit::mmio_write(DEVICE + 4 * i, &[0x11, 0x22, 0x33, 0x44]),
        );
    }
    read(t, vcpu, "MOVSW 0", DEVICE + 0x100, &[1, 2])?;
    read(t, vcpu, "MOVSW 1", DEVICE + 0x102, &[3, 4])?;
    t.eq(
        "MOVSB to the device",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x200, &[0xee]),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    t.eq("what MOVSW brought", ram.read(DATA, 4), vec![1, 2, 3, 4]);
    t.eq("RCX is used up", vcpu.regs()?.rcx, 0);
    Ok(())
}

/// An access over the border of two pages comes in two parts, in order.
fn crossing(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rbx, DEVICE + 0xffe)?;
        a.mov(eax, 0x4433_2211u32)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(ecx, dword_ptr(rbx))?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    t.eq(
        "the first half of a write",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0xffe, &[0x11, 0x22]),
    );
    t.eq(
        "the second",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x1000, &[0x33, 0x44]),
    );
    read(t, vcpu, "the first half of a read", DEVICE + 0xffe, &[1, 2])?;
    read(t, vcpu, "the second", DEVICE + 0x1000, &[3, 4])?;
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    t.eq("both halves arrived", vcpu.regs()?.rcx, 0x0403_0201);
    Ok(())
}
