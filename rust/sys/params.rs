// SPDX-License-Identifier: GPL-2.0

//! Module parameters. `params.c` declares them, because only C can give them KVM's types and permissions.

use core::ptr::addr_of;

use super::bindings;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $t:ty = $c:ident;)*) => {
        $($(#[$doc])*
        #[inline]
        pub(crate) fn $name() -> $t {
            // SAFETY: An aligned word that sysfs may write at any time; any value is valid.
            unsafe { addr_of!(bindings::$c).read_volatile() }
        })*
    };
}

/// `nx_huge_pages`: guests do not execute large pages; if it was not set, where the processor needs that.
pub(crate) fn nx_huge_pages() -> bool {
    // SAFETY: No requirements. Called at load only.
    unsafe { bindings::rkvm_nx_huge_pages() }
}

params! {
    /// `ept`: use extended page tables.
    ept: bool = rkvm_param_ept;
    /// `eptad`: use their accessed and dirty bits.
    eptad: bool = rkvm_param_eptad;
    /// `unrestricted_guest`.
    unrestricted_guest: bool = rkvm_param_unrestricted_guest;
    /// `preemption_timer`.
    preemption_timer: bool = rkvm_param_preemption_timer;
    /// `vpid`.
    vpid: bool = rkvm_param_vpid;
    /// `pml`: the processor logs writes.
    pml: bool = rkvm_param_pml;
    /// `flexpriority`: accesses to the APIC's page are virtualized.
    flexpriority: bool = rkvm_param_flexpriority;
    /// `fasteoi`: a write to the EOI register is not decoded.
    fasteoi: bool = rkvm_param_fasteoi;
    /// `ple_gap`, TSC ticks.
    ple_gap: u32 = rkvm_param_ple_gap;
    /// `ple_window`, TSC ticks.
    ple_window: u32 = rkvm_param_ple_window;
    /// `fault_ahead`, pages.
    fault_ahead: u32 = rkvm_param_fault_ahead;
    /// `ignore_msrs`.
    ignore_msrs: bool = rkvm_param_ignore_msrs;
    /// `report_ignored_msrs`.
    report_ignored_msrs: bool = rkvm_param_report_ignored_msrs;
    /// `force_emulation_prefix`: not 0 turns it on, with 2 it clears RFLAGS.RF.
    force_emulation_prefix: i32 = rkvm_param_force_emulation_prefix;
    /// `halt_poll_ns`.
    halt_poll_ns: u32 = rkvm_param_halt_poll_ns;
}
