// SPDX-License-Identifier: GPL-2.0

//! A guest whose page tables begin in a read-only slot: with accessed flags in the extended page tables the processor's own
//! walk counts as a write, so each instruction is emulated. The exit tells where the table is, not where the operand is.
//! (C KVM takes the one for the other if they have the same offset in their pages.)

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, PAGE_TABLES};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MEM_READONLY;

const ROM: u64 = 0x100_0000;
const WINDOW: u64 = 0x200_0000;
const PORT: u16 = 0x40;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, PAGE)?;
    let rom = Ram::new(ROM, PAGE)?;
    vm.set_slot(2, KVM_MEM_READONLY, ROM, PAGE as u64, rom.hva())?;
    let code = asm64(|a| {
        a.mov(rbx, WINDOW)?;
        for offset in [0, 8] {
            a.mov(eax, dword_ptr(rbx + offset))?;
            a.out(i32::from(PORT), eax)?;
            a.inc(dword_ptr(rbx + offset))?;
        }
        a.out(i32::from(PORT), al)
    });
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    rom.set64(ROM, ram.get64(PAGE_TABLES));
    vcpu.with_sregs(|s| s.cr3 = ROM)?;
    window.set32(WINDOW, 0x1111);
    window.set32(WINDOW + 8, 0x2222);

    for (what, value) in [
        ("with the offset of the table", 0x1111),
        ("with another", 0x2222),
    ] {
        let exit = vcpu.run()?;
        t.eq(format!("an operand {what}"), exit, Exit::out32(PORT, value));
    }
    vcpu.run()?;
    t.eq("writes arrive", window.get32(WINDOW), 0x1112);
    t.eq("all of them", window.get32(WINDOW + 8), 0x2223);
    let entry = ram.get64(PAGE_TABLES);
    t.eq("the table is as it was", rom.get64(ROM), entry);
    Ok(())
}
