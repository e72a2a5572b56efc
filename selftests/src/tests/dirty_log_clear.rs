// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 and KVM_CLEAR_DIRTY_LOG: user space says which pages it has seen to.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::tests::dirty_log::dirty;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::*;

const LOGGED: u64 = 0x80_0000;
/// The last word of the bitmap has 40 bits in use.
const PAGES: u64 = 1000;
const LEN: usize = PAGES as usize * PAGE;
const MANUAL: u64 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE as u64;
const SET: u64 = KVM_DIRTY_LOG_INITIALLY_SET as u64;

const fn page(n: u64) -> u64 {
    LOGGED + n * PAGE as u64
}

/// Clears those of `bits` in the words from page `first` on.
fn clear(vm: &Vm, slot: u32, first: u64, pages: u64, bits: &[u64]) -> Result<i32, Errno> {
    let mut bitmap = vec![0u64; pages.div_ceil(64) as usize];
    for bit in bits {
        bitmap[(bit - first) as usize / 64] |= 1 << (bit % 64);
    }
    clear_from(vm, slot, first, pages, bitmap.as_ptr() as u64)
}

fn clear_from(vm: &Vm, slot: u32, first: u64, pages: u64, bitmap: u64) -> Result<i32, Errno> {
    let mut log = kvm_clear_dirty_log {
        slot,
        num_pages: pages as u32,
        first_page: first,
        ..Default::default()
    };
    log.__bindgen_anon_1.padding2 = bitmap;
    sys::ioctl_mut(vm.raw(), sys::KVM_CLEAR_DIRTY_LOG, &mut log)
}

fn enable(vm: &Vm, mode: u64) -> Result<i32, Errno> {
    let request = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [mode, 0, 0, 0],
        ..Default::default()
    };
    sys::ioctl_with(vm.raw(), sys::KVM_ENABLE_CAP, &request)
}

fn log(vm: &Vm, ram: &Ram, flags: u32) -> Result<(), Errno> {
    vm.set_slot(1, flags, LOGGED, LEN as u64, ram.hva())
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    by_hand(t, dev)?;
    initially_set(t, dev)
}

/// Writes to pages 3, 600 and 999, then to 3 and 600 again, as often as asked.
fn guest() -> Vec<u8> {
    asm64(|a| {
        a.mov(dword_ptr(page(3)), 1)?;
        a.mov(dword_ptr(page(600)), 1)?;
        a.mov(dword_ptr(page(999)), 1)?;
        a.out(0x40, al)?;
        forever(a, |a| {
            a.inc(dword_ptr(page(3)))?;
            a.inc(dword_ptr(page(600)))?;
            a.out(0x41, al)
        })
    })
}

fn by_hand(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, LEN)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &guest())?;
    t.eq("modes", vm.cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), 3);
    t.errno("a mode that is none", enable(&vm, 4), libc::EINVAL);
    t.errno("a new log for nobody", enable(&vm, SET), libc::EINVAL);
    t.success("by hand", enable(&vm, MANUAL));
    t.errno("no log", clear(&vm, 1, 0, 64, &[]), libc::ENOENT);
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    t.eq("a new log is empty", dirty(&vm)?, Vec::<u64>::new());

    t.errno("no slot", clear(&vm, 5, 0, 64, &[]), libc::ENOENT);
    t.errno(
        "a slot out of range",
        clear(&vm, 0xffff, 0, 64, &[]),
        libc::EINVAL,
    );
    t.errno(
        "not from a word on",
        clear(&vm, 1, 1, 64, &[]),
        libc::EINVAL,
    );
    t.errno("not whole words", clear(&vm, 1, 0, 65, &[]), libc::EINVAL);
    t.errno("too many", clear(&vm, 1, 64, 960, &[]), libc::EINVAL);
    t.errno(
        "from behind the slot on",
        clear(&vm, 1, 1024, 0, &[]),
        libc::EINVAL,
    );
    t.errno("no bitmap", clear_from(&vm, 1, 0, 64, 8), libc::EFAULT);

    t.eq("the guest writes", vcpu.run()?, Exit::out8(0x40, 0));
    t.eq("the log tells", dirty(&vm)?, [3, 600, 999]);
    t.eq("as often as asked", dirty(&vm)?, [3, 600, 999]);
    let some = clear(&vm, 1, 576, 64, &[576, 600, 601]);
    t.success("one page is seen to", some);
    t.eq("the others are left", dirty(&vm)?, [3, 999]);
    t.eq("the guest writes again", vcpu.run()?, Exit::out8(0x41, 0));
    t.eq("the log tells again", dirty(&vm)?, [3, 600, 999]);
    // Bits after the last page mean nothing.
    let all: Vec<u64> = (0..1024).collect();
    t.success("all are seen to", clear(&vm, 1, 0, PAGES, &all));
    t.eq("none is left", dirty(&vm)?, Vec::<u64>::new());
    t.eq("the guest goes on", vcpu.run()?, Exit::out8(0x41, 0));
    t.eq("what it writes now", dirty(&vm)?, [3, 600]);
    t.success(
        "up to the end of the slot",
        clear(&vm, 1, 576, PAGES - 576, &[600]),
    );
    t.eq("the last but one", dirty(&vm)?, [3]);
    t.success("not by hand any more", enable(&vm, 0));
    t.eq("reading tells once more", dirty(&vm)?, [3]);
    t.eq("and never again", dirty(&vm)?, Vec::<u64>::new());
    Ok(())
}

/// All pages of a new log are dirty: none is watched before user space has seen to it.
fn initially_set(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, LEN)?;
    let mut vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &guest())?;
    t.success("with new logs set", enable(&vm, MANUAL | SET));
    t.eq(
        "mapped before there is a log",
        vcpu.run()?,
        Exit::out8(0x40, 0),
    );
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    let all: Vec<u64> = (0..PAGES).collect();
    t.eq("all pages are dirty", dirty(&vm)?, all.clone());
    t.success("all are seen to", clear(&vm, 1, 0, PAGES, &all));
    t.eq("none is left", dirty(&vm)?, Vec::<u64>::new());
    t.eq("the guest writes", vcpu.run()?, Exit::out8(0x41, 0));
    t.eq("to pages mapped before", dirty(&vm)?, [3, 600]);
    log(&vm, &logged, 0)?;
    log(&vm, &logged, KVM_MEM_LOG_DIRTY_PAGES)?;
    t.success("page 600 again", clear(&vm, 1, 576, 64, &[600]));
    t.ok("it is clean", !dirty(&vm)?.contains(&600));
    t.eq(
        "others are as they were",
        dirty(&vm)?.len() as u64,
        PAGES - 1,
    );
    t.eq("the guest writes it", vcpu.run()?, Exit::out8(0x41, 0));
    t.eq("dirty, all", dirty(&vm)?, all);
    Ok(())
}
