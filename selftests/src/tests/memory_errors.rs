// SPDX-License-Identifier: GPL-2.0

//! A page behind guest memory breaks: the VMM gets the SIGBUS that tells where, and can put a new page there.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

const WINDOW: u64 = 0x100_0000;
/// `si_code` of a page that was needed and is broken (uapi siginfo.h).
const BUS_MCEERR_AR: i32 = 4;
/// `si_code` of a page that broke and is not needed now.
const BUS_MCEERR_AO: i32 = 5;

static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    if info.si_code != BUS_MCEERR_AO {
        CODE.store(info.si_code, Ordering::SeqCst);
        // SAFETY: a SIGBUS has an address.
        ADDRESS.store(unsafe { info.si_addr() } as u64, Ordering::SeqCst);
    }
}

fn catch_sigbus() -> Result<(), Errno> {
    // SAFETY: all zero is a valid sigaction, and the handler only stores to atomics.
    let r = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    match r {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    catch_sigbus()?;
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let window = vm.add_ram(1, WINDOW, 2 * PAGE)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, WINDOW)?;
        forever(a, |a| {
            a.mov(eax, dword_ptr(rbx))?;
            a.out(0x40, eax)
        })
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    window.set32(WINDOW, 7);
    t.eq("a good page", vcpu.run()?, Exit::out32(0x40, 7));

    window.advise(WINDOW, PAGE, libc::MADV_HWPOISON)?;
    t.errno("it breaks: KVM_RUN ends", vcpu.run(), libc::EINTR);
    t.eq(
        "with a SIGBUS for a page that is needed",
        CODE.load(Ordering::SeqCst),
        BUS_MCEERR_AR,
    );
    t.eq(
        "that tells where",
        ADDRESS.load(Ordering::SeqCst),
        window.hva(),
    );

    CODE.store(0, Ordering::SeqCst);
    t.errno("and again, as long as it is there", vcpu.run(), libc::EINTR);
    t.eq("SIGBUS", CODE.load(Ordering::SeqCst), BUS_MCEERR_AR);

    window.remap(WINDOW, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    window.set32(WINDOW, 8);
    t.eq(
        "a new page: the guest goes on",
        vcpu.run()?,
        Exit::out32(0x40, 8),
    );
    Ok(())
}
