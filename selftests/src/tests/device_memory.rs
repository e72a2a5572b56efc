// SPDX-License-Identifier: GPL-2.0

//! A slot over memory that is no RAM of the host (VM_IO, VM_PFNMAP): the text buffer of the machine's VGA, by /dev/mem.
//!
//! Its pages have no counts. What the guest writes must arrive in the device.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use std::fs::OpenOptions;

const TEXT_BUFFER: i64 = 0xb_8000;
const WINDOW: u64 = 0x100_0000;
/// The last page of the text buffer, which no text mode shows.
const OFFSET: i64 = 0x7000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let memory = OpenOptions::new().read(true).write(true).open("/dev/mem")?;
    let device = Ram::of_file(WINDOW, PAGE, &memory, TEXT_BUFFER + OFFSET)?;
    device.set32(WINDOW, 0x1234_5678);
    if device.get32(WINDOW) != 0x1234_5678 {
        t.skip("memory of a device", "this machine has no VGA text buffer");
        return Ok(());
    }
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    vm.set_slot(1, 0, WINDOW, PAGE as u64, device.hva())?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, WINDOW)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.out(0x40, eax)?;
        a.mov(dword_ptr(rbx + 4), 0x0bad_cafeu32)?;
        a.inc(dword_ptr(rbx))?;
        a.out(0x41, al)?;
        a.mov(dword_ptr(rbx + 12), 0x0bad_f00du32)?;
        a.mov(eax, dword_ptr(rbx + 12))?;
        a.out(0x43, eax)?;
        a.mov(eax, dword_ptr(rbx + 8))?;
        a.out(0x42, eax)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    device.set32(WINDOW + 8, 9);
    t.eq(
        "the guest reads what is there",
        vcpu.run()?,
        Exit::out32(0x40, 0x1234_5678),
    );
    vcpu.run()?;
    t.eq("its write arrives", device.get32(WINDOW + 4), 0x0bad_cafe);
    t.eq(
        "and its read-modify-write",
        device.get32(WINDOW),
        0x1234_5679,
    );
    device.set32(WINDOW + 12, 7);
    device.protect(WINDOW, PAGE, libc::PROT_READ)?;
    t.eq(
        "a write to what user space may only read is MMIO",
        vcpu.run()?,
        Exit::mmio_write(WINDOW + 12, &0x0bad_f00du32.to_le_bytes()),
    );
    t.eq("and changes nothing", vcpu.run()?, Exit::out32(0x43, 7));
    vm.delete_slot(1)?;
    t.eq(
        "without the slot it is MMIO",
        vcpu.run()?,
        Exit::MmioRead {
            gpa: WINDOW + 8,
            len: 4,
        },
    );
    vcpu.reply(&[1, 2, 3, 4]);
    t.eq(
        "answered by user space",
        vcpu.run()?,
        Exit::out32(0x42, 0x0403_0201),
    );
    t.eq("unmapping and closing", vcpu.run()?, Exit::Hlt);
    Ok(())
}
