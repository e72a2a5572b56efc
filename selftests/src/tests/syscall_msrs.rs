// SPDX-License-Identifier: GPL-2.0

//! MSRs that a host kernel has no use for until it returns to user space: those of SYSCALL, and TSC_AUX. Guest and host
//! each find their own values in them, whoever ran last.

use crate::asm::*;
use crate::cpu;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, CS};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const EFER: u32 = 0xc000_0080;
const EFER_SCE: u32 = 1;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SYSCALL_MASK: u32 = 0xc000_0084;
const TSC_AUX: u32 = 0xc000_0103;
const PORT: u16 = 0x20;

/// A guest that tells TSC_AUX from where LSTAR sent it, `marker` added, again and again.
struct Guest {
    _vm: Vm,
    _ram: Ram,
    vcpu: Vcpu,
}

impl Guest {
    fn new(dev: &Device, entry: u64, marker: i32, aux: u64) -> Outcome<Self> {
        let vm = Vm::new(dev)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let vcpu = vm.vcpu(0)?;
        let code = asm64(|a| {
            a.mov(ecx, EFER)?;
            a.rdmsr()?;
            a.or(eax, EFER_SCE as i32)?;
            a.wrmsr()?;
            a.syscall()
        });
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        let at_entry = assemble(64, entry, |a| {
            a.rdtscp()?;
            a.lea(eax, dword_ptr(ecx) + marker)?;
            a.out(i32::from(PORT), eax)?;
            a.syscall()
        });
        ram.write(entry, &at_entry);
        for (msr, value) in [
            (STAR, u64::from(CS) << 32),
            (LSTAR, entry),
            (SYSCALL_MASK, 0),
            (TSC_AUX, aux),
        ] {
            if !vcpu.set_msr(msr, value)? {
                return Err(format!("MSR {msr:#x} can't be set").into());
            }
        }
        Ok(Self {
            _vm: vm,
            _ram: ram,
            vcpu,
        })
    }
}

/// The host's TSC_AUX, which says what CPU this is.
fn host_aux() -> u32 {
    let mut aux = 0;
    // SAFETY: The caller saw that the processor has RDTSCP.
    unsafe { std::arch::x86_64::__rdtscp(&mut aux) };
    aux
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    // SAFETY: CPUID has no precondition on x86-64.
    let extended = unsafe { std::arch::x86_64::__cpuid(0x8000_0001) };
    if extended.edx & (1 << 27) == 0 {
        t.skip(
            "SYSCALL and RDTSCP in a guest",
            "this processor has no RDTSCP",
        );
        return Ok(());
    }
    cpu::stay()?;
    let own = host_aux();
    let mut first = Guest::new(dev, CODE + 0x200, 0x1000, 0x11)?;
    let mut second = Guest::new(dev, CODE + 0x400, 0x2000, 0x22)?;
    for round in 1..=3 {
        t.eq(
            format!("round {round}: the first guest has its LSTAR and TSC_AUX"),
            first.vcpu.run()?,
            Exit::out32(PORT, 0x1011),
        );
        t.eq(
            format!("round {round}: the host has its TSC_AUX"),
            host_aux(),
            own,
        );
        t.eq(
            format!("round {round}: the second guest has its LSTAR and TSC_AUX"),
            second.vcpu.run()?,
            Exit::out32(PORT, 0x2022),
        );
    }
    first.vcpu.set_msr(TSC_AUX, 0x33)?;
    t.eq(
        "a new TSC_AUX is seen",
        first.vcpu.run()?,
        Exit::out32(PORT, 0x1033),
    );
    Ok(())
}
