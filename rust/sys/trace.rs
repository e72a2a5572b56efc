// SPDX-License-Identifier: GPL-2.0

//! Tracepoints `rkvm:*`. One that is off costs a no-op: it is a static branch, and what it would show is computed by a
//! closure behind it.
//!
//! The events are defined in `include/rkvm_trace.h`. The `kernel` crate's `declare_trace!` looks for its events in its
//! own bindings, so this does the same for ours.

use super::addr::{Gpa, Gva};

/// The events' keys, and the functions that C makes for them.
#[allow(
    improper_ctypes,
    reason = "without lockdep a member of the key is empty; nothing is passed by value"
)]
mod ffi {
    use kernel::bindings::tracepoint;

    // The names and types are those of include/rkvm_trace.h.
    unsafe extern "C" {
        pub(super) static __tracepoint_rkvm_entry: tracepoint;
        pub(super) static __tracepoint_rkvm_exit: tracepoint;
        pub(super) static __tracepoint_rkvm_page_fault: tracepoint;
        pub(super) static __tracepoint_rkvm_mmio: tracepoint;
        pub(super) static __tracepoint_rkvm_pio: tracepoint;
        pub(super) static __tracepoint_rkvm_inj_virq: tracepoint;

        pub(super) fn rust_do_trace_rkvm_entry(vcpu: u32, rip: u64, intr: u32, error: u32);
        pub(super) fn rust_do_trace_rkvm_exit(
            vcpu: u32,
            reason: u32,
            rip: u64,
            info1: u64,
            info2: u64,
            intr: u32,
            error: u32,
        );
        pub(super) fn rust_do_trace_rkvm_page_fault(vcpu: u32, rip: u64, address: u64, error: u64);
        pub(super) fn rust_do_trace_rkvm_mmio(kind: u32, len: u32, gpa: u64, value: u64);
        pub(super) fn rust_do_trace_rkvm_pio(
            write: bool,
            port: u16,
            size: u32,
            count: u32,
            value: u32,
        );
        pub(super) fn rust_do_trace_rkvm_inj_virq(vector: u32, soft: bool, reinjected: bool);
    }
}

/// Whether somebody listens to an event: a no-op or a jump, patched by the kernel.
macro_rules! enabled {
    ($key:ident) => {{
        // SAFETY: The key is one of a tracepoint that C defined.
        unsafe {
            kernel::jump_label::static_branch_unlikely!(
                ffi::$key,
                kernel::bindings::tracepoint,
                key
            )
        }
    }};
}

/// What [`entry`] shows.
pub(crate) struct Entry {
    /// The vCPU's id.
    pub(crate) vcpu: u32,
    /// Guest RIP.
    pub(crate) rip: Gva,
    /// VM-entry interruption-information field.
    pub(crate) intr_info: u32,
    /// VM-entry exception error code.
    pub(crate) error_code: u32,
}

/// `rkvm:rkvm_entry`: a guest is about to be entered.
#[inline(always)]
pub(crate) fn entry(what: impl FnOnce() -> Entry) {
    if enabled!(__tracepoint_rkvm_entry) {
        let e = what();
        // SAFETY: Numbers only.
        unsafe { ffi::rust_do_trace_rkvm_entry(e.vcpu, e.rip.0, e.intr_info, e.error_code) };
    }
}

/// What [`exit`] shows.
pub(crate) struct Exit {
    /// The vCPU's id.
    pub(crate) vcpu: u32,
    /// The whole exit reason, with its flags.
    pub(crate) reason: u32,
    /// Guest RIP.
    pub(crate) rip: Gva,
    /// Exit qualification.
    pub(crate) qualification: u64,
    /// IDT-vectoring information.
    pub(crate) idt_vectoring: u64,
    /// VM-exit interruption information.
    pub(crate) intr_info: u32,
    /// VM-exit interruption error code.
    pub(crate) error_code: u32,
}

/// `rkvm:rkvm_exit`: a guest was left.
#[inline(always)]
pub(crate) fn exit(what: impl FnOnce() -> Exit) {
    if enabled!(__tracepoint_rkvm_exit) {
        let e = what();
        // SAFETY: Numbers only.
        unsafe {
            ffi::rust_do_trace_rkvm_exit(
                e.vcpu,
                e.reason,
                e.rip.0,
                e.qualification,
                e.idt_vectoring,
                e.intr_info,
                e.error_code,
            )
        };
    }
}

/// What [`page_fault`] shows.
pub(crate) struct PageFault {
    /// The vCPU's id.
    pub(crate) vcpu: u32,
    /// Guest RIP.
    pub(crate) rip: Gva,
    /// The guest physical address.
    pub(crate) address: u64,
    /// Error code, as of a #PF.
    pub(crate) error_code: u64,
}

/// `rkvm:rkvm_page_fault`: a fault of the guest that is the host's to solve.
#[inline(always)]
pub(crate) fn page_fault(what: impl FnOnce() -> PageFault) {
    if enabled!(__tracepoint_rkvm_page_fault) {
        let f = what();
        // SAFETY: Numbers only.
        unsafe {
            ffi::rust_do_trace_rkvm_page_fault(f.vcpu, f.rip.0, f.address, f.error_code);
        }
    }
}

/// The kinds of `rkvm:rkvm_mmio`.
#[derive(Clone, Copy)]
pub(crate) enum MmioKind {
    /// A read that goes to user space.
    UnsatisfiedRead = 0,
    /// A read with its result.
    Read = 1,
    /// A write.
    Write = 2,
}

/// `rkvm:rkvm_mmio`: an access of `len` bytes to an address without memory.
#[inline(always)]
pub(crate) fn mmio(kind: MmioKind, len: u32, gpa: Gpa, value: impl FnOnce() -> u64) {
    if enabled!(__tracepoint_rkvm_mmio) {
        // SAFETY: Numbers only.
        unsafe { ffi::rust_do_trace_rkvm_mmio(kind as u32, len, gpa.0, value()) };
    }
}

/// `rkvm:rkvm_pio`: `count` accesses of `size` bytes to a port; `value` is the first.
#[inline(always)]
pub(crate) fn pio(write: bool, port: u16, size: u32, count: u32, value: impl FnOnce() -> u32) {
    if enabled!(__tracepoint_rkvm_pio) {
        // SAFETY: Numbers only.
        unsafe { ffi::rust_do_trace_rkvm_pio(write, port, size, count, value()) };
    }
}

/// `rkvm:rkvm_inj_virq`: an interrupt is injected into the guest.
#[inline(always)]
pub(crate) fn inj_virq(vector: u8, soft: bool, reinjected: bool) {
    if enabled!(__tracepoint_rkvm_inj_virq) {
        // SAFETY: Numbers only.
        unsafe { ffi::rust_do_trace_rkvm_inj_virq(vector.into(), soft, reinjected) };
    }
}
