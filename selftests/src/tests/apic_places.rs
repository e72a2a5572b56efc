// SPDX-License-Identifier: GPL-2.0

//! The page of the local APIC: at its default place, moved, covered by memory, gone; one vCPU here and one there; and
//! the EOI of level interrupts through it.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MP_STATE_RUNNABLE;

const DEFAULT: u64 = 0xfee0_0000;
const MOVED: u64 = 0xfed0_0000;
const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const BSP: u64 = 1 << 8;
const VERSION: u64 = 0x14;
const STOP: u16 = 0x41;
const NOTHING: u32 = 0xffff_ffff;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    forms(t, dev)?;
    places(t, dev)?;
    two_vcpus(t, dev)?;
    covered(t, dev)?;
    level(t, dev)
}

/// Reads the version register at RBX, for ever.
fn reader(a: &mut CodeAssembler) -> Asm {
    forever(a, |a| {
        a.mov(eax, dword_ptr(rbx + 0x30))?;
        a.out(i32::from(STOP), eax)
    })
}

/// One more turn of [`reader`] at `at`.
fn read_at(vcpu: &mut Vcpu, at: u64) -> Outcome<Exit> {
    vcpu.with_regs(|r| r.rbx = at)?;
    Ok(vcpu.run()?)
}

/// What the guest reads from the version register, without the number of LVT entries.
fn version_at(vcpu: &mut Vcpu, at: u64) -> Outcome<Option<u64>> {
    Ok(match read_at(vcpu, at)? {
        Exit::Out { data, .. } if data.len() == 4 => {
            let value = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
            Some(if value == NOTHING {
                value.into()
            } else {
                u64::from(value) & 0xff
            })
        }
        _ => None,
    })
}

/// The read goes to user space, which answers; the guest then stops with that.
fn unanswered(t: &mut Tap, what: &str, vcpu: &mut Vcpu, at: u64) -> Outcome {
    let exit = read_at(vcpu, at)?;
    let wanted = Exit::MmioRead {
        gpa: at + 0x30,
        len: 4,
    };
    if t.eq(what, exit, wanted) {
        vcpu.reply(&0x1234_5678u32.to_le_bytes());
        t.eq("the answer", vcpu.run()?, Exit::out32(STOP, 0x1234_5678));
    }
    Ok(())
}

fn set_base(vcpu: &Vcpu, base: u64) -> Outcome {
    vcpu.with_sregs(|s| s.apic_base = base)?;
    Ok(())
}

/// All kinds of instructions reach the registers.
fn forms(t: &mut Tap, dev: &Device) -> Outcome {
    const TIMER: i32 = 0x320;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DEFAULT)?;
        a.mov(rdi, DATA)?;
        let mut next = {
            let mut n = 0;
            move |a: &mut CodeAssembler| -> Asm {
                n += 4;
                a.mov(dword_ptr(rdi + (n - 4)), eax)
            }
        };
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        a.mov(dword_ptr(rbx + TIMER), 0x1_0040u32)?;
        a.or(dword_ptr(rbx + TIMER), 0x2)?;
        a.mov(eax, dword_ptr(rbx + TIMER))?;
        next(a)?;
        a.mov(eax, 0x1_0055)?;
        a.xchg(dword_ptr(rbx + TIMER), eax)?;
        next(a)?;
        a.movzx(eax, byte_ptr(rbx + TIMER))?;
        next(a)?;
        a.mov(eax, 0x1_0066)?;
        a.mov(r9d, eax)?;
        a.mov(dword_ptr(rbx + TIMER), r9d)?;
        a.push(rbx)?;
        a.lea(rsi, qword_ptr(rbx + TIMER))?;
        a.lodsd()?;
        a.pop(rbx)?;
        next(a)?;
        // The task priority, which the processor may answer for.
        a.mov(dword_ptr(rbx + 0x80), 0x30u32)?;
        a.add(dword_ptr(rbx + 0x80), 0x11)?;
        a.movzx(eax, byte_ptr(rbx + 0x80))?;
        next(a)?;
        // EOI by other instructions than MOV of a constant, with nothing in service.
        a.mov(dword_ptr(rbx + 0xb0), eax)?;
        a.and(dword_ptr(rbx + 0xb0), 0)?;
        a.mov(eax, dword_ptr(rbx + TIMER))?;
        next(a)?;
        a.out(i32::from(STOP), al)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq("to the end", vcpu.run()?, Exit::out8(STOP, 0x66));
    let got: Vec<u32> = (0..6).map(|i| ram.get32(DATA + i * 4)).collect();
    t.eq(
        "what was read",
        got,
        [0x1_0042, 0x1_0042, 0x55, 0x1_0066, 0x41, 0x1_0066],
    );
    Ok(())
}

fn places(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(reader))?;
    let v = &mut vcpu;
    for round in 0..2 {
        t.eq(
            format!("{round}: at the default place"),
            version_at(v, DEFAULT)?,
            Some(VERSION),
        );
        unanswered(t, "nothing at the other", v, MOVED)?;

        set_base(v, MOVED | ENABLED | BSP)?;
        t.eq("moved", version_at(v, MOVED)?, Some(VERSION));
        unanswered(t, "nothing at the default place", v, DEFAULT)?;

        set_base(v, DEFAULT | BSP)?;
        t.eq("off: a hole", version_at(v, DEFAULT)?, Some(NOTHING.into()));

        set_base(v, DEFAULT | ENABLED | BSP)?;
        t.eq("on again", version_at(v, DEFAULT)?, Some(VERSION));

        set_base(v, DEFAULT | ENABLED | X2APIC | BSP)?;
        t.eq(
            "x2APIC mode: a hole",
            version_at(v, DEFAULT)?,
            Some(NOTHING.into()),
        );
        set_base(v, DEFAULT | ENABLED | BSP)?;
    }
    Ok(())
}

/// Two vCPUs have the same memory, but each its APIC where it has it.
fn two_vcpus(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut first = vm.vcpu(0)?;
    let mut second = vm.vcpu(1)?;
    let code = asm64(reader);
    setup::start(&first, &ram, Mode::Long, &code)?;
    setup::start(&second, &ram, Mode::Long, &code)?;
    second.fd.set_mp_state(kvm_bindings::kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })?;
    let (a, b) = (&mut first, &mut second);
    t.eq(
        "both at the default",
        version_at(a, DEFAULT)?,
        Some(VERSION),
    );
    t.eq("the second, too", version_at(b, DEFAULT)?, Some(VERSION));

    set_base(b, MOVED | ENABLED)?;
    t.eq("the first stays", version_at(a, DEFAULT)?, Some(VERSION));
    unanswered(t, "the second has left", b, DEFAULT)?;
    t.eq("and is there", version_at(b, MOVED)?, Some(VERSION));
    unanswered(t, "where the first is not", a, MOVED)?;

    set_base(a, DEFAULT | ENABLED | X2APIC | BSP)?;
    unanswered(t, "the second still away", b, DEFAULT)?;
    set_base(b, DEFAULT | ENABLED)?;
    t.eq("it is back", version_at(b, DEFAULT)?, Some(VERSION));
    t.eq(
        "the first has a hole there",
        version_at(a, DEFAULT)?,
        Some(NOTHING.into()),
    );
    set_base(a, DEFAULT | ENABLED | BSP)?;
    t.eq("both again", version_at(a, DEFAULT)?, Some(VERSION));
    t.eq("both", version_at(b, DEFAULT)?, Some(VERSION));
    Ok(())
}

/// Memory at the place of the page, where the VMM may put some.
fn covered(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(reader))?;
    t.eq("registers", version_at(&mut vcpu, DEFAULT)?, Some(VERSION));
    let over = Ram::new(DEFAULT, PAGE)?;
    over.set32(DEFAULT + 0x30, 0x5a5a_0077);
    match vm.set_slot(1, 0, DEFAULT, PAGE as u64, over.hva()) {
        // C KVM has a slot of its own there when it virtualizes accesses.
        Err(e) if e.0 == libc::EEXIST => t.skip("memory over the APIC", "there is a slot already"),
        other => {
            other?;
            t.eq(
                "memory comes first",
                read_at(&mut vcpu, DEFAULT)?,
                Exit::out32(STOP, 0x5a5a_0077),
            );
            vm.delete_slot(1)?;
            t.eq(
                "registers again",
                version_at(&mut vcpu, DEFAULT)?,
                Some(VERSION),
            );
        }
    }
    Ok(())
}

/// The EOI of a level interrupt reaches the I/O APIC, by whatever instruction it comes.
fn level(t: &mut Tap, dev: &Device) -> Outcome {
    const VECTOR: u8 = 0x61;
    const PIN: u32 = 10;
    const HANDLER: u64 = CODE + 0x800;
    const IOAPIC: u64 = 0xfec0_0000;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DEFAULT)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ffu32)?;
        // The PIC has the line, too.
        a.mov(dword_ptr(rbx + 0x350), 0x1_0000u32)?;
        a.mov(rdi, IOAPIC)?;
        a.mov(dword_ptr(rdi), 0x10 + PIN * 2)?;
        a.mov(dword_ptr(rdi + 0x10), (1u32 << 15) | u32::from(VECTOR))?;
        a.xor(r12, r12)?;
        forever(a, |a| {
            a.sti()?;
            a.nop()?;
            a.nop()?;
            a.cli()?;
            // The entry, in which bit 14 is Remote IRR.
            a.mov(eax, dword_ptr(rdi + 0x10))?;
            a.out(i32::from(STOP), eax)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        let mut other = a.create_label();
        let mut done = a.create_label();
        a.mov(r14d, dword_ptr(rdi + 0x10))?;
        a.inc(r12)?;
        a.mov(eax, r12d)?;
        a.out(0x42, al)?;
        a.test(r12, 1)?;
        a.jz(other)?;
        a.mov(dword_ptr(rbx + 0xb0), 0u32)?;
        a.jmp(done)?;
        a.set_label(&mut other)?;
        a.mov(eax, 0)?;
        a.mov(dword_ptr(rbx + 0xb0), eax)?;
        a.set_label(&mut done)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);

    let entry = (1 << 15) | u32::from(VECTOR);
    let v = &mut vcpu;
    t.eq("no interrupt", v.run()?, Exit::out32(STOP, entry));
    vm.irq_line(PIN, true)?;
    for n in 1..=3 {
        let exit = v.run()?;
        t.eq(format!("interrupt {n}"), exit, Exit::out8(0x42, n));
        let r = v.regs()?;
        t.eq("Remote IRR is set", r.r14 as u32, entry | 1 << 14);
        if n == 3 {
            vm.irq_line(PIN, false)?;
        }
    }
    t.eq(
        "the line is low: Remote IRR is clear and nothing comes",
        v.run()?,
        Exit::out32(STOP, entry),
    );
    t.eq("and stays so", v.run()?, Exit::out32(STOP, entry));
    t.eq("three in all", v.regs()?.r12, 3);
    Ok(())
}
