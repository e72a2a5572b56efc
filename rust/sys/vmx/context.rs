// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU's VMCS: on which CPU it is active, and how it stays with the thread that runs it.
//!
//! [`LoadGuard`] may migrate: the preempt notifier puts the state away when the thread is scheduled out and loads it
//! on whatever CPU the thread comes back on, so between two VMREADs the CPU may change but the VMCS doesn't.
//!
//! Who touches [`Inner`]: the thread that has the context loaded; the preempt notifier, on that same thread; and
//! the CPU in `cpu`, by cross call with interrupts off, to VMCLEAR it. It is reached by raw pointer, field by field.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    marker::PhantomPinned,
    ptr::{
        self,
        addr_of_mut, //
    },
    sync::atomic::{
        AtomicI32,
        Ordering, //
    },
};

use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};
use rkvm_core::addr::Hpa;

use super::{
    loaded::LoadGuard,
    ops,
    percpu,
    user_return::{
        UserReturnMsr,
        UserReturnMsrs, //
    },
    HwEnabled, //
};
use crate::sys::{
    bindings,
    msr,
    page::TablePage, //
};

/// What the preempt notifier and the cross call reach.
pub(super) struct Inner {
    pub(super) notifier: bindings::preempt_notifier,
    /// Links in the list of the CPU where the VMCS is active.
    pub(super) next: *mut Inner,
    previous: *mut Inner,
    /// The CPU where the VMCS is active, or -1.
    cpu: AtomicI32,
    pub(super) vmcs: Hpa,
    pub(super) entry: bindings::rkvm_entry,
    pub(super) segments: bindings::rkvm_user_segments,
    pub(super) guest_kernel_gs_base: u64,
    pub(super) user_return: [u64; UserReturnMsr::COUNT],
    /// Which of them the guest can make use of.
    pub(super) user_return_needed: UserReturnMsrs,
    /// The guest's KERNEL_GS_BASE and user-return MSRs are in the registers.
    pub(super) guest_loaded: bool,
    /// The VMCS was loaded on another CPU than before, or for the first time.
    pub(super) migrated: bool,
    /// The GDT of the CPU in `cpu`.
    pub(super) host_gdt: kernel::bindings::desc_ptr,
    /// What HOST_FS_BASE holds.
    pub(super) host_fs_base: u64,
    pub(super) host_cr3: u64,
    pub(super) host_cr4: u64,
    /// The guest's PKRU, except between begin and end of an entry that switches it.
    pub(super) pkru: u32,
}

/// A VMCS and its thread's hardware state.
pub(crate) struct VmcsContext {
    inner: Pin<KBox<Pinned>>,
    _region: TablePage,
}

struct Pinned {
    inner: UnsafeCell<Inner>,
    _pin: PhantomPinned,
}

// SAFETY: The rules at the top of the file.
unsafe impl Send for VmcsContext {}
// SAFETY: As above: every method that touches `Inner` takes `&mut self` or a `LoadGuard`.
unsafe impl Sync for VmcsContext {}

impl VmcsContext {
    /// A clear VMCS. `revision` is bits 30:0 of IA32_VMX_BASIC.
    pub(crate) fn new(hw: &HwEnabled, revision: u32) -> Result<Self> {
        hw.watch_for_crash();
        let region = TablePage::new()?;
        if !region.write_u32(0, revision) {
            return Err(EINVAL);
        }
        let vmcs = region.hpa();
        let inner = KBox::pin_init(
            init!(Pinned {
                inner: UnsafeCell::new(Inner {
                    notifier: bindings::preempt_notifier::default(),
                    next: ptr::null_mut(),
                    previous: ptr::null_mut(),
                    cpu: AtomicI32::new(-1),
                    vmcs,
                    entry: bindings::rkvm_entry::default(),
                    segments: bindings::rkvm_user_segments::default(),
                    guest_kernel_gs_base: 0,
                    user_return: [0; UserReturnMsr::COUNT],
                    user_return_needed: UserReturnMsrs::NONE,
                    guest_loaded: false,
                    migrated: true,
                    host_gdt: kernel::bindings::desc_ptr::default(),
                    host_fs_base: 0,
                    host_cr3: 0,
                    host_cr4: 0,
                    pkru: 0,
                }),
                _pin: PhantomPinned,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: The region is a page of ours with the revision identifier, active nowhere.
        unsafe { ops_clear(vmcs) };
        Ok(Self {
            inner,
            _region: region,
        })
    }

    /// Makes the VMCS current on this CPU and keeps it with this thread until the value is dropped.
    pub(crate) fn load(&mut self) -> LoadGuard<'_> {
        let inner = self.inner.inner.get();
        // SAFETY: `inner` is pinned and stays until `LoadGuard` unregisters the notifier; `&mut self` makes it ours.
        unsafe {
            (*inner).notifier.ops = core::ptr::from_ref(&NOTIFIER_OPS.0).cast_mut();
            let cpu = bindings::rkvm_get_cpu();
            bindings::preempt_notifier_register(addr_of_mut!((*inner).notifier));
            Inner::load_here(inner, cpu);
            bindings::rkvm_preempt_enable();
        }
        LoadGuard {
            inner,
            _context: self,
            _thread: NotThreadSafe,
        }
    }
}

/// VMCLEAR with preemption off, for a VMCS that is active nowhere.
///
/// # Safety
///
/// As for [`ops::vmclear`].
unsafe fn ops_clear(vmcs: Hpa) {
    // SAFETY: Paired; and by the caller's promise.
    unsafe {
        bindings::rkvm_preempt_disable();
        ops::vmclear(vmcs);
        bindings::rkvm_preempt_enable();
    }
}

impl Drop for VmcsContext {
    fn drop(&mut self) {
        // SAFETY: Nobody has it loaded, and after this no CPU has it active.
        unsafe { Inner::clear(self.inner.inner.get()) };
    }
}

impl Inner {
    /// Makes the VMCS current on this CPU, which is `cpu`. Preemption is off.
    ///
    /// # Safety
    ///
    /// `this` is valid and being loaded by this thread, with preemption off.
    #[inline]
    unsafe fn load_here(this: *mut Self, cpu: u32) {
        // SAFETY: By the rules at the top of the file; `this` is loaded by this thread.
        unsafe {
            if *percpu::of(cpu).current.get() != (*this).vmcs.0 {
                Self::load_here_slow(this, cpu);
            }
        }
    }

    /// The VMCS is not current here.
    ///
    /// # Safety
    ///
    /// As for `load_here`.
    #[inline(never)]
    unsafe fn load_here_slow(this: *mut Self, cpu: u32) {
        // SAFETY: By the rules at the top of the file; `this` is loaded by this thread.
        unsafe {
            let local = percpu::of(cpu);
            if (*this).cpu.load(Ordering::Relaxed) != cpu as i32 {
                Self::clear(this);
                bindings::rkvm_local_irq_disable();
                let head = *local.active.get();
                (*this).next = head;
                (*this).previous = ptr::null_mut();
                if !head.is_null() {
                    (*head).previous = this;
                }
                *local.active.get() = this;
                (*this).cpu.store(cpu as i32, Ordering::Relaxed);
                (*this).migrated = true;
                bindings::rkvm_local_irq_enable();
            }
            if *local.current.get() != (*this).vmcs.0 {
                *local.current.get() = (*this).vmcs.0;
                ops::vmptrld((*this).vmcs);
                // Another guest ran here last: what it taught the branch predictors must not steer this one.
                if local.fence_branches {
                    msr::indirect_branch_barrier();
                }
            }
            if (*this).migrated {
                Self::write_cpu_state(this);
            }
        }
    }

    /// Makes the VMCS inactive wherever it is active.
    ///
    /// # Safety
    ///
    /// `this` is valid, and no thread has it loaded or loads it meanwhile.
    unsafe fn clear(this: *mut Self) {
        // SAFETY: The cross call runs on the CPU where the VMCS is active.
        unsafe {
            let cpu = (*this).cpu.load(Ordering::Acquire);
            if cpu >= 0 && bindings::rkvm_on_cpu(cpu, Some(clear_remote), this.cast()) != 0 {
                // The CPU went offline, and cleared it on its way.
                (*this).cpu.store(-1, Ordering::Relaxed);
            }
        }
    }

    /// Makes the VMCS inactive. On the CPU where it is active, interrupts off.
    ///
    /// # Safety
    ///
    /// `this` is valid; its VMCS is active on this CPU or nowhere, and interrupts are off.
    pub(super) unsafe fn clear_here(this: *mut Self) {
        // SAFETY: By the caller's promise, the list is this CPU's and nobody else looks.
        unsafe {
            let local = percpu::this();
            ops::vmclear((*this).vmcs);
            if *local.current.get() == (*this).vmcs.0 {
                *local.current.get() = 0;
            }
            let (next, previous) = ((*this).next, (*this).previous);
            if previous.is_null() {
                *local.active.get() = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
            (*this).entry.flags &= !bindings::RKVM_ENTER_RESUME;
            (*this).entry.host_rsp = 0;
            (*this).cpu.store(-1, Ordering::Release);
        }
    }
}

/// What [`Inner::clear`] runs on the CPU where the VMCS is active.
///
/// # Safety
///
/// `this` is a valid `Inner`; interrupts are off.
unsafe extern "C" fn clear_remote(this: *mut c_void) {
    let this: *mut Inner = this.cast();
    // SAFETY: `clear` passes a live context; this CPU is the one that was in `cpu`, unless it changed meanwhile.
    unsafe {
        if (*this).cpu.load(Ordering::Relaxed) == bindings::rkvm_smp_processor_id() as i32 {
            Inner::clear_here(this);
        }
    }
}

/// The thread got a CPU.
///
/// # Safety
///
/// `notifier` is the field of an `Inner` that this thread has loaded.
unsafe extern "C" fn sched_in(notifier: *mut bindings::preempt_notifier, cpu: i32) {
    // SAFETY: The notifier is the one inside a loaded `Inner`; preemption is off.
    unsafe { Inner::load_here(kernel::container_of!(notifier, Inner, notifier), cpu as u32) };
}

/// The thread loses its CPU.
///
/// # Safety
///
/// As for `sched_in`.
unsafe extern "C" fn sched_out(
    notifier: *mut bindings::preempt_notifier,
    _next: *mut kernel::bindings::task_struct,
) {
    // SAFETY: As above.
    unsafe { Inner::restore_host_registers(kernel::container_of!(notifier, Inner, notifier)) };
}

struct NotifierOps(bindings::preempt_ops);
// SAFETY: Never written.
unsafe impl Sync for NotifierOps {}

static NOTIFIER_OPS: NotifierOps = NotifierOps(bindings::preempt_ops {
    sched_in: Some(sched_in),
    sched_out: Some(sched_out),
});
