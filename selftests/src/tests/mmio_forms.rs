// SPDX-License-Identifier: GPL-2.0

//! The less common instructions on memory where no RAM is: exchanges, LOCK, extensions, operands of 8 and 16 bytes, and
//! operands over the border of two pages.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA, REAL_IP};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// Where no slot is; GS is based here.
const DEVICE: u64 = 0xd000_0000;
const BYTES: [u8; 16] = [
    0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x10,
];

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut g = Guest {
        vcpu: vm.vcpu(0)?,
        ram,
        mode: Mode::Real,
    };
    for mode in [Mode::Real, Mode::Protected, Mode::Long] {
        g.mode = mode;
        moves(t, &mut g)?;
        exchanges(t, &mut g)?;
        crossing(t, &mut g)?;
    }
    g.mode = Mode::Long;
    wide(t, &mut g)?;
    for mode in [Mode::Protected, Mode::Long] {
        g.mode = mode;
        vectors(t, &mut g)?;
    }
    Ok(())
}

struct Guest {
    vcpu: Vcpu,
    ram: Ram,
    mode: Mode,
}

impl Guest {
    fn start(&mut self, f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Outcome {
        let ip = if self.mode == Mode::Real {
            REAL_IP
        } else {
            CODE
        };
        let code = assemble(self.mode.bits(), ip, |a| {
            f(a)?;
            a.hlt()
        });
        setup::start(&self.vcpu, &self.ram, self.mode, &code)?;
        self.vcpu.with_sregs(|s| {
            s.gs.base = DEVICE;
            s.gs.limit = 0xffff_ffff;
            s.gs.g = 1;
        })?;
        Ok(())
    }

    fn name(&self, what: &str) -> String {
        format!("{:?}: {what}", self.mode)
    }

    fn reads(&mut self, t: &mut Tap, what: &str, at: u64, answer: &[u8]) -> Outcome {
        let expected = Exit::MmioRead {
            gpa: DEVICE + at,
            len: answer.len() as u32,
        };
        t.eq(self.name(what), self.vcpu.run()?, expected);
        self.vcpu.reply(answer);
        Ok(())
    }

    fn writes(&mut self, t: &mut Tap, what: &str, at: u64, data: &[u8]) -> Outcome {
        let expected = Exit::mmio_write(DEVICE + at, data);
        t.eq(self.name(what), self.vcpu.run()?, expected);
        Ok(())
    }

    fn halts(&mut self, t: &mut Tap, what: &str) -> Outcome {
        t.eq(self.name(what), self.vcpu.run()?, Exit::Hlt);
        Ok(())
    }
}

/// Each form twice, because a kernel may serve the second access to a page in another way than the first.
fn moves(t: &mut Tap, g: &mut Guest) -> Outcome {
    g.start(|a| {
        a.mov(ebx, 0x8877_6655u32)?;
        a.mov(ecx, -1)?;
        a.mov(edx, -1)?;
        for _ in 0..2 {
            a.mov(byte_ptr(1).gs(), bh)?;
            a.mov(word_ptr(2).gs(), bx)?;
            a.mov(dword_ptr(4).gs(), ebx)?;
            a.mov(byte_ptr(8).gs(), 0x5a)?;
            a.mov(dword_ptr(12).gs(), -2)?;
            a.mov(ch, byte_ptr(1).gs())?;
            a.mov(dx, word_ptr(2).gs())?;
            a.mov(eax, dword_ptr(4).gs())?;
            a.movzx(esi, byte_ptr(5).gs())?;
            a.movsx(edi, byte_ptr(6).gs())?;
            a.movzx(ebp, word_ptr(8).gs())?;
        }
        a.hlt()
    })?;
    for round in ["first", "again"] {
        let name = |what: &str| format!("{what}, {round}");
        g.writes(t, &name("MOV from BH"), 1, &[0x66])?;
        g.writes(t, &name("MOV of 16 bits"), 2, &[0x55, 0x66])?;
        g.writes(t, &name("MOV of 32 bits"), 4, &[0x55, 0x66, 0x77, 0x88])?;
        g.writes(t, &name("MOV of a byte"), 8, &[0x5a])?;
        let all = [0xfe, 0xff, 0xff, 0xff];
        g.writes(t, &name("MOV of an immediate"), 12, &all)?;
        g.reads(t, &name("MOV to CH"), 1, &[0x12])?;
        g.reads(t, &name("MOV to DX"), 2, &[0x34, 0x12])?;
        g.reads(t, &name("MOV to EAX"), 4, &[1, 2, 3, 4])?;
        g.reads(t, &name("MOVZX of a byte"), 5, &[0xfe])?;
        g.reads(t, &name("MOVSX of a byte"), 6, &[0x80])?;
        g.reads(t, &name("MOVZX of 16 bits"), 8, &[0xcd, 0xab])?;
    }
    g.halts(t, "HLT after the moves")?;
    let r = g.vcpu.regs()?;
    t.eq(
        g.name("what the moves brought"),
        (r.rcx, r.rdx, r.rax, r.rsi, r.rdi, r.rbp),
        (
            0xffff_12ff,
            0xffff_1234,
            0x0403_0201,
            0xfe,
            0xffff_ff80,
            0xabcd,
        ),
    );
    Ok(())
}

fn exchanges(t: &mut Tap, g: &mut Guest) -> Outcome {
    g.start(|a| {
        a.mov(eax, 0x0101_0101)?;
        a.mov(ebx, 3)?;
        a.mov(edx, 0x0a0b)?;
        a.xchg(dword_ptr(0).gs(), eax)?;
        a.lock().add(dword_ptr(4).gs(), ebx)?;
        a.lock().xadd(word_ptr(8).gs(), dx)?;
        a.lock().inc(byte_ptr(12).gs())?;
        a.mov(eax, 7)?;
        a.lock().cmpxchg(dword_ptr(16).gs(), ebx)
    })?;
    g.reads(t, "XCHG reads", 0, &[5, 0, 0, 0])?;
    g.writes(t, "XCHG writes", 0, &[1, 1, 1, 1])?;
    g.reads(t, "LOCK ADD reads", 4, &[0xff, 0, 0, 0])?;
    g.writes(t, "LOCK ADD writes", 4, &[2, 1, 0, 0])?;
    g.reads(t, "LOCK XADD reads", 8, &[1, 0])?;
    g.writes(t, "LOCK XADD writes", 8, &[0x0c, 0x0a])?;
    g.reads(t, "LOCK INC reads", 12, &[0x7f])?;
    g.writes(t, "LOCK INC writes", 12, &[0x80])?;
    g.reads(t, "LOCK CMPXCHG reads", 16, &[7, 0, 0, 0])?;
    g.writes(t, "LOCK CMPXCHG writes", 16, &[3, 0, 0, 0])?;
    g.halts(t, "HLT after the exchanges")?;
    let r = g.vcpu.regs()?;
    t.eq(g.name("XADD took the old value"), r.rdx, 1);
    t.ok(
        g.name("CMPXCHG found what it wanted"),
        r.rflags & 1 << 6 != 0,
    );
    Ok(())
}

fn crossing(t: &mut Tap, g: &mut Guest) -> Outcome {
    g.start(|a| {
        a.mov(eax, 0x4433_2211)?;
        a.mov(word_ptr(0xfff).gs(), ax)?;
        a.mov(dword_ptr(0xffd).gs(), eax)?;
        a.mov(ebx, dword_ptr(0xfff).gs())
    })?;
    g.writes(t, "the first byte of a word", 0xfff, &[0x11])?;
    g.writes(t, "its second, on the next page", 0x1000, &[0x22])?;
    g.writes(t, "three bytes of four", 0xffd, &[0x11, 0x22, 0x33])?;
    g.writes(t, "the fourth", 0x1000, &[0x44])?;
    g.reads(t, "one byte of four", 0xfff, &[9])?;
    g.reads(t, "the other three", 0x1000, &[8, 7, 6])?;
    g.halts(t, "HLT after the crossing")?;
    t.eq(g.name("all four"), g.vcpu.regs()?.rbx, 0x0607_0809);
    Ok(())
}

/// Operands of 8 bytes in general registers.
fn wide(t: &mut Tap, g: &mut Guest) -> Outcome {
    g.start(|a| {
        a.mov(rax, 0x8877_6655_4433_2211u64)?;
        for _ in 0..2 {
            a.mov(qword_ptr(8).gs(), rax)?;
            a.mov(rbx, qword_ptr(16).gs())?;
            a.movsxd(rcx, dword_ptr(24).gs())?;
        }
        a.mov(qword_ptr(0xffb).gs(), rax)
    })?;
    for _ in 0..2 {
        g.writes(t, "MOV of 64 bits", 8, &BYTES[..8])?;
        g.reads(t, "MOV to RBX", 16, &BYTES[8..])?;
        g.reads(t, "MOVSXD", 24, &[0, 0, 0, 0x80])?;
    }
    g.writes(t, "five bytes of eight", 0xffb, &BYTES[..5])?;
    g.writes(t, "the other three", 0x1000, &BYTES[5..8])?;
    g.halts(t, "HLT after the wide moves")?;
    let r = g.vcpu.regs()?;
    t.eq("RBX", r.rbx, 0x10ff_eedd_ccbb_aa99);
    t.eq("RCX", r.rcx, 0xffff_ffff_8000_0000);
    Ok(())
}

/// Operands of 16 bytes come in two parts, over a border in as many as it takes.
fn vectors(t: &mut Tap, g: &mut Guest) -> Outcome {
    g.start(|a| {
        a.movdqu(xmm0, xmmword_ptr(DATA as u32 as i32))?;
        a.movdqa(xmmword_ptr(0x20).gs(), xmm0)?;
        a.movups(xmmword_ptr(0xffc).gs(), xmm0)?;
        a.movdqu(xmm1, xmmword_ptr(0x31).gs())?;
        a.movdqu(xmmword_ptr(DATA as u32 as i32 + 16), xmm1)
    })?;
    g.ram.write(DATA, &BYTES);
    g.writes(t, "the low half of MOVDQA", 0x20, &BYTES[..8])?;
    g.writes(t, "the high half", 0x28, &BYTES[8..])?;
    g.writes(t, "MOVUPS up to the page's end", 0xffc, &BYTES[..4])?;
    g.writes(t, "eight bytes behind it", 0x1000, &BYTES[4..12])?;
    g.writes(t, "the rest", 0x1008, &BYTES[12..])?;
    g.reads(t, "the low half of MOVDQU", 0x31, &BYTES[8..])?;
    g.reads(t, "the high half", 0x39, &BYTES[..8])?;
    g.halts(t, "HLT after the vectors")?;
    let expected = [&BYTES[8..], &BYTES[..8]].concat();
    t.eq(
        g.name("MOVDQU brought both"),
        g.ram.read(DATA + 16, 16),
        expected,
    );
    Ok(())
}
