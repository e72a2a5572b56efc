// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR in the guest.

use super::{EFER, FS_BASE, KERNEL_GS_BASE, LSTAR, NONE, PAT, STAR, SYSENTER_EIP, TSC};
use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const FEATURE_CONTROL: u32 = 0x3a;
/// `_IOW(KVMIO, 0x9c, __u64)`.
const KVM_X86_SETUP_MCE: u64 = 0x4008_ae9c;
const NON_CANONICAL: u64 = 0x1234_0000_0000_0000;

const GP_PORT: u16 = 0x0d;
const DONE_PORT: u16 = 0x0e;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    load(&vcpu, &ram)?;
    written(t, &mut vcpu)?;
    faulting(t, &mut vcpu)?;
    feature_control(t, &mut vcpu)
}

/// The programs that [`access`] starts, and the #GP handler.
fn load(vcpu: &Vcpu, ram: &Ram) -> Outcome {
    let write = asm64(|a| {
        a.wrmsr()?;
        a.out(DONE_PORT as i32, al)?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &write)?;
    ram.write(
        CODE + 0x100,
        &assemble(64, CODE + 0x100, |a| {
            a.rdmsr()?;
            a.out(DONE_PORT as i32, al)?;
            a.hlt()
        }),
    );
    let handler = CODE + 0x800;
    ram.write(
        handler,
        &assemble(64, handler, |a| {
            // The error code is on top.
            a.pop(rax)?;
            a.out(GP_PORT as i32, eax)?;
            a.hlt()
        }),
    );
    setup::gate(ram, Mode::Long, 13, handler);
    Ok(())
}

fn written(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    for (name, index, value) in [
        ("SYSENTER_EIP", SYSENTER_EIP, 0x1234_5678),
        ("STAR", STAR, 0x0023_0008_0000_0000),
        ("LSTAR", LSTAR, 0xffff_8000_0000_0000),
        ("PAT", PAT, 0x0606_0606_0606_0606),
        ("KERNEL_GS_BASE", KERNEL_GS_BASE, 0xffff_9000_0000_0000),
    ] {
        t.ok(
            format!("the guest writes {name}"),
            access(vcpu, true, index, value)?.is_some(),
        );
        t.eq(
            format!("the guest reads {name}"),
            access(vcpu, false, index, 0)?,
            Some(value),
        );
        t.eq(
            format!("user space reads {name}"),
            vcpu.msr(index)?,
            Some(value),
        );
    }
    let first = access(vcpu, false, TSC, 0)?.unwrap_or(0);
    let second = access(vcpu, false, TSC, 0)?.unwrap_or(0);
    t.ok("the TSC goes on", second > first);
    Ok(())
}

fn faulting(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    t.eq(
        "RDMSR of none is #GP(0)",
        access(vcpu, false, NONE, 0)?,
        None,
    );
    t.eq(
        "WRMSR of none is #GP(0)",
        access(vcpu, true, NONE, 0)?,
        None,
    );
    t.eq(
        "a bad PAT is #GP(0)",
        access(vcpu, true, PAT, 0x0202)?,
        None,
    );
    t.eq(
        "a non-canonical LSTAR is #GP(0)",
        access(vcpu, true, LSTAR, NON_CANONICAL)?,
        None,
    );
    t.eq(
        "a non-canonical FS base is #GP(0)",
        access(vcpu, true, FS_BASE, NON_CANONICAL)?,
        None,
    );
    t.eq(
        "clearing EFER.LME under paging is #GP(0)",
        access(vcpu, true, EFER, 0)?,
        None,
    );
    t.eq(
        "and LSTAR kept its value",
        vcpu.msr(LSTAR)?,
        Some(0xffff_8000_0000_0000),
    );
    Ok(())
}

/// WRMSR and RDMSR by the guest; the #GP handler says so on a port.
fn access(vcpu: &mut Vcpu, write: bool, index: u32, value: u64) -> Outcome<Option<u64>> {
    vcpu.with_regs(|r| {
        r.rip = if write { CODE } else { CODE + 0x100 };
        r.rsp = setup::STACK;
        r.rcx = u64::from(index);
        r.rax = value & 0xffff_ffff;
        r.rdx = value >> 32;
    })?;
    match vcpu.run()? {
        Exit::Out {
            port: GP_PORT,
            data,
            ..
        } if data == [0, 0, 0, 0] => Ok(None),
        Exit::Out {
            port: DONE_PORT, ..
        } => {
            let r = vcpu.regs()?;
            Ok(Some((r.rdx << 32) | r.rax))
        }
        other => Err(format!("MSR {index:#x}: {other:?}").into()),
    }
}

/// What firmware does on a machine with local machine checks: it switches them on and locks the register.
fn feature_control(t: &mut Tap, vcpu: &mut Vcpu) -> Outcome {
    const LOCKED: u64 = 1 << 0;
    const LMCE_ON: u64 = 1 << 20;
    const MCG_LMCE_P: u64 = 1 << 27;
    const MCG_EXT_CTL: u32 = 0x4d0;
    t.eq(
        "LMCE can't be switched on where it is not",
        access(vcpu, true, FEATURE_CONTROL, LMCE_ON)?,
        None,
    );
    t.eq(
        "KVM_X86_SETUP_MCE with LMCE",
        sys::ioctl_mut(vcpu.raw(), KVM_X86_SETUP_MCE, &mut (10 | MCG_LMCE_P)),
        Ok(0),
    );
    t.eq(
        "MCG_EXT_CTL is #GP(0) as long as LMCE is off",
        access(vcpu, false, MCG_EXT_CTL, 0)?,
        None,
    );
    t.ok(
        "the guest switches LMCE on and locks that",
        access(vcpu, true, FEATURE_CONTROL, LMCE_ON | LOCKED)?.is_some(),
    );
    t.eq(
        "the guest reads it",
        access(vcpu, false, FEATURE_CONTROL, 0)?,
        Some(LMCE_ON | LOCKED),
    );
    t.eq(
        "and MCG_EXT_CTL",
        access(vcpu, false, MCG_EXT_CTL, 0)?,
        Some(0),
    );
    t.eq(
        "what is locked is #GP(0)",
        access(vcpu, true, FEATURE_CONTROL, LOCKED)?,
        None,
    );
    t.eq(
        "user space opens the lock",
        vcpu.set_msr(FEATURE_CONTROL, 0)?,
        true,
    );
    t.eq(
        "user space can't set reserved bits",
        vcpu.set_msr(FEATURE_CONTROL, 1 << 3)?,
        false,
    );
    Ok(())
}
