// SPDX-License-Identifier: GPL-2.0

//! INIT: which vCPU starts anew at once and which waits for SIPI, and what is left of its speculation controls.

use crate::device::Device;
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::Outcome;
use kvm_bindings::*;

const APIC_BASE: u32 = 0x1b;
const BSP: u64 = 1 << 8;
const SPEC_CTRL: u32 = 0x48;
/// INIT as a message to APIC id 0, edge triggered.
const INIT: kvm_msi = kvm_msi {
    address_lo: 0xfee0_0000,
    address_hi: 0,
    data: 5 << 8,
    flags: 0,
    devid: 0,
    pad: [0; 12],
};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    // C KVM finds processors once somebody has changed who it is.
    vcpu.fd.set_lapic(&vcpu.fd.get_lapic()?)?;
    boot_processor(t, &vm, &vcpu)?;
    speculation(t, &vm, &vcpu)
}

/// IA32_APIC_BASE says who the bootstrap processor is, not who was it at reset.
fn boot_processor(t: &mut Tap, vm: &Vm, vcpu: &Vcpu) -> Outcome {
    let base = vcpu.msr(APIC_BASE)?.ok_or("IA32_APIC_BASE can't be read")?;
    for (value, want) in [
        (base | BSP, KVM_MP_STATE_RUNNABLE),
        (base & !BSP, KVM_MP_STATE_INIT_RECEIVED),
    ] {
        vcpu.set_msr(APIC_BASE, value)?;
        vm.fd.signal_msi(INIT)?;
        t.eq(
            format!("after INIT with IA32_APIC_BASE {value:#x}"),
            vcpu.fd.get_mp_state()?.mp_state,
            want,
        );
        t.eq("which INIT keeps", vcpu.msr(APIC_BASE)?, Some(value));
    }
    let halted = kvm_mp_state {
        mp_state: KVM_MP_STATE_HALTED,
    };
    vcpu.fd.set_mp_state(halted)?;
    vcpu.with_sregs(|_| {})?;
    t.eq(
        "registers as after reset wake only the bootstrap processor",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    vcpu.with_sregs(|s| s.apic_base |= BSP)?;
    t.eq(
        "and it they do",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_RUNNABLE,
    );
    Ok(())
}

fn speculation(t: &mut Tap, vm: &Vm, vcpu: &Vcpu) -> Outcome {
    let name = "INIT clears IA32_SPEC_CTRL";
    if !vcpu.set_msr(SPEC_CTRL, 1)? {
        t.skip(name, "this processor has no IBRS");
        return Ok(());
    }
    vm.fd.signal_msi(INIT)?;
    vcpu.fd.get_mp_state()?;
    t.eq(name, vcpu.msr(SPEC_CTRL)?, Some(0));
    Ok(())
}
