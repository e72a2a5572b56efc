// SPDX-License-Identifier: GPL-2.0

//! KVM_TPR_ACCESS_REPORTING: which accesses to the task priority exit, and with what.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode, CODE, STACK};
use crate::sys::*;
use crate::tap::Tap;
use crate::tests::stats;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

const DEFAULT: u64 = 0xfee0_0000;
/// Where no processor virtualizes accesses to the APIC.
const MOVED: u64 = 0xfed0_0000;
const ENABLED_BSP: u64 = 1 << 11 | 1 << 8;
const TPR: i32 = 0x80;
const PPR: i32 = 0xa0;
const EOI: i32 = 0xb0;
const STOP: u16 = 0x41;

/// An instruction, what it does to the task priority that is reported, and the priority after it.
type Step = (
    &'static str,
    fn(&mut CodeAssembler) -> Asm,
    Option<bool>,
    u8,
);

const READ: Option<bool> = Some(false);
const WRITE: Option<bool> = Some(true);

/// With the APIC at RBX. What a processor virtualizes comes first, and is the same everywhere.
const STEPS: &[Step] = &[
    (
        "mov imm",
        |a| a.mov(dword_ptr(rbx + TPR), 0x31u32),
        WRITE,
        0x31,
    ),
    (
        "mov to eax",
        |a| a.mov(eax, dword_ptr(rbx + TPR)),
        READ,
        0x31,
    ),
    (
        "mov from ecx",
        |a| a.mov(dword_ptr(rbx + TPR), ecx),
        WRITE,
        0x42,
    ),
    ("mov to al", |a| a.mov(al, byte_ptr(rbx + TPR)), READ, 0x42),
];

/// With the APIC at RBX, where each access is emulated.
const MORE: &[Step] = &[
    (
        "movzx of byte 1",
        |a| a.movzx(eax, byte_ptr(rbx + TPR + 1)),
        READ,
        0x42,
    ),
    ("or", |a| a.or(dword_ptr(rbx + TPR), 0x11), WRITE, 0x53),
    ("cmp", |a| a.cmp(dword_ptr(rbx + TPR), 0x53), READ, 0x53),
    ("xchg", |a| a.xchg(dword_ptr(rbx + TPR), ecx), WRITE, 0x42),
    ("PPR", |a| a.mov(eax, dword_ptr(rbx + PPR)), None, 0x42),
    ("EOI", |a| a.mov(dword_ptr(rbx + EOI), eax), None, 0x42),
    (
        "a byte is not written",
        |a| a.mov(byte_ptr(rbx + TPR), al),
        None,
        0x42,
    ),
    ("CR8", |a| a.mov(cr8, rdx), None, 0x50),
    (
        "mov to eax again",
        |a| a.mov(eax, dword_ptr(rbx + TPR)),
        READ,
        0x50,
    ),
];

/// The code of `steps` with a stop at its end, and the address of each step.
fn code(steps: &[Step]) -> (Vec<u8>, Vec<u64>) {
    let (mut bytes, mut at) = (Vec::new(), Vec::new());
    for (_, step, _, _) in steps {
        let ip = CODE + bytes.len() as u64;
        at.push(ip);
        bytes.extend(assemble(64, ip, step));
    }
    let ip = CODE + bytes.len() as u64;
    at.push(ip);
    bytes.extend(assemble(64, ip, |a| a.out(i32::from(STOP), al)));
    (bytes, at)
}

fn report(vcpu: &Vcpu, enabled: bool) -> Outcome {
    let mut control = kvm_tpr_access_ctl {
        enabled: enabled.into(),
        ..Default::default()
    };
    ioctl_mut(vcpu.raw(), KVM_TPR_ACCESS_REPORTING, &mut control)?;
    Ok(())
}

/// RIP and direction of the KVM_EXIT_TPR_ACCESS that KVM_RUN came back with.
fn access(vcpu: &mut Vcpu) -> (u64, u32) {
    // SAFETY: the caller has seen the exit reason.
    let access = unsafe { vcpu.shared().__bindgen_anon_1.tpr_access };
    (access.rip, access.is_write)
}

fn priority(vcpu: &Vcpu) -> Outcome<u8> {
    Ok(vcpu.fd.get_lapic()?.regs[TPR as usize] as u8)
}

/// A vCPU before the first of `steps`, with its APIC at `base`.
fn start(vm: &Vm, base: u64, steps: &[Step]) -> Outcome<(Vcpu, crate::ram::Ram, Vec<u64>)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let (bytes, at) = code(steps);
    setup::start(&vcpu, &ram, Mode::Long, &bytes)?;
    vcpu.with_sregs(|s| s.apic_base = base | ENABLED_BSP)?;
    again(&vcpu, base)?;
    Ok((vcpu, ram, at))
}

/// Back to the first step.
fn again(vcpu: &Vcpu, base: u64) -> Outcome {
    vcpu.with_regs(|r| {
        r.rip = CODE;
        r.rbx = base;
        r.rcx = 0x42;
        r.rdx = 5;
    })?;
    Ok(())
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    errors(t, dev)?;
    each_access(t, dev)?;
    switched(t, dev)?;
    default_place(t, dev)?;
    segment_base(t, dev)?;
    user_space(t, dev)
}

fn errors(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    let mut control = kvm_tpr_access_ctl {
        enabled: 1,
        flags: 1,
        ..Default::default()
    };
    t.errno(
        "flags",
        ioctl_mut(vcpu.raw(), KVM_TPR_ACCESS_REPORTING, &mut control),
        libc::EINVAL,
    );
    control.flags = 0;
    control.reserved = [7; 8];
    t.success(
        "without flags",
        ioctl_mut(vcpu.raw(), KVM_TPR_ACCESS_REPORTING, &mut control),
    );
    t.eq(
        "it comes back as it was",
        (control.enabled, control.flags, control.reserved),
        (1, 0, [7; 8]),
    );
    Ok(())
}

/// Each access exits once, when it is done.
fn each_access(t: &mut Tap, dev: &Device) -> Outcome {
    let steps: Vec<Step> = STEPS.iter().chain(MORE).copied().collect();
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram, at) = start(&vm, MOVED, &steps)?;
    report(&vcpu, true)?;
    for (i, (what, _, wanted, tpr)) in steps.iter().enumerate() {
        let Some(write) = wanted else { continue };
        if !t.eq(
            format!("{what}: the exit"),
            vcpu.run()?,
            Exit::Other(KVM_EXIT_TPR_ACCESS),
        ) {
            return Ok(());
        }
        t.eq(
            format!("{what}: where, and whether it was a write"),
            access(&mut vcpu),
            (at[i], u32::from(*write)),
        );
        t.eq(format!("{what}: it is done"), vcpu.regs()?.rip, at[i + 1]);
        t.eq(format!("{what}: the priority"), priority(&vcpu)?, *tpr);
    }
    t.eq("the last one has read", vcpu.regs()?.rax, 0x50);
    t.eq("no other exits", vcpu.run()?, Exit::out8(STOP, 0x50));
    Ok(())
}

/// Off by default, and off again.
fn switched(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram, at) = start(&vm, MOVED, STEPS)?;
    let end = Exit::out8(STOP, 0x42);
    t.eq("off at first", vcpu.run()?, end.clone());
    again(&vcpu, MOVED)?;
    report(&vcpu, true)?;
    t.eq("on", vcpu.run()?, Exit::Other(KVM_EXIT_TPR_ACCESS));
    report(&vcpu, false)?;
    t.eq("off in the middle", vcpu.run()?, end.clone());
    again(&vcpu, MOVED)?;
    vcpu.run()?;
    again(&vcpu, MOVED)?;
    t.eq("it stays off", vcpu.run()?, end);
    again(&vcpu, MOVED)?;
    report(&vcpu, true)?;
    t.eq("on again", vcpu.run()?, Exit::Other(KVM_EXIT_TPR_ACCESS));
    t.eq("at the first step", access(&mut vcpu), (at[0], 1));
    Ok(())
}

/// At its default place the processor may do all of it; whatever is emulated is reported.
fn default_place(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram, at) = start(&vm, DEFAULT, STEPS)?;
    report(&vcpu, true)?;
    let emulated = |vcpu: &Vcpu| -> Outcome<u64> { Ok(stats::of(vcpu.raw())?["insn_emulation"]) };
    let before = emulated(&vcpu)?;
    let mut reported = Vec::new();
    let mut exit = vcpu.run()?;
    while exit == Exit::Other(KVM_EXIT_TPR_ACCESS) && reported.len() < STEPS.len() {
        reported.push(access(&mut vcpu));
        exit = vcpu.run()?;
    }
    t.eq("default place: to the end", exit, Exit::out8(STOP, 0x42));
    let all: Vec<(u64, u32)> = STEPS
        .iter()
        .zip(at)
        .filter_map(|(s, at)| s.2.map(|write| (at, u32::from(write))))
        .collect();
    let wanted = if emulated(&vcpu)? == before {
        vec![]
    } else {
        all
    };
    t.diag(format!("{} accesses reported", reported.len()));
    t.eq("all that is emulated is reported", reported, wanted);
    Ok(())
}

/// It is RIP that is told, not a linear address.
fn segment_base(t: &mut Tap, dev: &Device) -> Outcome {
    const OFFSET: u64 = 0x20;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = assemble(32, OFFSET, |a| {
        a.mov(eax, dword_ptr(ebx + TPR))?;
        a.out(i32::from(STOP), al)
    });
    ram.write(CODE + OFFSET, &code);
    setup::enter(&vcpu, Mode::Protected, OFFSET, STACK)?;
    vcpu.with_sregs(|s| {
        s.apic_base = MOVED | ENABLED_BSP;
        s.cs.base = CODE;
    })?;
    vcpu.with_regs(|r| r.rbx = MOVED)?;
    report(&vcpu, true)?;
    t.eq(
        "with a base in CS: the exit",
        vcpu.run()?,
        Exit::Other(KVM_EXIT_TPR_ACCESS),
    );
    t.eq("RIP is the offset", access(&mut vcpu), (OFFSET, 0));
    t.eq("to the end", vcpu.run()?, Exit::out8(STOP, 0));
    Ok(())
}

/// Without an APIC in the kernel user space sees the access itself, as ever.
fn user_space(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &code(STEPS).0)?;
    again(&vcpu, DEFAULT)?;
    report(&vcpu, true)?;
    t.eq(
        "no APIC in the kernel: KVM_EXIT_MMIO",
        vcpu.run()?,
        Exit::mmio_write(DEFAULT + TPR as u64, &[0x31, 0, 0, 0]),
    );
    t.eq(
        "and no report behind it",
        vcpu.run()?,
        Exit::MmioRead {
            gpa: DEFAULT + TPR as u64,
            len: 4,
        },
    );
    Ok(())
}
