// SPDX-License-Identifier: GPL-2.0

//! The host's state around a guest: what the VMCS holds of it for VM exits, and the registers that the guest keeps
//! until the thread is scheduled away or goes back to user space.

use core::ptr::{
    self,
    addr_of_mut, //
};

use rkvm_core::vmx::{
    fields::*,
    Field,
    Vmcs, //
};

use super::{
    context::Inner,
    loaded::Loaded,
    ops,
    percpu,
    user_return::UserReturnMsrs, //
};
use crate::sys::{
    bindings,
    msr, //
};

pub(super) const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const MSR_IA32_S_CET: u32 = 0x6a2;

/// `__KERNEL_CS`, `__KERNEL_DS` and the TSS's selector of Linux on x86-64.
const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x40;

impl Inner {
    /// Host state that differs from CPU to CPU. The VMCS is current.
    ///
    /// # Safety
    ///
    /// `this` is valid and its VMCS is current on this CPU, with preemption off.
    pub(super) unsafe fn write_cpu_state(this: *mut Self) {
        let mut host = bindings::rkvm_host_state::default();
        // SAFETY: Preemption is off; the structure is a local.
        unsafe { bindings::rkvm_read_host_state(&mut host) };
        let write = |field: u32, value: u64| {
            // SAFETY: The VMCS is current, and the values are this CPU's own.
            unsafe { ops::vmwrite(u64::from(field), value) }
        };
        write(HOST_TR_BASE::ENCODING, host.tr_base);
        write(HOST_GDTR_BASE::ENCODING, host.gdt.address as u64);
        write(HOST_GS_BASE::ENCODING, host.gs_base);
        write(HOST_IA32_SYSENTER_ESP::ENCODING, host.sysenter_esp);
        // SAFETY: Loaded by this thread.
        unsafe {
            (*this).host_gdt = host.gdt;
            (*this).host_cr3 = 0;
            (*this).host_cr4 = 0;
        }
    }

    /// Displaces what user space has in the registers by what the guest has. Preemption is off on `cpu`, which is this.
    /// Answers whether there was something to do.
    ///
    /// # Safety
    ///
    /// `this` is loaded by this thread, with preemption off.
    #[inline]
    pub(super) unsafe fn load_guest_registers(this: *mut Self, cpu: u32) -> bool {
        // SAFETY: Loaded by this thread.
        unsafe {
            if (*this).guest_loaded {
                return false;
            }
            Self::load_guest_registers_slow(this, cpu);
        }
        true
    }

    /// The registers are not loaded yet.
    ///
    /// # Safety
    ///
    /// As for `load_guest_registers`.
    unsafe fn load_guest_registers_slow(this: *mut Self, cpu: u32) {
        // SAFETY: Loaded by this thread, preemption is off.
        unsafe {
            bindings::rkvm_save_user_segments(addr_of_mut!((*this).segments));
            let fs_base = (*this).segments.fs_base;
            if (*this).host_fs_base != fs_base {
                (*this).host_fs_base = fs_base;
                ops::vmwrite(HOST_FS_BASE::ENCODING.into(), fs_base);
            }
            msr::write(MSR_KERNEL_GS_BASE, (*this).guest_kernel_gs_base);
            Self::load_user_return_msrs(this, cpu);
            (*this).guest_loaded = true;
        }
    }

    /// Loads those MSRs that only user space would miss. Preemption is off on `cpu`, which is this.
    ///
    /// # Safety
    ///
    /// As for `load_guest_registers`.
    #[inline]
    pub(super) unsafe fn load_user_return_msrs(this: *mut Self, cpu: u32) {
        // SAFETY: Loaded by this thread, preemption is off.
        unsafe {
            let needed = (*this).user_return_needed;
            if needed != UserReturnMsrs::NONE {
                let values = &*ptr::addr_of!((*this).user_return);
                percpu::of(cpu).user_return.load(values, needed);
            }
        }
    }

    /// The way back. Preemption is off.
    ///
    /// # Safety
    ///
    /// `this` is loaded by this thread, with preemption off.
    pub(super) unsafe fn restore_host_registers(this: *mut Self) {
        // SAFETY: Loaded by this thread.
        unsafe {
            if !(*this).guest_loaded {
                return;
            }
            (*this).guest_loaded = false;
            (*this).guest_kernel_gs_base = msr::read(MSR_KERNEL_GS_BASE);
            bindings::rkvm_restore_user_segments(
                ptr::addr_of!((*this).segments),
                ptr::addr_of!((*this).host_gdt),
            );
        }
    }
}

impl Loaded<'_> {
    /// Writes the host state that is the same on every CPU. Once for each VMCS. `load_cet`: exits load the CET state.
    pub(crate) fn write_constant_host_state(&self, load_cet: bool) {
        let mut host = bindings::rkvm_host_state::default();
        // SAFETY: The structure is a local; what is read here does not differ between CPUs.
        unsafe { bindings::rkvm_read_host_state(&mut host) };
        self.write(HOST_CR0, host.cr0);
        self.write(HOST_CS_SELECTOR, KERNEL_CS);
        self.write(HOST_SS_SELECTOR, KERNEL_DS);
        self.write(HOST_DS_SELECTOR, 0);
        self.write(HOST_ES_SELECTOR, 0);
        self.write(HOST_FS_SELECTOR, 0);
        self.write(HOST_GS_SELECTOR, 0);
        self.write(HOST_FS_BASE, 0);
        self.write(HOST_TR_SELECTOR, TSS_SELECTOR);
        self.write(HOST_IDTR_BASE, host.idtr_base);
        self.write(HOST_IA32_SYSENTER_CS, host.sysenter_cs as u32);
        self.write(HOST_IA32_SYSENTER_EIP, host.sysenter_eip);
        self.write(HOST_IA32_PAT, host.pat);
        self.write(HOST_IA32_EFER, host.efer);
        if load_cet {
            // The kernel uses indirect-branch tracking, no supervisor shadow stacks.
            self.write(HOST_S_CET, msr::read_safe(MSR_IA32_S_CET).unwrap_or(0));
            self.write(HOST_SSP, 0);
            self.write(HOST_INTR_SSP_TABLE, 0);
        }
        // SAFETY: Gives the address of the exit label.
        self.write(HOST_RIP, unsafe { bindings::rkvm_vmexit_address() } as u64);
    }
}
