// SPDX-License-Identifier: GPL-2.0

//! Events whose delivery accesses a device: no instruction made the access, so none may be emulated for it.
//!
//! C KVM answers the first such access only. From the second on the EPT knows the frame as a device's, and C KVM enters
//! the guest again and again until a signal comes, so this test is not for it.

use crate::asm::*;
use crate::device::Device;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Exit;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV;

/// No memory is there.
const NO_RAM: u64 = 0x8000_0000;
const VECTOR: u8 = 0x50;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    no_vector_table(t, dev, &["first", "second", "third"])
}

/// Interrupts of a guest whose vector table is where no memory is.
pub(super) fn no_vector_table(t: &mut Tap, dev: &Device, accesses: &[&str]) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| a.int(i32::from(VECTOR)));
    for access in accesses {
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        vcpu.with_sregs(|s| {
            s.idt.base = NO_RAM;
            s.idt.limit = 0xfff;
        })?;
        t.eq(
            format!("a vector table in no memory, {access} access"),
            vcpu.run()?,
            Exit::InternalError(KVM_INTERNAL_ERROR_DELIVERY_EV),
        );
        // SAFETY: KVM_EXIT_INTERNAL_ERROR says that `internal` is the valid member.
        let data = unsafe { vcpu.shared().__bindgen_anon_1.internal.data };
        t.eq(
            "where it is, is told",
            data[3],
            NO_RAM + 16 * u64::from(VECTOR),
        );
    }
    Ok(())
}
