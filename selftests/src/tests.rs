// SPDX-License-Identifier: GPL-2.0

//! The behaviour tests, one subject a file, and the table they are run from.

use crate::device::Device;
use crate::tap::Tap;
use crate::Outcome;

/// A behaviour test.
pub struct Test {
    /// The name it is run by.
    pub name: &'static str,
    /// What it looks at, in a line.
    pub about: &'static str,
    /// Its code. An error is a failure of what the test stands on.
    pub run: fn(&mut Tap, &Device) -> Outcome,
}

macro_rules! tests {
    ($($name:ident: $about:literal,)*) => {
        $(mod $name;)*

        /// All tests, in the order they are run.
        pub const ALL: &[Test] = &[$(Test { name: stringify!($name), about: $about, run: $name::run },)*];
    };
}

tests! {
    capabilities: "ABI version, capabilities, kvm_run size",
    mode_real: "a real-mode guest",
    mode_protected: "32-bit protected mode, with and without paging",
    mode_pae: "PAE paging, memory above 4 GiB",
    mode_long: "64-bit mode, KVM_TRANSLATE",
    mode_switch: "a guest that climbs from real to 64-bit mode by itself",
    pio: "IN and OUT of all sizes",
    pio_string: "INS and OUTS with REP",
    mmio: "loads, stores and string moves to where no RAM is",
    cpuid: "supported leaves, the guest's CPUID, OSXSAVE",
    msr: "MSR lists, get and set, RDMSR and WRMSR with #GP",
}
