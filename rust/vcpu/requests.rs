// SPDX-License-Identifier: GPL-2.0

//! What other threads ask of a vCPU, and how they make it look.
//!
//! A request is a bit that anybody sets and the vCPU's own thread clears. The thread publishes "in guest mode on CPU n"
//! before it looks at the bits for the last time with interrupts off, and the sender sets its bit before it looks at
//! the mode; both in sequentially consistent order, so either the thread sees the bit or the sender sees the mode and
//! interrupts the CPU (Documentation/virt/kvm/vcpu-requests.rst describes the same for C KVM).

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering, //
};

use crate::sys::{
    cpu,
    wait::VcpuWait, //
};

/// The requests, as bits.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Request {
    /// The VM met a bug of rkvm's own: every KVM_RUN answers EIO.
    VmDead = 1 << 0,
    /// Look for events to inject.
    Event = 1 << 1,
    /// Drop all translations that the CPU caches for this guest.
    TlbFlush = 1 << 2,
    /// The guest's triple fault ends in KVM_EXIT_SHUTDOWN.
    TripleFault = 1 << 3,
    /// Slots have begun to log writes, or ended it.
    DirtyLogging = 1 << 4,
    /// The APIC's inbox has something: vectors, INIT, SIPI, its timer.
    Apic = 1 << 5,
    /// The guest's clock page is to be written again.
    ClockUpdate = 1 << 6,
    /// A vector whose EOI goes to user space (split irqchip) was acknowledged.
    IoapicEoi = 1 << 7,
    /// The guest has accessed its task priority: KVM_EXIT_TPR_ACCESS.
    TprAccess = 1 << 8,
    /// The controls that depend on the guest's CPUID or on capabilities are to be computed again.
    RecalcIntercepts = 1 << 9,
    /// The debugger's step is done: KVM_EXIT_DEBUG.
    DebugStep = 1 << 10,
    /// The guest is to read how long the thread has waited for a CPU.
    StealUpdate = 1 << 11,
    /// The guest may reach a device of the host.
    DeviceMapped = 1 << 12,
}

/// The vCPU is not in guest mode.
const OUTSIDE: u32 = 0;

/// The requests to one vCPU, and where it runs.
pub(crate) struct Requests {
    bits: AtomicU64,
    /// 0, or one more than the number of the CPU that is in, or on its way into, the guest.
    mode: AtomicU32,
    /// Where the vCPU's thread sleeps while it has nothing to run.
    pub(crate) wait: VcpuWait,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self {
            bits: AtomicU64::new(0),
            mode: AtomicU32::new(OUTSIDE),
            wait: VcpuWait::new(),
        }
    }

    /// Sets a request; the vCPU sees it at its next entry at the latest.
    #[inline]
    pub(crate) fn set(&self, r: Request) {
        self.bits.fetch_or(r as u64, Ordering::SeqCst);
    }

    /// Sets a request that this vCPU's own thread makes.
    #[inline]
    pub(crate) fn set_own(&self, r: Request) {
        self.bits.fetch_or(r as u64, Ordering::Relaxed);
    }

    /// Whether there is any.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.bits.load(Ordering::SeqCst) != 0
    }

    /// Whether this one is set.
    #[inline]
    pub(crate) fn test(&self, r: Request) -> bool {
        self.bits.load(Ordering::Relaxed) & r as u64 != 0
    }

    /// Clears a request; true if it was set. Only by the vCPU's thread.
    #[inline]
    pub(crate) fn take(&self, r: Request) -> bool {
        self.test(r) && self.bits.fetch_and(!(r as u64), Ordering::SeqCst) & r as u64 != 0
    }

    /// From here on senders interrupt CPU `cpu`. Interrupts are off.
    #[inline]
    pub(crate) fn enter_guest_mode(&self, cpu: u32) {
        self.mode.store(cpu.wrapping_add(1), Ordering::SeqCst);
    }

    /// The CPU is back in the host for good.
    #[inline]
    pub(crate) fn leave_guest_mode(&self) {
        self.mode.store(OUTSIDE, Ordering::Release);
    }

    /// The CPU that is in the guest.
    #[inline]
    pub(crate) fn guest_cpu(&self) -> Option<u32> {
        self.mode.load(Ordering::SeqCst).checked_sub(1)
    }

    /// Has the vCPU wake up or leave the guest, if it sleeps or is in there. Does not wait for it. Any context but NMI.
    #[inline]
    pub(crate) fn kick(&self) {
        if self.wait.wake() {
            return;
        }
        if let Some(cpu) = self.guest_cpu() {
            cpu::send_reschedule(cpu);
        }
    }

    /// Has the vCPU leave the guest and waits until it has. May not be called with interrupts off.
    pub(crate) fn kick_and_wait(&self) {
        if let Some(cpu) = self.guest_cpu() {
            cpu::interrupt_and_wait(cpu);
        }
    }
}
