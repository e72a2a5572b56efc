// SPDX-License-Identifier: GPL-2.0

//! 64-bit mode: the registers above eight, SSE, high-half addresses, SYSCALL-less ring 0 code.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, DATA, PAGE_TABLES};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// The high half: the same tables are hung into the last PML4 entry.
const HALF: u64 = 0xffff_ff80_0000_0000;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        // 64-bit arithmetic with the new registers.
        a.mov(r8, 0x1122_3344_5566_7788u64)?;
        a.mov(r15, 0x1111_1111_1111_1111u64)?;
        a.add(r15, r8)?;
        // Memory through the high half.
        a.mov(rbx, HALF + DATA)?;
        a.mov(qword_ptr(rbx), r15)?;
        a.mov(r9, qword_ptr(DATA as u32 as u64))?;
        // SSE2.
        a.movq(xmm3, r9)?;
        a.paddq(xmm3, xmm3)?;
        a.movq(r10, xmm3)?;
        // RIP-relative data.
        let mut value = a.create_label();
        a.mov(r11, qword_ptr(value))?;
        a.mov(eax, 1)?;
        a.out(0x20, eax)?;
        a.hlt()?;
        a.set_label(&mut value)?;
        a.dq(&[0xfeed_face_dead_beef])
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    ram.set64(PAGE_TABLES + 511 * 8, (PAGE_TABLES + 0x1000) | 3);
    t.eq(
        "the guest reaches its first OUT",
        vcpu.run()?,
        Exit::out32(0x20, 1),
    );
    let r = vcpu.regs()?;
    t.eq("R15", r.r15, 0x2233_4455_6677_8899);
    t.eq(
        "R9, read back through the identity",
        r.r9,
        0x2233_4455_6677_8899,
    );
    t.eq("SSE2", r.r10, 0x4466_88aa_ccef_1132);
    t.eq("RIP-relative", r.r11, 0xfeed_face_dead_beef);
    t.eq("memory", ram.get64(DATA), 0x2233_4455_6677_8899);
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    let s = vcpu.fd.get_sregs()?;
    t.eq("EFER has LME and LMA", s.efer & 0x500, 0x500);
    t.eq("CS is 64-bit code", (s.cs.l, s.cs.db), (1, 0));

    let tr = vcpu.fd.translate_gva(HALF + DATA + 0x123)?;
    t.eq(
        "KVM_TRANSLATE of a mapped address",
        (tr.valid, tr.physical_address),
        (1, DATA + 0x123),
    );
    let tr = vcpu.fd.translate_gva(0x7000_0000_0000)?;
    t.eq("KVM_TRANSLATE of an unmapped one", tr.valid, 0);
    Ok(())
}
