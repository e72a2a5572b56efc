// SPDX-License-Identifier: GPL-2.0

//! The page tables of a guest are counted in the host's statistics (SecPageTables of `/proc/meminfo`) as long as they are
//! there.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use std::fs;

const WINDOW: u64 = 0x4000_0000;
/// Pages that are touched, each in a table of its own.
const TABLES: usize = 200;
const STEP: usize = 2 * MIB;
/// No more than that besides: the tables above them and those of the first MiB.
const OTHERS: u64 = 24;

/// Page tables of guests, in pages.
fn counted() -> Outcome<u64> {
    // Each CPU has some changes of its own until it is asked for them.
    fs::read("/proc/sys/vm/stat_refresh")?;
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all.lines().find_map(|l| l.strip_prefix("SecPageTables:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    let kib: u64 = kib.ok_or("no SecPageTables in /proc/meminfo")?.parse()?;
    Ok(kib * 1024 / PAGE as u64)
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let before = counted()?;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, TABLES * STEP)?;
    // A large page of the host would need no table. A host that has none does not know the advice.
    let _ = window.advise(WINDOW, TABLES * STEP, libc::MADV_NOHUGEPAGE);
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        let mut next = a.create_label();
        a.mov(rbx, WINDOW)?;
        a.mov(ecx, TABLES as u32)?;
        a.set_label(&mut next)?;
        a.inc(dword_ptr(rbx))?;
        a.add(rbx, STEP as i32)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.out(0x40, al)
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "the guest touches its memory",
        vcpu.run()?,
        Exit::out8(0x40, 0),
    );
    let few = |n: u64| n <= OTHERS;
    let more = counted()?.saturating_sub(before);
    t.ok(
        format!("{TABLES} tables are counted: {more} more than before"),
        more.checked_sub(TABLES as u64).is_some_and(few),
    );
    vm.delete_slot(1)?;
    let left = counted()?.saturating_sub(before);
    t.ok(format!("without the slot {left} are left"), few(left));
    drop(vcpu);
    drop(vm);
    let left = counted()?.abs_diff(before);
    t.ok(format!("and {left} without the VM"), few(left));
    Ok(())
}
