// SPDX-License-Identifier: GPL-2.0

//! The behaviour tests, one subject a file, and the table they are run from.

mod apic_bus;
mod apic_errors;
mod apic_places;
mod bad_input;
mod boot_sector;
mod capabilities;
mod coalesced_mmio;
mod compat;
mod cpuid;
mod debug_traps;
mod debugger;
mod delivery;
mod device_memory;
mod dirty_log;
mod dirty_log_busy;
mod dirty_log_clear;
mod emulated_paging;
mod exceptions;
mod exit_data;
mod failed_entry;
mod fault_ahead;
mod faults;
mod forced_emulation;
mod halt_polling;
mod hlt;
mod huge_pages;
mod hypercall;
mod init;
mod injection;
mod ioeventfd;
mod irqfd;
mod kvmclock;
mod kvmclock_cpus;
mod kvmclock_places;
mod lapic_timer;
mod lifecycle;
mod limits;
mod memory_errors;
mod memslot_raced;
mod memslot_readonly;
mod memslot_running;
mod memslots;
mod mmio;
mod mmio_forms;
mod mmio_shadow;
mod mmio_step;
mod mmio_strings;
mod mode_long;
mod mode_pae;
mod mode_protected;
mod mode_real;
mod mode_switch;
mod msi;
mod msr;
mod msr_filter;
mod msr_restored;
mod nmi;
mod notifier;
mod pio;
mod pio_string;
mod pit;
mod pv_features;
mod restored_events;
mod rtc;
mod signal_mask;
mod signals;
mod smp;
mod split_irqchip;
mod state_cpu;
mod state_vm;
mod stats;
mod steal_time;
mod sync_regs;
mod syscall_msrs;
mod table_accounting;
mod tables_in_rom;
mod task_priority;
mod tpr_access;
mod tsc;
mod tsc_halted;
mod two_vms;
mod userfaultfd;
mod vapic;
mod x2apic_api;

use crate::device::Device;
use crate::tap::Tap;
use crate::Outcome;

/// A behaviour test.
pub struct Test {
    /// The name it is run by.
    pub name: &'static str,
    /// What it looks at, in a line.
    pub about: &'static str,
    /// Its code. An error is a failure of what the test stands on.
    pub run: fn(&mut Tap, &Device) -> Outcome,
}

impl Test {
    /// What it needs of the machine, as the harness reads it from the list: `key=value`.
    pub fn needs(&self) -> &'static str {
        match self.name {
            // Thousands of states are loaded.
            "forced_emulation" => "timeout=120 on=rkvm ",
            // C KVM keeps such a vector in IRR.
            "apic_errors" => "on=rkvm ",
            // C KVM does not end it.
            "delivery" => "on=rkvm ",
            "huge_pages" => "mem=3072 append=hugepagesz=1G,hugepages=1,hugepagesz=2M,hugepages=4 ",
            // C KVM takes the table for the operand.
            "tables_in_rom" => "on=rkvm ",
            // C KVM keeps to the old time.
            "tsc_halted" => "on=rkvm ",
            "tsc" | "kvmclock" => "clock=tsc append=tsc=reliable ",
            "kvmclock_cpus" | "memslot_raced" | "sync_regs" => "cpus=2 ",
            // Only the debug kernel lets allocations fail.
            "faults" => "on=rkvm timeout=120 when=debug ",
            _ => "",
        }
    }
}

macro_rules! tests {
    ($($name:ident: $about:literal,)*) => {
        /// All tests, in the order they are run.
        pub const ALL: &[Test] = &[$(Test { name: stringify!($name), about: $about, run: $name::run },)*];
    };
}

tests! {
    capabilities: "ABI version, capabilities, kvm_run size",
    mode_real: "a real-mode guest",
    boot_sector: "a BIOS and its boot sector: unreal mode, protected mode, 64-bit mode and back",
    mode_protected: "32-bit protected mode, with and without paging",
    mode_pae: "PAE paging, memory above 4 GiB",
    mode_long: "64-bit mode, KVM_TRANSLATE",
    mode_switch: "a guest that climbs from real to 64-bit mode by itself",
    pio: "IN and OUT of all sizes",
    pio_string: "INS and OUTS with REP",
    mmio: "loads, stores and string moves to where no RAM is",
    mmio_forms: "exchanges, LOCK, extensions, wide and page-crossing operands to where no RAM is",
    mmio_strings: "MOVS, STOS, LODS, CMPS, SCAS to where no RAM is",
    mmio_step: "single steps and breakpoints over accesses to devices",
    mmio_shadow: "accesses to devices in an interrupt shadow",
    cpuid: "supported leaves, the guest's CPUID, OSXSAVE",
    exceptions: "#DE #BP #UD #NM #DF #GP #PF to the guest's IDT, triple fault",
    debug_traps: "single steps and breakpoints of the guest itself, in interrupt shadows too",
    delivery: "events whose delivery accesses a device",
    exit_data: "failed entries and emulation, failed calls: what kvm_run tells",
    forced_emulation: "the emulator beside the processor, in all modes",
    emulated_paging: "the emulator's page walk after CR0.WP and CR3 have changed",
    injection: "VCPU_EVENTS, KVM_NMI, KVM_INTERRUPT and its window",
    restored_events: "what KVM_GET_VCPU_EVENTS tells goes on where it is restored",
    hlt: "HLT with and without an in-kernel local APIC",
    halt_polling: "the parameter halt_poll_ns, and signals to a vCPU that polls",
    task_priority: "TPR, CR8 and the x2APIC's: what it holds back, and when that comes",
    tpr_access: "KVM_TPR_ACCESS_REPORTING",
    vapic: "KVM_SET_VAPIC_ADDR: the task priority in guest memory",
    apic_errors: "what a local APIC says of messages that it can't take",
    apic_places: "the page of the local APIC: default, moved, gone; EOI of level interrupts",
    failed_entry: "a guest state that can't be entered, and mended",
    signals: "signals, immediate_exit, KVM_SET_SIGNAL_MASK",
    signal_mask: "KVM_SET_SIGNAL_MASK: signals of any action, masked ones, bad masks",
    memslots: "what a slot may be, moving, deleting, 256 of them",
    memslot_readonly: "read-only slots",
    tables_in_rom: "page tables in a read-only slot",
    memslot_raced: "a slot that appears where two vCPUs write",
    memslot_running: "slots changed under a running guest",
    dirty_log: "KVM_GET_DIRTY_LOG",
    dirty_log_clear: "KVM_CLEAR_DIRTY_LOG",
    dirty_log_busy: "a copy that follows the dirty log while two vCPUs write",
    fault_ahead: "memory touched in order, backwards and here and there",
    notifier: "host pages dropped, moved, copied, swapped under a guest",
    userfaultfd: "guest memory whose pages user space brings",
    huge_pages: "guest memory in pages of 2 MiB and 1 GiB",
    device_memory: "a slot over memory of a device",
    table_accounting: "page tables of guests in /proc/meminfo",
    memory_errors: "a broken page of guest memory: SIGBUS",
    ioeventfd: "KVM_IOEVENTFD on ports and memory",
    irqfd: "KVM_IRQFD, edges and resampled levels",
    msi: "KVM_SIGNAL_MSI and KVM_SET_GSI_ROUTING",
    split_irqchip: "local APICs in the kernel, the rest in user space",
    x2apic_api: "KVM_CAP_X2APIC_API: 32-bit ids, broadcasts, suppressed EOIs",
    nmi: "NMIs of devices, the I/O APIC and processors",
    lapic_timer: "one-shot, periodic, TSC deadline",
    apic_bus: "KVM_CAP_X86_APIC_BUS_CYCLES_NS",
    pit: "PIT through PIC and I/O APIC",
    rtc: "KVM_IRQ_LINE_STATUS of the real-time clock",
    smp: "INIT and SIPI, interrupts between two vCPUs",
    init: "INIT of bootstrap and other processors",
    syscall_msrs: "the MSRs of SYSCALL and TSC_AUX, two guests and the host in turn",
    two_vms: "two VMs in turn and in two threads",
    state_cpu: "vCPU state ioctls read back",
    sync_regs: "KVM_CAP_SYNC_REGS: registers and events in kvm_run",
    state_vm: "IRQCHIP, PIT2 and CLOCK read back",
    coalesced_mmio: "coalesced MMIO and PIO",
    hypercall: "VMCALL, kvmclock",
    pv_features: "KVM_CAP_ENFORCE_PV_FEATURE_CPUID, PV_UNHALT",
    compat: "ioctls of 32-bit programs",
    tsc: "KVM_SET_TSC_KHZ on several vCPUs",
    tsc_halted: "a TSC that is set past the deadline of a vCPU in HLT",
    kvmclock: "flags and frequency of clock pages, and when they are written",
    kvmclock_cpus: "clock pages on a host that does not trust its TSC",
    kvmclock_places: "clock pages that reach out of a memory slot",
    stats: "KVM_GET_STATS_FD",
    steal_time: "MSR_KVM_STEAL_TIME",
    bad_input: "errors of every ioctl",
    limits: "vCPU ids, frequencies, NMIs, entries of lists",
    lifecycle: "closing in any order, many VMs, killed processes",
    faults: "every allocation and every copy to or from user space fails once",
    debugger: "KVM_SET_GUEST_DEBUG: steps and breakpoints",
    msr_filter: "KVM_X86_SET_MSR_FILTER, MSR exits to user space",
    msr_restored: "MSRs before CPUID, of another vendor, of wide addresses",
    msr: "MSR lists, get and set, RDMSR and WRMSR with #GP",
}
