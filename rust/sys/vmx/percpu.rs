// SPDX-License-Identifier: GPL-2.0

//! What rkvm keeps for each CPU: which VMCS is current, which are active, and the MSRs to put back for user space.
//!
//! One element for each possible CPU, written only by its own CPU with interrupts off (or preemption, where no
//! interrupt looks). The emergency callback, in NMI context, only follows the list forward.

use core::{
    cell::UnsafeCell,
    ptr, //
};

use kernel::prelude::*;

use super::{
    context::Inner,
    ops,
    user_return::UserReturn, //
};
use crate::sys::{
    bindings, cpu,
    module_static::{
        Installed,
        ModuleStatic, //
    },
};

/// One CPU's share.
#[repr(align(64))]
pub(super) struct CpuLocal {
    /// Physical address of the current VMCS, 0 for none.
    pub(super) current: UnsafeCell<u64>,
    /// First of the VMCSs that are active on this CPU.
    pub(super) active: UnsafeCell<*mut Inner>,
    /// Whether a switch between guests fences indirect branch prediction.
    pub(super) fence_branches: bool,
    /// Whether this CPU holds a reference on VMX operation.
    pub(super) enabled: UnsafeCell<bool>,
    /// MSRs whose host value is put back before the CPU returns to user space.
    pub(super) user_return: UserReturn,
}

// SAFETY: See the rules at the top of the file.
unsafe impl Sync for CpuLocal {}
// SAFETY: As above.
unsafe impl Send for CpuLocal {}

static LOCALS: ModuleStatic<KVVec<CpuLocal>> = ModuleStatic::new();

/// Allocates the elements; once, at load.
pub(super) fn allocate() -> Result<Installed<KVVec<CpuLocal>>> {
    let n = kernel::cpu::nr_cpu_ids() as usize;
    let mut v = KVVec::with_capacity(n, GFP_KERNEL)?;
    for _ in 0..n {
        v.push(
            CpuLocal {
                current: UnsafeCell::new(0),
                active: UnsafeCell::new(ptr::null_mut()),
                fence_branches: cpu::needs_ibpb(),
                enabled: UnsafeCell::new(false),
                user_return: UserReturn::new(),
            },
            GFP_KERNEL,
        )?;
    }
    Ok(LOCALS.install(v))
}

/// The element of CPU `cpu`.
#[inline]
pub(super) fn of(cpu: u32) -> &'static CpuLocal {
    // SAFETY: There is an element for each possible CPU, and CPU numbers come from the kernel.
    unsafe { LOCALS.get_unchecked(cpu as usize) }
}

/// The element of the CPU that this runs on. Preemption or interrupts are off.
#[inline]
pub(super) fn this() -> &'static CpuLocal {
    // SAFETY: No preconditions.
    of(unsafe { bindings::rkvm_smp_processor_id() })
}

impl CpuLocal {
    /// VMCLEARs everything that is active here. Interrupts are off, on this CPU.
    pub(super) fn clear_all(&self) {
        // SAFETY: Own CPU, interrupts off: the list does not change under us but by us.
        unsafe {
            while !(*self.active.get()).is_null() {
                Inner::clear_here(*self.active.get());
            }
        }
    }

    /// The same from the emergency callback: the lists may be half changed, so only read.
    pub(super) fn clear_all_emergency(&self) {
        // SAFETY: Elements are unlinked before they are freed, and links are set before an element is reachable.
        unsafe {
            let mut at = *self.active.get();
            while !at.is_null() {
                ops::vmclear((*at).vmcs);
                at = (*at).next;
            }
        }
    }
}
