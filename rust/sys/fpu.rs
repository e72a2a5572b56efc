// SPDX-License-Identifier: GPL-2.0

//! The guest's floating-point and vector state, and the registers that go with it: XCR0, IA32_XSS, PKRU.
//!
//! The kernel keeps the state of a guest like that of a task; KVM_RUN exchanges the two. C KVM's counterparts are
//! `kvm_load_guest_fpu()` and `kvm_load_xfeatures()` in `arch/x86/kvm/x86.c`.

use core::ffi::c_void;

use kernel::prelude::*;

use super::{
    bindings,
    msr,
    restricted::restricted, //
};

const MSR_IA32_XSS: u32 = 0xda0;

/// What a guest runs with in XCR0, IA32_XSS and PKRU, and what the host has.
#[derive(Clone, Copy)]
pub(crate) struct GuestXState {
    /// Guest XCR0; equal to `host_xcr0` while the guest has CR4.OSXSAVE clear.
    pub(crate) xcr0: u64,
    /// The host's XCR0.
    pub(crate) host_xcr0: u64,
    /// Guest IA32_XSS; equal to `host_xss` if the CPU has none.
    pub(crate) xss: u64,
    /// The host's IA32_XSS.
    pub(crate) host_xss: u64,
    /// The guest can use PKRU: it has CR4.PKE set, or XCR0's bit for it. The values are in the VMCS context.
    pub(crate) switch_pkru: bool,
}

impl GuestXState {
    /// The host's own values, read once at load.
    pub(crate) fn of_host() -> Self {
        let xcr0 = if msr::boot_cpu_has(bindings::X86_FEATURE_OSXSAVE) {
            // SAFETY: XGETBV with index 0 exists where CR4.OSXSAVE is set, which the kernel reports as this feature.
            unsafe { bindings::rkvm_xgetbv() }
        } else {
            0
        };
        let xss = msr::read_safe(MSR_IA32_XSS).unwrap_or(0);
        Self {
            xcr0,
            host_xcr0: xcr0,
            xss,
            host_xss: xss,
            switch_pkru: false,
        }
    }

    /// `self`, if entry and exit have something to switch.
    pub(crate) fn if_different(self) -> Option<Self> {
        let different =
            self.xcr0 != self.host_xcr0 || self.xss != self.host_xss || self.switch_pkru;
        different.then_some(self)
    }

    /// Loads the guest's registers, PKRU with `pkru`. Interrupts are off. Gives what they displaced.
    pub(super) fn load(&self, pkru: u32) -> HostXState {
        let mut host = HostXState {
            xcr0: None,
            xss: None,
            pkru: None,
        };
        if self.xcr0 != self.host_xcr0 {
            // SAFETY: The value was checked against what the guest may have, a subset of the host's.
            unsafe { bindings::rkvm_xsetbv(self.xcr0) };
            host.xcr0 = Some(self.host_xcr0);
        }
        if self.xss != self.host_xss {
            msr::write(MSR_IA32_XSS, self.xss);
            host.xss = Some(self.host_xss);
        }
        if self.switch_pkru {
            let value = read_pkru();
            if value != pkru {
                write_pkru(pkru);
            }
            host.pkru = Some(value);
        }
        host
    }
}

/// The host's registers, of those that [`GuestXState::load`] has loaded.
pub(super) struct HostXState {
    xcr0: Option<u64>,
    xss: Option<u64>,
    pkru: Option<u32>,
}

impl HostXState {
    /// Loads them, after any number of entries. Stores the guest's PKRU.
    pub(super) fn restore(&self, guest_pkru: &mut u32) {
        if let Some(pkru) = self.pkru {
            *guest_pkru = read_pkru();
            if *guest_pkru != pkru {
                write_pkru(pkru);
            }
        }
        if let Some(xcr0) = self.xcr0 {
            // SAFETY: The kernel's own value.
            unsafe { bindings::rkvm_xsetbv(xcr0) };
        }
        if let Some(xss) = self.xss {
            msr::write(MSR_IA32_XSS, xss);
        }
    }
}

/// PKRU as it is in the register now.
#[inline]
fn read_pkru() -> u32 {
    // SAFETY: The callers checked that CR4.PKE is set on the host.
    unsafe { bindings::rkvm_read_pkru() }
}

/// Sets PKRU. Interrupts are off, and the host's value is put back before user memory is touched.
#[inline]
fn write_pkru(value: u32) {
    // SAFETY: As above; PKRU only restricts user-mode pages.
    unsafe { bindings::rkvm_write_pkru(value) };
}

/// A guest's FPU state.
pub(crate) struct GuestFpu(KBox<bindings::fpu_guest>);

// SAFETY: The state belongs to no thread while it is not loaded, and it is loaded only within KVM_RUN.
unsafe impl Send for GuestFpu {}
// SAFETY: Through a shared reference only its size is read, which does not change.
unsafe impl Sync for GuestFpu {}

impl GuestFpu {
    /// The state after reset. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let mut fpu = KBox::new(bindings::fpu_guest::default(), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: The container lives on the heap and is freed in `drop`.
        if !unsafe { (restricted().fpu_alloc_guest_fpstate)(&mut *fpu) } {
            return Err(ENOMEM);
        }
        Ok(Self(fpu))
    }

    /// Exchanges the task's FPU registers for the guest's; [`GuestFpu::unload`] undoes it, on the same thread.
    pub(crate) fn load(&mut self) {
        // SAFETY: The state is the guest's and allocated.
        unsafe { (restricted().fpu_swap_kvm_fpstate)(&mut *self.0, true) };
    }

    /// Puts the task's own FPU registers back.
    pub(crate) fn unload(&mut self) {
        // SAFETY: As above; `load` came before.
        unsafe { (restricted().fpu_swap_kvm_fpstate)(&mut *self.0, false) };
    }

    /// Bytes of the XSAVE area for user space.
    pub(crate) fn uabi_size(&self) -> usize {
        self.0.uabi_size as usize
    }

    /// Copies the state out in the XSAVE format, `features` of it, with `pkru` in its place.
    pub(crate) fn copy_to_uabi(&mut self, to: &mut [u8], features: u64, pkru: u32) {
        // SAFETY: The buffer has the given size.
        unsafe {
            (restricted().fpu_copy_guest_fpstate_to_uabi)(
                &mut *self.0,
                to.as_mut_ptr().cast::<c_void>(),
                to.len() as u32,
                features,
                pkru,
            )
        };
    }

    /// Sets the state from the XSAVE format. EINVAL for features outside `xcr0` or reserved bits. Gives PKRU.
    pub(crate) fn copy_from_uabi(&mut self, from: &[u8], xcr0: u64, pkru: &mut u32) -> Result {
        if from.len() < self.uabi_size() {
            return Err(EINVAL);
        }
        // SAFETY: The buffer is as large as the state.
        let ret = unsafe {
            (restricted().fpu_copy_uabi_to_guest_fpstate)(
                &mut *self.0,
                from.as_ptr().cast::<c_void>(),
                xcr0,
                pkru,
            )
        };
        kernel::error::to_result(ret)
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        // SAFETY: Allocated by `new`, loaded nowhere.
        unsafe { (restricted().fpu_free_guest_fpstate)(&mut *self.0) };
    }
}
