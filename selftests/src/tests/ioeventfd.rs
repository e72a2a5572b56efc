// SPDX-License-Identifier: GPL-2.0

//! KVM_IOEVENTFD: ports and memory, sizes, datamatch, wildcards, zero length, taking away.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::{drain, eventfd, Vm};
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::os::fd::AsRawFd;
use vmm_sys_util::eventfd::EventFd;

const DEVICE: u64 = 0xd000_0000;
const PORT: u64 = 0x200;
const END: u16 = 0x80;
const PIO: u32 = 1 << kvm_ioeventfd_flag_nr_pio;
const MATCH: u32 = 1 << kvm_ioeventfd_flag_nr_datamatch;
const DEASSIGN: u32 = 1 << kvm_ioeventfd_flag_nr_deassign;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    ports(t, dev)?;
    memory(t, dev)?;
    refused(t, dev)
}

fn add(vm: &Vm, addr: u64, len: u32, flags: u32, datamatch: u64) -> Outcome<EventFd> {
    let event = eventfd()?;
    vm.ioeventfd(event.as_raw_fd(), addr, len, flags, datamatch)?;
    Ok(event)
}

fn ports(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(edx, PORT as u32)?;
        a.mov(eax, 0x1234_0007)?;
        a.out(dx, al)?;
        a.out(dx, al)?;
        a.inc(edx)?;
        a.out(dx, ax)?;
        a.inc(edx)?;
        a.out(dx, al)?;
        a.mov(al, 8)?;
        a.out(dx, al)?;
        a.in_(al, dx)?;
        a.mov(al, 0)?;
        a.out(i32::from(END), al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let byte = add(&vm, PORT, 1, PIO, 0)?;
    let word = add(&vm, PORT + 1, 2, PIO, 0)?;
    let seven = add(&vm, PORT + 2, 1, PIO | MATCH, 7)?;
    t.eq(
        "a value that does not match comes to user space",
        vcpu.run()?,
        Exit::out8(PORT as u16 + 2, 8),
    );
    t.eq(
        "an IN does too",
        vcpu.run()?,
        Exit::In {
            port: PORT as u16 + 2,
            size: 1,
            count: 1,
        },
    );
    vcpu.reply(&[0]);
    t.eq("nothing else did", vcpu.run()?, Exit::out8(END, 0));
    t.eq("two writes were counted", drain(&byte), 2);
    t.eq("the word was counted", drain(&word), 1);
    t.eq("the matching value was counted", drain(&seven), 1);

    vm.ioeventfd(byte.as_raw_fd(), PORT, 1, PIO | DEASSIGN, 0)?;
    setup::enter(&vcpu, Mode::Long, setup::CODE, setup::STACK)?;
    t.eq(
        "taken away: the write comes to user space",
        vcpu.run()?,
        Exit::out8(PORT as u16, 7),
    );
    t.eq("and is not counted", drain(&byte), 0);
    t.eq(
        "the second as well",
        vcpu.run()?,
        Exit::out8(PORT as u16, 7),
    );
    t.eq(
        "the others stay",
        vcpu.run()?,
        Exit::out8(PORT as u16 + 2, 8),
    );
    t.eq("and count", (drain(&word), drain(&seven)), (1, 1));
    Ok(())
}

fn memory(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.mov(byte_ptr(rbx), al)?;
        a.mov(word_ptr(rbx + 8), ax)?;
        a.mov(dword_ptr(rbx + 0x10), eax)?;
        a.mov(qword_ptr(rbx + 0x18), rax)?;
        // The wrong size for the first, the right one for a wildcard of any length.
        a.mov(word_ptr(rbx), ax)?;
        a.mov(dword_ptr(rbx + 0x20), eax)?;
        a.mov(byte_ptr(rbx + 0x20), al)?;
        a.mov(dword_ptr(rbx + 0x28), 1u32)?;
        a.mov(dword_ptr(rbx + 0x28), 2u32)?;
        a.mov(dword_ptr(rbx + 0x28), 3u32)?;
        a.mov(al, 0)?;
        a.out(i32::from(END), al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let sizes = [(0, 1), (8, 2), (0x10, 4), (0x18, 8)]
        .into_iter()
        .map(|(offset, len)| add(&vm, DEVICE + offset, len, 0, 0))
        .collect::<Outcome<Vec<_>>>()?;
    let any = add(&vm, DEVICE + 0x20, 0, 0, 0)?;
    let one = add(&vm, DEVICE + 0x28, 4, MATCH, 1)?;
    let two = add(&vm, DEVICE + 0x28, 4, MATCH, 2)?;
    t.eq(
        "another size comes to user space",
        vcpu.run()?,
        Exit::mmio_write(DEVICE, &[0x88, 0x77]),
    );
    t.eq(
        "a value nobody asked for, too",
        vcpu.run()?,
        Exit::mmio_write(DEVICE + 0x28, &[3, 0, 0, 0]),
    );
    t.eq("nothing else does", vcpu.run()?, Exit::out8(END, 0));
    t.eq(
        "1, 2, 4 and 8 bytes are counted",
        sizes.iter().map(drain).collect::<Vec<_>>(),
        vec![1; 4],
    );
    t.eq("length 0 counts writes of any size", drain(&any), 2);
    t.eq(
        "two values at one address",
        (drain(&one), drain(&two)),
        (1, 1),
    );
    Ok(())
}

fn refused(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let event = eventfd()?;
    let other = eventfd()?;
    let (fd, second) = (event.as_raw_fd(), other.as_raw_fd());
    vm.ioeventfd(fd, DEVICE, 4, MATCH, 1)?;
    t.errno(
        "the same place and value twice",
        vm.ioeventfd(second, DEVICE, 4, MATCH, 1),
        libc::EEXIST,
    );
    t.errno(
        "a wildcard over a value",
        vm.ioeventfd(second, DEVICE, 4, 0, 0),
        libc::EEXIST,
    );
    t.success("another value", vm.ioeventfd(second, DEVICE, 4, MATCH, 2));
    t.success(
        "a port of the same number",
        vm.ioeventfd(second, DEVICE & 0xffff, 4, PIO, 1),
    );
    t.errno(
        "3 bytes",
        vm.ioeventfd(fd, DEVICE + 0x100, 3, 0, 0),
        libc::EINVAL,
    );
    t.errno(
        "9 bytes",
        vm.ioeventfd(fd, DEVICE + 0x100, 9, 0, 0),
        libc::EINVAL,
    );
    t.errno(
        "an unknown flag",
        vm.ioeventfd(fd, DEVICE + 0x100, 4, 1 << 20, 0),
        libc::EINVAL,
    );
    t.errno(
        "a range that wraps",
        vm.ioeventfd(fd, u64::MAX - 1, 4, 0, 0),
        libc::EINVAL,
    );
    t.errno(
        "datamatch with no length",
        vm.ioeventfd(fd, DEVICE + 0x100, 0, MATCH, 0),
        libc::EINVAL,
    );
    t.errno(
        "a descriptor that is none",
        vm.ioeventfd(-1, DEVICE + 0x100, 4, 0, 0),
        libc::EBADF,
    );
    t.errno(
        "one that is no eventfd",
        vm.ioeventfd(dev.fd(), DEVICE + 0x100, 4, 0, 0),
        libc::EINVAL,
    );
    t.errno(
        "taking away what is not there",
        vm.ioeventfd(fd, DEVICE + 0x100, 4, DEASSIGN, 0),
        libc::ENOENT,
    );
    t.errno(
        "taking away with another value",
        vm.ioeventfd(fd, DEVICE, 4, DEASSIGN | MATCH, 3),
        libc::ENOENT,
    );
    t.errno(
        "taking away with another eventfd",
        vm.ioeventfd(second, DEVICE, 4, DEASSIGN | MATCH, 1),
        libc::ENOENT,
    );
    t.success(
        "taking away",
        vm.ioeventfd(fd, DEVICE, 4, DEASSIGN | MATCH, 1),
    );
    t.errno(
        "taking away twice",
        vm.ioeventfd(fd, DEVICE, 4, DEASSIGN | MATCH, 1),
        libc::ENOENT,
    );
    Ok(())
}
