// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_STATS_FD: the layout of api.rst, and a counter that counts.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::tests::signals;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

/// The six words of the header.
struct Header {
    name_size: usize,
    descriptors: usize,
    id_offset: u64,
    descriptor_offset: u64,
    data_offset: u64,
}

/// All statistics of a VM or a vCPU at this moment, each one's first value, by name.
pub fn of(fd: RawFd) -> Outcome<BTreeMap<String, u64>> {
    read(&open(fd)?)
}

fn open(fd: RawFd) -> Result<File, Errno> {
    let fd = sys::ioctl(fd, sys::KVM_GET_STATS_FD, 0)?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn header(file: &File) -> Outcome<Header> {
    let mut bytes = [0; 24];
    file.read_exact_at(&mut bytes, 0)?;
    let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    Ok(Header {
        name_size: word(4) as usize,
        descriptors: word(8) as usize,
        id_offset: word(12).into(),
        descriptor_offset: word(16).into(),
        data_offset: word(20).into(),
    })
}

/// Each statistic's first value, by name.
fn read(file: &File) -> Outcome<BTreeMap<String, u64>> {
    let h = header(file)?;
    let size = 16 + h.name_size;
    let mut all = BTreeMap::new();
    for i in 0..h.descriptors {
        let mut d = vec![0; size];
        file.read_exact_at(&mut d, h.descriptor_offset + (i * size) as u64)?;
        let offset = u32::from_le_bytes([d[8], d[9], d[10], d[11]]);
        let name: Vec<u8> = d[16..].iter().copied().take_while(|b| *b != 0).collect();
        let mut value = [0; 8];
        file.read_exact_at(&mut value, h.data_offset + u64::from(offset))?;
        all.insert(String::from_utf8(name)?, u64::from_le_bytes(value));
    }
    Ok(all)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    if dev.cap(KVM_CAP_BINARY_STATS_FD) <= 0 {
        t.ok("KVM_CAP_BINARY_STATS_FD", false);
        return Ok(());
    }
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| forever(a, |a| a.out(0x40, al)));
    setup::start(&vcpu, &ram, Mode::Long, &code)?;

    let of_vm = open(vm.raw())?;
    let of_vcpu = open(vcpu.raw())?;
    for (name, file) in [("VM", &of_vm), ("vCPU", &of_vcpu)] {
        let h = header(file)?;
        t.ok(format!("{name}: there are statistics"), h.descriptors > 0);
        t.ok(
            format!("{name}: the id is behind the header"),
            h.id_offset >= 24,
        );
        t.ok(
            format!("{name}: data is behind the descriptors"),
            h.data_offset >= h.descriptor_offset + (h.descriptors * (16 + h.name_size)) as u64,
        );
        let mut id = vec![0; h.name_size];
        file.read_exact_at(&mut id, h.id_offset)?;
        t.ok(
            format!("{name}: the id begins with kvm-"),
            id.starts_with(b"kvm-"),
        );
        let all = read(file)?;
        t.eq(
            format!("{name}: names are unique"),
            all.len(),
            h.descriptors,
        );
    }
    let before = read(&of_vcpu)?;
    for name in [
        "exits",
        "io_exits",
        "halt_exits",
        "mmio_exits",
        "irq_injections",
    ] {
        t.ok(format!("vCPU: {name} is there"), before.contains_key(name));
    }
    for _ in 0..10 {
        vcpu.run()?;
    }
    let after = read(&of_vcpu)?;
    let grew =
        |name: &str| after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
    t.ok(
        "ten port accesses are ten exits at least",
        grew("exits") >= 10,
    );
    t.eq("and ten io_exits", grew("io_exits"), 10);

    for name in ["fpu_reload", "host_state_reload"] {
        t.ok(format!("and {name} as often"), grew(name) >= 10);
    }

    drop(vcpu);
    drop(vm);
    t.ok(
        "the file outlives the VM's descriptor",
        read(&of_vm).is_ok(),
    );
    t.errno(
        "it can't be written",
        (&of_vm)
            .write(&[0])
            .map_err(|e| Errno(e.raw_os_error().unwrap_or(0))),
        libc::EBADF,
    );
    events(t, dev)?;
    blocking(t, dev)
}

/// NMIs, interrupt windows, and what the guest is told of pages that are not there.
fn events(t: &mut Tap, dev: &Device) -> Outcome {
    const HANDLERS: u64 = CODE + 0x1000;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        forever(a, |a| a.out(0x40, al))
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLERS, |a| {
        a.out(0x41, al)?;
        a.iretq()
    });
    ram.write(HANDLERS, &handler);
    setup::gate(&ram, Mode::Long, 2, HANDLERS);

    t.eq("the guest runs", vcpu.run()?, Exit::out8(0x40, 0));
    let before = of(vcpu.raw())?;
    sys::ioctl(vcpu.raw(), sys::KVM_NMI, 0)?;
    t.eq("it gets an NMI", vcpu.run()?, Exit::out8(0x41, 0));
    vcpu.shared().request_interrupt_window = 1;
    t.eq("it has a window", vcpu.run()?, Exit::IrqWindow);
    let after = of(vcpu.raw())?;
    t.eq(
        "request_irq_exits",
        after.get("request_irq_exits"),
        before.get("request_irq_exits").map(|n| n + 1).as_ref(),
    );
    // C KVM counts again what a fault of the EPT has interrupted.
    t.ok(
        "nmi_injections",
        after.get("nmi_injections") > before.get("nmi_injections"),
    );
    t.ok(
        "req_event",
        after.get("req_event") > before.get("req_event"),
    );
    Ok(())
}

/// A vCPU that sleeps in HLT.
fn blocking(t: &mut Tap, dev: &Device) -> Outcome {
    signals::catch()?;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(|a| a.hlt()))?;
    let file = open(vcpu.raw())?;
    let blocks = || -> Outcome<Option<u64>> { Ok(read(&file)?.get("blocking").copied()) };
    t.eq("blocking: before", blocks()?, Some(0));
    let mut seen = false;
    // The first of the signals comes when the counter was seen, or never will be.
    let wait = || {
        for _ in 0..1000 {
            seen = seen || blocks().is_ok_and(|b| b == Some(1));
            if seen {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    };
    let (result, _vcpu) = signals::interrupt_after(vcpu, wait)?;
    t.errno("a signal wakes it", result, libc::EINTR);
    t.ok("in HLT", seen);
    t.eq("and after", blocks()?, Some(0));
    Ok(())
}
