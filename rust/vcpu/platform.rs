// SPDX-License-Identifier: GPL-2.0

//! What a vCPU has of its platform: APIC, halt state, interrupts, time.

use kernel::prelude::*;
use rkvm_core::{
    exception::Exception,
    msr::{
        rules,
        Handler,
        MsrError,
        Origin, //
    },
};

use super::{
    run::Flow,
    Running, //
};

impl Running<'_> {
    /// Whether the APIC of this vCPU is in the kernel.
    #[inline]
    pub(crate) fn has_kernel_apic(&self) -> bool {
        false
    }

    /// Whether the interrupt controllers of the PC are in the kernel.
    pub(crate) fn has_kernel_pic(&self) -> bool {
        false
    }

    /// KVM_SET_MP_STATE: a SIPI waits.
    pub(crate) fn pend_sipi(&mut self) {}

    /// The vector of the SIPI that waits.
    pub(crate) fn user_sets_sipi_vector(&mut self, _vector: u8) {}

    /// Whether an INIT waits for the end of SMM.
    pub(crate) fn user_sets_latched_init(&mut self, _latched: bool) {}

    /// The interrupt of LVT CMCI.
    pub(crate) fn deliver_cmci(&mut self) {}

    /// CR8: the task priority.
    pub(crate) fn cr8(&self) -> u64 {
        self.arch.cr8
    }

    /// Sets CR8. #GP(0) for reserved bits.
    pub(crate) fn set_cr8(&mut self, value: u64) -> Result<(), Exception> {
        if value & !0xf != 0 {
            return Err(Exception::GP0);
        }
        self.arch.cr8 = value;
        Ok(())
    }

    /// IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        self.arch.apic_base
    }

    /// KVM_SET_SREGS of IA32_APIC_BASE. EINVAL for a value that it can't have.
    pub(crate) fn user_sets_apic_base(&mut self, value: u64) -> Result {
        if !rules::apic_base_valid(self.arch.apic_base, value, &self.arch.caps, Origin::User) {
            return Err(EINVAL);
        }
        self.arch.apic_base = value;
        self.update_dynamic_cpuid();
        Ok(())
    }

    /// Whether the APIC is switched on.
    pub(crate) fn apic_enabled(&self) -> bool {
        self.arch.apic_base & (1 << 11) != 0
    }

    /// The guest's CPUID has changed: what the APIC offers may follow.
    pub(crate) fn apic_follows_cpuid(&mut self) {}

    /// Whether the vCPU waits for INIT or SIPI.
    #[inline]
    pub(crate) fn waits_for_sipi(&self) -> bool {
        false
    }

    /// Waits for INIT and SIPI; EAGAIN, or EINTR for a signal.
    pub(crate) fn wait_for_sipi(&mut self) -> Error {
        EAGAIN
    }

    /// Whether the vCPU executes instructions.
    #[inline]
    pub(crate) fn is_runnable(&self) -> bool {
        true
    }

    /// Sleeps until there is a reason to run.
    pub(crate) fn block(&mut self) -> Result<Flow> {
        Ok(Flow::Resume)
    }

    /// HLT with the APIC in the kernel.
    pub(crate) fn halt(&mut self) {}

    /// Whether an interrupt waits.
    #[inline]
    pub(crate) fn has_interrupt(&self) -> bool {
        self.arch.events.user_interrupt.is_some()
    }

    /// Takes the vector of the interrupt that waits.
    pub(crate) fn take_interrupt(&mut self) -> Option<u8> {
        self.arch.events.user_interrupt.take()
    }

    /// Requests that the APIC and the clock make.
    pub(crate) fn handle_platform_requests(&mut self) -> Result<Flow> {
        Ok(Flow::Resume)
    }

    /// WRMSR of an APIC register in the innermost loop; false if it needs the full handler.
    pub(crate) fn write_apic_msr_fast(&mut self, _msr: u32, _value: u64) -> bool {
        false
    }

    /// MSRs of the APIC and the clocks.
    pub(crate) fn get_platform_msr(&mut self, handler: Handler, origin: Origin) -> Result<u64, MsrError> {
        match handler {
            Handler::Tsc => Ok(self.guest_tsc()),
            Handler::TscAdjust => self.tsc_adjust(origin),
            _ => Err(MsrError::Unsupported),
        }
    }

    /// Writes MSRs of the APIC and the clocks.
    pub(crate) fn set_platform_msr(&mut self, handler: Handler, value: u64, origin: Origin) -> Result<(), MsrError> {
        match handler {
            Handler::Tsc => self.write_tsc_msr(value, origin),
            Handler::TscAdjust => self.set_tsc_adjust(value, origin)?,
            _ => return Err(MsrError::Unsupported),
        }
        Ok(())
    }
}
