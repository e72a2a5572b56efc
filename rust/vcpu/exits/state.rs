// SPDX-License-Identifier: GPL-2.0

//! HLT and PAUSE.

use kernel::prelude::*;

use crate::vcpu::{
    run::Flow,
    run_page::UserExit,
    Running, //
};

impl Running<'_> {
    /// HLT: without an APIC in the kernel, user space waits for the interrupt.
    pub(super) fn exit_hlt(&mut self) -> Result<Flow> {
        self.skip_instruction();
        self.vcpu.stats.halt_exits.inc();
        if self.has_kernel_apic() {
            self.halt();
            return Ok(Flow::Resume);
        }
        self.vcpu.run.set_reason(UserExit::Hlt);
        Ok(Flow::ToUser)
    }

    /// The guest spins in a PAUSE loop: let another thread have the CPU, perhaps the one that it waits for.
    pub(super) fn exit_pause(&mut self) {
        self.skip_instruction();
        crate::sys::cpu::yield_now();
    }
}
