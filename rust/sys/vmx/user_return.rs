// SPDX-License-Identifier: GPL-2.0

//! MSRs that only matter to user space: they keep the guest's value until the CPU returns there.
//!
//! The SYSCALL MSRs and TSC_AUX are not used while the kernel runs, so an exit that is handled in the kernel does
//! not pay for them. C KVM's counterpart is the `kvm_user_return_msrs` of `arch/x86/kvm/x86.c`.

use core::cell::{
    Cell,
    UnsafeCell, //
};

use super::percpu;
use crate::sys::{
    bindings,
    msr, //
};

/// The MSRs, by their place in the per-CPU table.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum UserReturnMsr {
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_TSC_AUX.
    TscAux,
}

impl UserReturnMsr {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;
    /// Their numbers, in order.
    pub(crate) const NUMBERS: [u32; Self::COUNT] =
        [0xc000_0081, 0xc000_0082, 0xc000_0084, 0xc000_0103];
}

/// A set of these MSRs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserReturnMsrs(u8);

impl UserReturnMsrs {
    /// None.
    pub(crate) const NONE: Self = Self(0);
    /// Those of SYSCALL.
    pub(crate) const SYSCALL: Self = Self(
        1 << UserReturnMsr::Star as u8
            | 1 << UserReturnMsr::Lstar as u8
            | 1 << UserReturnMsr::Fmask as u8,
    );
    /// IA32_TSC_AUX.
    pub(crate) const TSC_AUX: Self = Self(1 << UserReturnMsr::TscAux as u8);

    /// `self`, and `other` if `present`.
    pub(crate) const fn with(self, other: Self, present: bool) -> Self {
        Self(self.0 | if present { other.0 } else { 0 })
    }
}

struct Slot {
    host: Cell<u64>,
    current: Cell<u64>,
    present: Cell<bool>,
}

/// One CPU's values. Only that CPU gets here: with preemption off, or from its interrupts. What the two may meet in is in
/// cells, so that neither holds a reference into it.
pub(super) struct UserReturn {
    notifier: UnsafeCell<bindings::user_return_notifier>,
    registered: Cell<bool>,
    slots: [Slot; UserReturnMsr::COUNT],
}

impl UserReturn {
    pub(super) fn new() -> Self {
        Self {
            notifier: UnsafeCell::new(bindings::user_return_notifier {
                on_user_return: Some(on_user_return),
                ..Default::default()
            }),
            registered: Cell::new(false),
            slots: [const {
                Slot {
                    host: Cell::new(0),
                    current: Cell::new(0),
                    present: Cell::new(false),
                }
            }; UserReturnMsr::COUNT],
        }
    }

    /// Reads the host's values. On the CPU itself, when it comes up.
    pub(super) fn sample(&self) {
        for (slot, number) in self.slots.iter().zip(UserReturnMsr::NUMBERS) {
            let host = msr::read_safe(number);
            slot.present.set(host.is_some());
            slot.host.set(host.unwrap_or(0));
            slot.current.set(host.unwrap_or(0));
        }
    }

    /// Loads the guest values that are `needed`. Preemption is off, on this CPU.
    #[inline]
    pub(super) fn load(&self, values: &[u64; UserReturnMsr::COUNT], needed: UserReturnMsrs) {
        let mut left = needed.0;
        // A guest in real mode needs none.
        if left == 0 {
            return;
        }
        let mut changed = false;
        for ((slot, value), number) in self.slots.iter().zip(values).zip(UserReturnMsr::NUMBERS) {
            if left & 1 != 0 && slot.current.get() != *value && slot.present.get() {
                msr::write(number, *value);
                slot.current.set(*value);
                changed = true;
            }
            left >>= 1;
        }
        // What differs from the host's already was loaded together with a registration that still stands.
        if changed && !self.registered.get() {
            // SAFETY: The notifier lives as long as the module, and is registered once on this CPU.
            unsafe { bindings::user_return_notifier_register(self.notifier.get()) };
            // Not before: at reboot an interrupt unregisters what is registered.
            self.registered.set(true);
        }
    }

    /// Puts the host's values back now. On this CPU, with interrupts off: on the way to user space, and when the CPU leaves
    /// VMX operation.
    pub(super) fn restore(&self) {
        if self.registered.replace(false) {
            // SAFETY: It was registered on this CPU.
            unsafe { bindings::user_return_notifier_unregister(self.notifier.get()) };
        }
        for (slot, number) in self.slots.iter().zip(UserReturnMsr::NUMBERS) {
            let host = slot.host.get();
            if slot.current.get() != host {
                msr::write(number, host);
                slot.current.set(host);
            }
        }
    }
}

/// The CPU is on its way to user space, with interrupts off.
///
/// # Safety
///
/// Called by the kernel with interrupts off.
unsafe extern "C" fn on_user_return(_notifier: *mut bindings::user_return_notifier) {
    percpu::this().user_return.restore();
}
