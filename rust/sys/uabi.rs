// SPDX-License-Identifier: GPL-2.0

//! The argument of an ioctl, and the structures of `linux/kvm.h` that travel through it.

use core::mem::{
    size_of,
    MaybeUninit, //
};

use kernel::{
    bindings as kb,
    prelude::*, //
};

pub(crate) use super::bindings::{
    kvm_clear_dirty_log, kvm_clock_data, kvm_coalesced_mmio_zone, kvm_cpuid2, kvm_create_device,
    kvm_debugregs, kvm_device_attr, kvm_dirty_log, kvm_dtable, kvm_enable_cap, kvm_fpu,
    kvm_guest_debug, kvm_interrupt, kvm_ioapic_state, kvm_ioeventfd, kvm_irq_level,
    kvm_irq_routing, kvm_irq_routing_entry, kvm_irqchip, kvm_irqfd, kvm_lapic_state, kvm_mp_state,
    kvm_msi, kvm_msr_entry, kvm_msr_list, kvm_msrs, kvm_pic_state, kvm_pit_config, kvm_pit_state,
    kvm_pit_state2, kvm_regs, kvm_run, kvm_segment, kvm_signal_mask, kvm_sregs, kvm_sregs2,
    kvm_sync_regs, kvm_tpr_access_ctl, kvm_translation, kvm_userspace_memory_region,
    kvm_userspace_memory_region2, kvm_vapic_addr, kvm_vcpu_events, kvm_x86_mce, kvm_xcrs,
    kvm_xsave,
};

// The capabilities that KVM_ENABLE_CAP takes.
pub(crate) use super::bindings::{
    KVM_CAP_DISABLE_QUIRKS, KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MSR_PLATFORM_INFO,
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_X86_APIC_BUS_CYCLES_NS,
    KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_X86_USER_SPACE_MSR,
};

/// A structure of the user ABI: any bytes are a valid value, and there is no implicit padding.
///
/// # Safety
///
/// Both must hold for the implementing type.
pub(crate) unsafe trait Abi: Sized {
    /// The value whose bytes are all zero.
    fn zeroed() -> Self {
        // SAFETY: Any bytes are a valid value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// The same on the heap, without a stay on the stack.
    fn boxed_zeroed() -> Result<KBox<Self>> {
        let b = KBox::<MaybeUninit<Self>>::new_uninit(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: Zero bytes are a valid `MaybeUninit<Self>` and a valid `Self`.
        Ok(unsafe { KBox::from_raw(KBox::into_raw(b).cast()) })
    }
}

macro_rules! abi {
    ($($t:ty),* $(,)?) => {$(
        // SAFETY: A plain structure of integers from `linux/kvm.h`, padded explicitly.
        unsafe impl Abi for $t {}
    )*};
}
abi!(
    u8,
    u16,
    u32,
    u64,
    i32,
    kvm_clear_dirty_log,
    kvm_clock_data,
    kvm_coalesced_mmio_zone,
    kvm_cpuid2,
    kvm_create_device,
    kvm_debugregs,
    kvm_device_attr,
    kvm_dirty_log,
    kvm_dtable,
    kvm_enable_cap,
    kvm_fpu,
    kvm_guest_debug,
    kvm_interrupt,
    kvm_ioapic_state,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irq_routing,
    kvm_irq_routing_entry,
    kvm_irqchip,
    kvm_irqfd,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msi,
    kvm_msr_entry,
    kvm_msr_list,
    kvm_msrs,
    kvm_pic_state,
    kvm_pit_config,
    kvm_pit_state,
    kvm_pit_state2,
    kvm_regs,
    kvm_segment,
    kvm_signal_mask,
    kvm_sregs,
    kvm_sregs2,
    kvm_tpr_access_ctl,
    kvm_translation,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    kvm_vapic_addr,
    kvm_vcpu_events,
    kvm_x86_mce,
    kvm_xcrs,
    kvm_xsave,
);

// SAFETY: An array of what is plain itself.
unsafe impl<T: Abi, const N: usize> Abi for [T; N] {}

// SAFETY: `struct kvm_cpuid_entry2`, as core has it: integers, padded explicitly.
unsafe impl Abi for rkvm_core::cpuid::CpuidEntry {}

// SAFETY: Structures of `linux/kvm.h` as core has them, each with a test of its size: integers without padding.
unsafe impl Abi for rkvm_core::irq::pic::PicState {}
// SAFETY: As above.
unsafe impl Abi for rkvm_core::irq::ioapic::IoapicState {}
// SAFETY: As above.
unsafe impl Abi for rkvm_core::irq::pit::PitState {}
// SAFETY: As above; `struct kvm_pit_state`.
unsafe impl Abi for [rkvm_core::irq::pit::ChannelState; 3] {}
// SAFETY: As above.
unsafe impl Abi for rkvm_core::irq::lapic::LapicState {}

/// The third argument of an ioctl: a number, or an address in the caller's memory.
#[derive(Clone, Copy)]
pub(crate) struct UserArg(usize);

impl UserArg {
    pub(super) fn new(arg: usize) -> Self {
        Self(arg)
    }

    /// The argument as a number.
    pub(crate) fn value(self) -> u64 {
        self.0 as u64
    }

    /// The address `bytes` further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// An address that came inside a structure.
    pub(crate) fn from_address(address: u64) -> Self {
        Self(address as usize)
    }

    /// Copies from user memory. EFAULT if it isn't readable.
    ///
    /// # Safety
    ///
    /// `to` is memory of the caller's own, of at least `bytes` bytes.
    unsafe fn copy_in(self, to: *mut u8, bytes: usize) -> Result {
        // SAFETY: By the contract of this function; the user side is checked and may fault.
        let left = unsafe { kb::_copy_from_user(to.cast(), self.0 as *const _, bytes) };
        if left == 0 {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// Copies to user memory. EFAULT if it isn't writable.
    ///
    /// # Safety
    ///
    /// `from` is initialised memory of at least `bytes` bytes, padding included.
    unsafe fn copy_out(self, from: *const u8, bytes: usize) -> Result {
        // SAFETY: By the contract of this function; the user side is checked and may fault.
        let left = unsafe { kb::_copy_to_user(self.0 as *mut _, from.cast(), bytes) };
        if left == 0 {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// Reads a structure. EFAULT if the memory isn't readable.
    pub(crate) fn read<T: Abi>(self) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` has room for a `T`.
        unsafe { self.copy_in(value.as_mut_ptr().cast(), size_of::<T>())? };
        // SAFETY: All bytes were written, and any bytes are a valid `T`.
        Ok(unsafe { value.assume_init() })
    }

    /// Reads a structure onto the heap, for those that are too large for the stack.
    pub(crate) fn read_boxed<T: Abi>(self) -> Result<KBox<T>> {
        let mut value = T::boxed_zeroed()?;
        // SAFETY: The box holds a `T`, for which any bytes will do.
        unsafe { self.copy_in(core::ptr::from_mut(&mut *value).cast(), size_of::<T>())? };
        Ok(value)
    }

    /// Writes a structure. EFAULT if the memory isn't writable.
    pub(crate) fn write<T: Abi>(self, value: &T) -> Result {
        // SAFETY: A `T`, which has no padding.
        unsafe { self.copy_out(core::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    /// Reads `n` elements of an array.
    pub(crate) fn read_vec<T: Abi>(self, n: usize) -> Result<KVVec<T>> {
        let mut v: KVVec<T> = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        let bytes = n.checked_mul(size_of::<T>()).ok_or(EINVAL)?;
        // SAFETY: There is room for `n` elements.
        unsafe { self.copy_in(v.as_mut_ptr().cast(), bytes)? };
        // SAFETY: The capacity is `n` and all bytes were written.
        unsafe { v.inc_len(n) };
        Ok(v)
    }

    /// Writes all elements of an array.
    pub(crate) fn write_slice<T: Abi>(self, values: &[T]) -> Result {
        // SAFETY: A slice of `T`, which has no padding.
        unsafe { self.copy_out(values.as_ptr().cast(), core::mem::size_of_val(values)) }
    }
}
