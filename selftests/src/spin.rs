// SPDX-License-Identifier: GPL-2.0

//! A guest that makes no exit and has no end, for what happens to the host under a running guest.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::vm::Vm;
use crate::Outcome;

/// Runs it for as long as its exits are none but those of signals.
pub fn run(dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    // With interrupts on: those of the host end it there, too, where the host is emulated.
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.sti()?;
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &code)?;
    let exit = vcpu.run()?;
    Err(format!("the guest made an exit: {exit:?}").into())
}
