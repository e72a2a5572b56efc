// SPDX-License-Identifier: GPL-2.0

//! #DB and MOV to and from debug registers (SDM, "Debug Registers", "Debug Exceptions").

use kernel::prelude::*;
use rkvm_core::{
    cpuid::features,
    exception::Exception,
    nospec,
    regs::{
        cr4,
        dr, //
    },
    vmx::{
        event::EventType,
        exit::qualification::DrAccess,
        fields::*,
        Vmcs, //
    },
};

use crate::vcpu::{
    run::Flow,
    Running, //
};

/// DR7 bits that enable a breakpoint.
const DR7_ENABLES: u64 = 0xff;
/// Conditions in the exit qualification of #DB: B0 to B3, BD, BS, RTM.
const CONDITIONS: u64 = 0xf | dr::DR6_BD | dr::DR6_BS | dr::DR6_RTM;

impl Running<'_> {
    /// DR0 to DR3 for the processor, if a breakpoint is enabled. DR7 is switched by entry and exit.
    #[inline]
    pub(crate) fn enabled_breakpoints(&self) -> Option<&[u64; 4]> {
        let used =
            self.arch.guest_debug.owns_debug_registers() || self.arch.debug.dr7 & DR7_ENABLES != 0;
        used.then(|| self.breakpoints())
    }

    /// A debugger steps: entry refuses the trap flag under a shadow without a pending trap, which would come before the
    /// step, so the shadow goes.
    #[inline]
    pub(crate) fn prepare_step(&self) {
        if self.arch.guest_debug.steps() {
            self.clear_interrupt_shadow();
        }
    }

    pub(super) fn exit_debug_exception(&mut self) -> Result<Flow> {
        let conditions = self.hw.read(EXIT_QUALIFICATION) & CONDITIONS;
        if let Some(flow) = self.debugger_takes_db(conditions) {
            return Ok(flow);
        }
        if self.exit_interruption().kind() == EventType::PrivilegedSoftwareException {
            // INT1 is a trap, the exit comes before RIP moves on.
            self.skip_instruction();
        }
        self.inject_or_resume(Err(Exception::db(conditions)))
    }

    pub(super) fn exit_dr_access(&mut self) -> Result<Flow> {
        let access = DrAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        let result = self.access_debug_register(access);
        if let Err(e) = &result {
            if let Some(flow) = self.debugger_takes_dr_access(e) {
                return Ok(flow);
            }
        }
        self.retire(result)
    }

    /// #DB is delivered: its handler may touch the debug registers (SDM, "Debug Control Register (DR7)").
    pub(crate) fn end_general_detect(&mut self) {
        if self.arch.debug.dr7 & dr::DR7_GD != 0 {
            self.arch.debug.dr7 &= !dr::DR7_GD;
            self.write_dr7();
        }
    }

    fn access_debug_register(&mut self, access: DrAccess) -> Result<(), Exception> {
        if self.cpl() != 0 {
            return Err(Exception::GP0);
        }
        let aliased = access.dr == 4 || access.dr == 5;
        if aliased && self.read_cr4() & cr4::DE != 0 {
            return Err(Exception::UD);
        }
        if self.general_detect() {
            return Err(Exception::db(dr::DR6_BD));
        }
        if access.read {
            let value = self.debug_register(access.dr);
            self.set_gpr(access.gpr, value);
            return Ok(());
        }
        let wide = self.in_64bit_code();
        let value = self.gpr(access.gpr);
        self.set_debug_register(access.dr, if wide { value } else { value & 0xffff_ffff })
    }

    /// DR0 to DR7; 4 and 5 are 6 and 7.
    pub(crate) fn debug_register(&self, n: u8) -> u64 {
        match n {
            0..=3 => nospec::get_masked(&self.arch.debug.db, n.into())
                .copied()
                .unwrap_or(0),
            4 | 6 => self.arch.debug.dr6,
            _ => self.arch.debug.dr7,
        }
    }

    /// Sets DR0 to DR7. #GP(0) if DR6 or DR7 would get a bit in its upper half.
    pub(crate) fn set_debug_register(&mut self, n: u8, value: u64) -> Result<(), Exception> {
        const DR6_WRITABLE: u64 = 0xe00f;
        const DR7_WRITABLE: u64 = 0xffff_2bff;
        match n {
            0..=3 => {
                if let Some(db) = nospec::get_mut(&mut self.arch.debug.db, n.into()) {
                    *db = value;
                }
            }
            _ if value >> 32 != 0 => return Err(Exception::GP0),
            4 | 6 => {
                let has_rtm = self.arch.caps.has(features::RTM);
                let rtm = if has_rtm { dr::DR6_RTM } else { 0 };
                let fixed = dr::DR6_INIT & !rtm;
                self.arch.debug.dr6 = (value & (DR6_WRITABLE | rtm)) | fixed;
            }
            _ => {
                self.arch.debug.dr7 = (value & DR7_WRITABLE) | dr::DR7_INIT;
                self.write_dr7();
            }
        }
        Ok(())
    }
}
