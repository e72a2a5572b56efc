// SPDX-License-Identifier: GPL-2.0

//! The time between preemption off and preemption on again, with the guest in between.
//!
//! [`EntryGuard`] exists from "interrupts off" to "interrupts on". In that time the guest may be entered any number
//! of times: an exit that needs neither interrupts nor user memory is handled without leaving it.

use core::{
    arch::asm,
    cell::Cell,
    ptr::addr_of_mut, //
};

use kernel::types::NotThreadSafe;
use rkvm_core::vmx::{
    counters::GlobalCtrl,
    fields::*,
    Vmcs, //
};

use super::{
    context::Inner,
    loaded::Loaded, //
};
use crate::sys::{
    bindings,
    counters,
    debug_registers,
    fpu::{
        GuestXState,
        HostXState, //
    },
    msr,
    restricted::restricted, //
};

const MSR_IA32_DEBUGCTL: u32 = 0x1d9;
const MSR_IA32_PEBS_ENABLE: u32 = 0x3f1;

/// How an entry ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryResult {
    /// The guest ran; the value is the exit reason field of the VMCS.
    Exit(u32),
    /// VMLAUNCH or VMRESUME failed with this VM-instruction error.
    Failed(u32),
}

/// Preemption and interrupts are off, the guest's MSRs, XCR0, PKRU and FPU registers are loaded.
pub(crate) struct EntryGuard<'a> {
    loaded: Loaded<'a>,
    /// What the guest's XCR0, IA32_XSS and PKRU displaced, where they differ.
    host_xstate: Option<HostXState>,
    /// `commit` came: the time counts as the guest's.
    committed: Cell<bool>,
    /// The host's IA32_DEBUGCTL, once `commit` has read it.
    host_debugctl: Cell<u64>,
    /// The host's IA32_PEBS_ENABLE, if that is 0 now.
    host_pebs: Cell<u64>,
    cpu: u32,
    displaced: bool,
    work: bool,
    irq: Option<u32>,
    machine_check: bool,
    _thread: NotThreadSafe,
}

impl<'a> Loaded<'a> {
    /// Turns preemption and interrupts off and loads what the guest needs in registers.
    #[inline]
    pub(crate) fn begin_entry(self, xstate: Option<&GuestXState>) -> EntryGuard<'a> {
        // SAFETY: Paired with the drop of the guard; the context is loaded by this thread.
        let (cpu, displaced, flags) = unsafe {
            let cpu = bindings::rkvm_get_cpu();
            let displaced = Inner::load_guest_registers(self.inner, cpu);
            let flags = bindings::rkvm_disable_irqs_for_guest();
            // With the host's XCR0 and IA32_XSS still in place: XRSTORS takes no state outside them.
            if flags & bindings::RKVM_TASK_NEEDS_FPU != 0 {
                (restricted().switch_fpu_return)();
            }
            (cpu, displaced, flags)
        };
        EntryGuard {
            loaded: self,
            host_xstate: xstate.map(|xstate| xstate.load(self.pkru())),
            committed: Cell::new(false),
            host_debugctl: Cell::new(0),
            host_pebs: Cell::new(0),
            cpu,
            displaced,
            work: flags & bindings::RKVM_TASK_HAS_WORK != 0,
            irq: None,
            machine_check: false,
            _thread: NotThreadSafe,
        }
    }
}

impl EntryGuard<'_> {
    /// The CPU, which stays the same as long as the guard.
    #[inline]
    pub(crate) fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Whether the guest's registers took the place of user space's just now.
    #[inline]
    pub(crate) fn displaced_host(&self) -> bool {
        self.displaced
    }

    /// Whether a signal, a reschedule or other work waited for this task when interrupts went off. What comes later
    /// comes with an interrupt, if it can't wait.
    #[inline]
    pub(crate) fn work_was_pending(&self) -> bool {
        self.work
    }

    /// What perf wants IA32_PERF_GLOBAL_CTRL to be, if that is not the same in the guest as in the host. Where PEBS has to be
    /// off before the entry, it is from now on.
    #[inline]
    pub(crate) fn global_ctrl(&self) -> Option<GlobalCtrl> {
        let switch = counters::around_guest();
        if let Some(host) = switch.pebs_enable {
            self.host_pebs.set(host);
            msr::write(MSR_IA32_PEBS_ENABLE, 0);
        }
        switch.global_ctrl
    }

    /// Last preparations after which only [`EntryGuard::enter`] follows: accounting, the host's page table.
    ///
    /// `breakpoints`: DR0 to DR3, if the guest or its debugger has a breakpoint enabled.
    #[inline]
    pub(crate) fn commit(&self, breakpoints: Option<&[u64; 4]>) {
        if let Some(addresses) = breakpoints {
            debug_registers::load(addresses);
        }
        // SAFETY: Interrupts are off, and the task is about to enter a guest.
        let debugctl = unsafe { bindings::rkvm_guest_entry_begin() };
        self.committed.set(true);
        self.host_debugctl.set(debugctl);
        self.refresh_host_control_registers();
    }

    /// The kernel may have changed CR3 (another address-space id) or CR4 since the last entry.
    #[inline]
    fn refresh_host_control_registers(&self) {
        let (cr3, cr4): (u64, u64);
        // SAFETY: Reading control registers in the kernel has no effect.
        unsafe {
            asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
            asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        }
        let inner = self.loaded.inner;
        // SAFETY: Loaded by this thread.
        unsafe {
            if (*inner).host_cr3 != cr3 {
                (*inner).host_cr3 = cr3;
                self.loaded.write(HOST_CR3, cr3);
            }
            if (*inner).host_cr4 != cr4 {
                (*inner).host_cr4 = cr4;
                self.loaded.write(HOST_CR4, cr4);
            }
        }
    }

    /// Whether a signal, a reschedule or other work waits for this task.
    #[inline]
    pub(crate) fn work_pending(&self) -> bool {
        // SAFETY: Reads the current task's flags.
        unsafe { bindings::rkvm_guest_entry_work_pending() }
    }

    /// Whether the VMCS came to this CPU since the last call.
    #[inline]
    pub(crate) fn take_migrated(&self) -> bool {
        self.loaded.take_migrated()
    }

    /// Runs the guest until its next exit.
    #[inline]
    pub(crate) fn enter(&mut self) -> EntryResult {
        let inner = self.loaded.inner;
        // SAFETY: Preemption and interrupts are off, the VMCS is current and complete; `commit` came before.
        let failed = unsafe { bindings::rkvm_enter_guest(&raw mut (*inner).entry) };
        // SAFETY: Loaded by this thread.
        let reason = unsafe { (*inner).entry.exit_reason };
        if failed {
            EntryResult::Failed(reason)
        } else {
            EntryResult::Exit(reason)
        }
    }

    /// VM-exit interruption information of an exception, NMI or external-interrupt exit.
    #[inline]
    pub(crate) fn interruption_info(&self) -> u32 {
        // SAFETY: Loaded by this thread.
        unsafe { (*self.loaded.inner).entry.intr_info }
    }

    /// The exit acknowledged host interrupt `vector`: its handler runs as soon as the host's state is back.
    #[inline]
    pub(crate) fn forward_irq(&mut self, vector: u32) {
        self.irq = Some(vector);
    }

    /// The exit was for a machine check: the host handles it as soon as its state is back.
    #[cold]
    pub(crate) fn forward_machine_check(&mut self) {
        self.machine_check = true;
    }
}

impl Drop for EntryGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Before any handler of the host can change it.
        let debugctl = self.host_debugctl.get();
        if debugctl != 0 {
            msr::write(MSR_IA32_DEBUGCTL, debugctl);
        }
        let pebs = self.host_pebs.get();
        if pebs != 0 {
            msr::write(MSR_IA32_PEBS_ENABLE, pebs);
        }
        if let Some(host) = &self.host_xstate {
            // SAFETY: Loaded by this thread; nobody else refers to the field.
            let guest_pkru = unsafe { &mut *addr_of_mut!((*self.loaded.inner).pkru) };
            host.restore(guest_pkru);
        }
        // A handler of the host may run into one of its breakpoints.
        debug_registers::restore();
        // SAFETY: Paired with `begin_entry`; the vector comes from the exit that acknowledged it.
        unsafe {
            if self.machine_check {
                bindings::rkvm_forward_machine_check();
            }
            if let Some(vector) = self.irq {
                bindings::rkvm_forward_irq(vector);
            }
            bindings::rkvm_guest_entry_end(self.committed.get());
        }
    }
}
