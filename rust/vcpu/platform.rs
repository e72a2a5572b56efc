// SPDX-License-Identifier: GPL-2.0

//! What a vCPU has of its platform: APIC, halt state, interrupts, time.

pub(crate) mod apic;
pub(crate) mod clock;
pub(crate) mod halt;
pub(crate) mod steal;
pub(crate) mod timer;
pub(crate) mod vapic;
pub(crate) mod virtual_apic;

use kernel::prelude::*;
use rkvm_core::{
    exception::Exception,
    irq::lapic::apic_base,
    msr::{
        number::{
            TSC_DEADLINE,
            X2APIC_EOI,
            X2APIC_FIRST,
            X2APIC_ICR,
            X2APIC_SELF_IPI,
            X2APIC_TIMER_INITIAL,
            X2APIC_TPR, //
        },
        rules,
        Handler,
        MsrError,
        Origin, //
    },
};

use super::{
    requests::Request,
    run::Flow,
    Running, //
};

impl Running<'_> {
    /// CR8: the task priority.
    pub(crate) fn cr8(&self) -> u64 {
        match &self.arch.apic {
            Some(apic) => apic.lapic.cr8(),
            None => self.arch.cr8,
        }
    }

    /// Sets CR8. #GP(0) for reserved bits.
    pub(crate) fn set_cr8(&mut self, value: u64) -> Result<(), Exception> {
        if value & !0xf != 0 {
            return Err(Exception::GP0);
        }
        match &mut self.arch.apic {
            Some(apic) => {
                apic.lapic.set_cr8(value);
                self.vcpu.requests.set_own(Request::Event);
            }
            None => self.arch.cr8 = value,
        }
        Ok(())
    }

    /// IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        match &self.arch.apic {
            Some(apic) => apic.lapic.base(),
            None => self.arch.apic_base,
        }
    }

    /// KVM_SET_SREGS of IA32_APIC_BASE. EINVAL for a value that it can't have.
    pub(crate) fn user_sets_apic_base(&mut self, value: u64) -> Result {
        self.set_apic_base(value, Origin::User).map_err(|_| EINVAL)
    }

    fn set_apic_base(&mut self, value: u64, origin: Origin) -> Result<(), MsrError> {
        let reserved = self.arch.caps.reserved_gpa_bits();
        match &mut self.arch.apic {
            Some(apic) => {
                let effects = apic
                    .lapic
                    .set_base(value, reserved, origin == Origin::User)
                    .map_err(|_| MsrError::Invalid)?;
                self.apply_apic_effects(effects);
            }
            None => {
                if !rules::apic_base_valid(self.arch.apic_base, value, &self.arch.caps, origin) {
                    return Err(MsrError::Invalid);
                }
                self.arch.apic_base = value;
                self.update_dynamic_cpuid();
            }
        }
        Ok(())
    }

    /// Whether the APIC is switched on.
    pub(crate) fn apic_enabled(&self) -> bool {
        self.apic_base() & apic_base::ENABLED != 0
    }

    /// Whether this is the bootstrap processor, which INIT starts anew at once. IA32_APIC_BASE says so, whoever was it at
    /// reset.
    pub(crate) fn is_bsp(&self) -> bool {
        self.apic_base() & apic_base::BSP != 0
    }

    /// Requests that the APIC and the clock make.
    pub(crate) fn handle_platform_requests(&mut self) -> Result<Flow> {
        if self.vcpu.requests.test(Request::Apic) {
            if self.vm.irq.is_stale() {
                // If it fails the request stays: who posts next need not kick.
                self.vm.irq.rebuild_destinations()?;
            }
            self.vcpu.requests.take(Request::Apic);
            self.take_inbox();
        }
        if self.vcpu.requests.take(Request::IoapicEoi) {
            self.vcpu.run.set_ioapic_eoi(self.arch.ended_vector);
            return Ok(Flow::ToUser);
        }
        if self.vcpu.requests.take(Request::ClockUpdate) {
            self.write_system_time();
        }
        if self.vcpu.requests.take(Request::StealUpdate) {
            self.write_steal_time();
        }
        Ok(Flow::Resume)
    }

    /// WRMSR of an APIC register in the innermost loop; false if it needs the full handler.
    #[inline]
    pub(crate) fn write_apic_msr_fast(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            TSC_DEADLINE if self.has_kernel_apic() => {
                self.write_tsc_deadline(value);
                true
            }
            X2APIC_TPR if self.arch.tpr.are_reported() => false,
            X2APIC_EOI | X2APIC_ICR | X2APIC_TPR | X2APIC_TIMER_INITIAL | X2APIC_SELF_IPI => {
                self.write_x2apic_fast(msr, value)
            }
            _ => false,
        }
    }

    /// The registers that neither change who the APIC is nor need to sleep.
    fn write_x2apic_fast(&mut self, msr: u32, value: u64) -> bool {
        let Some((apic, clock)) = self.arch.apic_and_clock() else {
            return false;
        };
        match apic.lapic.msr_write(msr, value, &clock) {
            Ok(effects) => {
                self.apply_atomic_apic_effects(&effects);
                true
            }
            // The full handler says what becomes of it; the APIC is as it was.
            Err(_) => false,
        }
    }

    /// MSRs of the APIC and the clocks.
    pub(crate) fn get_platform_msr(
        &mut self,
        handler: Handler,
        origin: Origin,
    ) -> Result<u64, MsrError> {
        match handler {
            Handler::Tsc => Ok(self.guest_tsc()),
            Handler::TscAdjust => Ok(self.tsc_adjust()),
            Handler::ApicBase => Ok(self.apic_base()),
            Handler::TscDeadline => Ok(self
                .arch
                .apic
                .as_ref()
                .map_or(0, |apic| apic.lapic.tsc_deadline())),
            Handler::X2Apic(offset) => {
                let (apic, clock) = self.arch.apic_and_clock().ok_or(MsrError::Invalid)?;
                let value = apic
                    .lapic
                    .msr_read(x2apic_msr(offset), &clock)
                    .map_err(|_| MsrError::Invalid)?;
                if origin == Origin::Guest {
                    self.tpr_may_be_accessed(offset.into(), 4, false);
                }
                Ok(value)
            }
            Handler::WallClock(_) | Handler::SystemTime(_) => self.get_clock_msr(handler),
            Handler::StealTime => self.steal_msr(),
            _ => Err(MsrError::Unsupported),
        }
    }

    /// Writes MSRs of the APIC and the clocks.
    pub(crate) fn set_platform_msr(
        &mut self,
        handler: Handler,
        value: u64,
        origin: Origin,
    ) -> Result<(), MsrError> {
        match handler {
            Handler::Tsc => self.write_tsc_msr(value, origin),
            Handler::TscAdjust => self.set_tsc_adjust(value, origin),
            Handler::ApicBase => self.set_apic_base(value, origin)?,
            Handler::TscDeadline => self.write_tsc_deadline(value),
            Handler::X2Apic(offset) => {
                let (apic, clock) = self.arch.apic_and_clock().ok_or(MsrError::Invalid)?;
                let effects = apic
                    .lapic
                    .msr_write(x2apic_msr(offset), value, &clock)
                    .map_err(|_| MsrError::Invalid)?;
                self.apply_apic_effects(effects);
                if origin == Origin::Guest {
                    self.tpr_may_be_accessed(offset.into(), 4, true);
                }
            }
            Handler::WallClock(_) | Handler::SystemTime(_) => self.set_clock_msr(handler, value)?,
            Handler::StealTime => self.set_steal_msr(value)?,
            _ => return Err(MsrError::Unsupported),
        }
        Ok(())
    }
}

/// The MSR of the register at `offset` of the page.
fn x2apic_msr(offset: u16) -> u32 {
    X2APIC_FIRST | u32::from(offset >> 4)
}
