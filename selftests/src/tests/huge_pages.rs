// SPDX-License-Identifier: GPL-2.0

//! Guest memory that the host has in huge pages is mapped by entries of the same size, which the
//! dirty log splits and a hole punched by the host takes away.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use std::fs;
use std::ops::Range;

const SLOT: u32 = 1;
const WINDOW: u64 = 0x4000_0000;
/// The guest walks over this much from [`WINDOW`], so that its own tables need not be many.
const TOUCHED: u64 = 16;
const ROUND_DONE: u16 = 0x40;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    for (size, shift, counter) in [("2 MiB", 21, "pages_2m"), ("1 GiB", 30, "pages_1g")] {
        sized(t, dev, size, shift, counter)?;
        executed(t, dev, size, shift, counter)?;
    }
    Ok(())
}

/// A guest that adds 1 to the first word of each page it touches, then tells that it did.
fn adder(vcpu: &Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        let mut next = a.create_label();
        forever(a, |a| {
            a.mov(rbx, WINDOW)?;
            a.mov(ecx, TOUCHED as u32)?;
            a.set_label(&mut next)?;
            a.inc(dword_ptr(rbx))?;
            a.add(rbx, PAGE as i32)?;
            a.dec(ecx)?;
            a.jnz(next)?;
            a.out(i32::from(ROUND_DONE), al)
        })
    });
    Ok(setup::start(vcpu, ram, Mode::Long, &code)?)
}

fn values(window: &Ram) -> Vec<u32> {
    let pages: Range<u64> = 0..TOUCHED;
    pages
        .map(|i| window.get32(WINDOW + i * PAGE as u64))
        .collect()
}

fn sized(t: &mut Tap, dev: &Device, size: &str, shift: i32, counter: &str) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let len = 1usize << shift;
    let window = Ram::huge(WINDOW, len, shift)?;
    let slot = |flags| vm.set_slot(SLOT, flags, WINDOW, len as u64, window.hva());
    let count = || -> Outcome<u64> { Ok(super::stats::of(vm.raw())?[counter]) };
    let mut vcpu = vm.vcpu(0)?;
    slot(0)?;
    adder(&vcpu, &ram)?;
    let done = Exit::out8(ROUND_DONE, 0);

    t.eq(format!("{size}: a round"), vcpu.run()?, done.clone());
    t.eq(format!("{size}: one entry maps it"), count()?, 1);
    t.eq(
        format!("{size}: values"),
        values(&window),
        vec![1; TOUCHED as usize],
    );

    slot(KVM_MEM_LOG_DIRTY_PAGES)?;
    t.eq(
        format!("{size}: a round with a dirty log"),
        vcpu.run()?,
        done.clone(),
    );
    t.eq(format!("{size}: the log needs small pages"), count()?, 0);
    let log = vm.fd.get_dirty_log(SLOT, len)?;
    let (first, rest) = log.split_first().ok_or("an empty log")?;
    t.eq(
        format!("{size}: the pages written"),
        *first,
        (1 << TOUCHED) - 1,
    );
    t.ok(
        format!("{size}: and no other"),
        rest.iter().all(|w| *w == 0),
    );

    slot(0)?;
    t.eq(
        format!("{size}: a round without the log"),
        vcpu.run()?,
        done.clone(),
    );
    t.eq(
        format!("{size}: values"),
        values(&window),
        vec![3; TOUCHED as usize],
    );

    window.advise(WINDOW, len, libc::MADV_DONTNEED)?;
    t.eq(
        format!("{size}: dropped by the host: no entry"),
        count()?,
        0,
    );
    t.eq(
        format!("{size}: a round in a fresh page"),
        vcpu.run()?,
        done,
    );
    t.eq(format!("{size}: one entry again"), count()?, 1);
    t.eq(
        format!("{size}: values began anew"),
        values(&window),
        vec![1; TOUCHED as usize],
    );
    Ok(())
}

/// Whether the module lets guests execute small pages only (iTLB multihit), on its own account or because it was told to.
fn small_code(dev: &Device) -> Outcome<bool> {
    let module = dev.path().trim_start_matches("/dev/");
    let parameter = format!("/sys/module/{module}/parameters/nx_huge_pages");
    Ok(fs::read_to_string(parameter)?.starts_with('Y'))
}

/// Code in a huge page is executed.
fn executed(t: &mut Tap, dev: &Device, size: &str, shift: i32, counter: &str) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let len = 1usize << shift;
    let window = Ram::huge(WINDOW, len, shift)?;
    vm.set_slot(SLOT, 0, WINDOW, len as u64, window.hva())?;
    let count = || -> Outcome<u64> { Ok(super::stats::of(vm.raw())?[counter]) };
    window.write(
        WINDOW,
        &assemble(64, WINDOW, |a| {
            a.inc(eax)?;
            a.ret()
        }),
    );
    let code = asm64(|a| {
        a.xor(eax, eax)?;
        a.mov(rbx, WINDOW)?;
        a.mov(byte_ptr(rbx + PAGE as i32), 1)?;
        a.out(i32::from(ROUND_DONE), al)?;
        a.call(rbx)?;
        a.call(rbx)?;
        a.out(i32::from(ROUND_DONE), al)
    });
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let exit = vcpu.run()?;
    t.eq(format!("{size}: a write"), exit, Exit::out8(ROUND_DONE, 0));
    t.eq(format!("{size}: one entry maps it"), count()?, 1);
    let exit = vcpu.run()?;
    t.eq(
        format!("{size}: two calls"),
        exit,
        Exit::out8(ROUND_DONE, 2),
    );
    let left = u64::from(!small_code(dev)?);
    t.eq(
        format!("{size}: entries of that size for code"),
        count()?,
        left,
    );
    Ok(())
}
