// SPDX-License-Identifier: GPL-2.0

//! Interrupts of the real-time clock, counted until their EOI.
//!
//! The clock's interrupt is an edge, but a user space that asks by KVM_IRQ_LINE_STATUS wants to know whether the guest
//! has missed a tick, in order to raise it again: a tick coalesces as long as a vCPU has not ended the one before.

use crate::irq::{
    Deliver,
    Delivery,
    Interrupt,
    VcpuIndex,
    VcpuSet, //
};

#[derive(Clone, Debug)]
pub(super) struct RtcTracking {
    vector: u8,
    waiting: VcpuSet,
    pending: bool,
}

impl RtcTracking {
    pub(super) const fn new() -> Self {
        Self {
            vector: 0,
            waiting: VcpuSet::new(),
            pending: false,
        }
    }

    /// Whether some vCPU has not ended the last tick.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    /// The vector whose EOI has to come before the next tick.
    #[inline]
    pub(super) fn awaited(&self) -> Option<u8> {
        self.pending.then_some(self.vector)
    }

    pub(super) fn send(&mut self, irq: &Interrupt, sink: &mut impl Deliver) -> Delivery {
        self.waiting.clear();
        if !irq.mode.has_eoi() {
            self.pending = false;
            return sink.deliver(irq, None);
        }
        self.vector = irq.vector;
        let delivery = sink.deliver(irq, Some(&mut self.waiting));
        self.pending = !self.waiting.is_empty();
        delivery
    }

    #[inline]
    pub(super) fn eoi(&mut self, vcpu: VcpuIndex, vector: u8) {
        if self.pending && vector == self.vector && self.waiting.remove(vcpu) {
            self.pending = !self.waiting.is_empty();
        }
    }

    pub(super) fn restore(&mut self, vcpu: VcpuIndex, vector: u8, pending: bool) {
        if pending {
            self.vector = vector;
            self.waiting.insert(vcpu);
        } else {
            self.waiting.remove(vcpu);
        }
        self.pending = !self.waiting.is_empty();
    }
}
