// SPDX-License-Identifier: GPL-2.0

//! Guest memory whose pages the VMM brings itself (userfaultfd), as for a live migration: the vCPU waits in KVM_RUN.
//!
//! Each run of a vCPU has a thread of its own. This one is told of its faults, and ends them. What a page is brought with
//! is not in memory before, so a guest that has it has waited for it.

mod leaving;
mod missing;
mod present;

use super::signals::SIGNAL;
use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::userfaultfd::*;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{eventfd, Vm};
use crate::{Outcome, MIB, PAGE};
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::thread::{self, JoinHandle};
use vmm_sys_util::eventfd::EventFd;

const WINDOW: u64 = 0x100_0000;
const PAGES: usize = 4;
const PORT: u16 = 0x40;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    match Userfaultfd::new(0, 0) {
        Err(Errno(libc::ENOSYS)) => {
            t.skip("userfaultfd", "this kernel has none");
            return Ok(());
        }
        other => other?,
    };
    missing::run(t, dev)?;
    present::run(t, dev)?;
    leaving::run(t, dev)
}

/// A vCPU on its way to its next exit.
struct Running {
    thread: JoinHandle<(Vcpu, Result<Exit, Errno>)>,
    ended: EventFd,
}

impl Running {
    fn start(mut vcpu: Vcpu) -> Outcome<Self> {
        let ended = eventfd()?;
        let tell = ended.try_clone()?;
        let thread = thread::spawn(move || {
            let result = vcpu.run();
            tell.write(1).expect("a count of one");
            (vcpu, result)
        });
        Ok(Running { thread, ended })
    }

    /// The next fault that `uffd` tells; `None` if KVM_RUN has ended without one.
    fn fault(&self, uffd: &Userfaultfd) -> Outcome<Option<PageFault>> {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [entry(uffd.raw()), entry(self.ended.as_raw_fd())];
        // SAFETY: as many entries as are told.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) } < 0 {
            return Err(Errno::last().into());
        }
        Ok(match fds[0].revents {
            0 => None,
            _ => Some(uffd.read()?),
        })
    }

    fn has_ended(&self) -> bool {
        self.ended.read().is_ok()
    }

    /// Sends [`SIGNAL`] to the thread.
    fn signal(&self) {
        // SAFETY: the thread was not joined yet.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), SIGNAL) };
    }

    /// Waits for what KVM_RUN answers.
    fn end(self) -> Outcome<(Vcpu, Result<Exit, Errno>)> {
        self.thread
            .join()
            .map_err(|_| "the vCPU thread panicked".into())
    }
}

/// Runs the vCPU to its next exit through one fault: `want`, which `bring` ends.
fn run_through(
    t: &mut Tap,
    what: &str,
    vcpu: Vcpu,
    uffd: &Userfaultfd,
    want: PageFault,
    bring: impl FnOnce() -> Result<(), Errno>,
) -> Outcome<(Vcpu, Result<Exit, Errno>)> {
    let running = Running::start(vcpu)?;
    t.eq(format!("{what} is told"), running.fault(uffd)?, Some(want));
    bring()?;
    running.end()
}

/// Memory for code, and a vCPU at the beginning of `code` in it.
fn guest(vm: &Vm, code: &[u8]) -> Outcome<(Ram, Vcpu)> {
    let ram = vm.add_ram(0, 0, MIB)?;
    let vcpu = vm.vcpu(0)?;
    setup::start(&vcpu, &ram, Mode::Long, code)?;
    Ok((ram, vcpu))
}

/// The guest-physical address of a page of the window.
const fn gpa(page: u64) -> u64 {
    WINDOW + page * PAGE as u64
}

/// A fault on `page` of the window.
fn fault(window: &Ram, page: u64, flags: u64) -> PageFault {
    PageFault {
        address: window.hva() + page * PAGE as u64,
        flags,
    }
}

/// Reads the first doubleword of `page`, and tells it.
fn read_and_tell(a: &mut CodeAssembler, page: u64) -> Asm {
    a.mov(eax, dword_ptr(gpa(page)))?;
    a.out(i32::from(PORT), eax)
}

/// Writes the first doubleword of `page`, and tells it as it is then.
fn write_and_tell(a: &mut CodeAssembler, page: u64, value: u32) -> Asm {
    a.mov(dword_ptr(gpa(page)), value)?;
    read_and_tell(a, page)
}
