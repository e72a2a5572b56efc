// SPDX-License-Identifier: GPL-2.0

//! KVM_MEM_LOG_DIRTY_PAGES and KVM_GET_DIRTY_LOG: each page that was written is told once.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;

const LOGGED: u64 = 0x80_0000;
const LEN: usize = 4 * MIB;
const DEVICE: u64 = 0xd000_0000;

const fn page(n: u64) -> u64 {
    LOGGED + n * PAGE as u64
}

/// The pages that the log of slot 1 tells, by number.
pub fn dirty(vm: &Vm) -> Result<Vec<u64>, Errno> {
    let words = vm.fd.get_dirty_log(1, LEN)?;
    let bits = (0..).zip(words).flat_map(|(i, word)| {
        (0..64u64)
            .filter(move |b| word >> b & 1 != 0)
            .map(move |b| i * 64 + b)
    });
    Ok(bits.collect())
}

fn log(vm: &Vm, ram: &Ram, flags: u32) -> Result<(), Errno> {
    vm.set_slot(1, flags, LOGGED, LEN as u64, ram.hva())
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    whole_life(t, dev)?;
    first_read(t, dev)
}

/// A page that is mapped by a read is mapped to be written where the host lets it, so it is told already.
fn first_read(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, LEN)?;
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    logged.set32(page(7), 1);
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(eax, dword_ptr(page(7)))?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "a guest that reads a page of the VMM's",
        vcpu.run()?,
        Exit::Hlt,
    );
    t.eq("gets it to write, and it is told", dirty(&vm)?, [7]);
    Ok(())
}

fn whole_life(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, LEN)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        // Mapped, writable, before there is a log.
        a.mov(dword_ptr(page(3)), 1)?;
        a.mov(dword_ptr(page(600)), 1)?;
        a.out(0x40, al)?;
        a.inc(dword_ptr(page(3)))?;
        a.mov(eax, dword_ptr(page(5)))?;
        a.mov(dword_ptr(page(600)), 2)?;
        a.mov(dword_ptr(page(1023)), 2)?;
        a.out(0x41, al)?;
        a.inc(dword_ptr(page(3)))?;
        a.inc(dword_ptr(page(3)))?;
        a.out(0x42, al)?;
        a.mov(eax, dword_ptr(page(600)))?;
        a.out(0x43, al)?;
        // The emulator's writes, over a page boundary.
        a.cld()?;
        a.mov(esi, DEVICE as u32)?;
        a.mov(edi, page(64) as u32 - 4)?;
        a.mov(ecx, 2)?;
        a.rep().movsd()?;
        a.out(0x44, al)?;
        a.mov(dword_ptr(page(9)), 3)?;
        a.out(0x45, al)?;
        a.mov(dword_ptr(page(10)), 3)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;

    t.errno("no log, no answer", dirty(&vm), libc::ENOENT);
    t.eq("before logging", vcpu.run()?, Exit::out8(0x40, 0));
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    t.eq("a new log is empty", dirty(&vm)?, Vec::<u64>::new());
    vcpu.run()?;
    t.eq("pages written, not those read", dirty(&vm)?, [3, 600, 1023]);
    t.eq("are told once", dirty(&vm)?, Vec::<u64>::new());
    vcpu.run()?;
    t.eq("a page written again", dirty(&vm)?, [3]);
    vcpu.run()?;
    t.eq("a page read again", dirty(&vm)?, Vec::<u64>::new());
    let mut reads = 0;
    while let Exit::MmioRead { len, .. } = vcpu.run()? {
        reads += 1;
        vcpu.reply(&[0x66; 8][..len as usize]);
    }
    t.ok("a string move from a device", reads > 0);
    t.eq("marks what it writes", dirty(&vm)?, [63, 64]);
    t.eq(
        "the words moved",
        (logged.get32(page(64) - 4), logged.get32(page(64))),
        (0x6666_6666, 0x6666_6666),
    );
    logged.set32(page(20), 1);
    t.eq(
        "what user space writes is not told",
        dirty(&vm)?,
        Vec::<u64>::new(),
    );
    vcpu.run()?;
    log(&vm, &logged, 0)?;
    t.errno("logging ended", dirty(&vm), libc::ENOENT);
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    t.eq("and begins from nothing", dirty(&vm)?, Vec::<u64>::new());
    t.eq("the guest comes to its end", vcpu.run()?, Exit::Hlt);
    t.eq("its last page", dirty(&vm)?, [10]);
    t.eq(
        "nothing is lost",
        (
            logged.get32(page(3)),
            logged.get32(page(600)),
            logged.get32(page(1023)),
            logged.get32(page(9)),
            logged.get32(page(10)),
        ),
        (4, 2, 2, 3, 3),
    );
    Ok(())
}
