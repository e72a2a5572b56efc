// SPDX-License-Identifier: GPL-2.0

//! What the processor does of a local APIC by itself, without APICv (SDM, "APIC Virtualization and Virtual Interrupts").
//!
//! The virtual-APIC page is the register page of the state machine, so there is one task priority, whoever changes it.
//! Documentation/interrupts.rst, "Help from the processor", tells which controls are on when.

use kernel::prelude::*;
use rkvm_core::{
    irq::lapic::Place,
    vmx::{
        controls::{
            Primary,
            Secondary, //
        },
        fields::*,
        Vmcs, //
    },
};

use crate::{
    host::host,
    vcpu::{
        requests::Request,
        Running, //
    },
};

impl Running<'_> {
    /// Tells a new VMCS where the register page and the APIC-access page are. ENOMEM.
    pub(crate) fn set_up_virtual_apic(&self) -> Result {
        let Some(pages) = &self.vcpu.apic else {
            return Ok(());
        };
        if self.has_tpr_shadow() {
            self.hw.write(VIRTUAL_APIC_PAGE_ADDR, pages.registers().0);
            self.hw.write(TPR_THRESHOLD, 0);
        }
        if host().vmcs.features.flexpriority {
            let page = self.vm.memory.apic_access_page()?;
            self.hw.write(APIC_ACCESS_ADDR, page.0);
        }
        Ok(())
    }

    /// Whether the guest's MOV to and from CR8 does not exit.
    #[inline]
    fn has_tpr_shadow(&self) -> bool {
        self.arch.controls.primary.has(Primary::TPR_SHADOW)
    }

    /// Whether the guest's RDMSR and WRMSR of the x2APIC's task priority need not exit.
    pub(crate) fn has_x2apic_shadow(&self) -> bool {
        let controls = &self.arch.controls;
        controls.secondary.has(Secondary::VIRTUALIZE_X2APIC_MODE)
    }

    /// The registers of the APIC are now elsewhere: the processor's help follows. May sleep.
    pub(super) fn virtual_apic_follows_place(&mut self) {
        let Some(apic) = &mut self.arch.apic else {
            return;
        };
        let away = apic.lapic.place() != Place::DefaultPage;
        if away != apic.away {
            apic.away = away;
            self.vm.memory.apic_moved(away);
        }
        self.write_controls_for_shape();
        self.update_msr_bitmap();
        // Translations are cached together with what the control said about the page.
        self.vcpu.requests.set_own(Request::TlbFlush);
    }

    /// Has the guest exit when it lowers its task priority below the class of an interrupt that waits.
    #[inline]
    pub(crate) fn update_tpr_threshold(&mut self) {
        if !self.has_tpr_shadow() {
            return;
        }
        let in_memory = self.has_vapic();
        if let Some(apic) = &mut self.arch.apic {
            let threshold = if in_memory {
                // The guest asks by itself when it lowers its priority.
                0
            } else {
                apic.lapic.tpr_threshold()
            };
            if threshold != apic.tpr_threshold {
                apic.tpr_threshold = threshold;
                self.hw.write(TPR_THRESHOLD, threshold.into());
            }
        }
    }

    /// After a change of what waits or of what is let through: whether the next entry has to do something about it.
    #[inline]
    pub(super) fn recheck_interrupts(&mut self) {
        if self.has_interrupt() || (self.has_tpr_shadow() && self.threshold_differs()) {
            self.vcpu.requests.set_own(Request::Event);
        }
    }

    fn threshold_differs(&mut self) -> bool {
        let apic = self.arch.apic.as_mut();
        apic.is_some_and(|a| a.lapic.tpr_threshold() != a.tpr_threshold)
    }
}
