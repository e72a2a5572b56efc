// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_VAPIC_ADDR: the word with the task priority in guest memory, written before an entry, read after an exit.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA};
use crate::sys::*;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::*;

const APIC: u64 = 0xfee0_0000;
const TPR: i32 = 0x80;
const EOI: i32 = 0xb0;
const SPURIOUS: i32 = 0xf0;
const ISR: i32 = 0x100;
const IRR: i32 = 0x200;
const ICR: i32 = 0x300;
const SELF: u32 = 1 << 18;
/// Where most tests have the word.
const WORD: u64 = DATA + 0x100;
const COPY: u64 = DATA + 0x200;
/// A slot for the word alone.
const ELSEWHERE: u64 = 0x100_0000;
const HANDLER: u64 = CODE + 0x1000;
const VECTOR: u8 = 0x61;
const STOP: u16 = 0x41;
const POLL_IRQ: u32 = 1;

fn set_address(vcpu: &Vcpu, gpa: u64) -> Result<i32, Errno> {
    ioctl_with(
        vcpu.raw(),
        KVM_SET_VAPIC_ADDR,
        &kvm_vapic_addr { vapic_addr: gpa },
    )
}

fn guest(vm: &Vm, f: impl FnOnce(&mut CodeAssembler) -> Asm) -> Outcome<(Vcpu, Ram)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(f))?;
    Ok((vcpu, ram))
}

/// A guest that stops for ever.
fn stops(a: &mut CodeAssembler) -> Asm {
    forever(a, |a| a.out(i32::from(STOP), al))
}

fn set32(lapic: &mut kvm_lapic_state, register: i32, value: u32) {
    let at = register as usize;
    for (to, from) in lapic.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
        *to = from as _;
    }
}

fn set_vector(lapic: &mut kvm_lapic_state, set: i32, vector: u8) {
    let register = set + i32::from(vector >> 5) * 0x10;
    set32(lapic, register, 1 << (vector & 31));
}

/// KVM_SET_LAPIC with an APIC that is on, its priority and what waits and is in service.
fn set_lapic(vcpu: &Vcpu, tpr: u8, isr: Option<u8>, irr: Option<u8>) -> Outcome {
    let mut lapic = vcpu.fd.get_lapic()?;
    set32(&mut lapic, SPURIOUS, 0x1ff);
    set32(&mut lapic, TPR, tpr.into());
    for (set, vector) in [(ISR, isr), (IRR, irr)] {
        (0..8).for_each(|n| set32(&mut lapic, set + n * 0x10, 0));
        if let Some(vector) = vector {
            set_vector(&mut lapic, set, vector);
        }
    }
    vcpu.fd.set_lapic(&lapic)?;
    Ok(())
}

fn priority(vcpu: &Vcpu) -> Outcome<u8> {
    Ok(vcpu.fd.get_lapic()?.regs[TPR as usize] as u8)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    errors(t, dev)?;
    written(t, dev)?;
    read(t, dev)?;
    interrupts(t, dev)?;
    exits(t, dev)?;
    by_mmio(t, dev)?;
    init(t, dev)?;
    slot_goes(t, dev)?;
    two_pages(t, dev)?;
    dirty(t, dev)
}

fn errors(t: &mut Tap, dev: &Device) -> Outcome {
    const RO_SLOT: u64 = 0x200_0000;
    let bare = Vm::new(dev)?;
    let (vcpu, _ram) = guest(&bare, stops)?;
    t.errno(
        "no APIC in the kernel",
        set_address(&vcpu, WORD),
        libc::EINVAL,
    );
    t.errno("not even 0", set_address(&vcpu, 0), libc::EINVAL);

    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, stops)?;
    let read_only = Ram::new(RO_SLOT, PAGE)?;
    vm.set_slot(1, KVM_MEM_READONLY, RO_SLOT, PAGE as u64, read_only.hva())?;
    for (what, gpa) in [
        ("no memory there", ELSEWHERE),
        ("only half of the word in memory", MIB as u64 - 2),
        ("memory that is read-only", RO_SLOT),
        ("beyond all memory", 1 << 52),
        ("around the end of all addresses", u64::MAX - 1),
    ] {
        t.errno(what, set_address(&vcpu, gpa), libc::EINVAL);
    }
    t.eq("the guest runs", vcpu.run()?, Exit::out8(STOP, 0));
    t.success("memory", set_address(&vcpu, WORD));
    t.success("the last word of it", set_address(&vcpu, MIB as u64 - 4));
    t.success("none", set_address(&vcpu, 0));
    Ok(())
}

/// What the guest finds.
fn written(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, |a| {
        forever(a, |a| {
            a.mov(eax, dword_ptr(WORD))?;
            a.mov(dword_ptr(COPY), eax)?;
            a.out(i32::from(STOP), al)
        })
    })?;
    ram.set32(WORD, 0xffff_ffff);
    ram.set32(WORD + 4, 0xffff_ffff);
    set_address(&vcpu, WORD)?;
    for (what, tpr, isr, irr, word) in [
        ("only a priority", 0x20, None, None, 0x20),
        ("one waits", 0x63, None, Some(0x62), 0x6200_0063),
        ("one is in service", 0x12, Some(0x57), None, 0x5012),
        ("both", 0x34, Some(0xf1), Some(0x31), 0x3100_f034),
        ("nothing", 0, None, None, 0),
    ] {
        set_lapic(&vcpu, tpr, isr, irr)?;
        vcpu.run()?;
        t.eq(format!("{what}: in the guest"), ram.get32(COPY), word);
        t.eq(
            format!("{what}: behind it"),
            ram.get32(WORD + 4),
            0xffff_ffff,
        );
        t.eq(format!("{what}: the priority stays"), priority(&vcpu)?, tpr);
    }
    let mut lapic = vcpu.fd.get_lapic()?;
    set32(&mut lapic, SPURIOUS, 0xff);
    set32(&mut lapic, TPR, 0x77);
    vcpu.fd.set_lapic(&lapic)?;
    ram.set32(WORD, 0x1234_5678);
    vcpu.run()?;
    t.eq(
        "the APIC switched off: not written",
        ram.get32(COPY),
        0x1234_5678,
    );
    t.eq("but read", priority(&vcpu)?, 0x78);
    set_address(&vcpu, 0)?;
    set_lapic(&vcpu, 0x40, None, None)?;
    vcpu.run()?;
    t.eq("no address: not written", ram.get32(COPY), 0x1234_5678);
    t.eq("nor read", priority(&vcpu)?, 0x40);
    Ok(())
}

/// What the guest writes there.
fn read(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        a.mov(byte_ptr(WORD), 0x7bu32)?;
        a.out(i32::from(STOP), al)?;
        a.mov(dword_ptr(WORD), 0x3333_3341u32)?;
        a.mov(ebx, APIC as u32)?;
        a.mov(eax, dword_ptr(rbx + TPR))?;
        a.out(i32::from(STOP), al)?;
        a.mov(eax, 9)?;
        a.mov(cr8, rax)?;
        a.out(i32::from(STOP), al)?;
        a.mov(rax, cr8)?;
        a.out(i32::from(STOP), al)
    })?;
    set_address(&vcpu, WORD)?;
    set_lapic(&vcpu, 0x10, None, None)?;
    vcpu.run()?;
    t.eq("KVM_GET_LAPIC", priority(&vcpu)?, 0x7b);
    t.eq("KVM_GET_SREGS", vcpu.fd.get_sregs()?.cr8, 7);
    t.eq("kvm_run.cr8", vcpu.shared().cr8, 7);
    vcpu.run()?;
    t.eq("only its first byte counts", priority(&vcpu)?, 0x41);
    vcpu.run()?;
    t.eq("CR8 is not looked at", priority(&vcpu)?, 0x41);
    t.eq("CR8 follows the word", vcpu.run()?, Exit::out8(STOP, 4));
    vcpu.with_sregs(|s| s.cr8 = 3)?;
    t.eq("KVM_SET_SREGS", priority(&vcpu)?, 0x30);
    Ok(())
}

/// The guest sees that an interrupt waits, lowers its priority in memory, and asks for it.
fn interrupts(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let copy = |a: &mut CodeAssembler, n: u64| {
        a.mov(eax, dword_ptr(WORD))?;
        a.mov(dword_ptr(COPY + n * 4), eax)
    };
    let (mut vcpu, ram) = guest(&vm, |a| {
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + SPURIOUS), 0x1ff)?;
        a.xor(r12, r12)?;
        a.sti()?;
        a.mov(byte_ptr(WORD), 0x70)?;
        a.mov(dword_ptr(rbx + ICR), SELF | u32::from(VECTOR))?;
        a.nop()?;
        copy(a, 0)?;
        a.mov(byte_ptr(WORD), 0)?;
        a.inc(r12)?;
        a.mov(eax, POLL_IRQ)?;
        a.vmcall()?;
        a.inc(r12)?;
        copy(a, 3)?;
        a.mov(eax, r12d)?;
        a.out(i32::from(STOP), al)
    })?;
    let handler = assemble(64, HANDLER, |a| {
        copy(a, 1)?;
        a.mov(dword_ptr(COPY + 16), r12d)?;
        a.mov(dword_ptr(rbx + EOI), 0)?;
        copy(a, 2)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    set_address(&vcpu, WORD)?;
    t.eq("to the end", vcpu.run()?, Exit::out8(STOP, 2));
    let copies: Vec<u32> = (0..4).map(|i| ram.get32(COPY + i * 4)).collect();
    t.eq("it waits", copies[0], u32::from(VECTOR) << 24 | 0x70);
    t.eq("in its handler", copies[1], 0x6000);
    t.eq("after its end", copies[2], 0);
    t.eq("and later", copies[3], 0);
    t.eq("it came at the hypercall", ram.get32(COPY + 16), 1);
    Ok(())
}

/// All kinds of exits go on as without the word.
fn exits(t: &mut Tap, dev: &Device) -> Outcome {
    const TIMER: u8 = 0x51;
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, |a| {
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.mov(dword_ptr(COPY), ebx)?;
        a.mov(ecx, 0x1b)?;
        a.rdmsr()?;
        a.wrmsr()?;
        a.mov(dword_ptr(COPY + 4), eax)?;
        a.in_(al, 0x21)?;
        a.mov(al, 0x5a)?;
        a.out(0x21, al)?;
        a.xor(eax, eax)?;
        a.in_(al, 0x21)?;
        a.mov(dword_ptr(COPY + 8), eax)?;
        a.mov(rbx, APIC)?;
        a.mov(dword_ptr(rbx + SPURIOUS), 0x1ff)?;
        a.mov(eax, dword_ptr(rbx + SPURIOUS))?;
        a.mov(dword_ptr(COPY + 12), eax)?;
        a.mov(dword_ptr(rbx + 0x3e0), 0xb)?;
        a.mov(dword_ptr(rbx + 0x320), u32::from(TIMER))?;
        a.mov(dword_ptr(rbx + 0x380), 1000)?;
        a.sti()?;
        a.hlt()?;
        a.out(i32::from(STOP), al)
    })?;
    let handler = assemble(64, HANDLER, |a| {
        a.mov(eax, u32::from(TIMER))?;
        a.mov(dword_ptr(rbx + EOI), 0)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, TIMER, HANDLER);
    set_address(&vcpu, WORD)?;
    t.eq("the timer ends HLT", vcpu.run()?, Exit::out8(STOP, TIMER));
    let vendor = vm.cpuid().as_slice().iter().find(|e| e.function == 0);
    t.eq("CPUID", Some(ram.get32(COPY)), vendor.map(|e| e.ebx));
    t.eq("RDMSR, WRMSR", ram.get32(COPY + 4), 0xfee0_0900);
    t.eq("IN, OUT", ram.get32(COPY + 8), 0x5a);
    t.eq("APIC", ram.get32(COPY + 12), 0x1ff);
    Ok(())
}

/// The guest writes its priority as if there were no word, and something waits that this lets through: it is in the word.
fn by_mmio(t: &mut Tap, dev: &Device) -> Outcome {
    const MOVED: u64 = 0xfed0_0000;
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, ram) = guest(&vm, |a| {
        a.mov(ebx, MOVED as u32)?;
        a.mov(dword_ptr(rbx + TPR), 0x20)?;
        a.mov(eax, dword_ptr(WORD))?;
        a.mov(dword_ptr(COPY), eax)?;
        a.out(i32::from(STOP), al)
    })?;
    vcpu.with_sregs(|s| s.apic_base = MOVED | 1 << 11 | 1 << 8)?;
    set_address(&vcpu, WORD)?;
    set_lapic(&vcpu, 0x40, None, Some(0x31))?;
    vcpu.run()?;
    t.eq("TPR by MMIO: in the guest", ram.get32(COPY), 0x3100_0020);
    t.eq("TPR by MMIO: the priority", priority(&vcpu)?, 0x20);
    Ok(())
}

/// INIT ends the use of the word.
fn init(t: &mut Tap, dev: &Device) -> Outcome {
    const INIT: u32 = 0x500;
    const STARTUP: u32 = 0x600 | (CODE >> 12) as u32;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let _boot = vm.vcpu(0)?;
    let mut vcpu = vm.vcpu(1)?;
    ram.write(CODE, &asm16(|a| a.out(i32::from(STOP), al)));
    // C KVM finds the APIC of a new vCPU only after a change of its registers.
    set_lapic(&vcpu, 0, None, None)?;
    set_address(&vcpu, WORD)?;
    ram.set32(WORD, 0x40);
    for data in [INIT, STARTUP] {
        let msi = kvm_msi {
            address_lo: APIC as u32 | 1 << 12,
            data,
            ..Default::default()
        };
        ioctl_with(vm.raw(), KVM_SIGNAL_MSI, &msi)?;
    }
    let mut ran = vcpu.run();
    while ran == Err(Errno(libc::EAGAIN)) {
        ran = vcpu.run();
    }
    t.eq("INIT and SIPI: the guest runs", ran?, Exit::out8(STOP, 0));
    t.eq("the word does not count any more", priority(&vcpu)?, 0);
    Ok(())
}

/// The memory of the word is taken away, and comes back from elsewhere.
fn slot_goes(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, |a| {
        forever(a, |a| {
            a.mov(cr8, rbx)?;
            a.out(i32::from(STOP), al)
        })
    })?;
    let first = vm.add_ram(1, ELSEWHERE, PAGE)?;
    set_address(&vcpu, ELSEWHERE + 8)?;
    set_lapic(&vcpu, 0x20, None, None)?;
    vcpu.run()?;
    t.eq("in its slot", first.get32(ELSEWHERE + 8), 0x20);

    vm.delete_slot(1)?;
    set_lapic(&vcpu, 0x30, None, None)?;
    vcpu.with_regs(|r| r.rbx = 5)?;
    t.eq(
        "without the slot the guest runs",
        vcpu.run()?,
        Exit::out8(STOP, 0),
    );
    t.eq("CR8 is the priority", priority(&vcpu)?, 0x50);
    t.eq(
        "the old memory is as it was",
        first.get32(ELSEWHERE + 8),
        0x20,
    );
    first.set32(ELSEWHERE + 8, 0x60);
    vcpu.run()?;
    t.eq("and not looked at", priority(&vcpu)?, 0x50);

    let second = vm.add_ram(1, ELSEWHERE, PAGE)?;
    set_lapic(&vcpu, 0x70, None, None)?;
    vcpu.run()?;
    t.eq(
        "other memory: it is written",
        second.get32(ELSEWHERE + 8),
        0x70,
    );
    t.eq("and read", priority(&vcpu)?, 0x70);
    t.eq(
        "the old one still is as it was",
        first.get32(ELSEWHERE + 8),
        0x60,
    );

    second.unmap(ELSEWHERE, PAGE)?;
    set_lapic(&vcpu, 0x30, None, None)?;
    t.eq(
        "unmapped by the VMM: the guest runs",
        vcpu.run()?,
        Exit::out8(STOP, 0),
    );
    t.eq("CR8 is the priority again", priority(&vcpu)?, 0x50);
    Ok(())
}

/// The word may lie over the border of two pages.
fn two_pages(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, stops)?;
    let first = vm.add_ram(1, ELSEWHERE, PAGE)?;
    let border = ELSEWHERE + PAGE as u64;
    let second = vm.add_ram(2, border, PAGE)?;
    t.success("over two slots", set_address(&vcpu, border - 2));
    set_lapic(&vcpu, 0x63, Some(0x51), Some(0x42))?;
    vcpu.run()?;
    t.eq("its first half", first.read(border - 2, 2), [0x63, 0x50]);
    t.eq("its second half", second.read(border, 2), [0, 0x42]);
    Ok(())
}

/// Writes are in the dirty log.
fn dirty(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let (mut vcpu, _ram) = guest(&vm, stops)?;
    let len = 4 * PAGE;
    let ram = Ram::new(ELSEWHERE, len)?;
    vm.set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, ELSEWHERE, len as u64, ram.hva())?;
    t.eq("nothing is dirty", vm.fd.get_dirty_log(1, len)?, [0]);
    set_address(&vcpu, ELSEWHERE + 2 * PAGE as u64)?;
    set_lapic(&vcpu, 0x20, None, None)?;
    vcpu.run()?;
    t.eq("the page of the word", vm.fd.get_dirty_log(1, len)?, [4]);
    Ok(())
}
