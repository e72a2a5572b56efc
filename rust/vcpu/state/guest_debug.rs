// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_GUEST_DEBUG (api.rst): a debugger in user space that stops the guest at instructions, at breakpoints in its
//! code, or at addresses.

use kernel::prelude::*;
use rkvm_core::{
    exception::{
        Exception,
        Payload,
        Vector, //
    },
    regs::{
        dr,
        rflags, //
    },
    vmx::{
        fields::*,
        Vmcs, //
    },
};

use crate::{
    sys::uabi::kvm_guest_debug,
    vcpu::{
        events::EXCEPTION_BITMAP_BASE,
        real_mode::EXCEPTION_BITMAP_VM86,
        requests::Request,
        run::Flow,
        Running, //
    },
};

/// `KVM_GUESTDBG_*`.
const ENABLE: u32 = 1 << 0;
const SINGLESTEP: u32 = 1 << 1;
const USE_SW_BP: u32 = 1 << 16;
const USE_HW_BP: u32 = 1 << 17;
const INJECT_DB: u32 = 1 << 18;
const INJECT_BP: u32 = 1 << 19;
const BLOCKIRQ: u32 = 1 << 20;

/// What the debugger asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct GuestDebug {
    /// `KVM_GUESTDBG_*`; 0 without ENABLE.
    control: u32,
    /// Its breakpoints.
    db: [u64; 4],
    dr7: u64,
    /// The linear address at which stepping began.
    step_from: u64,
}

impl GuestDebug {
    /// Every instruction ends in KVM_EXIT_DEBUG.
    #[inline]
    pub(crate) fn steps(&self) -> bool {
        self.control & SINGLESTEP != 0
    }

    /// The debugger has the debug registers.
    #[inline]
    pub(crate) fn owns_debug_registers(&self) -> bool {
        self.control & USE_HW_BP != 0
    }

    /// Neither interrupts nor NMIs while the debugger steps.
    #[inline]
    pub(crate) fn blocks_interrupts(&self) -> bool {
        self.control & BLOCKIRQ != 0
    }

    /// INT3 is the debugger's.
    pub(crate) fn takes_int3(&self) -> bool {
        self.control & USE_SW_BP != 0
    }

    /// #DB is the debugger's.
    pub(crate) fn takes_debug_exceptions(&self) -> bool {
        self.control & (SINGLESTEP | USE_HW_BP) != 0
    }
}

impl Running<'_> {
    /// KVM_SET_GUEST_DEBUG. EBUSY if an exception is to be injected while another is on its way.
    pub(crate) fn set_guest_debug(&mut self, new: &kvm_guest_debug) -> Result {
        if new.control & (INJECT_DB | INJECT_BP) != 0 {
            if self.exception_waits() || self.arch.events.injects_exception() {
                return Err(EBUSY);
            }
            let vector = if new.control & INJECT_DB != 0 {
                Vector::Db
            } else {
                Vector::Bp
            };
            self.queue_exception(Exception::plain(vector));
        }
        // As the guest has them, before the trap flag of the debugger comes or goes.
        let flags = self.rflags();
        let [d0, d1, d2, d3, .., dr7] = new.arch.debugreg;
        self.arch.guest_debug = GuestDebug {
            control: if new.control & ENABLE != 0 {
                new.control
            } else {
                0
            },
            db: [d0, d1, d2, d3],
            dr7,
            step_from: self.linear_rip().0,
        };
        if !self.arch.guest_debug.takes_debug_exceptions() {
            // A step that ended in an exit of another kind is not told of any more.
            self.vcpu.requests.take(Request::DebugStep);
        }
        self.write_dr7();
        self.set_rflags(flags);
        self.write_exception_bitmap();
        // What it held back may come now, and the other way round.
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }

    /// Which exceptions exit.
    pub(crate) fn write_exception_bitmap(&self) {
        let int3 = if self.arch.guest_debug.takes_int3() {
            1 << Vector::Bp as u32
        } else {
            0
        };
        let base = if self.arch.real_mode.is_vm86() {
            EXCEPTION_BITMAP_VM86
        } else {
            EXCEPTION_BITMAP_BASE
        };
        self.hw.write(EXCEPTION_BITMAP, base | int3);
    }

    /// RFLAGS as the guest set it.
    pub(crate) fn rflags(&self) -> u64 {
        let flags = self.guest_rflags();
        if self.arch.guest_debug.steps() {
            flags & !rflags::TF
        } else {
            flags
        }
    }

    /// Sets RFLAGS, and the trap flag with it for the instruction at which stepping begins.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        let debug = &self.arch.guest_debug;
        let trap = debug.steps() && self.linear_rip().0 == debug.step_from;
        let value = if trap { value | rflags::TF } else { value };
        self.set_guest_rflags(value | rflags::FIXED);
    }

    /// DR7 for the guest: its own, or the debugger's.
    pub(crate) fn write_dr7(&self) {
        self.hw.write(GUEST_DR7, self.dr7_in_force());
    }

    fn dr7_in_force(&self) -> u64 {
        let debug = &self.arch.guest_debug;
        if debug.owns_debug_registers() {
            debug.dr7
        } else {
            self.arch.debug.dr7
        }
    }

    /// Whether MOV to and from debug registers raises #DB.
    pub(crate) fn general_detect(&self) -> bool {
        self.dr7_in_force() & dr::DR7_GD != 0
    }

    /// The breakpoint addresses that are in force.
    pub(crate) fn breakpoints(&self) -> &[u64; 4] {
        if self.arch.guest_debug.owns_debug_registers() {
            &self.arch.guest_debug.db
        } else {
            &self.arch.debug.db
        }
    }

    /// KVM_EXIT_DEBUG if the exception is a #DB and the debugger's.
    pub(crate) fn debugger_takes(&self, e: &Exception) -> Option<Flow> {
        match e.payload {
            Payload::Dr6(conditions) => self.debugger_takes_db(conditions),
            _ => None,
        }
    }

    /// KVM_EXIT_DEBUG if #DB is the debugger's. `conditions` in the positive logic of exit qualifications.
    pub(crate) fn debugger_takes_db(&self, conditions: u64) -> Option<Flow> {
        if !self.arch.guest_debug.takes_debug_exceptions() {
            return None;
        }
        Some(self.debug_exit(Vector::Db, conditions | dr::DR6_INIT))
    }

    /// KVM_EXIT_DEBUG if an access to a debug register raised #DB because the debugger has them.
    pub(crate) fn debugger_takes_dr_access(&self, e: &Exception) -> Option<Flow> {
        if e.vector != Vector::Db || !self.arch.guest_debug.owns_debug_registers() {
            return None;
        }
        Some(self.debug_exit(Vector::Db, dr::DR6_BD | dr::DR6_INIT))
    }

    /// KVM_EXIT_DEBUG for INT3.
    pub(crate) fn exit_breakpoint(&self) -> Flow {
        self.debug_exit(Vector::Bp, 0)
    }

    fn debug_exit(&self, vector: Vector, dr6: u64) -> Flow {
        let dr7 = self.hw.read(GUEST_DR7);
        self.vcpu
            .run
            .set_debug(vector as u32, self.linear_rip().0, dr6, dr7);
        Flow::ToUser
    }

    /// An instruction that was emulated or exited is complete, and the trap flag is set.
    pub(crate) fn trap_after_instruction(&mut self) {
        if self.arch.guest_debug.takes_debug_exceptions() {
            self.vcpu.requests.set_own(Request::DebugStep);
        } else {
            self.single_step();
        }
    }

    /// [`Request::DebugStep`].
    pub(crate) fn report_step(&self) -> Flow {
        self.debug_exit(Vector::Db, dr::DR6_BS | dr::DR6_INIT)
    }
}
