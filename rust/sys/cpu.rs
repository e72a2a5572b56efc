// SPDX-License-Identifier: GPL-2.0

//! Facts about the host's CPUs that decide on mitigations.

use kernel::types::NotThreadSafe;

use super::{
    bindings,
    msr,
    restricted::restricted, //
};

/// Most vCPUs of a VM, as this kernel is configured for its own KVM.
pub(crate) const MAX_VCPUS: usize = bindings::RKVM_MAX_VCPUS as usize;

/// Whether leaving L1 data behind for a guest would leak it (L1TF), and the CPU can flush it by command.
pub(crate) fn needs_l1d_flush() -> bool {
    // SAFETY: Reads the boot CPU's feature bits.
    unsafe { bindings::rkvm_needs_l1d_flush() }
}

/// Whether a guest that reaches a device of the host could read from it what the host left in the CPU's buffers (MMIO stale
/// data), and nothing else has them cleared before each entry.
pub(crate) fn leaks_to_devices() -> bool {
    msr::boot_cpu_has(bindings::X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO)
}

/// Whether switching between guests has to fence indirect branch prediction.
pub(crate) fn needs_ibpb() -> bool {
    // SAFETY: As above.
    unsafe { bindings::rkvm_needs_ibpb() }
}

/// Bits of IA32_ARCH_CAPABILITIES for the weaknesses that the CPUs do not have, by what the kernel knows of their models and
/// their microcode.
pub(crate) fn absent_weaknesses() -> u64 {
    const GDS_NO: u64 = 1 << 26;
    // SAFETY: As above.
    let absent = unsafe { bindings::rkvm_absent_weaknesses() };
    // SAFETY: Reads how the kernel deals with this weakness.
    if unsafe { (restricted().gds_ucode_mitigated)() } {
        absent | GDS_NO
    } else {
        absent
    }
}

/// Whether the CPUs raise #AC for locked accesses that cross cache lines ("split locks"), in guests as well.
pub(crate) fn detects_split_locks() -> bool {
    cfg!(CONFIG_X86_BUS_LOCK_DETECT) && msr::boot_cpu_has(bindings::X86_FEATURE_SPLIT_LOCK_DETECT)
}

/// A guest has split a lock at `rip`: the kernel warns and lets this task do so for a while, or sends it SIGBUS, as
/// `split_lock_detect` on its command line says. May sleep.
#[cfg(CONFIG_X86_BUS_LOCK_DETECT)]
pub(crate) fn guest_splits_lock(rip: u64) {
    // SAFETY: Called from the task that ran the guest, with interrupts and preemption on. The address is only printed.
    unsafe { (restricted().handle_guest_split_lock)(rip as kernel::ffi::c_ulong) };
}

/// In a kernel that does not have the CPUs detect split locks, none is told of.
#[cfg(not(CONFIG_X86_BUS_LOCK_DETECT))]
pub(crate) fn guest_splits_lock(_rip: u64) {}

/// Interrupts CPU `cpu`, which makes it leave a guest. Not if it is this one: then it is in no guest.
pub(crate) fn send_reschedule(cpu: u32) {
    // SAFETY: The number is that of an online CPU, or the helper ignores it.
    unsafe { bindings::rkvm_send_reschedule(cpu) };
}

/// What [`interrupt_and_wait`] runs.
///
/// # Safety
///
/// None: it does nothing.
unsafe extern "C" fn nothing(_arg: *mut core::ffi::c_void) {}

/// Interrupts CPU `cpu` and waits until it has taken the interrupt. Interrupts are on.
pub(crate) fn interrupt_and_wait(cpu: u32) {
    // SAFETY: The function does nothing; an offline CPU is refused.
    unsafe { bindings::rkvm_on_cpu(cpu as i32, Some(nothing), core::ptr::null_mut()) };
}

/// Whether a signal waits for the current thread.
#[inline]
pub(crate) fn signal_pending() -> bool {
    // SAFETY: Reads the current task's flags.
    unsafe { bindings::rkvm_signal_pending() }
}

/// Does what waits for this task before it may enter a guest: rescheduling, task work. EINTR for a signal.
pub(crate) fn handle_guest_entry_work() -> kernel::error::Result {
    // SAFETY: Process context, interrupts on, no locks held.
    kernel::error::to_result(unsafe { bindings::xfer_to_guest_mode_handle_work() })
}

/// Whether something waits for this task; racy with interrupts on, which is fine for a hint.
#[inline]
pub(crate) fn guest_entry_work_pending() -> bool {
    // SAFETY: Reads the current task's flags.
    unsafe { bindings::rkvm_guest_entry_work_pending() }
}

/// Whether the kernel knows how long threads wait for a CPU.
pub(crate) fn counts_run_delay() -> bool {
    // SAFETY: No requirements.
    unsafe { bindings::rkvm_counts_run_delay() }
}

/// How long the current thread has waited for a CPU since it began, in nanoseconds.
#[inline]
pub(crate) fn run_delay_ns() -> u64 {
    // SAFETY: Reads a counter of the current task.
    unsafe { bindings::rkvm_run_delay() }
}

/// Lets other threads run on this CPU first.
pub(crate) fn yield_now() {
    // SAFETY: Process context, no locks held.
    unsafe { kernel::bindings::yield_() };
}

/// CPUs that are online.
pub(crate) fn online() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::rkvm_online_cpus() }
}

/// A set of signals, as `sigset_t`.
pub(crate) struct SignalMask(u64);

impl SignalMask {
    /// From the eight bytes of KVM_SET_SIGNAL_MASK.
    pub(crate) fn new(set: u64) -> Self {
        Self(set)
    }

    /// Blocks these signals, and no others, until the value returned is dropped. A signal that the thread blocks itself
    /// and this set does not interrupts what the thread does, and waits.
    pub(crate) fn activate(&self) -> ActiveMask {
        // SAFETY: The helper sets the current task's own mask.
        unsafe { bindings::rkvm_set_signal_mask(self.0) };
        ActiveMask {
            _not_send: NotThreadSafe,
        }
    }
}

/// The thread's own mask, which the kernel keeps, comes back when this is dropped.
pub(crate) struct ActiveMask {
    _not_send: NotThreadSafe,
}

impl Drop for ActiveMask {
    fn drop(&mut self) {
        // SAFETY: As for `activate`, on the same thread.
        unsafe { bindings::rkvm_restore_signal_mask() };
    }
}
