// SPDX-License-Identifier: GPL-2.0

//! The VMX instructions, one function each.
//!
//! SDM volume 3, "VMX Instruction Reference". Each has an exception-table entry: when a crash or reboot takes a CPU
//! out of VMX operation under a running vCPU, the instruction becomes a no-op instead of an oops.

use core::arch::asm;

use rkvm_core::addr::Hpa;
use rkvm_core::vmx::negotiate::Scope;

/// Appends the exception-table entry for the instruction between the labels 2 and 3.
macro_rules! fixup {
    () => {
        concat!(
            ".pushsection \"__ex_table\",\"a\"\n",
            ".balign 4\n",
            ".long (2b) - .\n",
            ".long (3f) - .\n",
            ".long 1\n",
            ".popsection\n",
            "3:\n",
        )
    };
}

/// VMREAD of the current VMCS. Zero if the CPU does not have the field.
///
/// # Safety
///
/// A VMCS is current on this CPU, and the caller can't be moved away from it: preemption is off, or the context
/// that the preempt notifier reloads is the caller's.
#[inline(always)]
pub(super) unsafe fn vmread(field: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: VMREAD only writes the register; by the caller's promise it reads the caller's VMCS.
    unsafe {
        asm!(
            "2: vmread {value}, {field}",
            fixup!(),
            value = inout(reg) value,
            field = in(reg) field,
            options(nostack)
        )
    };
    value
}

/// VMWRITE to the current VMCS. A failure is reported once: it is a bug, negotiation keeps absent fields away.
///
/// # Safety
///
/// As for [`vmread`], and the value keeps the host intact: host-state and control fields get what this module's
/// setup computes.
#[inline(always)]
pub(super) unsafe fn vmwrite(field: u64, value: u64) {
    // SAFETY: By the caller's promise.
    unsafe {
        asm!(
            "2: vmwrite {field}, {value}",
            "jna {failed}",
            fixup!(),
            field = in(reg) field,
            value = in(reg) value,
            failed = label {
                vmwrite_failed(field, value);
            },
            options(nostack)
        )
    };
}

#[cold]
#[inline(never)]
fn vmwrite_failed(field: u64, value: u64) {
    kernel::pr_err_once!("VMWRITE of {:#x} to field {:#x} failed\n", value, field);
}

/// VMCLEAR: writes the VMCS back to memory and makes it inactive.
///
/// # Safety
///
/// `vmcs` is the page of a VMCS, and VMX operation is on.
pub(super) unsafe fn vmclear(vmcs: Hpa) {
    // SAFETY: By the caller's promise.
    unsafe { asm!("2: vmclear qword ptr [{p}]", fixup!(), p = in(reg) &vmcs.0, options(nostack)) };
}

/// VMPTRLD: makes the VMCS current on this CPU.
///
/// # Safety
///
/// `vmcs` is the page of a VMCS with this CPU's revision identifier, active on no other CPU; preemption is off.
pub(super) unsafe fn vmptrld(vmcs: Hpa) {
    // SAFETY: By the caller's promise.
    unsafe { asm!("2: vmptrld qword ptr [{p}]", fixup!(), p = in(reg) &vmcs.0, options(nostack)) };
}

/// INVEPT or INVVPID, which have their operands in the same places.
macro_rules! invalidate {
    ($instruction:literal, $scope:expr, $descriptor:expr) => {{
        let descriptor: [u64; 2] = $descriptor;
        // SAFETY: It only drops cached translations.
        unsafe {
            asm!(
                concat!("2: ", $instruction, " {k}, xmmword ptr [{d}]"),
                "jna {failed}",
                fixup!(),
                k = in(reg) $scope as u64,
                d = in(reg) &descriptor,
                failed = label { flush_failed() },
                options(nostack)
            )
        };
    }};
}

/// INVEPT on this CPU (SDM, "INVEPT"): of one EPT pointer, or of all.
pub(crate) fn invept(scope: Scope, eptp: u64) {
    invalidate!("invept", scope, [eptp, 0]);
}

/// INVVPID on this CPU (SDM, "INVVPID"): of one VPID, or of all.
pub(crate) fn invvpid(scope: Scope, vpid: u16) {
    invalidate!("invvpid", scope, [u64::from(vpid), 0]);
}

/// A bug: the scope is one that the processor has.
#[cold]
#[inline(never)]
fn flush_failed() {
    kernel::pr_err_once!("INVEPT or INVVPID failed: guests may use stale translations\n");
}
