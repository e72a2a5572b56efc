// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_MP_STATE and KVM_SET_MP_STATE (api.rst): whether a vCPU runs, halts, or waits for INIT and SIPI.

use kernel::prelude::*;

use crate::vcpu::{
    requests::Request,
    Arch,
    Running, //
};

/// `KVM_MP_STATE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MpState {
    /// It executes instructions.
    Runnable = 0,
    /// An application processor that got no INIT yet.
    Uninitialized = 1,
    /// It got INIT and waits for SIPI.
    InitReceived = 2,
    /// It waits for an interrupt, in HLT.
    Halted = 3,
    /// It waits for SIPI in the way of encrypted guests; kept for user space that restores it.
    ApResetHold = 9,
}

/// `KVM_MP_STATE_SIPI_RECEIVED`: obsolete, [`MpState::InitReceived`] with a SIPI that waits.
const SIPI_RECEIVED: u32 = 4;

impl Arch {
    /// Whether the vCPU executes instructions.
    #[inline]
    pub(crate) fn mp_state(&self) -> MpState {
        self.mp_state
    }

    /// Sets it. An event may have to be looked for afterwards.
    #[inline]
    pub(crate) fn set_mp_state(&mut self, state: MpState) {
        self.mp_state = state;
    }
}

impl Running<'_> {
    /// KVM_SET_MP_STATE. EINVAL for a state that this vCPU can't be in: without an APIC in the kernel it always runs.
    pub(crate) fn user_sets_mp_state(&mut self, number: u32) -> Result {
        let state = match number {
            0 => MpState::Runnable,
            1 => MpState::Uninitialized,
            2 | SIPI_RECEIVED => MpState::InitReceived,
            3 => MpState::Halted,
            9 => MpState::ApResetHold,
            _ => return Err(EINVAL),
        };
        if state != MpState::Runnable && !self.has_kernel_apic() {
            return Err(EINVAL);
        }
        self.arch.set_mp_state(state);
        if state == MpState::Runnable {
            self.forget_unhalt();
        }
        if number == SIPI_RECEIVED {
            self.pend_sipi();
        }
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }
}
