// SPDX-License-Identifier: GPL-2.0

//! State that VM entry does not accept: the emulator runs the guest, an instruction at a time, until it has brought itself
//! into a state that is accepted (Documentation/real-mode.rst).
//!
//! Only a guest that is not unrestricted comes into such a state. Between two instructions the loop of KVM_RUN looks at
//! requests, signals and the scheduler as it does between two entries.

use kernel::prelude::*;
use rkvm_core::vmx::event::EventType;

use super::{
    emulation::Operand,
    requests::Request,
    run::Flow,
    Running, //
};

impl Running<'_> {
    /// Whether the next instruction has to be emulated, because the guest can't be entered.
    #[inline]
    pub(super) fn must_emulate(&mut self) -> bool {
        self.arch.real_mode.is_suspect() && self.state_is_invalid()
    }

    /// Whether events have to wait: outside real mode only the processor delivers them, and the guest can't be entered.
    #[inline]
    pub(super) fn events_wait(&mut self) -> bool {
        self.must_emulate() && !self.arch.real_mode.is_vm86()
    }

    /// Emulates one instruction.
    ///
    /// KVM_INTERNAL_ERROR_EMULATION if an exception or a software interrupt is to be delivered first: that can't wait.
    pub(super) fn emulate_invalid_state(&mut self) -> Result<Flow> {
        let events = &self.arch.events;
        let first = events.injected.is_some_and(|e| {
            !matches!(e.info.kind(), EventType::ExternalInterrupt | EventType::Nmi)
        });
        if first || events.exception.is_some() {
            return Ok(self.emulation_failed(&[]));
        }
        // No window opens and no timer exits here.
        self.timer_may_be_due();
        self.vcpu.requests.set_own(Request::Event);
        self.emulate(Operand::Unknown)
    }
}
