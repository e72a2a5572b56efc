// SPDX-License-Identifier: GPL-2.0

//! KVM_INTERRUPT, KVM_NMI and KVM_SET_SIGNAL_MASK (api.rst).

use kernel::prelude::*;

use crate::{
    sys::{
        cpu::SignalMask,
        uabi::{
            kvm_interrupt,
            UserArg, //
        },
    },
    vcpu::{
        requests::Request,
        Running, //
    },
};

/// Bytes of `sigset_t`.
const SIGSET_SIZE: u32 = 8;
/// SIGKILL and SIGSTOP, which nobody can block.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

impl Running<'_> {
    /// KVM_INTERRUPT: a vector of 0 to 255. ENXIO if the PIC is in the kernel; EEXIST, with only the APIC there, if one
    /// waits already.
    pub(crate) fn user_interrupt(&mut self, interrupt: &kvm_interrupt) -> Result {
        let vector = u8::try_from(interrupt.irq).map_err(|_| EINVAL)?;
        if self.has_kernel_pic() {
            return Err(ENXIO);
        }
        if self.has_kernel_apic() && self.arch.events.user_interrupt.is_some() {
            return Err(EEXIST);
        }
        self.arch.events.user_interrupt = Some(vector);
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }

    /// KVM_NMI.
    pub(crate) fn user_nmi(&mut self) {
        self.pend_nmis(1);
        self.vcpu.requests.set_own(Request::Event);
    }

    /// KVM_SET_SIGNAL_MASK: the set for the time of KVM_RUN, or none. EINVAL for a set of another size.
    pub(crate) fn set_signal_mask(&mut self, arg: UserArg) -> Result {
        self.arch.signal_mask = if arg.value() == 0 {
            None
        } else {
            let length: u32 = arg.read()?;
            if length != SIGSET_SIZE {
                return Err(EINVAL);
            }
            let set: u64 = arg.offset(4).read()?;
            Some(SignalMask::new(set & !UNBLOCKABLE))
        };
        Ok(())
    }
}
