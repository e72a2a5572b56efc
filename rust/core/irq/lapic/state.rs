// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_LAPIC and KVM_SET_LAPIC.

use super::{
    base::{
        x2apic_ldr,
        Mode, //
    },
    svr,
    timer::Clock,
    Effects,
    Lapic,
    Reg,
    Shared, //
};
use core::ops::Deref;

const WORDS: usize = 256;

/// `struct kvm_lapic_state`: the first 1024 bytes of the register page, as little-endian words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LapicState(pub [u32; WORDS]);

impl Default for LapicState {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

/// User space gave an id that is not the APIC's, in the 32-bit format. EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongId;

impl LapicState {
    /// A register.
    pub fn get(&self, reg: Reg) -> u32 {
        self.0
            .get(usize::from(reg.offset() >> 2))
            .copied()
            .unwrap_or(0)
    }

    /// Changes a register.
    pub fn set(&mut self, reg: Reg, value: u32) {
        if let Some(word) = self.0.get_mut(usize::from(reg.offset() >> 2)) {
            *word = value;
        }
    }
}

impl<S: Deref<Target = Shared>> Lapic<S> {
    /// Reads the complete state. A timer that is due fires first, so that nothing pending is left out.
    pub fn get_state(&mut self, state: &mut LapicState, clock: &impl Clock) {
        self.timer_expired(clock);
        self.merge();
        self.update_ppr();
        for (word, offset) in state.0.iter_mut().zip((0u16..).step_by(4)) {
            *word = self.reg(Reg::word_at(offset));
        }
        let current = self.timer_current(clock);
        state.set(Reg::TIMER_CURRENT, current);
        state.set(Reg::TIMER_FIRED, u32::from(current == 0));
        if self.mode == Mode::X2Apic {
            if !self.config.x2apic_format {
                state.set(Reg::ID, self.config.id.wrapping_shl(24));
            }
            // User space knows the ICR as two registers.
            state.set(Reg::ICR2, self.reg(Reg::ICR_X2_HIGH));
        }
    }

    /// Sets the complete state. Version, processor priority, and in x2APIC mode id and LDR, are the APIC's own.
    pub fn set_state(
        &mut self,
        state: &LapicState,
        clock: &impl Clock,
    ) -> Result<Effects, WrongId> {
        let x2apic = self.mode == Mode::X2Apic;
        if x2apic && self.config.x2apic_format && state.get(Reg::ID) != self.config.id {
            return Err(WrongId);
        }
        self.shared.inbox.collect(|_, _| {});
        for (word, offset) in state.0.iter().zip((0u16..).step_by(4)) {
            self.set_reg(Reg::word_at(offset), *word);
        }
        if x2apic {
            self.set_reg(Reg::ID, self.config.id);
            self.set_reg(Reg::LDR, x2apic_ldr(self.config.id));
            self.set_reg(Reg::ICR_X2_HIGH, state.get(Reg::ICR2));
        }
        self.sw_enabled = state.get(Reg::SVR) & svr::ENABLED != 0;
        self.publish();
        self.update_version();
        self.resync();
        self.update_ppr();
        self.set_reg(Reg::TIMER_CURRENT, 0);
        self.set_reg(Reg::TIMER_FIRED, 0);
        self.restore_timer(
            state.get(Reg::TIMER_CURRENT),
            state.get(Reg::TIMER_FIRED) != 0,
            clock,
        );
        Ok(Effects {
            map: true,
            timer: true,
            recheck: true,
            ..Effects::NONE
        })
    }
}
