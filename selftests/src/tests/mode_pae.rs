// SPDX-License-Identifier: GPL-2.0

//! PAE paging: memory above 4 GiB, no-execute, and PDPTEs loaded from guest memory.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, PAGE_TABLES};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// Guest-physical memory that only PAE reaches from 32-bit code.
const HIGH: u64 = 5 << 30;
/// Where it is mapped: the last 2 MiB of the second gibibyte.
const WINDOW: u32 = 0x7fe0_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let high = vm.add_ram(1, HIGH, 2 * MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm32(|a| {
        a.mov(eax, dword_ptr(WINDOW))?;
        a.out(0x20, eax)?;
        a.mov(dword_ptr(WINDOW + 0x1000), 0x0bad_cafeu32)?;
        // The guest moves the window by itself and flushes by CR3.
        a.mov(dword_ptr(PAGE_TABLES as u32 + 0x2000 + 511 * 8), 0x83u32)?;
        a.mov(dword_ptr(PAGE_TABLES as u32 + 0x2000 + 511 * 8 + 4), 0u32)?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)?;
        a.mov(eax, dword_ptr(WINDOW + 0x2_0000))?;
        a.out(0x21, eax)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Pae, &code)?;
    let entry = PAGE_TABLES + 0x2000 + 511 * 8;
    ram.set64(entry, HIGH | 0x83);
    high.set32(HIGH, 0x5555_aaaa);
    ram.set32(0x2_0000, 0x7777_0001);

    t.eq(
        "a read above 4 GiB",
        vcpu.run()?,
        Exit::out32(0x20, 0x5555_aaaa),
    );
    t.eq(
        "after the guest changed its table and CR3",
        vcpu.run()?,
        Exit::out32(0x21, 0x7777_0001),
    );
    t.eq(
        "the write went above 4 GiB",
        high.get32(HIGH + 0x1000),
        0x0bad_cafe,
    );
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "CR4.PAE and CR0.PG are on",
        ((s.cr4 >> 5) & 1, (s.cr0 >> 31) & 1),
        (1, 1),
    );
    t.eq("EFER.LMA is off", (s.efer >> 10) & 1, 0);

    let bad = vcpu.with_sregs(|s| s.cr4 |= 1 << 63);
    t.errno(
        "KVM_SET_SREGS refuses reserved bits of CR4",
        bad,
        libc::EINVAL,
    );
    Ok(())
}
