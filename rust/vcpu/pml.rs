// SPDX-License-Identifier: GPL-2.0

//! Page-modification logging: the processor writes down which pages the guest makes dirty (Documentation/mmu.rst, "The
//! dirty log"; SDM, "Page-Modification Logging").

use core::sync::atomic::Ordering;

use rkvm_core::vmx::{
    controls::Secondary,
    fields::*,
    pml,
    Vmcs, //
};

use super::{
    requests::Request,
    Running, //
};

impl Running<'_> {
    /// Tells a new VMCS where the log is. Whether it is on is decided before the first entry.
    pub(crate) fn set_up_pml(&mut self) {
        if let Some(page) = &self.arch.pml {
            self.hw.write(PML_ADDRESS, page.hpa().0);
            self.hw.write(GUEST_PML_INDEX, pml::EMPTY);
            self.vcpu.requests.set_own(Request::DirtyLogging);
        }
    }

    /// [`Request::DirtyLogging`]: on while a slot logs writes.
    pub(crate) fn update_pml(&mut self) {
        let on = self.arch.pml.is_some() && self.vm.memory.logs_writes();
        self.set_secondary(Secondary::ENABLE_PML, on);
    }

    /// Hands what is in the log to the slots. Interrupts are off, and the vCPU counts as being in the guest.
    #[inline]
    pub(crate) fn flush_pml(&mut self) {
        if self.arch.controls.secondary.has(Secondary::ENABLE_PML) {
            let index = self.hw.read(GUEST_PML_INDEX);
            if index != pml::EMPTY {
                self.empty_pml(index);
            }
        }
    }

    #[inline(never)]
    fn empty_pml(&mut self, index: u16) {
        let Some(page) = &self.arch.pml else {
            return;
        };
        let words = pml::written(index).filter_map(|i| page.word(i));
        let frames = words.map(|w| pml::frame(w.load(Ordering::Relaxed)));
        self.vm.memory.mark_logged(frames);
        self.hw.write(GUEST_PML_INDEX, pml::EMPTY);
    }
}
