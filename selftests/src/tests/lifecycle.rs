// SPDX-License-Identifier: GPL-2.0

//! Making and ending VMs: in any order of closing, many times, with nothing left behind.

use crate::asm::*;
use crate::child::{pipe, Child};
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::{eventfd, Vm};
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::fs::File;
use std::io::{Read, Write};

fn code() -> Vec<u8> {
    asm64(|a| {
        forever(a, |a| {
            a.mov(al, 3)?;
            a.out(0x80, al)
        })
    })
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    names(t, dev)?;
    orders(t, dev)?;
    many(t, dev)?;
    killed(t, dev)
}

/// What /proc tells of the descriptors, by which programs find a VM's vCPUs.
fn names(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let vcpu = vm.vcpu(3)?;
    let statistics = |fd| sys::ioctl(fd, sys::KVM_GET_STATS_FD, 0);
    let (of_vm, of_vcpu) = (statistics(vm.raw())?, statistics(vcpu.raw())?);
    for (fd, name) in [
        (vm.raw(), "kvm-vm"),
        (vcpu.raw(), "kvm-vcpu:3"),
        (of_vm, "kvm-vm-stats"),
        (of_vcpu, "kvm-vcpu-stats:3"),
    ] {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
        t.eq(
            format!("/proc names a descriptor {name}"),
            link.to_string_lossy(),
            format!("anon_inode:{name}"),
        );
    }
    for fd in [of_vm, of_vcpu] {
        // SAFETY: descriptors of ours, of which nobody else knows.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

fn orders(t: &mut Tap, dev: &Device) -> Outcome {
    let own = dev.reopen()?;
    let vm = Vm::new(&own)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &code())?;
    drop(own);
    t.eq(
        "the device closed first: the VM goes on",
        vcpu.run()?,
        Exit::out8(0x80, 3),
    );
    drop(vm);
    t.eq(
        "the VM's descriptor closed: the vCPU goes on",
        vcpu.run()?,
        Exit::out8(0x80, 3),
    );
    drop(ram);
    t.errno(
        "its memory unmapped: KVM_RUN fails",
        vcpu.run(),
        libc::EFAULT,
    );
    drop(vcpu);

    let vm = Vm::new(dev)?;
    drop(vm.vcpu(0)?);
    t.errno(
        "a vCPU id stays taken when its descriptor is closed",
        vm.vcpu(0).map(drop),
        libc::EEXIST,
    );
    t.success("another id is free", vm.vcpu(1).map(drop));
    Ok(())
}

/// Makes everything there is, uses it, lets go of it, again and again.
fn many(t: &mut Tap, dev: &Device) -> Outcome {
    const ROUNDS: usize = 20;
    let files = sys::open_files();
    let mut good = 0;
    for round in 0..ROUNDS {
        let vm = Vm::with_irqchip(dev)?;
        vm.fd.create_pit2(kvm_pit_config::default())?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let event = eventfd()?;
        vm.fd.register_irqfd(&event, 5)?;
        vm.fd.register_ioevent(
            &event,
            &kvm_ioctls::IoEventAddress::Pio(0x90),
            kvm_ioctls::NoDatamatch,
        )?;
        let mut vcpu = vm.vcpu(0)?;
        let other = vm.vcpu(1)?;
        setup::start(&vcpu, &ram, Mode::Long, &code())?;
        good += usize::from(vcpu.run()? == Exit::out8(0x80, 3));
        if round % 2 == 0 {
            drop(vm);
            drop(vcpu);
        } else {
            drop(vcpu);
            drop(vm);
        }
        drop(other);
    }
    t.eq("twenty machines ran one after another", good, ROUNDS);
    t.eq("no descriptor is left", sys::open_files(), files);
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    t.eq(
        "no mapping of a vCPU is left",
        maps.lines().filter(|l| l.contains("kvm-vcpu")).count(),
        0,
    );
    Ok(())
}

/// A process that is killed while its guest runs leaves nothing behind that stops the next one.
fn killed(t: &mut Tap, dev: &Device) -> Outcome {
    for round in 0..3 {
        let (mut ready, their_end) = pipe()?;
        let path = dev.path().to_owned();
        let child = Child::fork(|| spin(&path, their_end))?;
        t.success(
            format!("child {round} ran its guest"),
            ready.read_exact(&mut [0]),
        );
        child.kill();
        t.eq(
            format!("child {round} was killed"),
            child.end(),
            Some(libc::SIGKILL),
        );
    }
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &code())?;
    t.eq("the next machine runs", vcpu.run()?, Exit::out8(0x80, 3));
    Ok(())
}

/// A guest that never exits after its first port access, which is told on `ready`.
fn spin(path: &str, mut ready: File) -> Outcome<bool> {
    let dev = Device::open(path)?;
    let vm = Vm::new(&dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        a.out(0x80, al)?;
        forever(a, |_| Ok(()))
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.run()?;
    ready.write_all(&[1])?;
    vcpu.run().map(|_| false).map_err(Into::into)
}
