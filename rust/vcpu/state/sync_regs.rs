// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_SYNC_REGS (api.rst, "The kvm_run structure"): registers that travel in `kvm_run`, so that user space needs no
//! ioctl for them.
//!
//! User space may write there while they are read: each structure is copied once, and the copy is checked and used.

use kernel::prelude::*;

use crate::vcpu::Running;

/// `KVM_SYNC_X86_*`.
const REGS: u64 = 1 << 0;
const SREGS: u64 = 1 << 1;
const EVENTS: u64 = 1 << 2;
/// KVM_CAP_SYNC_REGS.
const ALL: u64 = REGS | SREGS | EVENTS;

impl Running<'_> {
    /// Takes what user space has put into `kvm_run`, before anything else is done. EINVAL for sets that there are not, and
    /// for what can't be set; the sets that were taken before it stay.
    #[inline]
    pub(crate) fn take_sync_regs(&mut self) -> Result {
        let (dirty, valid) = (self.vcpu.run.dirty_regs(), self.vcpu.run.valid_regs());
        if (dirty | valid) & !ALL != 0 {
            return Err(EINVAL);
        }
        if dirty != 0 {
            self.set_sync_regs(dirty)?;
        }
        Ok(())
    }

    #[cold]
    fn set_sync_regs(&mut self, dirty: u64) -> Result {
        let vcpu = self.vcpu;
        let run = &vcpu.run;
        if dirty & REGS != 0 {
            self.set_regs(&run.regs());
            run.clear_dirty_regs(REGS);
        }
        if dirty & SREGS != 0 {
            self.set_sregs(&run.sregs())?;
            run.clear_dirty_regs(SREGS);
        }
        if dirty & EVENTS != 0 {
            self.set_vcpu_events(&run.events())?;
            run.clear_dirty_regs(EVENTS);
        }
        Ok(())
    }

    /// Puts into `kvm_run` what user space wants to find there, however KVM_RUN ends.
    #[inline]
    pub(crate) fn give_sync_regs(&mut self) {
        let valid = self.vcpu.run.valid_regs();
        if valid & ALL != 0 {
            self.publish_sync_regs(valid);
        }
    }

    #[cold]
    fn publish_sync_regs(&mut self, valid: u64) {
        if valid & REGS != 0 {
            self.vcpu.run.set_regs(self.regs());
        }
        if valid & SREGS != 0 {
            let sregs = self.sregs();
            self.vcpu.run.set_sregs(sregs);
        }
        if valid & EVENTS != 0 {
            let events = self.vcpu_events();
            self.vcpu.run.set_events(events);
        }
    }
}
