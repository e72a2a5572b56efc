// SPDX-License-Identifier: GPL-2.0

//! Exceptions the guest makes reach its own IDT, with the right error code, saved RIP and CR2;
//! a fault while one is delivered is a double fault, then a shutdown.

use super::delivery::no_vector_table;
use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA, PAGE_TABLES, STACK, TSS};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const HANDLERS: u64 = CODE + 0x4000;
/// Each handler tells its vector here, then halts with the frame on the stack.
const VECTOR_PORT: u16 = 0x40;
/// A page that the test makes read-only, and one it makes absent.
const READ_ONLY: u64 = 0x4000_0000;
const ABSENT: u64 = 0x4000_1000;
const SMALL_PAGES: u64 = 0x3_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    prepare(&vcpu, &ram)?;

    let case = &mut Case {
        t,
        vcpu: &mut vcpu,
        ram: &ram,
    };
    case.check("#UD of UD2", 6, None, 0, |a| a.ud2())?;
    case.check("#DE of a division by zero", 0, None, 2, |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    })?;
    case.check("#BP of INT3 saves the RIP behind it", 3, None, 1, |a| {
        a.int3()
    })?;
    case.check("a software interrupt", 0x50, None, 2, |a| a.int(0x50))?;
    case.check("#GP(0) of a non-canonical address", 13, Some(0), 10, |a| {
        a.mov(rbx, 0x8000_0000_0000_0000u64)?;
        a.mov(al, byte_ptr(rbx))
    })?;
    case.check(
        "#GP(selector) of a segment beyond the GDT",
        13,
        Some(0x58),
        5,
        |a| {
            a.mov(eax, 0x58)?;
            a.mov(ds, eax)
        },
    )?;
    case.check("#GP(0) of a reserved bit of CR4", 13, Some(0), 10, |a| {
        a.mov(rax, 1u64 << 63)?;
        a.mov(cr4, rax)
    })?;
    case.check("#PF of an absent page", 14, Some(0), 10, |a| {
        a.mov(rbx, ABSENT + 0x21)?;
        a.mov(al, byte_ptr(rbx))
    })?;
    let s = case.vcpu.fd.get_sregs()?;
    case.t.eq("and CR2 is the address", s.cr2, ABSENT + 0x21);
    case.check(
        "#PF of a write to a read-only page (CR0.WP)",
        14,
        Some(3),
        10,
        |a| {
            a.mov(rbx, READ_ONLY)?;
            a.mov(byte_ptr(rbx), al)
        },
    )?;
    let r = case.vcpu.fd.get_sregs()?;
    case.t.eq("and CR2 is that address", r.cr2, READ_ONLY);
    case.check("#NM with CR0.TS set", 7, None, 10, |a| {
        a.mov(rax, cr0)?;
        a.bts(eax, 3)?;
        a.mov(cr0, rax)?;
        a.fld1()
    })?;
    alignment(t, &mut vcpu, &ram)?;
    double_fault(t, &mut vcpu, &ram)?;
    resume(t, &mut vcpu, &ram)?;
    // Not twice: see there.
    no_vector_table(t, dev, &["first"])
}

/// Tables, a handler for each vector, two special pages.
fn prepare(vcpu: &Vcpu, ram: &Ram) -> Outcome {
    setup::start(vcpu, ram, Mode::Long, &[0xf4])?;
    for vector in 0..=0x50u64 {
        let at = HANDLERS + vector * 16;
        let code = assemble(64, at, |a| {
            a.mov(al, vector as i32)?;
            a.out(i32::from(VECTOR_PORT), al)?;
            a.hlt()
        });
        ram.write(at, &code);
        setup::gate(ram, Mode::Long, vector as u8, at);
    }
    // The second directory's first entry: 4 KiB pages.
    ram.set64(PAGE_TABLES + 0x3000, SMALL_PAGES | 3);
    ram.set64(SMALL_PAGES, DATA | 1);
    ram.set64(SMALL_PAGES + 8, 0);
    Ok(())
}

struct Case<'a> {
    t: &'a mut Tap,
    vcpu: &'a mut Vcpu,
    ram: &'a Ram,
}

impl Case<'_> {
    /// Runs `code`, which has to fault with `vector` at the offset `at` from its start (behind the
    /// instruction for traps).
    fn check(
        &mut self,
        what: &str,
        vector: u8,
        error: Option<u64>,
        at: u64,
        code: impl FnOnce(&mut CodeAssembler) -> Asm,
    ) -> Outcome {
        self.ram.write(CODE, &asm64(code));
        setup::enter(self.vcpu, Mode::Long, CODE, STACK)?;
        self.t.eq(
            format!("{what}: the vector"),
            self.vcpu.run()?,
            Exit::out8(VECTOR_PORT, vector),
        );
        let mut frame = self.vcpu.regs()?.rsp;
        if let Some(error) = error {
            self.t.eq(
                format!("{what}: the error code"),
                self.ram.get64(frame),
                error,
            );
            frame += 8;
        }
        self.t.eq(
            format!("{what}: the saved RIP"),
            self.ram.get64(frame),
            CODE + at,
        );
        self.t.eq(
            format!("{what}: the saved CS"),
            self.ram.get64(frame + 8),
            u64::from(setup::CS),
        );
        self.t.eq(
            format!("{what}: the saved RSP"),
            self.ram.get64(frame + 24),
            STACK,
        );
        Ok(())
    }
}

/// A program that asked for it gets #AC for a misaligned access.
fn alignment(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    const CR0_AM: u64 = 1 << 18;
    const RFLAGS_AC: u64 = 1 << 18;
    const USER: u64 = 1 << 2;
    let code = asm64(|a| {
        a.mov(rbx, DATA + 1)?;
        a.mov(eax, dword_ptr(rbx))
    });
    ram.write(CODE, &code);
    for table in 0..3 {
        let at = PAGE_TABLES + table * 0x1000;
        ram.set64(at, ram.get64(at) | USER);
    }
    // The stack of level 0.
    ram.write(TSS + 4, &(STACK - 0x1000).to_le_bytes());
    setup::enter(vcpu, Mode::Long, CODE, STACK)?;
    vcpu.with_sregs(|s| {
        for segment in [&mut s.cs, &mut s.ss, &mut s.ds] {
            segment.dpl = 3;
            segment.selector |= 3;
        }
        s.cr0 |= CR0_AM;
    })?;
    vcpu.with_regs(|r| r.rflags |= RFLAGS_AC)?;
    t.eq(
        "#AC of a misaligned access in user mode",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 17),
    );
    let frame = vcpu.regs()?.rsp;
    t.eq(
        "its error code and saved RIP",
        (ram.get64(frame), ram.get64(frame + 8)),
        (0, CODE + 10),
    );
    Ok(())
}

/// Without a gate for #PF it becomes #DF; without one for #DF too, the machine shuts down.
fn double_fault(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rbx, ABSENT)?;
        a.mov(al, byte_ptr(rbx))
    });
    let gate = setup::IDT + 14 * 16;
    let saved = ram.get64(gate);
    ram.write(CODE, &code);
    // Not present.
    ram.set64(gate, saved & !(1 << 47));
    setup::enter(vcpu, Mode::Long, CODE, STACK)?;
    t.eq(
        "#PF without a gate is #DF",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, 8),
    );
    t.eq("whose error code is 0", ram.get64(vcpu.regs()?.rsp), 0);
    vcpu.with_sregs(|s| s.idt.limit = 0)?;
    vcpu.with_regs(|r| (r.rip, r.rsp) = (CODE, STACK))?;
    t.eq(
        "without any IDT it is a triple fault",
        vcpu.run()?,
        Exit::Shutdown,
    );
    ram.set64(gate, saved);
    Ok(())
}

/// A handler that repairs the page and returns: the instruction is executed again.
fn resume(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let repair = HANDLERS + 0x2000;
    ram.write(
        repair,
        &assemble(64, repair, |a| {
            a.push(rax)?;
            a.mov(
                qword_ptr(SMALL_PAGES + 8),
                i32::try_from(DATA + 0x1003).unwrap_or(0),
            )?;
            a.mov(al, 14)?;
            a.out(i32::from(VECTOR_PORT), al)?;
            a.pop(rax)?;
            a.add(rsp, 8)?;
            a.iretq()
        }),
    );
    setup::gate(ram, Mode::Long, 14, repair);
    let code = asm64(|a| {
        a.mov(rbx, ABSENT)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.out(0x41, eax)?;
        a.hlt()
    });
    ram.write(CODE, &code);
    ram.set32(DATA + 0x1000, 0x00ab_cdef);
    setup::enter(vcpu, Mode::Long, CODE, STACK)?;
    t.eq("the handler runs", vcpu.run()?, Exit::out8(VECTOR_PORT, 14));
    t.eq(
        "the load is executed again",
        vcpu.run()?,
        Exit::out32(0x41, 0x00ab_cdef),
    );
    t.eq("the stack is as before", vcpu.regs()?.rsp, STACK);
    Ok(())
}
