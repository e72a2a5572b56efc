// SPDX-License-Identifier: GPL-2.0

//! A real-mode guest: segments, stack, a far call, a software interrupt and its IRET.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE, DATA, REAL_STACK};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;

    let code = asm16(|a| {
        // Arithmetic and flags.
        a.mov(ax, 0x1234)?;
        a.add(ax, 0x1111)?;
        a.out(0x10, ax)?;
        // A segment register of our own: DS based at DATA.
        a.mov(bx, (DATA >> 4) as u32)?;
        a.mov(ds, bx)?;
        a.mov(word_ptr(0x10), 0xbeef)?;
        a.mov(ax, word_ptr(0x10))?;
        a.out(0x11, ax)?;
        // The stack.
        a.push(ax)?;
        a.pop(cx)?;
        a.mov(ax, sp)?;
        a.out(0x12, ax)?;
        // 32-bit operands in real mode.
        a.mov(eax, 0x8765_4321u32)?;
        a.out(0x13, eax)?;
        // INT 0x40 through the vector table, back by IRET.
        a.int(0x40)?;
        a.mov(al, 2)?;
        a.out(0x15, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Real, &code)?;

    let handler = CODE + 0x800;
    let isr = assemble(16, handler - CODE, |a| {
        a.mov(al, 1)?;
        a.out(0x14, al)?;
        a.iret()
    });
    ram.write(handler, &isr);
    setup::gate(&ram, Mode::Real, 0x40, handler);

    let tr = vcpu.fd.translate_gva(0x12_3456_7000)?;
    t.eq(
        "KVM_TRANSLATE without paging",
        (tr.valid, tr.physical_address),
        (1, 0x12_3456_7000),
    );
    let tr = vcpu.fd.translate_gva(u64::MAX)?;
    t.eq("the one address that stands for none", tr.valid, 0);

    t.eq("16-bit arithmetic", vcpu.run()?, Exit::out16(0x10, 0x2345));
    t.eq("a segment base", vcpu.run()?, Exit::out16(0x11, 0xbeef));
    t.eq(
        "the write went to the segment",
        ram.read(DATA + 0x10, 2),
        vec![0xef, 0xbe],
    );
    t.eq(
        "push and pop balance",
        vcpu.run()?,
        Exit::out16(0x12, REAL_STACK as u16),
    );
    t.eq(
        "32-bit operand",
        vcpu.run()?,
        Exit::out32(0x13, 0x8765_4321),
    );
    t.eq(
        "the interrupt handler ran",
        vcpu.run()?,
        Exit::out8(0x14, 1),
    );
    t.eq("and returned", vcpu.run()?, Exit::out8(0x15, 2));
    t.eq(
        "HLT comes to user space without an irqchip",
        vcpu.run()?,
        Exit::Hlt,
    );

    let regs = vcpu.regs()?;
    t.eq("RIP is behind the HLT", regs.rip, code.len() as u64);
    t.eq("RCX took the popped word", regs.rcx & 0xffff, 0xbeef);
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "DS tells selector and base",
        (u64::from(s.ds.selector), s.ds.base),
        (DATA >> 4, DATA),
    );
    t.eq("CR0.PE is clear", s.cr0 & 1, 0);
    Ok(())
}
