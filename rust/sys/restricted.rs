// SPDX-License-Identifier: GPL-2.0

//! Functions of the kernel that are exported to modules named kvm only, found by name at load.
//!
//! `EXPORT_SYMBOL_FOR_KVM` is enforced by modpost and the module loader, not by `__symbol_get()`. Each function is
//! looked up once, has the type that its C declaration has, and holds a reference on its module (the kernel image)
//! until rkvm is unloaded.

use core::ffi::c_void;

use kernel::{
    bindings as kb,
    prelude::*,
    str::CStr, //
};

use super::{
    bindings,
    module_static::{
        Installed,
        ModuleStatic, //
    },
};

// With `cfg`, a kernel that is built without that option has no such function.
macro_rules! restricted {
    ($($(#[doc = $doc:literal])* $(#[cfg($cfg:meta)])?
        $name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions, all found.
        #[expect(non_snake_case, reason = "the kernel's own names")]
        pub(super) struct Restricted {
            $($(#[doc = $doc])* $(#[cfg($cfg)])?
            pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        // The declared types are those that bindgen reads from the kernel's headers.
        $($(#[cfg($cfg)])?
        const _: unsafe extern "C" fn($($arg),*) $(-> $ret)? = bindings::$name;)*

        impl Restricted {
            #[expect(non_snake_case, reason = "the kernel's own names")]
            fn find() -> Result<Self> {
                let mut found = Lookup::default();
                $($(#[cfg($cfg)])?
                let $name = found.get(
                    // The name as a C string.
                    {
                        const NAME: &CStr = match CStr::from_bytes_with_nul(
                            concat!(stringify!($name), "\0").as_bytes()
                        ) {
                            Ok(s) => s,
                            Err(_) => c"",
                        };
                        NAME
                    },
                );)*
                if found.missing {
                    return Err(ENOENT);
                }
                Ok(Self {
                    $($(#[cfg($cfg)])?
                    $name: {
                        // SAFETY: The address is that of the exported function of this name, whose type the constant
                        // above checked; it was found, or this line would not be reached.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($arg),*) $(-> $ret)?
                            >($name)
                        }
                    },)*
                })
            }

            const NAMES: &'static [&'static str] = &[
                $(if_built(concat!(stringify!($name), "\0"), &[$(cfg!($cfg))?]),)*
            ];
        }
    };
}

/// The name of a function that depends on no option, or on one that is set; else nothing.
const fn if_built(name: &'static str, options: &[bool]) -> &'static str {
    match options {
        [false, ..] => "",
        _ => name,
    }
}

restricted! {
    /// Takes a reference on VMX operation of this CPU.
    x86_virt_get_ref: fn(i32) -> i32;
    /// Gives the reference back; the last one leaves VMX operation.
    x86_virt_put_ref: fn(i32);
    /// Called on each CPU before a crash or reboot leaves VMX operation.
    x86_virt_register_emergency_callback: fn(bindings::cpu_emergency_virt_cb);
    /// Undoes the registration.
    x86_virt_unregister_emergency_callback: fn(bindings::cpu_emergency_virt_cb);
    /// Hands an NMI or an interrupt that an exit consumed to the host.
    x86_entry_from_kvm: fn(u32, u32);
    /// Allocates the FPU state of a guest.
    fpu_alloc_guest_fpstate: fn(*mut bindings::fpu_guest) -> bool;
    /// Frees it.
    fpu_free_guest_fpstate: fn(*mut bindings::fpu_guest);
    /// Exchanges the FPU state of the task and the guest's.
    fpu_swap_kvm_fpstate: fn(*mut bindings::fpu_guest, bool) -> i32;
    /// Copies the guest's FPU state out in the XSAVE format of user space.
    fpu_copy_guest_fpstate_to_uabi: fn(*mut bindings::fpu_guest, *mut c_void, u32, u64, u32);
    /// Sets the guest's FPU state from the XSAVE format of user space.
    fpu_copy_uabi_to_guest_fpstate: fn(*mut bindings::fpu_guest, *const c_void, u64, *mut u32) -> i32;
    /// Whether the host's tables of memory types have a frame as uncacheable or write-combining.
    pat_pfn_immune_to_uc_mtrr: fn(kernel::ffi::c_ulong) -> bool;
    /// Whether the firmware lists any of these bytes as memory of a type.
    e820__mapped_raw_any: fn(u64, u64, bindings::e820_type) -> bool;
    /// Deals with a locked access of the guest that crosses cache lines.
    #[cfg(CONFIG_X86_BUS_LOCK_DETECT)]
    handle_guest_split_lock: fn(kernel::ffi::c_ulong) -> bool;
    /// What perf wants of MSRs while a guest runs on this CPU: an array of its own, as long as the first argument says then.
    perf_guest_get_msrs: fn(*mut i32, *mut c_void) -> *mut bindings::perf_guest_switch_msr;
    /// Loads the debug registers with the breakpoints that the kernel has on this CPU.
    hw_breakpoint_restore: fn();
    /// Whether the microcode keeps gathers from leaking what is in the vector registers (GDS).
    gds_ucode_mitigated: fn() -> bool;
    /// Loads the task's FPU state into the registers after something else had used them.
    switch_fpu_return: fn();
}

#[derive(Default)]
struct Lookup {
    missing: bool,
}

impl Lookup {
    fn get(&mut self, name: &'static CStr) -> *mut c_void {
        // SAFETY: The name is a C string. A reference on the module that has the symbol is taken.
        let address = unsafe { kb::__symbol_get(name.as_char_ptr()) };
        if address.is_null() {
            pr_err!(
                "this kernel does not export {}: rkvm needs 7.2 with KVM as a module\n",
                name
            );
            self.missing = true;
        }
        address.cast()
    }
}

static RESTRICTED: ModuleStatic<Restricted> = ModuleStatic::new();

/// Proof that the restricted functions were found; drop it on unload.
pub(crate) struct Resolved {
    _functions: Installed<Restricted>,
}

impl Resolved {
    /// Finds all of them. ENOENT, with the names in the log, if the kernel lacks one.
    pub(crate) fn new() -> Result<Self> {
        let r = Restricted::find()?;
        // SAFETY: Set before the first VM exists; the type is the one that the entry code calls.
        unsafe {
            bindings::rkvm_set_entry_from_kvm(Some(r.x86_entry_from_kvm));
            bindings::rkvm_set_switch_fpu_return(Some(r.switch_fpu_return));
        }
        Ok(Self {
            _functions: RESTRICTED.install(r),
        })
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        for name in Restricted::NAMES.iter().filter(|name| !name.is_empty()) {
            // SAFETY: The name ends in NUL, and `find` took a reference for it.
            unsafe { kb::__symbol_put(name.as_ptr().cast()) };
        }
    }
}

/// The functions.
///
/// Only called by code that a loaded module reaches: the module's init makes [`Resolved`] before the device node serves and
/// before VMX is entered.
#[inline]
pub(super) fn restricted() -> &'static Restricted {
    &RESTRICTED
}
