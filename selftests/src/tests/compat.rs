// SPDX-License-Identifier: GPL-2.0

//! A 32-bit program on a 64-bit host: ioctls whose structures hold addresses, and a guest that is driven by nothing else.

use crate::asm::*;
use crate::compat::{self, LowMemory};
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

/// `_IOW(KVMIO, 0xc6, struct kvm_msr_filter)` of a 32-bit program: the flags and 16 ranges of four words.
const SET_MSR_FILTER: u32 = 0x4104_aec6;
/// The number of a 64-bit program.
const SET_MSR_FILTER_64: u64 = 0x4188_aec6;
const RANGES: usize = 16;
const LOGGED: u64 = 0x80_0000;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Where `LowMemory` holds the structures, and what they point to.
const STRUCTURE: usize = 0;
const TARGET: usize = 512;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    if !compat::available()? {
        t.skip("all", "the kernel has no system calls for 32-bit programs");
        return Ok(());
    }
    t.eq(
        "KVM_GET_API_VERSION",
        compat::ioctl(dev.fd(), sys::KVM_GET_API_VERSION as u32, 0),
        Ok(12),
    );
    let low = LowMemory::new()?;
    dirty_log(t, dev, &low)?;
    msr_filter(t, dev, &low)?;
    signal_mask(t, dev, &low)
}

/// KVM_RUN of a 32-bit program.
fn run_guest(vcpu: &mut Vcpu) -> Result<Exit, Errno> {
    compat::ioctl(vcpu.raw(), sys::KVM_RUN as u32, 0)?;
    Ok(vcpu.exit())
}

fn dirty_log(t: &mut Tap, dev: &Device, low: &LowMemory) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let logged = vm.add_ram(1, LOGGED, MIB)?;
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    vm.set_slot(1, flags, LOGGED, MIB as u64, logged.hva())?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(dword_ptr(LOGGED + 0x3000), 1)?;
        a.mov(dword_ptr(LOGGED + 0x2_1000), 1)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq("a guest runs", run_guest(&mut vcpu)?, Exit::Hlt);

    let get = |bitmap: u32| {
        // The second half of the union, which a 32-bit program does not write.
        let log = low.put(STRUCTURE, &[1, 0, bitmap, 0xdead_0000]);
        compat::ioctl(vm.raw(), sys::KVM_GET_DIRTY_LOG as u32, log)
    };
    let clear = |bitmap: u32| {
        let log = low.put(STRUCTURE, &[1, 64, 0, 0, bitmap, 0xdead_0000]);
        compat::ioctl(vm.raw(), sys::KVM_CLEAR_DIRTY_LOG as u32, log)
    };
    t.eq(
        "KVM_CLEAR_DIRTY_LOG takes an address of 32 bits",
        clear(low.put(TARGET, &[1 << 3, 0])),
        Ok(0),
    );
    t.errno("but none that is bad", clear(8), libc::EFAULT);
    t.eq(
        "KVM_GET_DIRTY_LOG takes an address of 32 bits",
        get(low.put(TARGET, &[0; 8])),
        Ok(0),
    );
    t.eq(
        "the page that the guest wrote and nobody cleared",
        [low.get(TARGET), low.get(TARGET + 1)],
        [0, 1 << 1],
    );
    t.errno("one that is bad", get(8), libc::EFAULT);
    Ok(())
}

fn msr_filter(t: &mut Tap, dev: &Device, low: &LowMemory) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [1 << 2, 0, 0, 0],
        ..Default::default()
    };
    sys::ioctl_with(vm.raw(), sys::KVM_ENABLE_CAP, &cap)?;
    // No bit is set: no access is allowed.
    let bitmap = low.put(TARGET, &[0, 0]);
    let set = |range: usize, words: [u32; 4]| {
        let mut filter = [0; 1 + 4 * RANGES];
        filter[1 + 4 * range..][..4].copy_from_slice(&words);
        compat::ioctl(vm.raw(), SET_MSR_FILTER, low.put(STRUCTURE, &filter))
    };
    t.errno(
        "a filter with a range of neither reads nor writes",
        set(15, [0, 1, KERNEL_GS_BASE, bitmap]),
        libc::EINVAL,
    );
    t.errno(
        "a filter with a bad address",
        set(15, [1, 1, KERNEL_GS_BASE, 8]),
        libc::EFAULT,
    );
    t.eq(
        "a filter of reads, in the last range",
        set(15, [1, 1, KERNEL_GS_BASE, bitmap]),
        Ok(0),
    );
    let code = asm64(|a| {
        a.mov(ecx, KERNEL_GS_BASE)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    t.eq(
        "the guest's read goes to user space",
        run_guest(&mut vcpu)?,
        Exit::Other(KVM_EXIT_X86_RDMSR),
    );
    t.eq("a filter of nothing", set(0, [0; 4]), Ok(0));
    t.eq("lets it through", run_guest(&mut vcpu)?, Exit::Hlt);
    t.errno(
        "the number of a 32-bit program in a 64-bit one",
        sys::ioctl(vm.raw(), SET_MSR_FILTER.into(), 8),
        libc::ENOTTY,
    );
    let own = [0u64; 49];
    t.success(
        "whose number is another",
        sys::ioctl_with(vm.raw(), SET_MSR_FILTER_64, &own),
    );
    Ok(())
}

fn signal_mask(t: &mut Tap, dev: &Device, low: &LowMemory) -> Outcome {
    let vm = Vm::new(dev)?;
    let vcpu = vm.vcpu(0)?;
    let set = |len: u32| {
        let mask = low.put(STRUCTURE, &[len, 0, 0]);
        compat::ioctl(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK as u32, mask)
    };
    t.eq("KVM_SET_SIGNAL_MASK of 8 bytes", set(8), Ok(0));
    t.errno("of 4", set(4), libc::EINVAL);
    t.eq(
        "of none",
        compat::ioctl(vcpu.raw(), sys::KVM_SET_SIGNAL_MASK as u32, 0),
        Ok(0),
    );
    Ok(())
}
