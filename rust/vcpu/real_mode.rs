// SPDX-License-Identifier: GPL-2.0

//! The guest without unrestricted guest: real mode in virtual-8086 mode, paging that is never off
//! (Documentation/real-mode.rst).
//!
//! Here is what keeps the guest's state and the processor's apart; [`super::invalid_state`] runs what the processor can't.
//! An unrestricted guest has neither: its [`RealMode`] stays as it was made.

use rkvm_core::{
    exception::{
        Exception,
        Vector, //
    },
    regs::{
        cr0,
        SegReg, //
    },
    vmx::{
        controls::Primary,
        event::{
            EventInfo,
            EventType, //
        },
        fields::*,
        guest_state::{
            segments_valid,
            Rules, //
        },
        real_mode::{
            self,
            Raised,
            Segments, //
        },
        segment::{
            self,
            Segment, //
        },
        Vmcs, //
    },
};

use super::{
    emulation::Operand,
    events::Injected,
    requests::Request,
    run::Flow,
    Running, //
};
use crate::host::host;
use kernel::prelude::*;

/// All exceptions exit in virtual-8086 mode, because their handlers are in the guest's vector table. There are no page
/// faults: the identity map has everything.
pub(crate) const EXCEPTION_BITMAP_VM86: u32 = !(1 << Vector::Pf as u32);

/// What the guest has and the VMCS has not.
#[derive(Default)]
pub(crate) struct RealMode {
    /// The guest is in real mode, the processor runs it in virtual-8086 mode.
    vm86: bool,
    segments: Segments,
    /// RFLAGS, of which the bits count that are not the guest's in the VMCS.
    rflags: u64,
    /// CR3 while the guest's paging is off.
    cr3: Option<u64>,
    /// Other than by the processor the state was changed, or it is known that VM entry does not accept it.
    suspect: bool,
}

impl RealMode {
    /// Whether real mode runs in virtual-8086 mode now.
    #[inline]
    pub(crate) fn is_vm86(&self) -> bool {
        self.vm86
    }

    /// Has the state looked at before entry: IDTR has changed.
    #[inline]
    pub(super) fn suspect(&mut self) {
        self.suspect |= self.vm86;
    }

    /// Whether the state has to be looked at before entry.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// A segment register of real mode, of which the VMCS has `vmcs`.
    pub(super) fn segment(&self, reg: SegReg, vmcs: Segment) -> Segment {
        if Segments::holds(reg) {
            self.segments.get(reg, &vmcs)
        } else {
            vmcs
        }
    }
}

impl Running<'_> {
    /// RFLAGS as the guest has them.
    #[inline]
    pub(crate) fn guest_rflags(&self) -> u64 {
        let hw = self.hw.read(GUEST_RFLAGS);
        if self.arch.real_mode.vm86 {
            real_mode::guest_rflags(hw, self.arch.real_mode.rflags)
        } else {
            hw
        }
    }

    /// Sets them.
    #[inline]
    pub(crate) fn set_guest_rflags(&mut self, value: u64) {
        if host().vmcs.features.unrestricted_guest {
            self.hw.write(GUEST_RFLAGS, value);
        } else {
            self.set_restricted_rflags(value);
        }
    }

    fn set_restricted_rflags(&mut self, value: u64) {
        let real = &mut self.arch.real_mode;
        real.rflags = value;
        real.suspect = true;
        let hw = if real.vm86 {
            real_mode::hw_rflags(value)
        } else {
            value
        };
        self.hw.write(GUEST_RFLAGS, hw);
    }

    /// CR3 as the guest has it.
    #[inline]
    pub(crate) fn cr3(&self) -> u64 {
        match self.arch.real_mode.cr3 {
            Some(cr3) => cr3,
            None => self.hw.read(GUEST_CR3),
        }
    }

    /// Sets it without looking at what it points to.
    #[inline]
    pub(crate) fn set_cr3(&mut self, value: u64) {
        match &mut self.arch.real_mode.cr3 {
            Some(cr3) => *cr3 = value,
            None => self.hw.write(GUEST_CR3, value),
        }
    }

    /// Sets a segment register of a guest that is not unrestricted.
    pub(super) fn set_restricted_segment(&mut self, reg: SegReg, value: Segment) {
        let real = &mut self.arch.real_mode;
        real.suspect = true;
        let hw = if real.vm86 && Segments::holds(reg) {
            // Without a TSS the guest is not entered, so its address does not matter.
            let tss = self.vm.real_mode.tss().unwrap_or_default();
            real.segments.set(reg, value, tss.0)
        } else {
            value
        };
        segment::write(&self.hw, reg, &hw);
    }

    /// The guest's CR0 has changed: what the processor has besides CR0 follows.
    pub(super) fn follow_cr0(&mut self) {
        let real = self.arch.cr0 & cr0::PE == 0;
        if real != self.arch.real_mode.vm86 {
            self.switch_vm86(real);
        }
        let paging = self.arch.cr0 & cr0::PG != 0;
        if paging == self.arch.real_mode.cr3.is_some() {
            self.switch_paging(paging);
        }
        // Paging and virtual-8086 mode want some bits.
        let cr4 = self.read_cr4();
        self.set_cr4(cr4);
        self.arch.real_mode.suspect = true;
    }

    fn switch_vm86(&mut self, on: bool) {
        let segments = SegReg::ALL.map(|reg| (reg, self.segment(reg)));
        let flags = self.guest_rflags();
        self.arch.real_mode.vm86 = on;
        for (reg, value) in segments {
            self.set_restricted_segment(reg, value);
        }
        self.set_restricted_rflags(flags);
        self.write_exception_bitmap();
    }

    fn switch_paging(&mut self, on: bool) {
        let cr3 = self.cr3();
        self.arch.real_mode.cr3 = if on { None } else { Some(cr3) };
        let hw = if on {
            cr3
        } else {
            // There since the first vCPU was made.
            self.vm.real_mode.identity_map().unwrap_or_default().0
        };
        self.hw.write(GUEST_CR3, hw);
        self.set_primary(Primary::CR3_LOAD_EXITING, !on);
        self.set_primary(Primary::CR3_STORE_EXITING, !on);
        self.vcpu.requests.set_own(Request::TlbFlush);
    }

    /// Whether the guest's state is one that VM entry does not accept.
    pub(super) fn state_is_invalid(&mut self) -> bool {
        let invalid = if self.arch.real_mode.vm86 {
            // In virtual-8086 mode INT goes through the table at 0, wherever IDTR points.
            !self.has_tss() || self.hw.read(GUEST_IDTR_BASE) != 0 || !self.segments_fit(Rules::Vm86)
        } else if self.long_mode() {
            !self.segments_fit(Rules::Ia32e)
        } else if self.hw.read(GUEST_RFLAGS) & rkvm_core::regs::rflags::VM != 0 {
            !self.segments_fit(Rules::Vm86)
        } else {
            !self.segments_fit(Rules::Protected)
        };
        self.arch.real_mode.suspect = invalid;
        invalid
    }

    fn segments_fit(&self, rules: Rules) -> bool {
        segments_valid(rules, |reg| segment::read(&self.hw, reg))
    }

    /// Whether there is a TSS for real mode; if user space has made it since, TR learns of it.
    fn has_tss(&mut self) -> bool {
        let Some(tss) = self.vm.real_mode.tss() else {
            return false;
        };
        self.hw.write(GUEST_TR_BASE, tss.0);
        true
    }

    /// An exception in virtual-8086 mode that is the guest's in real mode.
    pub(super) fn exit_real_mode_exception(&mut self, info: EventInfo) -> Result<Flow> {
        // An event that was being delivered is an INT instruction, which comes again.
        self.arch.events.injected = None;
        let Some(vector) = Vector::from_number(info.vector()) else {
            return self.inject_or_resume(Err(Exception::GP0));
        };
        match Raised::by(vector) {
            Raised::Deliver => self.inject_or_resume(Err(Exception::plain(vector))),
            Raised::Emulate => self.emulate(Operand::Unknown),
        }
    }

    /// Delivers an event through the guest's vector table. What can't be delivered shuts the guest down.
    #[cold]
    pub(super) fn deliver_in_real_mode(&mut self, event: Injected) {
        self.arch.events.injected = None;
        // It may be there from an entry that was called off.
        self.hw.write(VM_ENTRY_INTR_INFO_FIELD, 0);
        if event.info.kind() == EventType::Nmi {
            self.set_nmi_blocked(true);
        }
        let length = if event.info.kind().needs_instruction_length() {
            event.length as u8
        } else {
            0
        };
        if !self.emulate_real_interrupt(event.info.vector(), length) {
            self.vcpu.requests.set_own(Request::TripleFault);
        }
    }
}
