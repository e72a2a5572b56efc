// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers, extended control registers and CPUID of the host.

use core::arch::asm;

use super::bindings;

/// RDMSR of a register that is known to exist.
#[inline(always)]
pub(super) fn read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reading an MSR has no effect on memory. One that does not exist would fault without a handler: within `sys`,
    // only registers are read this way that every processor in IA-32e mode has.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR of a register that is known to exist, with a value that it is known to take.
#[inline(always)]
pub(super) fn write(msr: u32, value: u64) {
    // SAFETY: Within `sys`, only guest-visible registers are written this way, and restored before anything else uses
    // them.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// RDMSR, or `None` if the register does not exist.
pub(crate) fn read_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: The result goes to a local; a fault is caught.
    (unsafe { bindings::rkvm_rdmsr_safe(msr, &mut value) } == 0).then_some(value)
}

/// CPUID of this host, as [`cpuid`], with the features that the kernel uses only.
pub(crate) fn kernel_cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut regs = cpuid(leaf, subleaf);
    // SAFETY: Four registers are changed in the array.
    unsafe { bindings::rkvm_keep_kernel_features(leaf, subleaf, regs.as_mut_ptr()) };
    regs
}

/// CPUID of this host: EAX, EBX, ECX, EDX.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut regs = [0; 4];
    // SAFETY: Four registers are written to the array.
    unsafe { bindings::rkvm_cpuid(leaf, subleaf, regs.as_mut_ptr()) };
    regs
}

/// Whether the kernel uses CPU feature `feature` (X86_FEATURE_* number).
pub(crate) fn boot_cpu_has(feature: u32) -> bool {
    // SAFETY: Reads the boot CPU's capability bits; the numbers are the kernel's constants.
    unsafe { bindings::rkvm_boot_cpu_has(feature) }
}

/// RDTSC, not ordered.
#[inline(always)]
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: No preconditions.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The TSC's frequency in kHz, as the kernel calibrated it.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: Reads a kernel variable that is constant after boot.
    unsafe { bindings::rkvm_tsc_khz() }
}

/// An indirect branch prediction barrier, where the CPU has one.
pub(crate) fn indirect_branch_barrier() {
    const MSR_IA32_PRED_CMD: u32 = 0x49;
    // SAFETY: A command; a CPU without it faults, which is caught.
    unsafe { bindings::rkvm_wrmsr_safe(MSR_IA32_PRED_CMD, 1) };
}

/// Writes back and drops the L1 data cache, where the CPU has the command.
pub(crate) fn flush_l1d() {
    const MSR_IA32_FLUSH_CMD: u32 = 0x10b;
    // SAFETY: As above.
    unsafe { bindings::rkvm_wrmsr_safe(MSR_IA32_FLUSH_CMD, 1) };
}
