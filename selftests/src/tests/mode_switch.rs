// SPDX-License-Identifier: GPL-2.0

//! A guest that goes from real mode to protected mode, to 64-bit mode and into compatibility
//! mode by its own instructions.

use crate::asm::*;
use crate::climb::{self, SEL_CODE32, SEL_CODE64};
use crate::device::Device;
use crate::setup::{self, Mode, CODE, GDT, PAGE_TABLES, STACK};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

const CODE32: u64 = CODE + 0x1000;
const CODE64: u64 = CODE + 0x2000;
const COMPAT: u64 = CODE + 0x3000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;

    let real = asm16(|a| {
        climb::lgdt(a)?;
        climb::set_pe(a)?;
        climb::jump_to_32(a, SEL_CODE32, CODE32)
    });
    let protected = assemble(32, CODE32, |a| {
        climb::flat_data(a)?;
        a.mov(esp, STACK as u32)?;
        a.mov(eax, cr0)?;
        a.out(0x30, eax)?;
        climb::enable_long_mode(a)?;
        a.rdmsr()?;
        a.out(0x31, eax)?;
        climb::jump_from_32(a, SEL_CODE64, CODE64)
    });
    let long = assemble(64, CODE64, |a| {
        a.mov(rax, 0x1_0000_0002u64)?;
        a.shr(rax, 1)?;
        a.out(0x32, eax)?;
        a.push(i32::from(SEL_CODE32))?;
        a.push(COMPAT as i32)?;
        // RETF with REX.W.
        a.db(&[0x48, 0xcb])
    });
    let compat = assemble(32, COMPAT, |a| {
        // In 32-bit code 0x40 is INC EAX, in 64-bit code it would be a REX prefix.
        a.mov(eax, 7)?;
        a.db(&[0x40])?;
        a.out(0x33, eax)?;
        a.hlt()
    });
    // The long-mode tables, then real mode; the descriptors are the guest's own.
    let long_pages = setup::identity_tables(&ram, Mode::Long);
    t.eq("page tables", long_pages, PAGE_TABLES);
    setup::start(&vcpu, &ram, Mode::Real, &real)?;
    ram.write(CODE32, &protected);
    ram.write(CODE64, &long);
    ram.write(COMPAT, &compat);
    climb::write_gdt(&ram, &[]);

    match vcpu.run()? {
        Exit::Out {
            port: 0x30, data, ..
        } => t.eq(
            "protected mode: CR0.PE, no paging",
            (data[0] & 1, data[3] >> 7),
            (1, 0),
        ),
        other => t.eq("protected mode is reached", other, Exit::out32(0x30, 0)),
    };
    match vcpu.run()? {
        Exit::Out {
            port: 0x31, data, ..
        } => t.eq("EFER.LMA came with paging", data[1] & 0x05, 0x05),
        other => t.eq("paging is reached", other, Exit::out32(0x31, 0)),
    };
    t.eq("64-bit mode", vcpu.run()?, Exit::out32(0x32, 0x8000_0001));
    t.eq(
        "compatibility mode decodes 32-bit code",
        vcpu.run()?,
        Exit::out32(0x33, 8),
    );
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let s = vcpu.fd.get_sregs()?;
    t.eq(
        "CS is compatibility code with EFER.LMA",
        (s.cs.l, s.cs.db, (s.efer >> 10) & 1),
        (0, 1, 1),
    );
    t.eq(
        "GDTR is what LGDT took",
        (s.gdt.base, s.gdt.limit),
        (GDT, 0x1f),
    );
    Ok(())
}
