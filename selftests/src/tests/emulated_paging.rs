// SPDX-License-Identifier: GPL-2.0

//! The emulator walks the guest's page tables by the guest's registers as they are now: by CR0.WP, which a guest changes
//! without an exit, and by the PDPTEs that MOV to CR3 loads.

use crate::asm::*;
use crate::device::Device;
use crate::prefix::{Prefix, PREFIX};
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA, PAGE_TABLES};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::Outcome;

/// Each handler tells of its vector here, the guest of what it has done.
const VECTOR_PORT: u16 = 0x80;
const MAIN_PORT: u16 = 0x81;
const HANDLERS: u64 = CODE + 0x800;
const PF: u8 = 14;
const GP: u8 = 13;
/// A page that the guest may only read, and its tables.
const READ_ONLY: u64 = 0x4000_0000;
const SMALL_PAGES: u64 = 0x3_0000;
const WP: i32 = 16;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    match Prefix::on() {
        Ok(_on) => {
            write_protection(t, dev)?;
            bad_pdpte(t, dev)
        }
        Err(why) => {
            t.skip("the emulator's page walk", why);
            Ok(())
        }
    }
}

/// A handler that tells of `vector` and halts.
fn handler(ram: &Ram, mode: Mode, vector: u8) {
    let at = HANDLERS + u64::from(vector) * 16;
    let code = assemble(mode.bits(), at, |a| {
        a.mov(al, i32::from(vector))?;
        a.out(i32::from(VECTOR_PORT), al)?;
        a.hlt()
    });
    ram.write(at, &code);
    setup::gate(ram, mode, vector, at);
}

/// Supervisor writes to a read-only page, emulated: they fault with CR0.WP only.
fn write_protection(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let code = asm64(|a| {
        a.mov(rbx, READ_ONLY)?;
        a.mov(rcx, cr0)?;
        a.btr(ecx, WP)?;
        a.mov(cr0, rcx)?;
        a.db(&PREFIX)?;
        a.mov(byte_ptr(rbx), 7)?;
        a.out(i32::from(MAIN_PORT), al)?;
        a.bts(ecx, WP)?;
        a.mov(cr0, rcx)?;
        a.db(&PREFIX)?;
        a.mov(byte_ptr(rbx), 8)?;
        a.out(i32::from(MAIN_PORT), al)?;
        a.hlt()
    });
    let (mut vcpu, ram) = setup::guest(&vm, Mode::Long, &code)?;
    handler(&ram, Mode::Long, PF);
    ram.set64(PAGE_TABLES + 0x3000, SMALL_PAGES | 3);
    ram.set64(SMALL_PAGES, DATA | 1);
    t.eq(
        "CR0.WP cleared: the write is done",
        vcpu.run()?,
        Exit::out8(MAIN_PORT, 0),
    );
    t.eq("what was written", ram.get64(DATA) as u8, 7);
    t.eq(
        "CR0.WP set: the write faults",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, PF),
    );
    t.eq("nothing was written", ram.get64(DATA) as u8, 7);
    Ok(())
}

/// MOV to CR3 with a PDPTE that has a reserved bit: #GP, and CR3 stays.
fn bad_pdpte(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let code = asm32(|a| {
        a.mov(eax, DATA as i32)?;
        a.db(&PREFIX)?;
        a.mov(cr3, eax)?;
        a.out(i32::from(MAIN_PORT), al)?;
        a.hlt()
    });
    let (mut vcpu, ram) = setup::guest(&vm, Mode::Pae, &code)?;
    handler(&ram, Mode::Pae, GP);
    for n in 0..4 {
        ram.set64(DATA + n * 8, ram.get64(PAGE_TABLES + n * 8));
    }
    ram.set64(DATA + 24, ram.get64(DATA + 24) | 1 << 5);
    t.eq(
        "MOV to CR3 with a bad PDPTE",
        vcpu.run()?,
        Exit::out8(VECTOR_PORT, GP),
    );
    t.eq("CR3 stays", vcpu.fd.get_sregs()?.cr3, PAGE_TABLES);
    Ok(())
}
