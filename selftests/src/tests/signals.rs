// SPDX-License-Identifier: GPL-2.0

//! Getting out of KVM_RUN: signals, `immediate_exit`, KVM_SET_SIGNAL_MASK.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, CODE};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_MP_STATE_HALTED};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The signal that the tests send to vCPU threads.
pub const SIGNAL: i32 = libc::SIGUSR1;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    catch()?;
    immediate_exit(t, dev)?;
    running(t, dev)?;
    mask(t, dev)
}

extern "C" fn caught(_: i32) {}

/// Gives [`SIGNAL`] a handler that does nothing, and that does not restart system calls.
pub fn catch() -> Result<(), Errno> {
    // SAFETY: a zeroed sigaction with a handler is valid; the handler does nothing.
    let r = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as extern "C" fn(i32) as usize;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut())
    };
    if r == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// Runs the vCPU in a thread and signals that thread until KVM_RUN came back: whether a signal
/// finds it on its way in, in the guest or asleep, one of them has to end it.
pub fn interrupt_until_done(vcpu: Vcpu) -> Outcome<(Result<Exit, Errno>, Vcpu)> {
    interrupt_after(vcpu, || {})
}

/// The same, with signals only after `wait`, which runs in this thread.
pub fn interrupt_after(
    mut vcpu: Vcpu,
    wait: impl FnOnce(),
) -> Outcome<(Result<Exit, Errno>, Vcpu)> {
    let done = Arc::new(AtomicBool::new(false));
    let tid = Arc::new(AtomicI32::new(0));
    let (their_done, their_tid) = (done.clone(), tid.clone());
    let runner = thread::spawn(move || {
        // SAFETY: asks for the thread's id.
        their_tid.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        let result = vcpu.run();
        their_done.store(true, Ordering::SeqCst);
        (result, vcpu)
    });
    wait();
    while !done.load(Ordering::SeqCst) {
        let tid = tid.load(Ordering::SeqCst);
        if tid != 0 {
            // SAFETY: signals a thread of this process; if it has ended this is ESRCH.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, SIGNAL) };
        }
        thread::sleep(Duration::from_millis(1));
    }
    runner.join().map_err(|_| "the vCPU thread panicked".into())
}

/// Runs the vCPU, whose guest comes to HLT soon, until a signal has ended its sleep there. One that finds it on its way has
/// it run again.
pub fn interrupt_in_hlt(mut vcpu: Vcpu) -> Outcome<(Result<Exit, Errno>, Vcpu)> {
    const TRIES: u64 = 100;
    for patience in (0..TRIES).map(Duration::from_millis) {
        let (result, back) = interrupt_after(vcpu, || thread::sleep(patience))?;
        let asleep = back.fd.get_mp_state()?.mp_state == KVM_MP_STATE_HALTED;
        if asleep || result != Err(Errno(libc::EINTR)) {
            return Ok((result, back));
        }
        vcpu = back;
    }
    Err("the guest does not come to HLT".into())
}

fn immediate_exit(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.in_(al, 0x40)?;
        a.mov(rbx, 0xd000_0000u64)?;
        a.mov(ecx, dword_ptr(rbx))?;
        a.out(0x41, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    vcpu.shared().immediate_exit = 1;
    t.errno(
        "immediate_exit before the first instruction",
        vcpu.run(),
        libc::EINTR,
    );
    t.eq("nothing was executed", vcpu.regs()?.rip, CODE);
    t.errno("and again, as long as it is set", vcpu.run(), libc::EINTR);
    vcpu.shared().immediate_exit = 0;
    t.eq(
        "the guest reads a port",
        vcpu.run()?,
        Exit::In {
            port: 0x40,
            size: 1,
            count: 1,
        },
    );
    vcpu.reply(&[0x5a]);
    vcpu.shared().immediate_exit = 1;
    t.errno(
        "immediate_exit with an answer pending",
        vcpu.run(),
        libc::EINTR,
    );
    let told = vcpu.shared().exit_reason;
    t.eq(
        "the exit that was completed is still told",
        told,
        KVM_EXIT_IO,
    );
    let r = vcpu.regs()?;
    t.eq("completes the IN", (r.rax & 0xff, r.rip), (0x5a, CODE + 2));
    vcpu.shared().immediate_exit = 0;
    t.eq(
        "the guest reads a device",
        vcpu.run()?,
        Exit::MmioRead {
            gpa: 0xd000_0000,
            len: 4,
        },
    );
    vcpu.reply(&[1, 2, 3, 4]);
    vcpu.shared().immediate_exit = 1;
    t.errno(
        "immediate_exit with a load pending",
        vcpu.run(),
        libc::EINTR,
    );
    let told = vcpu.shared().exit_reason;
    t.eq("and the load's too", told, KVM_EXIT_MMIO);
    t.eq("completes the load", vcpu.regs()?.rcx, 0x0403_0201);
    vcpu.shared().immediate_exit = 0;
    t.eq("and the guest goes on", vcpu.run()?, Exit::out8(0x41, 0x5a));
    Ok(())
}

/// A guest that never exits by itself. Interrupts are on: there is no source of any.
fn running(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        forever(a, |a| a.inc(rcx))
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let (result, mut vcpu) = interrupt_until_done(vcpu)?;
    t.errno("a signal ends KVM_RUN with EINTR", result, libc::EINTR);
    t.eq("the exit reason is KVM_EXIT_INTR", vcpu.exit(), Exit::Intr);
    let r = vcpu.regs()?;
    t.ok(
        "the guest is in its loop",
        (CODE..CODE + code.len() as u64).contains(&r.rip),
    );
    let (result, vcpu) = interrupt_until_done(vcpu)?;
    t.errno("and again", result, libc::EINTR);
    t.ok("the loop counts on", vcpu.regs()?.rcx >= r.rcx);
    Ok(())
}

/// Blocks or unblocks [`SIGNAL`] for this thread.
fn block(how: i32) {
    // SAFETY: a signal set on the stack, for this thread only.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// Runs the vCPU while a signal waits that KVM_RUN lets in: the entry is called off at the last moment.
pub fn called_off(vcpu: &mut Vcpu) -> Outcome<Result<Exit, Errno>> {
    catch()?;
    let open = sys::SignalMask {
        len: 8,
        sigset: [0, 0],
    };
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, &open)?;
    block(libc::SIG_BLOCK);
    // SAFETY: raises a signal with a handler for this thread.
    unsafe { libc::raise(SIGNAL) };
    let result = vcpu.run();
    sys::ioctl(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, 0)?;
    block(libc::SIG_UNBLOCK);
    Ok(result)
}

fn pending() -> bool {
    // SAFETY: a signal set on the stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut set);
        libc::sigismember(&set, SIGNAL) == 1
    }
}

/// The usual way to avoid races: the signal is blocked outside KVM_RUN and open inside.
fn mask(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.out(0x41, al)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    let open = sys::SignalMask {
        len: 8,
        sigset: [0, 0],
    };
    t.success(
        "KVM_SET_SIGNAL_MASK",
        sys::ioctl_with(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, &open),
    );
    block(libc::SIG_BLOCK);
    // SAFETY: raises a signal with a handler for this thread.
    unsafe { libc::raise(SIGNAL) };
    t.ok("a blocked signal is pending", pending());
    t.errno(
        "it ends KVM_RUN, whose mask lets it in",
        vcpu.run(),
        libc::EINTR,
    );
    t.eq("with KVM_EXIT_INTR", vcpu.exit(), Exit::Intr);
    t.eq("before an instruction", vcpu.regs()?.rip, CODE);
    t.ok("it is not consumed: the old mask is back", pending());
    t.eq(
        "taking the mask away",
        sys::ioctl(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, 0),
        Ok(0),
    );
    t.eq(
        "the signal stays out and the guest runs",
        vcpu.run()?,
        Exit::out8(0x41, 0),
    );
    block(libc::SIG_UNBLOCK);
    t.ok("unblocked it is delivered", !pending());
    let bad = sys::SignalMask {
        len: 4,
        sigset: [0, 0],
    };
    t.errno(
        "a mask of another size",
        sys::ioctl_with(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, &bad),
        libc::EINVAL,
    );
    Ok(())
}
