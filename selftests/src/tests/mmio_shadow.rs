// SPDX-License-Identifier: GPL-2.0

//! An access to a device in the interrupt shadow of STI and of MOV SS: no interrupt comes before the access, one that
//! waits comes right behind it.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// Where no slot is.
const DEVICE: u64 = 0xd000_0000;
const PORT: u16 = 0x80;
const VECTOR: u8 = 0x40;
const HANDLER: u64 = CODE + 0x800;

/// The access in the shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Store,
    Load,
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let handler = assemble(64, HANDLER, |a| {
        a.mov(rax, qword_ptr(rsp))?;
        a.out(i32::from(PORT), eax)?;
        a.iretq()
    });
    // The second time the page is known.
    for round in 0..2 {
        for access in [Access::Store, Access::Load] {
            ram.write(HANDLER, &handler);
            let name = |what: &str| format!("{access:?} {round}: {what}");
            sti(t, &mut vcpu, &ram, access, &name)?;
            mov_ss(t, &mut vcpu, &ram, access, &name)?;
        }
    }
    Ok(())
}

fn access(a: &mut CodeAssembler, access: Access) -> Asm {
    match access {
        Access::Store => a.mov(dword_ptr(rbx), ecx),
        Access::Load => a.mov(ecx, dword_ptr(rbx)),
    }
}

fn begin(vcpu: &mut Vcpu, ram: &Ram, code: &[u8]) -> Outcome {
    setup::start(vcpu, ram, Mode::Long, code)?;
    setup::gate(ram, Mode::Long, VECTOR, HANDLER);
    vcpu.with_regs(|r| {
        r.rbx = DEVICE;
        r.rcx = 0x77;
    })?;
    Ok(())
}

/// Whether user space may inject now.
fn ready(vcpu: &mut Vcpu) -> bool {
    vcpu.shared().ready_for_interrupt_injection != 0
}

/// Runs to the access to the device and answers it.
fn to_the_access(t: &mut Tap, vcpu: &mut Vcpu, which: Access, what: String) -> Outcome {
    let exit = vcpu.run()?;
    match which {
        Access::Store => {
            t.eq(what, exit, Exit::mmio_write(DEVICE, &[0x77, 0, 0, 0]));
        }
        Access::Load => {
            t.eq(
                what,
                exit,
                Exit::MmioRead {
                    gpa: DEVICE,
                    len: 4,
                },
            );
            vcpu.reply(&[1, 2, 3, 4]);
        }
    }
    Ok(())
}

/// Waits for the window with the request that stands, injects, and answers where the interrupt came.
fn interrupted_at(vcpu: &mut Vcpu) -> Result<Exit, crate::errno::Errno> {
    if !ready(vcpu) {
        match vcpu.run()? {
            Exit::IrqWindow => {}
            other => return Ok(other),
        }
    }
    vcpu.shared().request_interrupt_window = 0;
    vcpu.interrupt(VECTOR.into())?;
    vcpu.run()
}

fn sti(
    t: &mut Tap,
    vcpu: &mut Vcpu,
    ram: &Ram,
    which: Access,
    name: &dyn Fn(&str) -> String,
) -> Outcome {
    let code = asm64(|a| {
        a.sti()?;
        access(a, which)?;
        a.hlt()
    });
    begin(vcpu, ram, &code)?;
    vcpu.shared().request_interrupt_window = 1;
    to_the_access(
        t,
        vcpu,
        which,
        name("STI holds the interrupt back until the access"),
    )?;
    if which == Access::Store {
        t.ok(name("the shadow is over with the store"), ready(vcpu));
        t.eq(
            name("KVM_GET_VCPU_EVENTS says so"),
            vcpu.fd.get_vcpu_events()?.interrupt.shadow,
            0,
        );
    }
    // STI and the access are one and two bytes.
    let hlt = (CODE + 3) as u32;
    t.eq(
        name("the interrupt comes between the access and HLT"),
        interrupted_at(vcpu)?,
        Exit::out32(PORT, hlt),
    );
    t.eq(name("HLT after that"), vcpu.run()?, Exit::Hlt);
    let moved = if which == Access::Store {
        0x77
    } else {
        0x0403_0201
    };
    t.eq(name("ECX"), vcpu.regs()?.rcx, moved);
    Ok(())
}

fn mov_ss(
    t: &mut Tap,
    vcpu: &mut Vcpu,
    ram: &Ram,
    which: Access,
    name: &dyn Fn(&str) -> String,
) -> Outcome {
    let code = asm64(|a| {
        a.mov(eax, ss)?;
        a.mov(ss, eax)?;
        access(a, which)?;
        a.hlt()
    });
    begin(vcpu, ram, &code)?;
    vcpu.with_regs(|r| r.rflags |= 1 << 9)?;
    to_the_access(t, vcpu, which, name("an access behind MOV SS"))?;
    vcpu.shared().request_interrupt_window = 1;
    t.eq(
        name("the interrupt comes before HLT"),
        interrupted_at(vcpu)?,
        Exit::out32(PORT, (CODE + code.len() as u64 - 1) as u32),
    );
    t.eq(name("HLT after that, too"), vcpu.run()?, Exit::Hlt);
    Ok(())
}
