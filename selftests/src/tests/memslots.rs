// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_USER_MEMORY_REGION: what it refuses, moving, deleting, many slots.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use kvm_bindings::*;

const MIB64: u64 = MIB as u64;
const P: u64 = PAGE as u64;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    refused(t, dev)?;
    moved(t, dev)?;
    last(t, dev)?;
    many(t, dev)
}

/// What KVM_SET_USER_MEMORY_REGION refuses, and what it takes, on one VM from one step to the next.
fn refused(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(1, MIB64, MIB)?;
    let other = Ram::new(0, MIB)?;
    let o = other.hva();
    let slots = dev.cap(KVM_CAP_NR_MEMSLOTS) as u32;
    overlaps(t, &vm, o);
    in_use(t, &vm, ram.hva(), o);
    malformed(t, &vm, slots, o);
    t.success(
        "the last slot there is",
        vm.set_slot(slots - 1, 0, 16 * MIB64, P, o),
    );
    deleted_and_moved(t, &vm, o);
    second_form(t, &vm, o);
    Ok(())
}

fn overlaps(t: &mut Tap, vm: &Vm, o: u64) {
    t.errno(
        "an overlap at the end",
        vm.set_slot(2, 0, 2 * MIB64 - P, P * 2, o),
        libc::EEXIST,
    );
    t.errno(
        "an overlap inside",
        vm.set_slot(2, 0, MIB64 + P, P, o),
        libc::EEXIST,
    );
    t.errno(
        "the same range twice",
        vm.set_slot(2, 0, MIB64, MIB64, o),
        libc::EEXIST,
    );
    t.success("right behind", vm.set_slot(2, 0, 2 * MIB64, P, o));
    t.success("right before", vm.set_slot(3, 0, MIB64 - P, P, o));
}

/// Slot 1, whose memory is at `h`.
fn in_use(t: &mut Tap, vm: &Vm, h: u64, o: u64) {
    t.success(
        "the same slot again, unchanged",
        vm.set_slot(1, 0, MIB64, MIB64, h),
    );
    t.errno(
        "another size for a slot in use",
        vm.set_slot(1, 0, MIB64, MIB64 / 2, h),
        libc::EINVAL,
    );
    t.errno(
        "other memory for a slot in use",
        vm.set_slot(1, 0, MIB64, MIB64, o),
        libc::EINVAL,
    );
    t.errno(
        "read-only for a slot in use",
        vm.set_slot(1, KVM_MEM_READONLY, MIB64, MIB64, h),
        libc::EINVAL,
    );
}

fn malformed(t: &mut Tap, vm: &Vm, slots: u32, o: u64) {
    t.errno(
        "a size that is not whole pages",
        vm.set_slot(4, 0, 8 * MIB64, P + 1, o),
        libc::EINVAL,
    );
    t.errno(
        "an address that is not at a page",
        vm.set_slot(4, 0, 8 * MIB64 + 1, P, o),
        libc::EINVAL,
    );
    t.errno(
        "user memory that is not at a page",
        vm.set_slot(4, 0, 8 * MIB64, P, o + 1),
        libc::EINVAL,
    );
    t.errno(
        "an unknown flag",
        vm.set_slot(4, 1 << 20, 8 * MIB64, P, o),
        libc::EINVAL,
    );
    t.errno(
        "a slot beyond the last",
        vm.set_slot(slots, 0, 8 * MIB64, P, o),
        libc::EINVAL,
    );
    t.errno(
        "an address space that is not there",
        vm.set_slot(9 << 16, 0, 8 * MIB64, P, o),
        libc::EINVAL,
    );
    t.errno(
        "a range that wraps around",
        vm.set_slot(4, 0, u64::MAX - P + 1, 2 * P, o),
        libc::EINVAL,
    );
    t.errno(
        "kernel addresses",
        vm.set_slot(4, 0, 8 * MIB64, P, 0xffff_8000_0000_0000),
        libc::EINVAL,
    );
    t.errno(
        "deleting what is not there",
        vm.delete_slot(5),
        libc::EINVAL,
    );
    t.errno(
        "a bad pointer",
        sys::ioctl(vm.raw(), sys::KVM_SET_USER_MEMORY_REGION, 8),
        libc::EFAULT,
    );
}

fn deleted_and_moved(t: &mut Tap, vm: &Vm, o: u64) {
    t.success("deleting", vm.delete_slot(2));
    t.errno("deleting twice", vm.delete_slot(2), libc::EINVAL);
    t.success(
        "the range is free again",
        vm.set_slot(6, 0, 2 * MIB64, MIB64, o),
    );
    t.errno(
        "moving onto another",
        vm.set_slot(6, 0, MIB64, MIB64, o),
        libc::EEXIST,
    );
    t.success("moving elsewhere", vm.set_slot(6, 0, 4 * MIB64, MIB64, o));
    t.success("and slot 2 can be anew", vm.set_slot(2, 0, 2 * MIB64, P, o));
}

fn second_form(t: &mut Tap, vm: &Vm, o: u64) {
    let region = kvm_userspace_memory_region2 {
        slot: 7,
        guest_phys_addr: 32 * MIB64,
        memory_size: P,
        userspace_addr: o,
        ..Default::default()
    };
    if vm.cap(KVM_CAP_USER_MEMORY2) > 0 {
        t.success(
            "KVM_SET_USER_MEMORY_REGION2",
            sys::ioctl_with(vm.raw(), sys::KVM_SET_USER_MEMORY_REGION2, &region),
        );
        t.success("and the first form deletes it", vm.delete_slot(7));
    } else {
        t.skip("KVM_SET_USER_MEMORY_REGION2", "no KVM_CAP_USER_MEMORY2");
    }
}

/// The same memory at another address: the old one is empty at once.
fn moved(t: &mut Tap, dev: &Device) -> Outcome {
    const OLD: u64 = 16 * MIB64;
    const NEW: u64 = 24 * MIB64;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, OLD, PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        forever(a, |a| {
            a.mov(eax, dword_ptr(OLD))?;
            a.out(0x40, eax)?;
            a.mov(eax, dword_ptr(NEW))?;
            a.out(0x41, eax)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    window.set32(OLD, 0x1111_2222);
    t.eq(
        "the slot at its first address",
        vcpu.run()?,
        Exit::out32(0x40, 0x1111_2222),
    );
    t.eq(
        "nothing at the second",
        vcpu.run()?,
        Exit::MmioRead { gpa: NEW, len: 4 },
    );
    vcpu.reply(&[0, 0, 0, 0]);
    t.eq("the answer", vcpu.run()?, Exit::out32(0x41, 0));
    vm.set_slot(1, 0, NEW, P, window.hva())?;
    t.eq(
        "moved: nothing at the first",
        vcpu.run()?,
        Exit::MmioRead { gpa: OLD, len: 4 },
    );
    vcpu.reply(&[9, 0, 0, 0]);
    t.eq("the answer", vcpu.run()?, Exit::out32(0x40, 9));
    t.eq(
        "the slot at its second address",
        vcpu.run()?,
        Exit::out32(0x41, 0x1111_2222),
    );
    vm.delete_slot(1)?;
    t.eq(
        "deleted: nothing at the first",
        vcpu.run()?,
        Exit::MmioRead { gpa: OLD, len: 4 },
    );
    vcpu.reply(&[0; 4]);
    t.eq("the answer", vcpu.run()?, Exit::out32(0x40, 0));
    t.eq(
        "nor at the second",
        vcpu.run()?,
        Exit::MmioRead { gpa: NEW, len: 4 },
    );
    Ok(())
}

/// The only slot goes, and the guest's page tables with it.
fn last(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, &asm64(|a| a.hlt()))?;
    let translate = || vcpu.fd.translate_gva(setup::DATA).map(|found| found.valid);
    t.eq("KVM_TRANSLATE by the only slot", translate()?, 1);
    vm.delete_slot(0)?;
    t.eq("and without any", translate()?, 0);
    vm.set_slot(0, 0, 0, MIB64, ram.hva())?;
    t.eq("the slot is there again", translate()?, 1);
    Ok(())
}

/// A slot for each page of a range, memory in reverse; the guest adds them all up.
fn many(t: &mut Tap, dev: &Device) -> Outcome {
    const FIRST: u64 = 64 * MIB64;
    const SLOTS: u64 = 256;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let pages = Ram::new(FIRST, SLOTS as usize * PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let mut want = 0;
    for i in 0..SLOTS {
        let behind = (SLOTS - 1 - i) * P;
        vm.set_slot(1 + i as u32, 0, FIRST + i * P, P, pages.hva() + behind)?;
        pages.set64(FIRST + behind, i * 3 + 1);
        want += i * 3 + 1;
    }
    let code = asm64(|a| {
        a.mov(rbx, FIRST)?;
        a.mov(ecx, SLOTS as u32)?;
        a.xor(edx, edx)?;
        let mut next = a.create_label();
        a.set_label(&mut next)?;
        a.add(rdx, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx + 8), rcx)?;
        a.add(rbx, 0x1000)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq("the guest goes through 256 slots", vcpu.run()?, Exit::Hlt);
    t.eq("and reads each", vcpu.regs()?.rdx, want);
    let wrong = (0..SLOTS)
        .filter(|i| pages.get64(FIRST + (SLOTS - 1 - i) * P + 8) != SLOTS - i)
        .count();
    t.eq("and writes each", wrong, 0);
    for i in (0..SLOTS).step_by(2) {
        vm.delete_slot(1 + i as u32)?;
    }
    setup::enter(&vcpu, Mode::Long, setup::CODE, setup::STACK)?;
    let mut holes = 0;
    let mut writes = 0;
    loop {
        match vcpu.run()? {
            Exit::MmioRead { gpa, .. } if (gpa - FIRST) / P % 2 == 0 => {
                vcpu.reply(&[0; 8]);
                holes += 1;
            }
            Exit::MmioWrite { gpa, .. } if (gpa - FIRST) / P % 2 == 0 => writes += 1,
            other => {
                t.eq(
                    "with every other one deleted the guest comes to its end",
                    other,
                    Exit::Hlt,
                );
                break;
            }
        }
    }
    t.eq(
        "each hole was read and written once",
        (holes, writes),
        (SLOTS / 2, SLOTS / 2),
    );
    let rest: u64 = (0..SLOTS).filter(|i| i % 2 == 1).map(|i| i * 3 + 1).sum();
    t.eq("the others are still there", vcpu.regs()?.rdx, rest);
    Ok(())
}
