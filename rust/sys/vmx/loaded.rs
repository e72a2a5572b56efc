// SPDX-License-Identifier: GPL-2.0

//! A vCPU that this thread may read and write: its VMCS, and the registers that VM entry and exit don't switch.

use core::{
    marker::PhantomData,
    ptr::addr_of_mut, //
};

use kernel::types::NotThreadSafe;
use rkvm_core::vmx::{
    FieldValue,
    Readable,
    Vmcs,
    Writable, //
};

use super::{
    context::{
        Inner,
        VmcsContext, //
    },
    host_state::MSR_KERNEL_GS_BASE,
    ops,
    user_return::{
        UserReturnMsr,
        UserReturnMsrs, //
    },
};
use crate::sys::{
    bindings,
    msr, //
};

/// Keeps a VMCS current with this thread until it is dropped.
pub(crate) struct LoadGuard<'a> {
    pub(super) inner: *mut Inner,
    pub(super) _context: &'a mut VmcsContext,
    pub(super) _thread: NotThreadSafe,
}

impl LoadGuard<'_> {
    /// What can be done with it.
    #[inline]
    pub(crate) fn loaded(&self) -> Loaded<'_> {
        Loaded {
            inner: self.inner,
            _guard: PhantomData,
            _thread: NotThreadSafe,
        }
    }
}

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: Registered by `load` on this thread.
        unsafe {
            bindings::rkvm_preempt_disable();
            Inner::restore_host_registers(self.inner);
            bindings::preempt_notifier_unregister(addr_of_mut!((*self.inner).notifier));
            bindings::rkvm_preempt_enable();
        }
    }
}

/// A vCPU whose VMCS is current with this thread: the right to VMREAD and VMWRITE.
#[derive(Clone, Copy)]
pub(crate) struct Loaded<'a> {
    pub(super) inner: *mut Inner,
    _guard: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl Vmcs for Loaded<'_> {
    #[inline(always)]
    fn read<F: Readable>(&self, _field: F) -> F::Value {
        // SAFETY: The VMCS is current with this thread.
        F::Value::from_u64(unsafe { ops::vmread(u64::from(F::ENCODING)) })
    }

    #[inline(always)]
    fn write<F: Writable>(&self, _field: F, value: F::Value) {
        // SAFETY: The VMCS is current with this thread. Glue writes guest state and negotiated controls; host state
        // that an exit depends on is written by `write_cpu_state` and `write_constant_host_state`.
        unsafe { ops::vmwrite(u64::from(F::ENCODING), value.to_u64()) };
    }
}

impl Loaded<'_> {
    /// General-purpose register `n` in ModRM order. RSP is in the VMCS.
    #[inline(always)]
    pub(crate) fn gpr(&self, n: usize) -> u64 {
        // SAFETY: Loaded by this thread; the index is masked.
        unsafe { (*self.inner).entry.regs[n & 15] }
    }

    /// Sets general-purpose register `n`. RSP is in the VMCS.
    #[inline(always)]
    pub(crate) fn set_gpr(&self, n: usize, value: u64) {
        // SAFETY: As above.
        unsafe { (*self.inner).entry.regs[n & 15] = value };
    }

    /// All general-purpose registers; RSP's place is not filled.
    #[inline]
    pub(crate) fn gprs(&self) -> [u64; 16] {
        // SAFETY: Loaded by this thread.
        unsafe { (*self.inner).entry.regs }
    }

    /// CR2, which the CPU does not switch.
    #[inline]
    pub(crate) fn cr2(&self) -> u64 {
        // SAFETY: Loaded by this thread.
        unsafe { (*self.inner).entry.cr2 }
    }

    /// Sets CR2.
    #[inline]
    pub(crate) fn set_cr2(&self, value: u64) {
        // SAFETY: As above.
        unsafe { (*self.inner).entry.cr2 = value };
    }

    /// The guest's PKRU.
    #[inline]
    pub(crate) fn pkru(&self) -> u32 {
        // SAFETY: Loaded by this thread.
        unsafe { (*self.inner).pkru }
    }

    /// Sets the guest's PKRU.
    pub(crate) fn set_pkru(&self, value: u32) {
        // SAFETY: As above.
        unsafe { (*self.inner).pkru = value };
    }

    /// The guest's IA32_SPEC_CTRL.
    pub(crate) fn spec_ctrl(&self) -> u64 {
        // SAFETY: As above.
        unsafe { (*self.inner).entry.spec_ctrl }
    }

    /// Sets IA32_SPEC_CTRL; `passed_through` once the guest writes it without exits.
    pub(crate) fn set_spec_ctrl(&self, value: u64, passed_through: bool) {
        // SAFETY: As above.
        unsafe {
            (*self.inner).entry.spec_ctrl = value;
            if passed_through {
                (*self.inner).entry.flags |= bindings::RKVM_ENTER_SAVE_SPEC_CTRL;
            }
        }
    }

    /// Has every entry flush the L1 data cache first.
    pub(crate) fn flush_l1d_at_entry(&self) {
        // SAFETY: As above.
        unsafe { (*self.inner).entry.flags |= bindings::RKVM_ENTER_FLUSH_L1D };
    }

    /// Has every entry clear the CPU's buffers first.
    pub(crate) fn clear_buffers_at_entry(&self) {
        // SAFETY: As above.
        unsafe { (*self.inner).entry.flags |= bindings::RKVM_ENTER_CLEAR_BUFFERS };
    }

    /// The guest's KERNEL_GS_BASE.
    pub(crate) fn kernel_gs_base(&self) -> u64 {
        // SAFETY: Paired; the register is read where it is, without a chance to be scheduled away in between.
        unsafe {
            bindings::rkvm_preempt_disable();
            if (*self.inner).guest_loaded {
                (*self.inner).guest_kernel_gs_base = msr::read(MSR_KERNEL_GS_BASE);
            }
            let value = (*self.inner).guest_kernel_gs_base;
            bindings::rkvm_preempt_enable();
            value
        }
    }

    /// Sets the guest's KERNEL_GS_BASE. The value is canonical.
    pub(crate) fn set_kernel_gs_base(&self, value: u64) {
        // SAFETY: Paired, as above.
        unsafe {
            bindings::rkvm_preempt_disable();
            if (*self.inner).guest_loaded {
                msr::write(MSR_KERNEL_GS_BASE, value);
            }
            (*self.inner).guest_kernel_gs_base = value;
            bindings::rkvm_preempt_enable();
        }
    }

    /// Sets an MSR that is switched on the way to user space. The value is one that the register takes.
    pub(crate) fn set_user_return_msr(&self, which: UserReturnMsr, value: u64) {
        // SAFETY: Loaded by this thread.
        unsafe { (*self.inner).user_return[which as usize] = value };
        self.reload_user_return_msrs();
    }

    /// Sets which of these MSRs the guest can make use of. The others keep the host's values.
    pub(crate) fn set_user_return_needed(&self, needed: UserReturnMsrs) {
        // SAFETY: Loaded by this thread.
        unsafe {
            if (*self.inner).user_return_needed == needed {
                return;
            }
            (*self.inner).user_return_needed = needed;
        }
        self.reload_user_return_msrs();
    }

    fn reload_user_return_msrs(&self) {
        // SAFETY: As above, paired.
        unsafe {
            let cpu = bindings::rkvm_get_cpu();
            if (*self.inner).guest_loaded {
                Inner::load_user_return_msrs(self.inner, cpu);
            }
            bindings::rkvm_preempt_enable();
        }
    }

    /// Whether the VMCS came to another CPU since the last call, which may have translations of an earlier stay.
    #[inline]
    pub(super) fn take_migrated(&self) -> bool {
        // SAFETY: Loaded by this thread, preemption is off in the callers.
        unsafe {
            let migrated = (*self.inner).migrated;
            if migrated {
                (*self.inner).migrated = false;
            }
            migrated
        }
    }
}
