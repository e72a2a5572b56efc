// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_GUEST_DEBUG: single steps, INT3 for the debugger, breakpoints by address.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const DB: u32 = 1;
const BP: u32 = 3;
const DR6_BS: u64 = 1 << 14;
/// Lengths of the instructions in order: MOV, CPUID, NOP, INT3, NOP, HLT.
const CPUID: u64 = CODE + 5;
const NOP: u64 = CPUID + 2;
const INT3: u64 = NOP + 1;
const SECOND_NOP: u64 = INT3 + 1;
const HLT: u64 = SECOND_NOP + 1;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(eax, 0x1)?;
        a.cpuid()?;
        a.nop()?;
        a.int3()?;
        a.nop()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;

    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    t.eq("a step over MOV", vcpu.run()?, Exit::Debug(DB));
    t.eq("RIP", at(&mut vcpu).0, CPUID);
    t.ok("DR6.BS is told", at(&mut vcpu).1 & DR6_BS != 0);
    t.eq(
        "RFLAGS.TF is the debugger's own",
        vcpu.regs()?.rflags & 1 << 8,
        0,
    );
    control(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    t.eq(
        "a step over CPUID, which exits",
        vcpu.run()?,
        Exit::Debug(DB),
    );
    t.eq("RIP", at(&mut vcpu).0, NOP);

    control(&vcpu, KVM_GUESTDBG_USE_SW_BP, [0; 8])?;
    t.eq("INT3", vcpu.run()?, Exit::Debug(BP));
    t.eq("RIP is that of INT3", at(&mut vcpu).0, INT3);

    vcpu.with_regs(|r| r.rip = SECOND_NOP)?;
    // DR0 on HLT, enabled for execution.
    control(
        &vcpu,
        KVM_GUESTDBG_USE_HW_BP,
        [HLT, 0, 0, 0, 0, 0, 0, 0x402],
    )?;
    t.eq("a breakpoint by address", vcpu.run()?, Exit::Debug(DB));
    t.eq("RIP", at(&mut vcpu).0, HLT);
    t.ok("DR6.B0 is told", at(&mut vcpu).1 & 1 != 0);
    t.eq(
        "the guest's own DR0 stays",
        vcpu.fd.get_debug_regs()?.db[0],
        0,
    );

    let off = kvm_guest_debug::default();
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_GUEST_DEBUG, &off)?;
    t.eq(
        "without a debugger the guest goes on",
        vcpu.run()?,
        Exit::Hlt,
    );
    Ok(())
}

fn control(vcpu: &Vcpu, how: u32, debugreg: [u64; 8]) -> Outcome {
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | how,
        arch: kvm_guest_debug_arch { debugreg },
        ..Default::default()
    };
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_GUEST_DEBUG, &debug)?;
    Ok(())
}

/// RIP and DR6 as KVM_EXIT_DEBUG tells them.
fn at(vcpu: &mut Vcpu) -> (u64, u64) {
    // SAFETY: The last exit was KVM_EXIT_DEBUG.
    let arch = unsafe { vcpu.shared().__bindgen_anon_1.debug.arch };
    (arch.pc, arch.dr6)
}
