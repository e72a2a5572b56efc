// SPDX-License-Identifier: GPL-2.0

//! VMCALL: KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst).

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    cpuid::kvm_feature, //
};

use super::fast::Fast;
use crate::vcpu::{
    run::Flow,
    Running, //
};

const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
const KVM_HC_KICK_CPU: u64 = 5;
const KVM_HC_CLOCK_PAIRING: u64 = 9;
/// KVM_CLOCK_PAIRING_WALLCLOCK.
const WALL_CLOCK: u64 = 0;
/// -KVM_ENOSYS, -KVM_EOPNOTSUPP, -KVM_EFAULT and -KVM_EPERM.
const ENOSYS: i64 = -1000;
const EOPNOTSUPP: i64 = -95;
const EFAULT: i64 = -14;
const EPERM: i64 = -1;

impl Running<'_> {
    /// All hypercalls but one need neither sleep nor user memory.
    #[inline]
    pub(super) fn fast_vmcall(&mut self) -> Fast {
        if self.hw.gpr(0) as u32 == KVM_HC_CLOCK_PAIRING as u32 {
            return Fast::Leave;
        }
        self.hypercall_by_registers();
        self.instruction_retires();
        Fast::Handled
    }

    /// The same for the emulator, which moves RIP itself.
    #[inline]
    pub(crate) fn hypercall_by_registers(&mut self) {
        self.vcpu.stats.hypercalls.inc();
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

    /// The one, and the exits of a guest none of whose exits is simple. May sleep.
    pub(super) fn exit_vmcall(&mut self) -> Result<Flow> {
        self.hypercall_by_registers();
        self.instruction_retires();
        Ok(Flow::Resume)
    }

    /// General register `n`, of which code that is not 64-bit sees the lower half.
    #[inline]
    fn hypercall_operand(&self, n: usize) -> u64 {
        let value = self.hw.gpr(n);
        if self.in_64bit_code() {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    fn hypercall(&mut self) -> i64 {
        if self.cpl() != 0 {
            return EPERM;
        }
        match self.hypercall_operand(0) {
            KVM_HC_VAPIC_POLL_IRQ => 0,
            KVM_HC_KICK_CPU if self.arch.pv_has(kvm_feature::PV_UNHALT) => {
                // RBX holds flags, of which there are none; RCX the APIC id.
                self.kick_processor(self.hypercall_operand(1) as u32);
                0
            }
            KVM_HC_CLOCK_PAIRING => self.pair_clocks(),
            _ => ENOSYS,
        }
    }

    /// RBX holds the address of `struct kvm_clock_pairing`, RCX which clock.
    #[cold]
    fn pair_clocks(&self) -> i64 {
        let (at, clock) = (self.hypercall_operand(3), self.hypercall_operand(1));
        match self.clock_pairing() {
            Some(pair) if clock == WALL_CLOCK => {
                let written = self.vm.memory.write(Gpa(at), &pair);
                written.map_or(EFAULT, |()| 0)
            }
            _ => EOPNOTSUPP,
        }
    }
}
