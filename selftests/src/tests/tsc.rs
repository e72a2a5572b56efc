// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_TSC_KHZ on several vCPUs.

use crate::device::Device;
use crate::tap::Tap;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    if dev.cap(KVM_CAP_TSC_CONTROL) <= 0 {
        t.skip("the frequency", "no KVM_CAP_TSC_CONTROL");
        return Ok(());
    }
    let vm = Vm::with_irqchip(dev)?;
    let vcpus = [vm.vcpu(0)?, vm.vcpu(1)?];
    let offset = vcpus[0].tsc_offset()?;
    t.eq("TSCs start together", vcpus[1].tsc_offset()?, offset);
    let khz = vcpus[0].fd.get_tsc_khz()?;
    for vcpu in &vcpus {
        vcpu.fd.set_tsc_khz(khz / 2)?;
    }
    t.eq("the frequency", vcpus[1].fd.get_tsc_khz()?, khz / 2);
    t.eq("the offset stays", vcpus[0].tsc_offset()?, offset);
    t.eq("so they are still together", vcpus[1].tsc_offset()?, offset);
    Ok(())
}
