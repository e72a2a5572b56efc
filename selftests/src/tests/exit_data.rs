// SPDX-License-Identifier: GPL-2.0

//! What `kvm_run` tells of exits that end a guest, and of a KVM_RUN that fails; how it is mapped.

use crate::asm::*;
use crate::child::pipe;
use crate::cpu;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, PAGE};
use kvm_bindings::*;
use std::os::fd::AsRawFd;

/// No memory is there.
const DEVICE: u64 = 0xd000_0000;
const INVALID_GUEST_STATE: u64 = 0x8000_0021;
const EPT_VIOLATION: u64 = 48;
const EPT_MISCONFIGURATION: u64 = 49;
const HAS_INSTRUCTION: u64 = 1;
/// `KVM_X86_SHADOW_INT_STI`.
const SHADOW_STI: u8 = 2;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    failed_entry(t, dev)?;
    unknown_instruction(t, dev)?;
    no_instruction(t, dev)?;
    failed_call(t, dev)?;
    private_mapping(t, dev)?;
    wide_mapping(t, dev)
}

fn failed_entry(t: &mut Tap, dev: &Device) -> Outcome {
    let cpu = cpu::stay()?;
    let vm = Vm::new(dev)?;
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &asm64(|a| a.hlt()))?;
    // A shadow of STI, with interrupts off.
    let mut events = vcpu.fd.get_vcpu_events()?;
    events.flags = KVM_VCPUEVENT_VALID_SHADOW;
    events.interrupt.shadow = SHADOW_STI;
    vcpu.fd.set_vcpu_events(&events)?;
    t.eq(
        "an entry with a state that there can't be",
        vcpu.run()?,
        Exit::FailEntry(INVALID_GUEST_STATE),
    );
    // SAFETY: KVM_EXIT_FAIL_ENTRY says that `fail_entry` is the valid member.
    let told = unsafe { vcpu.shared().__bindgen_anon_1.fail_entry };
    t.eq("and the CPU of it", told.cpu, cpu);
    Ok(())
}

/// KVM_EXIT_INTERNAL_ERROR: its words.
fn words(vcpu: &mut Vcpu) -> Vec<u64> {
    // SAFETY: the last exit says that `internal` is the valid member.
    let told = unsafe { vcpu.shared().__bindgen_anon_1.internal };
    told.data[..told.ndata as usize].to_vec()
}

/// What the exit told, behind the instruction: its reason, two words about it, an event and its error code.
fn exit_is_told(t: &mut Tap, words: &[u64]) {
    let [reason, _, vectoring, event, code] = words[..] else {
        t.ok("five words about the exit", false);
        return;
    };
    t.ok(
        "the reason of the exit",
        [EPT_VIOLATION, EPT_MISCONFIGURATION].contains(&reason),
    );
    t.eq(
        "no event, of none",
        (vectoring >> 31, event >> 31, code),
        (0, 0, 0),
    );
}

fn unknown_instruction(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.fld(dword_ptr(rbx))?;
        a.hlt()
    });
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &code)?;
    t.eq(
        "an instruction that can't be emulated",
        vcpu.run()?,
        Exit::InternalError(KVM_INTERNAL_ERROR_EMULATION),
    );
    let words = words(&mut vcpu);
    let &[flags, first, second, ref exit @ ..] = &words[..] else {
        t.ok("flags and the instruction", false);
        return Ok(());
    };
    t.eq("the instruction is told", flags, HAS_INSTRUCTION);
    let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
    t.ok("its length", (2..=15).contains(&bytes[0]));
    t.eq("its bytes", &bytes[1..3], &[0xd9, 0x03][..]);
    exit_is_told(t, exit);
    Ok(())
}

fn no_instruction(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let code = asm64(|a| {
        a.mov(rbx, DEVICE)?;
        a.jmp(rbx)
    });
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &code)?;
    t.eq(
        "an instruction that can't be fetched",
        vcpu.run()?,
        Exit::InternalError(KVM_INTERNAL_ERROR_EMULATION),
    );
    let words = words(&mut vcpu);
    let &[flags, ref exit @ ..] = &words[..] else {
        t.ok("flags", false);
        return Ok(());
    };
    t.eq("no instruction is told", flags, 0);
    exit_is_told(t, exit);
    Ok(())
}

fn failed_call(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let code = asm64(|a| {
        a.out(0x40, al)?;
        a.hlt()
    });
    let (mut vcpu, ram) = setup::guest(&vm, Mode::Long, &code)?;
    t.eq("an exit", vcpu.run()?, Exit::out8(0x40, 0));
    drop(ram);
    t.errno("a KVM_RUN that fails", vcpu.run(), libc::EFAULT);
    t.eq("does not tell that exit again", vcpu.exit(), Exit::Other(0));
    Ok(())
}

/// A private mapping shows what KVM_RUN tells; what is written there stays there.
fn private_mapping(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &asm64(|a| a.hlt()))?;
    let (len, prot) = (vm.fd.run_size(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping, where nothing is.
    let at = unsafe {
        let anywhere = std::ptr::null_mut();
        libc::mmap(anywhere, len, prot, libc::MAP_PRIVATE, vcpu.raw(), 0)
    };
    t.ok("kvm_run can be mapped privately", at != libc::MAP_FAILED);
    if at == libc::MAP_FAILED {
        return Ok(());
    }
    t.eq("the guest halts", vcpu.run()?, Exit::Hlt);
    // SAFETY: the mapping begins with a `kvm_run`.
    let reason = unsafe { &raw mut (*at.cast::<kvm_run>()).exit_reason };
    // SAFETY: as above; the kernel may write it at any time.
    let told = unsafe { reason.read_volatile() };
    t.eq("the exit is told there, too", told, KVM_EXIT_HLT);
    // SAFETY: as above.
    unsafe { reason.write_volatile(KVM_EXIT_DEBUG) };
    t.eq("a write stays there", vcpu.exit(), Exit::Hlt);
    // SAFETY: the mapping is ours, and nothing of it is in use.
    unsafe { libc::munmap(at, len) };
    Ok(())
}

/// A mapping may be larger than what there is, and its pages come again when they are dropped.
fn wide_mapping(t: &mut Tap, dev: &Device) -> Outcome {
    const PAGES: usize = 5;
    let vm = Vm::new(dev)?;
    let (mut vcpu, _ram) = setup::guest(&vm, Mode::Long, &asm64(|a| a.hlt()))?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, where nothing is.
    let at = unsafe {
        let anywhere = std::ptr::null_mut();
        libc::mmap(
            anywhere,
            PAGES * PAGE,
            prot,
            libc::MAP_SHARED,
            vcpu.raw(),
            0,
        )
    };
    t.ok("five pages can be mapped", at != libc::MAP_FAILED);
    if at == libc::MAP_FAILED {
        return Ok(());
    }
    let (_from, to) = pipe()?;
    // The kernel tells by an error what would be a signal to this process.
    let there: Vec<bool> = (0..PAGES)
        .map(|n| {
            let byte = at.wrapping_byte_add(n * PAGE);
            // SAFETY: the kernel looks whether something is there.
            unsafe { libc::write(to.as_raw_fd(), byte, 1) == 1 }
        })
        .collect();
    t.eq(
        "three are there",
        there,
        vec![true, true, true, false, false],
    );
    t.eq("the guest halts", vcpu.run()?, Exit::Hlt);
    // SAFETY: a page of the mapping, which is the file's.
    t.eq(
        "dropped",
        unsafe { libc::madvise(at, PAGE, libc::MADV_DONTNEED) },
        0,
    );
    // SAFETY: the mapping begins with a `kvm_run`; the kernel may write it at any time.
    let told = unsafe { (&raw const (*at.cast::<kvm_run>()).exit_reason).read_volatile() };
    t.eq("it still tells of the exit", told, KVM_EXIT_HLT);
    // SAFETY: the mapping is ours, and nothing of it is in use.
    unsafe { libc::munmap(at, PAGES * PAGE) };
    Ok(())
}
