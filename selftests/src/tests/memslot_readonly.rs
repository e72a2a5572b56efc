// SPDX-License-Identifier: GPL-2.0

//! KVM_MEM_READONLY: reads and instruction fetches see memory, writes come to user space.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MEM_READONLY;

const ROM: u64 = 0x80_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let rom = Ram::new(ROM, 2 * PAGE)?;
    vm.set_slot(1, KVM_MEM_READONLY, ROM, rom.len() as u64, rom.hva())?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(eax, dword_ptr(ROM + 0x1000))?;
        a.out(0x40, eax)?;
        a.mov(dword_ptr(ROM + 0x1000), 0x5555_5555u32)?;
        a.mov(eax, dword_ptr(ROM + 0x1000))?;
        a.out(0x41, eax)?;
        // A read and a write in one instruction.
        a.add(dword_ptr(ROM + 0x1004), 1)?;
        a.mov(rax, ROM)?;
        a.call(rax)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    rom.set32(ROM + 0x1000, 0x0123_4567);
    rom.set32(ROM + 0x1004, 0x0f);
    rom.write(
        ROM,
        &assemble(64, ROM, |a| {
            a.mov(al, 0x77)?;
            a.out(0x42, al)?;
            a.ret()
        }),
    );
    t.eq(
        "a read sees the memory",
        vcpu.run()?,
        Exit::out32(0x40, 0x0123_4567),
    );
    t.eq(
        "a write comes to user space",
        vcpu.run()?,
        Exit::mmio_write(ROM + 0x1000, &[0x55; 4]),
    );
    t.eq(
        "and changed nothing",
        vcpu.run()?,
        Exit::out32(0x41, 0x0123_4567),
    );
    t.eq(
        "read-modify-write: the write",
        vcpu.run()?,
        Exit::mmio_write(ROM + 0x1004, &[0x10, 0, 0, 0]),
    );
    t.eq("code runs from it", vcpu.run()?, Exit::out8(0x42, 0x77));
    t.eq("and returns", vcpu.run()?, Exit::Hlt);
    t.eq(
        "user space finds the memory unchanged",
        (rom.get32(ROM + 0x1000), rom.get32(ROM + 0x1004)),
        (0x0123_4567, 0x0f),
    );

    // What user space writes, the guest reads.
    rom.set32(ROM + 0x1000, 0x7654_3210);
    setup::enter(&vcpu, Mode::Long, setup::CODE, setup::STACK)?;
    t.eq(
        "a change by user space is seen",
        vcpu.run()?,
        Exit::out32(0x40, 0x7654_3210),
    );
    Ok(())
}
