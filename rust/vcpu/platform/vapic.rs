// SPDX-License-Identifier: GPL-2.0

//! Help for guests that change their task priority all the time, where each of these accesses to the APIC's page exits:
//! user space learns which instructions they are (KVM_TPR_ACCESS_REPORTING), replaces them by calls of code of its own,
//! and has the task priority in guest memory from then on (KVM_SET_VAPIC_ADDR).
//!
//! Documentation/interrupts.rst, "A task priority in guest memory", tells the life of that word.

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    irq::lapic::is_task_priority,
    vmx::{
        fields::*,
        Vmcs, //
    },
};

use crate::{
    sys::uabi::{
        kvm_tpr_access_ctl,
        kvm_vapic_addr,
        UserArg, //
    },
    vcpu::{
        requests::Request,
        run::Flow,
        Running, //
    },
};

/// Bytes of the word behind the first one.
const WORD_REST: u64 = 3;

/// What user space makes of the guest's accesses to its task priority.
#[derive(Default)]
pub(crate) struct TprAccesses {
    /// It hears of each that is emulated.
    reported: bool,
    /// The last one that it is to hear of: RIP, and whether it was a write.
    last: (u64, bool),
    /// Where the task priority is in guest memory, if it is there.
    vapic: Option<Gpa>,
}

impl TprAccesses {
    /// Whether user space is to hear of accesses that are emulated.
    #[inline]
    pub(super) fn are_reported(&self) -> bool {
        self.reported
    }

    /// INIT: the task priority is in the APIC again.
    pub(super) fn forget_vapic(&mut self) {
        self.vapic = None;
    }
}

impl Running<'_> {
    /// KVM_TPR_ACCESS_REPORTING: EINVAL for flags. Where the processor answers for the task priority, nothing is
    /// emulated, so there is nothing to report.
    pub(crate) fn set_tpr_reporting(&mut self, arg: UserArg) -> Result {
        let control: kvm_tpr_access_ctl = arg.read()?;
        if control.flags != 0 {
            return Err(EINVAL);
        }
        self.arch.tpr.reported = control.enabled != 0;
        arg.write(&control)
    }

    /// KVM_SET_VAPIC_ADDR: the guest physical address of the word, or 0 for none. EINVAL without an APIC in the kernel,
    /// and for an address where there is no memory that can be written.
    pub(crate) fn set_vapic_address(&mut self, arg: UserArg) -> Result {
        if !self.has_kernel_apic() {
            return Err(EINVAL);
        }
        let address = Gpa(arg.read::<kvm_vapic_addr>()?.vapic_addr);
        self.arch.tpr.vapic = if address.0 == 0 {
            None
        } else {
            let last = address.0.checked_add(WORD_REST).ok_or(EINVAL)?;
            let memory = &self.vm.memory;
            if !memory.is_backed(address, true) || !memory.is_backed(Gpa(last), true) {
                return Err(EINVAL);
            }
            Some(address)
        };
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }

    /// The guest has accessed its APIC's page: if that was its task priority, user space may want to know.
    #[inline]
    pub(super) fn tpr_may_be_accessed(&mut self, offset: u32, len: usize, write: bool) {
        if self.arch.tpr.reported && is_task_priority(offset, len, write) {
            self.tpr_accessed(write);
        }
    }

    fn tpr_accessed(&mut self, write: bool) {
        self.arch.tpr.last = (self.hw.read(GUEST_RIP), write);
        self.vcpu.requests.set_own(Request::TprAccess);
    }

    /// KVM_EXIT_TPR_ACCESS: the instruction is done.
    pub(crate) fn report_tpr_access(&self) -> Flow {
        let (rip, write) = self.arch.tpr.last;
        self.vcpu.run.set_tpr_access(rip, write);
        Flow::ToUser
    }

    /// Whether the task priority is in guest memory.
    #[inline]
    pub(crate) fn has_vapic(&self) -> bool {
        self.arch.tpr.vapic.is_some()
    }

    /// Before an entry: the guest finds its priority, what is in service and what waits. May sleep.
    pub(crate) fn write_vapic(&mut self) {
        if let (Some(at), Some(apic)) = (self.arch.tpr.vapic, &mut self.arch.apic) {
            if apic.lapic.shared().is_enabled() {
                let word = apic.lapic.vapic_word();
                // If the memory is gone, the APIC keeps the priority.
                let _ = self.vm.memory.write(at, &word.to_le_bytes());
            }
        }
    }

    /// After an exit: the priority is what the guest has made of it. May sleep.
    pub(crate) fn read_vapic(&mut self) {
        if let (Some(at), Some(apic)) = (self.arch.tpr.vapic, &mut self.arch.apic) {
            let mut word = [0; 4];
            if self.vm.memory.read(at, &mut word).is_ok() {
                let [tpr, ..] = word;
                apic.lapic.set_tpr(tpr);
            }
            // What this exit changes has to be in the word at the next entry.
            self.vcpu.requests.set_own(Request::Event);
        }
    }
}
