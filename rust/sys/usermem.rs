// SPDX-License-Identifier: GPL-2.0

//! The VM owner's memory, by host virtual address, from a thread of the VM's own process.
//!
//! All functions work on the memory map of the calling thread: whoever holds an ioctl of a VM has checked that this is
//! the VM's ([`super::mmu_notifier::MmRef::is_current`]). The memory changes under us at any time, so there is never a
//! reference to it, and a value is read once and checked after. C header: `include/linux/uaccess.h`.

use super::addr::Hva;
use super::bindings;

/// The address is not mapped, or not for this kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserFault;

/// What [`cmpxchg`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange<T> {
    /// The old value was there; now the new one is.
    Done,
    /// Something else was there, and still is.
    Found(T),
}

/// Whether an access of `size` bytes touches two cache lines. A locked one is not made then: a kernel that watches for split
/// locks dies of its own.
#[inline]
pub(crate) fn splits_line(address: u64, size: u64) -> bool {
    const LINE: u64 = 64;
    (address & (LINE - 1)).wrapping_add(size) > LINE
}

/// Integers that are read, written and exchanged in one access.
pub(crate) trait UserScalar: Copy {
    /// Reads; may sleep for the page.
    fn get(hva: Hva) -> Result<Self, UserFault>;
    /// Writes; may sleep for the page.
    fn put(hva: Hva, value: Self) -> Result<(), UserFault>;
    /// Compares and exchanges; may sleep for the page.
    fn compare_exchange(hva: Hva, old: Self, new: Self) -> Result<Exchange<Self>, UserFault>;
}

macro_rules! user_scalar {
    ($type:ty, $get:ident, $put:ident, $cmpxchg:ident) => {
        impl UserScalar for $type {
            #[inline]
            fn get(hva: Hva) -> Result<Self, UserFault> {
                // SAFETY: The function checks that this is a user address, and survives faults.
                let read = unsafe { bindings::$get(hva.0) };
                if read.error == 0 {
                    Ok(read.value as $type)
                } else {
                    Err(UserFault)
                }
            }

            #[inline]
            fn put(hva: Hva, value: Self) -> Result<(), UserFault> {
                // SAFETY: The function checks that this is a user address, and survives faults.
                match unsafe { bindings::$put(hva.0, value) } {
                    0 => Ok(()),
                    _ => Err(UserFault),
                }
            }

            #[inline]
            fn compare_exchange(
                hva: Hva,
                old: Self,
                new: Self,
            ) -> Result<Exchange<Self>, UserFault> {
                if splits_line(hva.0, size_of::<Self>() as u64) {
                    return Err(UserFault);
                }
                let mut found = old;
                // SAFETY: The function checks that this is a user address, and survives faults; `found` is writable.
                match unsafe { bindings::$cmpxchg(hva.0, &mut found, new) } {
                    0 => Ok(Exchange::Done),
                    1 => Ok(Exchange::Found(found)),
                    _ => Err(UserFault),
                }
            }
        }
    };
}

user_scalar!(u8, rkvm_get_user_u8, rkvm_put_user_u8, rkvm_cmpxchg_user_u8);
user_scalar!(
    u16,
    rkvm_get_user_u16,
    rkvm_put_user_u16,
    rkvm_cmpxchg_user_u16
);
user_scalar!(
    u32,
    rkvm_get_user_u32,
    rkvm_put_user_u32,
    rkvm_cmpxchg_user_u32
);
user_scalar!(
    u64,
    rkvm_get_user_u64,
    rkvm_put_user_u64,
    rkvm_cmpxchg_user_u64
);

/// Runs `f`, in which accesses to user memory that is not there fail instead of waiting for it: nothing here sleeps
/// then, and interrupts may be off.
#[inline]
pub(crate) fn without_waiting<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Paired below; the kernel does not unwind.
    unsafe { bindings::rkvm_pagefault_disable() };
    let result = f();
    // SAFETY: Paired.
    unsafe { bindings::rkvm_pagefault_enable() };
    result
}

/// Reads 16 bytes, which need not be aligned, in two accesses. May sleep.
#[inline]
pub(crate) fn read16(hva: Hva) -> Result<u128, UserFault> {
    let mut words = [0u64; 2];
    // SAFETY: The function checks that this is a user address, and survives faults; `words` is two writable words.
    if unsafe { bindings::rkvm_get_user_16(hva.0, words.as_mut_ptr()) } != 0 {
        return Err(UserFault);
    }
    let [low, high] = words;
    Ok(u128::from(high) << 64 | u128::from(low))
}

/// Reads an integer, which need not be aligned. May sleep.
#[inline]
pub(crate) fn read<T: UserScalar>(hva: Hva) -> Result<T, UserFault> {
    T::get(hva)
}

/// Writes an integer, which need not be aligned. May sleep.
#[inline]
pub(crate) fn write<T: UserScalar>(hva: Hva, value: T) -> Result<(), UserFault> {
    T::put(hva, value)
}

/// Replaces `old` by `new` in one locked access, if `old` is there. In two cache lines: a fault. May sleep.
#[inline]
pub(crate) fn cmpxchg<T: UserScalar>(hva: Hva, old: T, new: T) -> Result<Exchange<T>, UserFault> {
    T::compare_exchange(hva, old, new)
}

/// [`cmpxchg`] of 16 bytes, by CMPXCHG16B: every CPU with VMX has it. Not aligned: a fault. May sleep.
pub(crate) fn cmpxchg_u128(hva: Hva, old: u128, new: u128) -> Result<Exchange<u128>, UserFault> {
    if hva.0 % 16 != 0 {
        return Err(UserFault);
    }
    let mut found = [old as u64, (old >> 64) as u64];
    // SAFETY: The function checks that this is a user address, and survives faults; `found` is two writable words.
    let result = unsafe {
        bindings::rkvm_cmpxchg_user_u128(hva.0, found.as_mut_ptr(), new as u64, (new >> 64) as u64)
    };
    let [low, high] = found;
    match result {
        0 => Ok(Exchange::Done),
        1 => Ok(Exchange::Found(u128::from(low) | (u128::from(high) << 64))),
        _ => Err(UserFault),
    }
}

/// `Ok` if nothing was left over.
#[inline]
fn all(left: usize) -> Result<(), UserFault> {
    if left == 0 {
        Ok(())
    } else {
        Err(UserFault)
    }
}

/// Fills `to`. What a fault cuts off is zero. May sleep.
#[inline]
pub(crate) fn copy_from(hva: Hva, to: &mut [u8]) -> Result<(), UserFault> {
    // SAFETY: `to` is writable for its length; the user side is checked and may fault.
    all(unsafe { bindings::rkvm_copy_from_user(to.as_mut_ptr().cast(), hva.0, to.len()) })
}

/// Writes all of `from`, or as much as there is memory. May sleep.
#[inline]
pub(crate) fn copy_to(hva: Hva, from: &[u8]) -> Result<(), UserFault> {
    // SAFETY: `from` is readable for its length; the user side is checked and may fault.
    all(unsafe { bindings::rkvm_copy_to_user(hva.0, from.as_ptr().cast(), from.len()) })
}

/// The end of user space: no range of user memory reaches further.
pub(crate) fn user_end() -> Hva {
    // SAFETY: Reads a constant of the boot.
    Hva(unsafe { bindings::rkvm_user_end() } as u64)
}
