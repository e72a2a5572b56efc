// SPDX-License-Identifier: GPL-2.0

//! A VMCS from nothing, and the state after reset and INIT (SDM, "Processor State After Reset").

use rkvm_core::{
    regs::{
        cr0,
        rflags,
        SegReg, //
    },
    vmx::{
        controls::Primary,
        event::ActivityState,
        fields::*,
        registers,
        segment::Segment,
        Vmcs, //
    },
};

use super::{
    platform::{
        clock::ClockPage,
        steal::StealTime, //
    },
    requests::Request,
    DebugRegs,
    Running, //
};
use crate::host::host;

/// CR0 after reset: caches off, ET set.
pub(crate) const CR0_RESET: u64 = cr0::CD | cr0::NW | cr0::ET;
/// RDX after reset when CPUID says nothing else: family 6.
const RDX_RESET: u64 = 0x600;
/// Where execution begins after reset, in the code segment.
pub(super) const RIP_RESET: u64 = 0xfff0;

impl Running<'_> {
    /// Fills the VMCS of a new vCPU and resets it.
    pub(crate) fn set_up(&mut self) {
        let load_cet = host().vmcs.features.cet_state;
        self.hw.write_constant_host_state(load_cet);
        if load_cet {
            self.hw.write(GUEST_S_CET, 0);
            self.hw.write(GUEST_SSP, 0);
            self.hw.write(GUEST_INTR_SSP_TABLE, 0);
        }
        self.write_controls();
        self.hw.write(VMCS_LINK_POINTER, u64::MAX);
        self.hw.write(EPT_POINTER, self.vm.memory.ept_pointer());
        self.hw.write(MSR_BITMAP, self.arch.msr_bitmap.hpa().0);
        if let Some(vpid) = &self.arch.vpid {
            self.hw.write(VIRTUAL_PROCESSOR_ID, vpid.number());
        }
        if host().vmcs.features.ple {
            self.hw.write(PLE_GAP, host().vmcs.ple_gap);
            self.hw.write(PLE_WINDOW, host().vmcs.ple_window);
        }
        if host().flush_l1d {
            self.hw.flush_l1d_at_entry();
        }
        if host().leaks_to_devices {
            // Whether there is one is looked at before the first entry.
            self.vcpu.requests.set_own(Request::DeviceMapped);
        }
        self.hw
            .write(CR0_GUEST_HOST_MASK, registers::cr0_guest_host_mask(true));
        self.reset(false);
        self.start_tsc();
    }

    /// Writes all control words. They change later one by one.
    pub(crate) fn write_controls(&mut self) {
        let mut c = host().vmcs.controls_for(&self.arch.shape());
        // The debug registers are the host's, except for breakpoints that are enabled.
        c.primary = c.primary.set(Primary::MOV_DR_EXITING, true);
        self.arch.controls = c;
        self.hw.write(PIN_BASED_VM_EXEC_CONTROL, c.pin.bits());
        self.hw.write(CPU_BASED_VM_EXEC_CONTROL, c.primary.bits());
        self.hw.write(SECONDARY_VM_EXEC_CONTROL, c.secondary.bits());
        self.hw.write(VM_EXIT_CONTROLS, c.exit.bits());
        self.hw.write(VM_ENTRY_CONTROLS, c.entry.bits());
        self.write_exception_bitmap();
        self.hw.write(PAGE_FAULT_ERROR_CODE_MASK, 0);
        self.hw.write(PAGE_FAULT_ERROR_CODE_MATCH, 0);
        self.hw.write(CR3_TARGET_COUNT, 0);
        self.hw.write(VM_EXIT_MSR_STORE_COUNT, 0);
        self.hw.write(VM_EXIT_MSR_LOAD_COUNT, 0);
        self.hw.write(VM_ENTRY_MSR_LOAD_COUNT, 0);
        self.hw.write(VM_ENTRY_INTR_INFO_FIELD, 0);
        if host().vmcs.features.xsaves {
            self.hw.write(XSS_EXIT_BITMAP, 0);
        }
        self.vcpu.requests.set_own(Request::Event);
    }

    /// Writes the controls that depend on the guest's CPUID, and keeps those that its state has switched.
    pub(crate) fn write_controls_for_shape(&mut self) {
        let c = host().vmcs.controls_for(&self.arch.shape());
        self.arch.controls.secondary = c.secondary;
        self.hw.write(SECONDARY_VM_EXEC_CONTROL, c.secondary.bits());
    }

    /// RESET, or INIT, which keeps the FPU, most MSRs and the time-stamp counter.
    pub(crate) fn reset(&mut self, init: bool) {
        let old_cr0 = self.arch.cr0;
        for n in 0..16 {
            self.hw.set_gpr(n, 0);
        }
        self.hw
            .set_gpr(2, self.arch.cpuid_signature().unwrap_or(RDX_RESET));
        self.hw.write(GUEST_RSP, 0);
        self.hw.write(GUEST_RIP, RIP_RESET);
        self.set_guest_rflags(rflags::FIXED);
        for reg in SegReg::ALL {
            self.set_segment(reg, Segment::after_reset(reg));
        }
        self.hw.write(GUEST_GDTR_BASE, 0);
        self.hw.write(GUEST_GDTR_LIMIT, 0xffff);
        self.hw.write(GUEST_IDTR_BASE, 0);
        self.hw.write(GUEST_IDTR_LIMIT, 0xffff);
        self.hw
            .write(GUEST_ACTIVITY_STATE, ActivityState::Active as u32);
        self.hw.write(GUEST_INTERRUPTIBILITY_INFO, 0);
        self.hw.write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
        self.set_cr3(0);
        self.hw.set_cr2(0);
        self.arch.debug = DebugRegs::RESET;
        self.write_dr7();
        self.arch.events = super::events::Events::default();
        self.hw.write(VM_ENTRY_INTR_INFO_FIELD, 0);
        self.arch.completion = super::run::Completion::None;
        // What boots next has asked for no writes to its memory.
        self.arch.clock_page = ClockPage::default();
        self.arch.steal_time = StealTime::default();

        // INIT keeps CD and NW.
        let caches = if init {
            old_cr0 & (cr0::CD | cr0::NW)
        } else {
            cr0::CD | cr0::NW
        };
        self.arch.cr0 = 0;
        self.set_efer(0);
        self.set_cr0(cr0::ET | caches);
        self.set_cr4(0);
        self.reset_msrs(init);
        if !init {
            self.arch.xcr0 = 1;
            self.update_xstate();
        }
        self.vcpu.requests.set_own(Request::TlbFlush);
        self.vcpu.requests.set_own(Request::Event);
    }
}
