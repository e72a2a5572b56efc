// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU's VMCS and the hardware state that goes with it: where it is active, and what a thread that runs
//! it has to save and restore when it is scheduled away.
//!
//! [`Loaded`] may migrate: the preempt notifier puts the state away when the thread is scheduled out and loads it
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
use rkvm_core::vmx::{
    fields::*,
    Field,
    FieldValue,
    Readable,
    Vmcs,
    Writable, //
};

use super::{
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

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const MSR_IA32_S_CET: u32 = 0x6a2;

/// What the preempt notifier and the cross call reach.
pub(super) struct Inner {
    notifier: bindings::preempt_notifier,
    /// Links in the list of the CPU where the VMCS is active.
    pub(super) next: *mut Inner,
    previous: *mut Inner,
    /// The CPU where the VMCS is active, or -1.
    cpu: AtomicI32,
    pub(super) vmcs: Hpa,
    pub(super) entry: bindings::rkvm_entry,
    segments: bindings::rkvm_user_segments,
    guest_kernel_gs_base: u64,
    user_return: [u64; UserReturnMsr::COUNT],
    /// Which of them the guest can make use of.
    user_return_needed: UserReturnMsrs,
    /// The guest's KERNEL_GS_BASE and user-return MSRs are in the registers.
    guest_loaded: bool,
    /// The VMCS was loaded on another CPU than before, or for the first time.
    migrated: bool,
    /// Where the GDT of the CPU in `cpu` is.
    host_gdtr_base: u64,
    /// What HOST_FS_BASE holds.
    host_fs_base: u64,
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
// SAFETY: As above: every method that touches `Inner` takes `&mut self` or a `Loaded`.
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
                    host_gdtr_base: 0,
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
    pub(crate) fn load(&mut self) -> Loaded<'_> {
        let inner = self.inner.inner.get();
        // SAFETY: `inner` is pinned and stays until `Loaded` unregisters the notifier; `&mut self` makes it ours.
        unsafe {
            (*inner).notifier.ops = core::ptr::from_ref(&NOTIFIER_OPS.0).cast_mut();
            let cpu = bindings::rkvm_get_cpu();
            bindings::preempt_notifier_register(addr_of_mut!((*inner).notifier));
            Inner::load_here(inner, cpu);
            bindings::rkvm_preempt_enable();
        }
        Loaded {
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
            let here = (*this).cpu.load(Ordering::Relaxed) == cpu as i32;
            let current = *percpu::of(cpu).current.get() == (*this).vmcs.0;
            if !here || !current || (*this).migrated {
                Self::load_here_slow(this, cpu);
            }
        }
    }

    /// The VMCS is not current here, or host state of this CPU not in it.
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

    /// Host state that differs from CPU to CPU. The VMCS is current.
    ///
    /// # Safety
    ///
    /// `this` is valid and its VMCS is current on this CPU, with preemption off.
    unsafe fn write_cpu_state(this: *mut Self) {
        let mut host = bindings::rkvm_host_state::default();
        // SAFETY: Preemption is off; the structure is a local.
        unsafe { bindings::rkvm_read_host_state(&mut host) };
        let write = |field: u32, value: u64| {
            // SAFETY: The VMCS is current, and the values are this CPU's own.
            unsafe { ops::vmwrite(u64::from(field), value) }
        };
        write(HOST_TR_BASE::ENCODING, host.tr_base);
        write(HOST_GDTR_BASE::ENCODING, host.gdtr_base);
        write(HOST_GS_BASE::ENCODING, host.gs_base);
        write(HOST_IA32_SYSENTER_ESP::ENCODING, host.sysenter_esp);
        // SAFETY: Loaded by this thread.
        unsafe {
            (*this).host_gdtr_base = host.gdtr_base;
            (*this).host_cr3 = 0;
            (*this).host_cr4 = 0;
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

    /// Displaces what user space has in the registers by what the guest has. Preemption is off on `cpu`, which is this.
    ///
    /// # Safety
    ///
    /// `this` is loaded by this thread, with preemption off.
    #[inline]
    pub(super) unsafe fn load_guest_registers(this: *mut Self, cpu: u32) {
        // SAFETY: Loaded by this thread.
        unsafe {
            if (*this).guest_loaded {
                return;
            }
            Self::load_guest_registers_slow(this, cpu);
        }
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
    unsafe fn load_user_return_msrs(this: *mut Self, cpu: u32) {
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
    unsafe fn restore_host_registers(this: *mut Self) {
        // SAFETY: Loaded by this thread.
        unsafe {
            if !(*this).guest_loaded {
                return;
            }
            (*this).guest_loaded = false;
            (*this).guest_kernel_gs_base = msr::read(MSR_KERNEL_GS_BASE);
            bindings::rkvm_restore_user_segments(
                ptr::addr_of!((*this).segments),
                (*this).host_gdtr_base,
            );
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

/// A vCPU whose VMCS is current with this thread: the right to VMREAD and VMWRITE.
pub(crate) struct Loaded<'a> {
    pub(super) inner: *mut Inner,
    _context: &'a mut VmcsContext,
    _thread: NotThreadSafe,
}

impl Drop for Loaded<'_> {
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

    /// Whether the VMCS came to another CPU since the last call: its TLB tags and TSC offset may be stale.
    #[inline]
    pub(super) fn take_migrated(&self) -> bool {
        // SAFETY: Loaded by this thread, preemption is off in the callers.
        unsafe { core::mem::replace(&mut (*self.inner).migrated, false) }
    }

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

/// `__KERNEL_CS`, `__KERNEL_DS` and the TSS's selector of Linux on x86-64.
const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x40;
