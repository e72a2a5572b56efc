// SPDX-License-Identifier: GPL-2.0

//! Every allocation and every copy to or from user space fails once.
//!
//! A program that uses everything there is runs again and again, until each of its calls has met the failure of each
//! allocation and copy that it makes. What failed has to say so, has to work when it is asked again, and the guest has to
//! do all its work. In the end nothing is left. (The checkers of a debug kernel look for what was lost meanwhile.)

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::faults::Faults;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{eventfd, IDENTITY_MAP_ADDR, TSS_ADDR};
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::*;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Memory that the guest writes page by page, with a dirty log.
const LOGGED: u64 = 0x100_0000;
const LOGGED_PAGES: u64 = 4;
/// Memory of huge pages.
const LARGE: u64 = 0x200_0000;
const LARGE_LEN: usize = 8 * MIB;
/// A device of the VMM, and one with an eventfd.
const DEVICE: u64 = 0xd000_0000;
const DOORBELL: u64 = 0xd000_2000;
const MAGIC: u32 = 0x1234_5678;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let Some(mut faults) = Faults::new("rkvm")? else {
        t.skip("failing allocations", "this kernel has no fault injection");
        return Ok(());
    };
    let before = Left::now()?;
    let mut rounds = 0;
    while faults.again() {
        rounds += 1;
        round(&mut faults, dev.path()).map_err(|e| format!("round {rounds}: {e}"))?;
    }
    let failures: usize = faults.failed.values().sum();
    t.ok("calls fail", failures > 100);
    t.diag(format!(
        "{rounds} rounds; {} failures did not show, {failures} were the error of a call:",
        faults.hidden
    ));
    for (name, times) in &faults.failed {
        t.diag(format!("{times:4} {name}"));
    }
    t.eq("all errors are ENOMEM or EFAULT", &faults.odd, &Vec::new());
    t.eq("nothing is left", Left::now()?, before);
    Ok(())
}

/// What the module holds.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    references: String,
    machines: usize,
    files: usize,
}

impl Left {
    fn now() -> Outcome<Self> {
        Ok(Left {
            references: fs::read_to_string("/sys/module/rkvm/refcnt")?,
            machines: fs::read_dir("/sys/kernel/debug/rkvm")?.count(),
            files: sys::open_files(),
        })
    }
}

/// One run of the program.
fn round(faults: &mut Faults, path: &str) -> Outcome {
    let ram = Ram::new(0, MIB)?;
    let logged = Ram::new(LOGGED, LOGGED_PAGES as usize * PAGE)?;
    let large = Ram::new(LARGE, LARGE_LEN)?;
    let code = guest()?;
    let dev = faults.call("open", || Device::open(path).map_err(|_| Errno::last()))?;
    let fd = faults.call("KVM_CREATE_VM", || Ok(dev.kvm.create_vm()?))?;
    let cpuid = faults.call("KVM_GET_SUPPORTED_CPUID", || {
        Ok(dev.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)
    })?;
    faults.call("KVM_GET_MSR_INDEX_LIST", || {
        Ok(dev.kvm.get_msr_index_list()?)
    })?;
    chips(faults, &fd)?;
    slots(faults, fd.as_raw_fd(), &[&ram, &logged, &large])?;
    let events = [eventfd()?, eventfd()?, eventfd()?];
    for (gsi, event) in (5..).zip(&events[..2]) {
        faults.call("KVM_IRQFD", || Ok(fd.register_irqfd(event, gsi)?))?;
    }
    faults.call("KVM_IRQFD, resampled", || {
        Ok(fd.register_irqfd_with_resample(&events[2], &events[1], 9)?)
    })?;
    for address in [IoEventAddress::Mmio(DOORBELL), IoEventAddress::Pio(0x90)] {
        faults.call("KVM_IOEVENTFD", || {
            Ok(fd.register_ioevent(&events[0], &address, NoDatamatch)?)
        })?;
    }
    faults.call("KVM_REGISTER_COALESCED_MMIO", || {
        Ok(fd.register_coalesced_mmio(IoEventAddress::Mmio(DEVICE + 0x1000), 8)?)
    })?;
    let mut vcpus = Vec::new();
    for id in 0..2 {
        let vcpu = create_vcpu(faults, &fd, id)?;
        faults.call("KVM_SET_CPUID2", || Ok(vcpu.set_cpuid2(&cpuid)?))?;
        vcpus.push(Vcpu::new(vcpu, fd.run_size()));
    }
    let [vcpu, _] = &mut vcpus[..] else {
        return Err("two vCPUs".into());
    };
    faults.call("KVM_SET_SREGS, KVM_SET_REGS", || {
        setup::start(vcpu, &ram, Mode::Long, &code)
    })?;
    state(faults, vcpu)?;
    run_guest(faults, vcpu, &logged)?;
    dirty(faults, &fd)?;
    state(faults, vcpu)?;
    statistics(faults, &[fd.as_raw_fd(), vcpu.raw()])?;
    faults.call("KVM_IRQFD, taken away", || {
        Ok(fd.unregister_irqfd(&events[0], 5)?)
    })?;
    faults.call("KVM_IOEVENTFD, taken away", || {
        Ok(fd.unregister_ioevent(&events[0], &IoEventAddress::Pio(0x90), NoDatamatch)?)
    })?;
    Ok(())
}

/// Creates a vCPU and maps its kvm_run, in two calls.
fn create_vcpu(faults: &mut Faults, vm: &VmFd, id: u64) -> Outcome<VcpuFd> {
    let vcpu = faults.call("KVM_CREATE_VCPU", || {
        sys::ioctl(vm.as_raw_fd(), sys::KVM_CREATE_VCPU, id)
    })?;
    // SAFETY: the descriptor is new and ours.
    let vcpu = unsafe { OwnedFd::from_raw_fd(vcpu) };
    faults.call("mmap", || {
        let own = vcpu.try_clone().map_err(|_| Errno::last())?;
        // SAFETY: it is a descriptor of a vCPU, and owned by nobody else.
        Ok(unsafe { vm.create_vcpu_from_rawfd(own.into_raw_fd()) }?)
    })
}

/// Interrupt controllers, timer, routes, and the state of them.
fn chips(faults: &mut Faults, fd: &VmFd) -> Outcome {
    faults.call("KVM_SET_TSS_ADDR", || {
        Ok(fd.set_tss_address(TSS_ADDR as usize)?)
    })?;
    faults.call("KVM_SET_IDENTITY_MAP_ADDR", || {
        Ok(fd.set_identity_map_address(IDENTITY_MAP_ADDR)?)
    })?;
    faults.call("KVM_CREATE_IRQCHIP", || Ok(fd.create_irq_chip()?))?;
    faults.call("KVM_CREATE_PIT2", || {
        Ok(fd.create_pit2(kvm_pit_config::default())?)
    })?;
    let mut entry = kvm_irq_routing_entry {
        gsi: 5,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: 0xfee0_0000,
        data: 0x40,
        ..Default::default()
    };
    let routing = KvmIrqRouting::from_entries(&[entry]).map_err(|_| "no room for a route")?;
    faults.call("KVM_SET_GSI_ROUTING", || Ok(fd.set_gsi_routing(&routing)?))?;
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    faults.call("KVM_GET_IRQCHIP", || Ok(fd.get_irqchip(&mut chip)?))?;
    faults.call("KVM_SET_IRQCHIP", || Ok(fd.set_irqchip(&chip)?))?;
    let pit = faults.call("KVM_GET_PIT2", || Ok(fd.get_pit2()?))?;
    faults.call("KVM_SET_PIT2", || Ok(fd.set_pit2(&pit)?))?;
    let clock = faults.call("KVM_GET_CLOCK", || Ok(fd.get_clock()?))?;
    let clock = kvm_clock_data { flags: 0, ..clock };
    faults.call("KVM_SET_CLOCK", || Ok(fd.set_clock(&clock)?))?;
    Ok(())
}

/// Slots that come, change, move and go.
fn slots(faults: &mut Faults, fd: RawFd, rams: &[&Ram; 3]) -> Outcome {
    let mut set = |slot: u32, flags: u32, gpa: u64, len: usize, ram: &Ram| -> Outcome {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len as u64,
            userspace_addr: ram.hva(),
        };
        faults.call("KVM_SET_USER_MEMORY_REGION", || {
            sys::ioctl_with(fd, sys::KVM_SET_USER_MEMORY_REGION, &region)
        })?;
        Ok(())
    };
    let [ram, logged, large] = rams;
    set(0, 0, 0, ram.len(), ram)?;
    set(1, 0, LOGGED + MIB as u64, logged.len(), logged)?;
    set(1, 0, LOGGED, logged.len(), logged)?;
    set(1, KVM_MEM_LOG_DIRTY_PAGES, LOGGED, logged.len(), logged)?;
    set(2, 0, LARGE, large.len(), large)?;
    set(3, KVM_MEM_READONLY, 2 * LARGE, PAGE, logged)?;
    set(3, 0, 0, 0, logged)
}

/// Gets all of a vCPU's state and sets it again.
fn state(faults: &mut Faults, vcpu: &Vcpu) -> Outcome {
    let fd = &vcpu.fd;
    macro_rules! there_and_back {
        ($($get:ident $set:ident,)*) => {$(
            let state = faults.call(stringify!($get), || Ok(fd.$get()?))?;
            faults.call(stringify!($set), || Ok(fd.$set(&state)?))?;
        )*};
    }
    there_and_back! {
        get_regs set_regs,
        get_sregs set_sregs,
        get_fpu set_fpu,
        get_lapic set_lapic,
        get_xcrs set_xcrs,
        get_debug_regs set_debug_regs,
        get_vcpu_events set_vcpu_events,
    }
    let xsave = faults.call("get_xsave", || Ok(fd.get_xsave()?))?;
    faults.call("set_xsave", || {
        sys::ioctl_with(vcpu.raw(), sys::KVM_SET_XSAVE, &xsave).map(drop)
    })?;
    let mp_state = faults.call("get_mp_state", || Ok(fd.get_mp_state()?))?;
    faults.call("set_mp_state", || Ok(fd.set_mp_state(mp_state)?))?;
    faults.call("get_cpuid2", || Ok(fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?))?;
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: 0xc000_0102,
        ..Default::default()
    }])
    .map_err(|_| "no room for an MSR")?;
    faults.call("get_msrs", || Ok(fd.get_msrs(&mut msrs)?))?;
    faults.call("set_msrs", || Ok(fd.set_msrs(&msrs)?))?;
    faults.call("translate", || Ok(fd.translate_gva(setup::DATA)?))?;
    let debug = kvm_guest_debug::default();
    faults.call("set_guest_debug", || Ok(fd.set_guest_debug(&debug)?))?;
    Ok(())
}

/// Writes all memory, reads a device, knocks at a doorbell, copies a string to a port and says that it is done.
fn guest() -> Outcome<Vec<u8>> {
    Ok(asm64(|a| {
        for page in 0..LOGGED_PAGES {
            a.mov(rbx, LOGGED + page * PAGE as u64)?;
            a.mov(dword_ptr(rbx), MAGIC)?;
        }
        for page in 0..LARGE_LEN as u64 / (2 * MIB as u64) {
            a.mov(rbx, LARGE + page * 2 * MIB as u64)?;
            a.mov(dword_ptr(rbx + 8), MAGIC)?;
        }
        a.mov(rbx, DEVICE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(dword_ptr(rbx + 0x1000), eax)?;
        a.mov(rbx, DOORBELL)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.out(0x90, eax)?;
        a.mov(rsi, LOGGED)?;
        a.mov(ecx, 4)?;
        a.mov(edx, 0x41)?;
        a.rep().outsb()?;
        a.cpuid()?;
        a.mov(ecx, 0xc000_0102u32)?;
        a.rdmsr()?;
        a.mov(al, 7)?;
        a.out(0x80, al)?;
        a.hlt()
    }))
}

/// Runs the guest to its end. An access that was hit by the failure is made once more, by the guest.
fn run_guest(faults: &mut Faults, vcpu: &mut Vcpu, logged: &Ram) -> Outcome {
    loop {
        match faults.call("KVM_RUN", || vcpu.run())? {
            Exit::MmioRead {
                gpa: DEVICE,
                len: 4,
            } => vcpu.reply(&MAGIC.to_le_bytes()),
            Exit::Out {
                port: 0x41, data, ..
            } => {
                let want = MAGIC.to_le_bytes();
                if !want.ends_with(&data) && data != want[..data.len()] {
                    return Err(format!("the string: {data:x?}").into());
                }
            }
            Exit::Out {
                port: 0x80, data, ..
            } if data == [7] => break,
            other => return Err(format!("KVM_RUN: {other:x?}").into()),
        }
    }
    for page in 0..LOGGED_PAGES {
        if logged.get32(LOGGED + page * PAGE as u64) != MAGIC {
            return Err(format!("page {page} was not written").into());
        }
    }
    Ok(())
}

/// The dirty log knows the pages that were written, and gives them once.
fn dirty(faults: &mut Faults, fd: &VmFd) -> Outcome {
    let len = LOGGED_PAGES as usize * PAGE;
    // A copy to user space that failed has cost what was in the log, as with C KVM.
    let mut calls = 0;
    let log = faults.call("KVM_GET_DIRTY_LOG", || {
        calls += 1;
        Ok(fd.get_dirty_log(1, len)?)
    })?;
    if calls == 1 && log != [(1 << LOGGED_PAGES) - 1] {
        return Err(format!("dirty pages: {log:x?}").into());
    }
    Ok(())
}

/// The descriptors of the statistics, and what can be read from them.
fn statistics(faults: &mut Faults, of: &[RawFd]) -> Outcome {
    for fd in of {
        let fd = faults.call("KVM_GET_STATS_FD", || {
            sys::ioctl(*fd, sys::KVM_GET_STATS_FD, 0)
        })?;
        // SAFETY: the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut bytes = [0u8; 4096];
        faults.call("read of statistics", || {
            // SAFETY: the buffer has as many bytes.
            let n =
                unsafe { libc::pread(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            if n < 0 {
                Err(Errno::last())
            } else {
                Ok(())
            }
        })?;
    }
    Ok(())
}
