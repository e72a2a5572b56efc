// SPDX-License-Identifier: GPL-2.0

//! Exceptions that always exit: #UD for emulation, #DB and #AC against endless delivery, #MC for the host
//! (SDM, "Information for VM Exits Due to Vectored Events").

use kernel::prelude::*;
use rkvm_core::{
    exception::{
        Exception,
        Vector, //
    },
    regs::{
        cr0,
        rflags, //
    },
    vmx::{
        event::{
            interruptibility,
            EventInfo, //
        },
        fields::*,
        Vmcs, //
    },
};

use crate::{
    sys::{
        cpu,
        params, //
    },
    vcpu::{
        run::Flow,
        run_page::InternalError,
        Running, //
    },
};

/// `ud2; .ascii "kvm"`: the next instruction is to be emulated.
const FORCED_EMULATION_PREFIX: [u8; 5] = [0x0f, 0x0b, b'k', b'v', b'm'];
/// A bit of `force_emulation_prefix`: the instruction starts without RFLAGS.RF, which the #UD of the prefix has set.
const FORCED_EMULATION_CLEARS_RF: i32 = 1 << 1;

impl Running<'_> {
    pub(super) fn exit_exception(&mut self) -> Result<Flow> {
        let info = self.exit_interruption();
        if info.is_nmi() {
            // The host's; handled before interrupts came back on.
            return Ok(Flow::Resume);
        }
        self.restore_nmi_blocking(info);
        if info.is_exception(Vector::Mc) {
            // The host's as well, whatever was being delivered to the guest.
            return Ok(Flow::Resume);
        }
        if info.is_exception(Vector::Ud) {
            return self.exit_undefined();
        }
        if self.in_real_mode_by_vm86(info) {
            return self.exit_real_mode_exception(info);
        }
        if self.arch.events.injected.is_some() && !info.is_exception(Vector::Db) {
            return Ok(self.simultaneous_exceptions(info));
        }
        if info.is_exception(Vector::Db) {
            return self.exit_debug_exception();
        }
        if info.is_exception(Vector::Bp) {
            return Ok(self.exit_breakpoint());
        }
        if info.is_exception(Vector::Ac) {
            return self.exit_alignment_check();
        }
        Ok(self.simultaneous_exceptions(info))
    }

    /// #AC is the guest's if its program asked for it. Else it is of a lock that the guest splits over cache lines, which the
    /// guest does not know to be forbidden: that is between the host and this task.
    fn exit_alignment_check(&mut self) -> Result<Flow> {
        let asked = self.cpl() == 3
            && self.read_cr0() & cr0::AM != 0
            && self.hw.read(GUEST_RFLAGS) & rflags::AC != 0;
        if asked || !cpu::detects_split_locks() {
            return self.inject_or_resume(Err(Exception::AC));
        }
        cpu::guest_splits_lock(self.hw.read(GUEST_RIP));
        Ok(Flow::Resume)
    }

    /// Whether this is an exception of virtual-8086 mode that real mode has to get, and not one of those that are the
    /// debugger's.
    fn in_real_mode_by_vm86(&self, info: EventInfo) -> bool {
        let debugger = info.is_exception(Vector::Bp) && self.arch.guest_debug.takes_int3();
        self.arch.real_mode.is_vm86() && !debugger && !info.is_exception(Vector::Db)
    }

    /// An IRET that unblocked NMIs has faulted: NMIs are still blocked.
    pub(super) fn restore_nmi_blocking(&mut self, info: EventInfo) {
        if info.nmi_unblocked_by_iret()
            && info.vector() != Vector::Df as u8
            && self.arch.events.injected.is_none()
        {
            let state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO);
            self.hw
                .write(GUEST_INTERRUPTIBILITY_INFO, state | interruptibility::NMI);
        }
    }

    /// #UD: an instruction that only the emulator has, or one that nobody has.
    fn exit_undefined(&mut self) -> Result<Flow> {
        let forced = params::force_emulation_prefix();
        if forced != 0 {
            let mut bytes = [0; 5];
            let rip = self.linear_rip();
            if self.fetch(rip, &mut bytes) == Ok(bytes.len()) && bytes == FORCED_EMULATION_PREFIX {
                if forced & FORCED_EMULATION_CLEARS_RF != 0 {
                    let flags = self.hw.read(GUEST_RFLAGS);
                    self.hw.write(GUEST_RFLAGS, flags & !rflags::RF);
                }
                let rip = self.hw.read(GUEST_RIP).wrapping_add(5);
                self.hw.write(GUEST_RIP, rip);
                return self.emulate_forced();
            }
        }
        self.emulate_undefined()
    }

    /// KVM_INTERNAL_ERROR_SIMUL_EX.
    fn simultaneous_exceptions(&self, info: EventInfo) -> Flow {
        let vectoring = self.hw.read(IDT_VECTORING_INFO_FIELD);
        let code = self.hw.read(VM_EXIT_INTR_ERROR_CODE);
        let cpu = self.arch.last_cpu;
        self.vcpu.run.set_internal_error(
            InternalError::SimulEx,
            &[vectoring.into(), info.0.into(), code.into(), cpu.into()],
        );
        Flow::ToUser
    }
}
