// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_SIGNAL_MASK while the guest runs: a signal that the thread blocks and the mask lets in ends KVM_RUN and goes on
//! waiting, whatever its action is; SIGKILL and SIGSTOP can't be masked.

use crate::asm::*;
use crate::child::{pipe, Child};
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::sys::{self, SignalMask};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use std::io::{Read, Write};
use std::mem::zeroed;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// A mask that lets all signals in.
const OPEN: SignalMask = SignalMask {
    len: 8,
    sigset: [0, 0],
};
/// One that lets none in, as far as that goes.
const CLOSED: SignalMask = SignalMask {
    len: 8,
    sigset: [!0, !0],
};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let (result, exit, waits) = interrupted_by(libc::SIGWINCH, dev)?;
    t.errno(
        "a blocked signal that would be ignored ends KVM_RUN",
        result,
        libc::EINTR,
    );
    t.eq("with KVM_EXIT_INTR", exit, Exit::Intr);
    t.ok("and waits", waits);

    let path = dev.path().to_owned();
    let child = Child::fork(|| {
        let dev = Device::open(&path)?;
        let (result, exit, waits) = interrupted_by(libc::SIGUSR2, &dev)?;
        Ok(result == Err(Errno(libc::EINTR)) && exit == Exit::Intr && waits)
    })?;
    t.eq(
        "a blocked signal without a handler ends KVM_RUN, not the process",
        child.end(),
        Some(0),
    );

    let (mut ready, mut their_end) = pipe()?;
    // What it captures is closed here, so that its end ends the wait.
    let child = Child::fork(move || {
        let (_vm, mut vcpu) = spinning(&Device::open(&path)?, &CLOSED)?;
        vcpu.run()?;
        their_end.write_all(&[1])?;
        vcpu.run().map(|_| false).map_err(Into::into)
    })?;
    ready.read_exact(&mut [0])?;
    child.kill();
    t.eq(
        "SIGKILL reaches a vCPU with all signals masked",
        child.end(),
        Some(libc::SIGKILL),
    );
    arguments(t, dev)
}

/// Runs a guest that spins in a thread that blocks `signal`, with an open mask, and sends it that signal until KVM_RUN is
/// back. Answers what it returned, what it told, and whether the signal is pending.
fn interrupted_by(signal: i32, dev: &Device) -> Outcome<(Result<(), Errno>, Exit, bool)> {
    let (_vm, mut vcpu) = spinning(dev, &OPEN)?;
    vcpu.run()?;
    let done = AtomicBool::new(false);
    let tid = AtomicI32::new(0);
    thread::scope(|s| {
        let runner = s.spawn(|| {
            block(signal);
            // SAFETY: asks for the thread's id.
            tid.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            let result = vcpu.run().map(drop);
            let waits = pending(signal);
            done.store(true, Ordering::SeqCst);
            (result, vcpu.exit(), waits)
        });
        while !done.load(Ordering::SeqCst) && !runner.is_finished() {
            thread::sleep(Duration::from_millis(2));
            let tid = tid.load(Ordering::SeqCst);
            if tid != 0 {
                // SAFETY: signals a thread of this process; if it has ended this is ESRCH.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
            }
        }
        runner.join().map_err(|_| "the vCPU thread panicked".into())
    })
}

/// A guest that tells that it is there and spins then, with a mask for KVM_RUN.
fn spinning(dev: &Device, mask: &SignalMask) -> Outcome<(Vm, Vcpu)> {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.sti()?;
        a.out(0x41, al)?;
        forever(a, |_| Ok(()))
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    // The guest's memory stays until the process ends.
    std::mem::forget(ram);
    sys::ioctl_with(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, mask)?;
    Ok((vm, vcpu))
}

fn block(signal: i32) {
    // SAFETY: a signal set on the stack, for this thread only.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn pending(signal: i32) -> bool {
    // SAFETY: a signal set on the stack.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigpending(&mut set);
        libc::sigismember(&set, signal) == 1
    }
}

fn arguments(t: &mut Tap, dev: &Device) -> Outcome {
    let (_vm, vcpu) = spinning(dev, &OPEN)?;
    for len in [0, 4, 7, 9, 16, 128, u32::MAX] {
        let mask = SignalMask { len, ..OPEN };
        t.errno(
            format!("a mask of {len} bytes"),
            sys::ioctl_with(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK, &mask),
            libc::EINVAL,
        );
    }
    Ok(())
}
