// SPDX-License-Identifier: GPL-2.0

//! VMX operation on every CPU, from load to unload, through hot-plug, suspend, reboot and crash.
//!
//! The kernel counts users of VMX operation for each CPU; rkvm takes one reference on each CPU that comes online and
//! gives it back before the CPU goes. C KVM's counterpart is "kvm_enable_virtualization" in `virt/kvm/kvm_main.c`.

use core::{
    ffi::c_void,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    }, //
};

use kernel::{
    bindings as kb,
    prelude::*, //
};

use rkvm_core::vmx::negotiate::Scope;

use super::percpu::{
    self,
    CpuLocal, //
};
use crate::sys::{
    bindings,
    module_static::Installed,
    restricted::restricted, //
};

/// Proof that every online CPU is in VMX operation, and every CPU that comes online will be.
pub(crate) struct HwEnabled {
    _locals: Installed<KVVec<CpuLocal>>,
    /// The emergency callback is registered.
    watched: AtomicBool,
}

impl HwEnabled {
    /// Enters VMX operation on all CPUs. EBUSY if somebody else's hypervisor has it, EFAULT if the firmware forbids it.
    pub(crate) fn new() -> Result<Self> {
        let locals = percpu::allocate()?;
        // SAFETY: The state is KVM's own and free while C KVM is not loaded; the callbacks are unregistered by `drop`.
        let ret = unsafe {
            kb::__cpuhp_setup_state(
                kb::cpuhp_state_CPUHP_AP_KVM_ONLINE,
                c"rkvm:online".as_char_ptr(),
                true,
                Some(online),
                Some(offline),
                false,
            )
        };
        if ret < 0 {
            return Err(Error::from_errno(ret));
        }
        // SAFETY: The structures are static; `drop` unregisters them.
        unsafe { bindings::register_syscore(SYSCORE.0.get()) };
        // SAFETY: Paired by `drop`. vCPUs register notifiers, which count only while they are switched on.
        unsafe { bindings::preempt_notifier_inc() };
        Ok(Self {
            _locals: locals,
            watched: AtomicBool::new(false),
        })
    }

    /// From the first VMCS on, a crash or reboot has something to VMCLEAR.
    ///
    /// Not before, because there is one such callback in the kernel: C KVM, when somebody tries to load it beside an
    /// idle rkvm, registers its own before it finds VMX operation taken, and would warn.
    pub(super) fn watch_for_crash(&self) {
        if !self.watched.swap(true, Ordering::AcqRel) {
            // SAFETY: The callback lives as long as the module; `drop` unregisters it.
            unsafe { (restricted().x86_virt_register_emergency_callback)(Some(emergency)) };
        }
    }
}

impl Drop for HwEnabled {
    fn drop(&mut self) {
        if *self.watched.get_mut() {
            // SAFETY: Registered by `watch_for_crash`.
            unsafe { (restricted().x86_virt_unregister_emergency_callback)(Some(emergency)) };
        }
        // SAFETY: All the rest was registered by `new`.
        unsafe {
            bindings::preempt_notifier_dec();
            bindings::unregister_syscore(SYSCORE.0.get());
            kb::__cpuhp_remove_state(kb::cpuhp_state_CPUHP_AP_KVM_ONLINE, true);
        }
    }
}

/// Enters VMX operation on this CPU. Preemption is off or the thread is bound to the CPU.
fn enable_here() -> i32 {
    let local = percpu::this();
    // SAFETY: Own CPU.
    if unsafe { *local.enabled.get() } {
        return 0;
    }
    local.user_return.sample();
    // SAFETY: No preconditions; a failure leaves everything as it was.
    let ret = unsafe { (restricted().x86_virt_get_ref)(bindings::X86_FEATURE_VMX as i32) };
    if ret == 0 {
        // SAFETY: Own CPU.
        unsafe { *local.enabled.get() = true };
        super::invept(Scope::All, 0);
    }
    ret
}

/// Leaves VMX operation on this CPU. Interrupts are off.
fn disable_here() {
    let local = percpu::this();
    // SAFETY: Own CPU.
    if !unsafe { *local.enabled.get() } {
        return;
    }
    local.clear_all();
    // SAFETY: Own CPU; the reference is the one of `enable_here`.
    unsafe {
        *local.current.get() = 0;
        *local.enabled.get() = false;
        (restricted().x86_virt_put_ref)(bindings::X86_FEATURE_VMX as i32);
    }
}

/// A CPU comes.
///
/// # Safety
///
/// Called by the kernel on the CPU, with interrupts on.
unsafe extern "C" fn online(cpu: u32) -> i32 {
    // The hot-plug thread is bound to the CPU, but not protected from interrupts that look at the same data.
    // SAFETY: Paired.
    unsafe { bindings::rkvm_preempt_disable() };
    let ret = enable_here();
    // SAFETY: Paired.
    unsafe { bindings::rkvm_preempt_enable() };
    if ret != 0 {
        kernel::pr_err!("CPU {} can't enter VMX operation: {}\n", cpu, reason(ret));
    }
    ret
}

/// What an error of [`enable_here`] means.
fn reason(error: i32) -> &'static str {
    let error = Error::from_errno(error);
    if error == EBUSY {
        "another hypervisor is in it; unload that first"
    } else if error == EFAULT {
        "VMXON faults; the firmware has VT-x switched off (IA32_FEAT_CTL)"
    } else {
        "the kernel does not use VMX; what it said of that is further up"
    }
}

/// A CPU goes.
///
/// # Safety
///
/// As for `online`.
unsafe extern "C" fn offline(_cpu: u32) -> i32 {
    // SAFETY: Paired.
    unsafe { bindings::rkvm_local_irq_disable() };
    disable_here();
    percpu::this().user_return.restore();
    // SAFETY: Paired.
    unsafe { bindings::rkvm_local_irq_enable() };
    0
}

/// Crash or reboot: in NMI context, perhaps. The caller leaves VMX operation after this.
///
/// # Safety
///
/// Called by the kernel with interrupts off, on a CPU that does nothing else any more.
unsafe extern "C" fn emergency() {
    percpu::this().clear_all_emergency();
}

/// The last CPU goes to sleep.
///
/// # Safety
///
/// Called by the kernel with interrupts off.
unsafe extern "C" fn suspend(_data: *mut c_void) -> i32 {
    disable_here();
    percpu::this().user_return.restore();
    0
}

/// The first CPU is back.
///
/// # Safety
///
/// As for `suspend`.
unsafe extern "C" fn resume(_data: *mut c_void) {
    if enable_here() != 0 {
        kernel::pr_err!("VMX operation can't be entered again after suspend\n");
    }
}

/// One CPU of [`shutdown`]. It may have interrupted a vCPU's thread, even where that hands its MSRs to the CPU: they stay, and
/// with them the notifier.
///
/// # Safety
///
/// Called with interrupts off.
unsafe extern "C" fn shutdown_cpu(_arg: *mut c_void) {
    disable_here();
}

/// Reboot and power-off: some firmware hangs if a CPU is still in VMX operation.
///
/// # Safety
///
/// Called by the kernel in process context.
unsafe extern "C" fn shutdown(_data: *mut c_void) {
    // SAFETY: The function may run in interrupt context on every CPU.
    unsafe { bindings::rkvm_on_each_cpu(Some(shutdown_cpu), core::ptr::null_mut()) };
}

struct Syscore(core::cell::UnsafeCell<bindings::syscore>);
// SAFETY: Only the kernel's syscore list writes to it, under its own lock.
unsafe impl Sync for Syscore {}

static SYSCORE_OPS: bindings::syscore_ops = bindings::syscore_ops {
    suspend: Some(suspend),
    resume: Some(resume),
    shutdown: Some(shutdown),
};

static SYSCORE: Syscore = Syscore(core::cell::UnsafeCell::new(bindings::syscore {
    node: pin_init::zeroed(),
    ops: &SYSCORE_OPS,
    data: core::ptr::null_mut(),
}));
