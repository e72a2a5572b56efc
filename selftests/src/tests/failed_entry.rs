// SPDX-License-Identifier: GPL-2.0

//! A guest state that no processor can be in ends in KVM_EXIT_FAIL_ENTRY, and when it is mended the guest runs, whether
//! the vCPU has run before or not.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const PORT: u16 = 0x80;
/// RFLAGS with a bit that has to be 0.
const RESERVED: u64 = 1 << 3;
/// The exit reason "VM-entry failure due to invalid guest state".
const INVALID_STATE: u64 = 1 << 31 | 33;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.out(i32::from(PORT), al)?;
        a.out(i32::from(PORT), al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    fails_once(t, &mut vcpu, "the first entry")?;
    fails_once(t, &mut vcpu, "a later entry")
}

fn fails_once(t: &mut Tap, vcpu: &mut Vcpu, when: &str) -> Outcome {
    vcpu.with_regs(|r| r.rflags |= RESERVED)?;
    t.eq(
        format!("{when} fails"),
        vcpu.run()?,
        Exit::FailEntry(INVALID_STATE),
    );
    t.eq(
        format!("{when} fails again"),
        vcpu.run()?,
        Exit::FailEntry(INVALID_STATE),
    );
    vcpu.with_regs(|r| r.rflags &= !RESERVED)?;
    t.eq(
        format!("{when} with the state mended"),
        vcpu.run()?,
        Exit::out8(PORT, 0),
    );
    Ok(())
}
