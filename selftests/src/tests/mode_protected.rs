// SPDX-License-Identifier: GPL-2.0

//! 32-bit protected mode, without paging and with 4 MiB pages.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, DATA, PAGE_TABLES, STACK};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    flat(t, dev)?;
    segment_limit(t, dev)?;
    paging(t, dev)
}

/// Flat segments, 32-bit arithmetic, near call.
fn flat(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, 2 * MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm32(|a| {
        let mut twice = a.create_label();
        a.mov(eax, 0x1000_0001)?;
        a.call(twice)?;
        a.out(0x20, eax)?;
        a.mov(dword_ptr(0x18_0000u32), 0xcafe_f00du32)?;
        a.push(dword_ptr(0x18_0000u32))?;
        a.pop(ecx)?;
        a.mov(eax, esp)?;
        a.out(0x21, eax)?;
        a.hlt()?;
        a.set_label(&mut twice)?;
        a.add(eax, eax)?;
        a.ret()
    });
    setup::start(&vcpu, &ram, Mode::Protected, &code)?;
    t.eq(
        "a near call and 32-bit arithmetic",
        vcpu.run()?,
        Exit::out32(0x20, 0x2000_0002),
    );
    t.eq(
        "the stack balances",
        vcpu.run()?,
        Exit::out32(0x21, STACK as u32),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    t.eq("memory above 1 MiB", ram.get32(0x18_0000), 0xcafe_f00d);
    t.eq("push and pop", vcpu.regs()?.rcx, 0xcafe_f00d);
    let s = vcpu.fd.get_sregs()?;
    t.eq("CR0: PE on, PG off", (s.cr0 & 1, s.cr0 >> 31), (1, 0));
    t.eq(
        "CS is 32-bit code",
        (s.cs.db, s.cs.l, s.cs.type_),
        (1, 0, 0xb),
    );
    Ok(())
}

/// A data segment with a base and a limit of its own: beyond it is #GP.
fn segment_limit(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm32(|a| {
        a.mov(al, byte_ptr(0xfff).es())?;
        a.out(0x20, al)?;
        a.mov(al, byte_ptr(0x1000).es())?;
        a.out(0x21, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Protected, &code)?;
    vcpu.with_sregs(|s| {
        s.es.base = DATA;
        s.es.limit = 0xfff;
        s.es.g = 0;
    })?;
    ram.write(DATA + 0xfff, &[0x5a, 0x77]);
    let handler = setup::CODE + 0x800;
    ram.write(
        handler,
        &assemble(32, handler, |a| {
            a.pop(eax)?;
            a.out(0x2d, eax)?;
            a.hlt()
        }),
    );
    setup::gate(&ram, Mode::Protected, 13, handler);
    t.eq(
        "the last byte of the segment",
        vcpu.run()?,
        Exit::out8(0x20, 0x5a),
    );
    t.eq("one beyond is #GP(0)", vcpu.run()?, Exit::out32(0x2d, 0));
    Ok(())
}

/// 32-bit paging: an alias made by the guest's own table, A and D bits.
fn paging(t: &mut Tap, dev: &Device) -> Outcome {
    const TABLE: u64 = 0x3_0000;
    const ALIAS: u32 = 0x4000_0000;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm32(|a| {
        a.mov(eax, dword_ptr(ALIAS))?;
        a.out(0x20, eax)?;
        a.mov(dword_ptr(ALIAS + 0x1000), 0x600d_da7au32)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Paging32, &code)?;
    // 0x40000000 is mapped by 4 KiB pages onto DATA.
    ram.set32(PAGE_TABLES + u64::from(ALIAS >> 22) * 4, TABLE as u32 | 3);
    ram.set32(TABLE, DATA as u32 | 3);
    ram.set32(TABLE + 4, (DATA as u32 + 0x1000) | 3);
    ram.set32(DATA, 0x1122_3344);
    t.eq(
        "a read through a 4 KiB mapping",
        vcpu.run()?,
        Exit::out32(0x20, 0x1122_3344),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    t.eq("a write through one", ram.get32(DATA + 0x1000), 0x600d_da7a);
    t.eq(
        "the page read is accessed, not dirty",
        ram.get32(TABLE) & 0x60,
        0x20,
    );
    t.eq(
        "the page written is accessed and dirty",
        ram.get32(TABLE + 4) & 0x60,
        0x60,
    );
    Ok(())
}
