// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_X86_APIC_BUS_CYCLES_NS: how long a cycle is that the APIC's timer counts.

use std::time::{Duration, Instant};

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const KVM_CAP_X86_APIC_BUS_CYCLES_NS: u32 = 237;
const APIC: u64 = 0xfee0_0000;

fn set(vm: &Vm, ns: u64) -> Result<i32, Errno> {
    let request = kvm_enable_cap {
        cap: KVM_CAP_X86_APIC_BUS_CYCLES_NS,
        args: [ns, 0, 0, 0],
        ..Default::default()
    };
    sys::ioctl_with(vm.raw(), sys::KVM_ENABLE_CAP, &request)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let cap = KVM_CAP_X86_APIC_BUS_CYCLES_NS;
    t.eq("a cycle takes 1 ns", dev.cap(cap), 1);
    t.errno("no local APICs", set(&Vm::new(dev)?, 25), libc::ENXIO);
    let vm = Vm::with_irqchip(dev)?;
    t.errno("no time at all", set(&vm, 0), libc::EINVAL);
    // The longest time that a timer can take is still less than 2^64 ns.
    t.errno("more than fits", set(&vm, 1 << 25 | 1), libc::EINVAL);
    t.success("the most that fits", set(&vm, 1 << 25));
    t.success("1 us", set(&vm, 1000));
    t.eq("the VM's answer", vm.cap(cap), 1000);
    t.eq("that of others", dev.cap(cap), 1);

    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    t.errno("with a vCPU there", set(&vm, 1), libc::EINVAL);
    let code = asm64(|a| {
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        // One-shot, masked, each cycle counts: 0.2 s.
        a.mov(dword_ptr(rbx + 0x320), 1u32 << 16)?;
        a.mov(dword_ptr(rbx + 0x3e0), 0xbu32)?;
        a.mov(dword_ptr(rbx + 0x380), 200_000u32)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.cmp(dword_ptr(rbx + 0x390), 0)?;
        a.jne(again)?;
        a.out(0x40, al)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let began = Instant::now();
    let exit = vcpu.run()?;
    t.eq("the timer runs down", exit, Exit::out8(0x40, 0));
    t.ok("in its time", began.elapsed() >= Duration::from_millis(200));
    Ok(())
}
