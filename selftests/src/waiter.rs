// SPDX-License-Identifier: GPL-2.0

//! A guest that waits for interrupts in HLT for ever, and tells of each wait and of each interrupt.

use crate::asm::*;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::MIB;

/// The page of the local APIC.
pub const APIC: u64 = 0xfee0_0000;
/// The page of the I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const X2APIC_EOI: u32 = 0x80b;
const WAITING: u16 = 0x41;
const IN_HANDLER: u16 = 0x40;
/// One handler of 32 bytes for each vector.
const HANDLERS: u64 = CODE + 0x1000;

/// How a handler ends its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By an EOI to the local APIC.
    Eoi,
    /// By an EOI to the local APIC in x2APIC mode.
    X2apicEoi,
    /// Not at all: the local APIC does not know of it.
    Nothing,
}

/// Gives `vm` memory and `vcpu` a program: it enables the local APIC, does what `prepare` assembles, and waits.
pub fn start(
    vm: &Vm,
    vcpu: &Vcpu,
    prepare: impl FnOnce(&mut CodeAssembler) -> Asm,
) -> Result<Ram, Errno> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let code = asm64(|a| {
        a.mov(rbx, APIC + SPURIOUS)?;
        a.mov(dword_ptr(rbx), 0x1ffu32)?;
        prepare(a)?;
        wait_forever(a)
    });
    setup::start(vcpu, &ram, Mode::Long, &code)?;
    Ok(ram)
}

/// Assembles the waits, once the local APIC is enabled.
pub fn wait_forever(a: &mut CodeAssembler) -> Asm {
    forever(a, |a| {
        a.cli()?;
        a.mov(al, 0)?;
        a.out(i32::from(WAITING), al)?;
        a.sti()?;
        a.hlt()
    })
}

/// Assembles what writes an entry of the I/O APIC, for the processor with APIC id 0. Uses RBX.
pub fn ioapic_entry(a: &mut CodeAssembler, pin: u32, low: u32) -> Asm {
    a.mov(rbx, IOAPIC)?;
    for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)] {
        a.mov(dword_ptr(rbx), register)?;
        a.mov(dword_ptr(rbx + 0x10), value)?;
    }
    Ok(())
}

/// Writes the handler of `vector`, which tells of it first, then ends it.
pub fn handle(ram: &Ram, vector: u8, end: End) {
    let at = HANDLERS + 32 * u64::from(vector);
    let handler = assemble(64, at, |a| {
        a.mov(al, i32::from(vector))?;
        a.out(i32::from(IN_HANDLER), al)?;
        match end {
            End::Eoi => {
                a.mov(rbx, APIC + EOI)?;
                a.mov(dword_ptr(rbx), 0u32)?;
            }
            End::X2apicEoi => {
                a.mov(ecx, X2APIC_EOI)?;
                a.xor(eax, eax)?;
                a.xor(edx, edx)?;
                a.wrmsr()?;
            }
            End::Nothing => {}
        }
        a.iretq()
    });
    ram.write(at, &handler);
    setup::gate(ram, Mode::Long, vector, at);
}

/// The exit before each wait, interrupts being off.
pub fn waiting() -> Exit {
    Exit::out8(WAITING, 0)
}

/// The exit of the handler of `vector`, before it ends the interrupt.
pub fn taken(vector: u8) -> Exit {
    Exit::out8(IN_HANDLER, vector)
}
