// SPDX-License-Identifier: GPL-2.0

//! VMCALL: KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst).

use kernel::prelude::*;
use rkvm_core::cpuid::kvm_feature;

use super::fast::Fast;
use crate::vcpu::{
    run::Flow,
    Running, //
};

const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
const KVM_HC_KICK_CPU: u64 = 5;
/// -KVM_ENOSYS and -KVM_EPERM.
const ENOSYS: i64 = -1000;
const EPERM: i64 = -1;

impl Running<'_> {
    /// All hypercalls that rkvm has need neither sleep nor user memory.
    pub(super) fn fast_vmcall(&mut self) -> Fast {
        let result = self.hypercall();
        self.hw.set_gpr(
            0,
            if self.in_64bit_code() {
                result as u64
            } else {
                u64::from(result as u32)
            },
        );
        self.vcpu.stats.hypercalls.inc();
        self.instruction_retires();
        Fast::Handled
    }

    /// The same for the emulator, which moves RIP itself.
    pub(crate) fn hypercall_by_registers(&mut self) {
        let result = self.hypercall();
        self.hw.set_gpr(
            0,
            if self.in_64bit_code() {
                result as u64
            } else {
                u64::from(result as u32)
            },
        );
    }

    /// The exit of a guest none of whose exits is simple.
    pub(super) fn exit_vmcall(&mut self) -> Result<Flow> {
        self.fast_vmcall();
        Ok(Flow::Resume)
    }

    fn hypercall(&mut self) -> i64 {
        if self.cpl() != 0 {
            return EPERM;
        }
        let wide = self.in_64bit_code();
        let argument = |n| {
            if wide {
                self.hw.gpr(n)
            } else {
                self.hw.gpr(n) & 0xffff_ffff
            }
        };
        match argument(0) {
            KVM_HC_VAPIC_POLL_IRQ => 0,
            KVM_HC_KICK_CPU if self.arch.pv_has(kvm_feature::PV_UNHALT) => {
                // RBX holds flags, of which there are none; RCX the APIC id.
                self.kick_processor(argument(1) as u32);
                0
            }
            _ => ENOSYS,
        }
    }
}
