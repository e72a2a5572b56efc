// SPDX-License-Identifier: GPL-2.0

//! What each kind of exit costs, by the time-stamp counter.
//!
//! A guest loop makes one exit in each turn; this program reads the TSC around KVM_RUN. The cost of
//! a turn is all that happens in it: the exit, the kernel, for exits to user space the ioctl and
//! this program's small loop, and the two or three instructions of the turn itself. Of several
//! batches the cheapest counts, in which the host's own timer did not come. On an emulated machine
//! whose TSC goes by instructions these are host instructions, the same at every run. The guest's
//! own TSC would not do: KVM moves it at each KVM_RUN where the host's is marked unstable.

mod faults;
mod guest;
mod lifetime;

use crate::asm::*;
use crate::device::Device;
use crate::setup::Mode;
use crate::Outcome;
use guest::Loop;
use kvm_bindings::*;
use kvm_ioctls::{IoEventAddress, NoDatamatch};

/// Batches of which the cheapest counts.
pub const BATCHES: usize = 8;
/// Where no slot is.
const DEVICE: u64 = 0xd000_0000;
const IOAPIC: u64 = 0xfec0_0000;
const LAPIC: u64 = 0xfee0_0000;
const USER_PORT: i32 = 0x82;
const EVENT_PORT: u16 = 0x84;
const MISC_ENABLE: u32 = 0x1a0;
const TSC_DEADLINE: u32 = 0x6e0;

/// A benchmark: its name and its cost in ticks.
pub struct Bench {
    /// The name in the report.
    pub name: &'static str,
    /// What one turn does.
    pub about: &'static str,
    /// Measures it.
    pub run: fn(&Device, Mode) -> Outcome<u64>,
}

/// The host's TSC.
fn now() -> u64 {
    // SAFETY: RDTSC has no precondition in user mode of Linux.
    unsafe { std::arch::x86_64::_rdtsc() }
}

macro_rules! table {
    ($($name:ident: $about:literal = $run:expr;)*) => {
        /// All benchmarks, in the order they are run.
        pub const ALL: &[Bench] = &[$(Bench { name: stringify!($name), about: $about, run: $run },)*];
    };
}

table! {
    cpuid: "CPUID" = |d, m| in_kernel(d, m, 0, |a| a.cpuid());
    vmcall: "an unknown hypercall" = |d, m| in_kernel(d, m, 0, |a| { a.mov(eax, 0x7777)?; a.vmcall() });
    rdmsr: "RDMSR of IA32_MISC_ENABLE" =
        |d, m| in_kernel(d, m, 0, |a| { a.mov(ecx, MISC_ENABLE)?; a.rdmsr() });
    wrmsr_tsc_deadline: "WRMSR of a far TSC deadline" = |d, m| in_kernel(d, m, 0, deadline);
    pio_user: "OUT to user space" = |d, m| in_kernel(d, m, 0, |a| a.out(USER_PORT, al));
    pio_ioeventfd: "OUT to an ioeventfd" =
        |d, m| ioeventfd(d, m, &IoEventAddress::Pio(EVENT_PORT.into()), 1, |a| a.out(i32::from(EVENT_PORT), al));
    pio_pic: "IN from the PIC" = |d, m| in_kernel(d, m, 0, |a| a.in_(al, 0x21));
    mmio_user: "a store to user space" = |d, m| in_kernel(d, m, DEVICE, store);
    mmio_ioeventfd: "a store to an ioeventfd of 4 bytes" =
        |d, m| ioeventfd(d, m, &IoEventAddress::Mmio(DEVICE), 4, store);
    mmio_ioeventfd_any: "a store to an ioeventfd of any length" =
        |d, m| ioeventfd(d, m, &IoEventAddress::Mmio(DEVICE), 0, store);
    mmio_ioapic: "a load from the IOAPIC" = |d, m| in_kernel(d, m, IOAPIC, load);
    apic_read: "a load of the local APIC's id" =
        |d, m| in_kernel(d, m, LAPIC, |a| a.mov(eax, dword_ptr(0x20).gs()));
    apic_write: "a store to the local APIC's initial count" =
        |d, m| in_kernel(d, m, LAPIC, |a| a.mov(dword_ptr(0x380).gs(), eax));
    apic_eoi: "a store to the local APIC's EOI register" =
        |d, m| in_kernel(d, m, LAPIC, |a| a.mov(dword_ptr(0xb0).gs(), eax));
    ept_fault_present: "the first touch of each page in turn, which the host has" = |d, m| faults::measure(d, m, 1, true);
    ept_fault_absent: "the first touch of each page in turn, which the host has not" = |d, m| faults::measure(d, m, 1, false);
    ept_fault_present_apart: "the first touch of every other page, which the host has" = |d, m| faults::measure(d, m, 2, true);
    ept_fault_absent_apart: "the first touch of every other page, which the host has not" = |d, m| faults::measure(d, m, 2, false);
    host_fault_absent: "no exit: the VMM's own first touch of such a page" = |_, _| faults::host_alone();
    run_immediate_exit: "KVM_RUN with immediate_exit" = |d, m| lifetime::immediate_exit(d, m);
    vm_create_destroy: "KVM_CREATE_VM and close" = |d, _| lifetime::vm(d);
    vcpu_create_destroy: "a VM with an irqchip and a vCPU, made and closed" = |d, _| lifetime::vcpu(d);
}

fn store(a: &mut CodeAssembler) -> Asm {
    a.mov(dword_ptr(0).gs(), eax)
}

fn load(a: &mut CodeAssembler) -> Asm {
    a.mov(eax, dword_ptr(0).gs())
}

fn deadline(a: &mut CodeAssembler) -> Asm {
    a.mov(ecx, TSC_DEADLINE)?;
    a.mov(edx, 0x0100_0000)?;
    a.xor(eax, eax)?;
    a.wrmsr()
}

/// A loop that needs nothing but the in-kernel chips; GS is based at `device`.
fn in_kernel(
    dev: &Device,
    mode: Mode,
    device: u64,
    turn: impl Fn(&mut CodeAssembler) -> Asm,
) -> Outcome<u64> {
    let mut guest = Loop::new(dev, mode, device, turn)?;
    guest.cheapest()
}

fn ioeventfd(
    dev: &Device,
    mode: Mode,
    address: &IoEventAddress,
    len: u32,
    turn: impl Fn(&mut CodeAssembler) -> Asm,
) -> Outcome<u64> {
    let mut guest = Loop::new(dev, mode, DEVICE, turn)?;
    // The counter never comes near its limit; nobody reads it, as with a busy back end.
    let event = crate::vm::eventfd()?;
    match len {
        0 => guest.vm.fd.register_ioevent(&event, address, NoDatamatch)?,
        _ => {
            let (addr, flags) = match address {
                IoEventAddress::Pio(port) => (*port, 1 << kvm_ioeventfd_flag_nr_pio),
                IoEventAddress::Mmio(gpa) => (*gpa, 0),
            };
            guest
                .vm
                .ioeventfd(std::os::fd::AsRawFd::as_raw_fd(&event), addr, len, flags, 0)?;
        }
    }
    let cost = guest.cheapest()?;
    if crate::vm::drain(&event) == 0 {
        return Err("the eventfd was never signalled".into());
    }
    Ok(cost)
}
