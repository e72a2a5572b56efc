// SPDX-License-Identifier: GPL-2.0

//! MOV, MOVZX and MOVSX to and from devices: nearly all MMIO there is, without the emulator's general path.
//!
//! The processor has made all checks of the instruction before its access came to an exit, and the exit tells the guest
//! physical address. What is left is to fetch the instruction, decode it, and to see that it is one that accesses that
//! offset of a page; then the bus, and RIP. Whatever is not as simple as that goes to [`Running::emulate`] with nothing
//! done yet, and has the same result there.

use rkvm_core::{
    addr::{
        Gpa, //
    },
    emulate::{
        Load,
        Move, //
    },
    memslots::Generation,
    vmx::{
        fields::*,
        segment,
        Vmcs, //
    },
};

use super::{
    fast::Fast,
    registers::{
        gpr,
        set_gpr, //
    },
};
use crate::{
    sys::trace::{
        self,
        MmioKind, //
    },
    vcpu::{
        run::Completion,
        Running, //
    },
};

/// What user space has to bring before an instruction is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingLoad {
    gpa: Gpa,
    load: Load,
    /// Bytes of the instruction.
    length: u8,
}

impl Running<'_> {
    /// The access to `gpa` that the instruction at RIP makes, with interrupts off. No slot is there in the generation
    /// `slots`; `None`: it is a device whatever the slots are.
    pub(super) fn fast_move(&mut self, gpa: Gpa, slots: Option<Generation>) -> Fast {
        let Some((length, what)) = self.move_at(gpa, slots) else {
            return Fast::Leave;
        };
        match what {
            Move::Store(width, value) => {
                let bytes = value.to_le_bytes();
                let Some(data) = bytes.get(..width.size()) else {
                    return Fast::Leave;
                };
                if self.changes_apic_identity(gpa) {
                    // All vCPUs have to hear of it, which may sleep.
                    return Fast::Leave;
                }
                self.vcpu.stats.insn_emulation.inc();
                let taken = self.device_write(gpa, data);
                self.decoded_instruction_retires(length);
                if taken {
                    return Fast::Handled;
                }
                self.user_mmio(gpa, value, width.bytes(), true)
            }
            Move::Load(load) => {
                let mut bytes = [0; 8];
                let Some(data) = bytes.get_mut(..load.from.size()) else {
                    return Fast::Leave;
                };
                self.vcpu.stats.insn_emulation.inc();
                if self.device_read(gpa, data) {
                    self.finish_load(load, length, u64::from_le_bytes(bytes));
                    return Fast::Handled;
                }
                self.arch.events.injected = None;
                self.arch.completion = Completion::MmioLoad(PendingLoad { gpa, load, length });
                self.user_mmio(gpa, 0, load.from.bytes(), false)
            }
        }
    }

    /// An access that user space answers.
    fn user_mmio(&mut self, gpa: Gpa, value: u64, bytes: u8, write: bool) -> Fast {
        self.vcpu.stats.mmio_exits.inc();
        self.vcpu.run.set_mmio(gpa, value, bytes.into(), write);
        Fast::ToUser
    }

    /// Length and meaning of the instruction at RIP, if it only moves something to or from `gpa`.
    fn move_at(&mut self, gpa: Gpa, slots: Option<Generation>) -> Option<(u8, Move)> {
        let hw = self.hw;
        let mode = self.code_mode();
        let rip = hw.read(GUEST_RIP);
        let at = self.linear_code(mode, rip);
        let (code, have) = self.peek_code(at, self.fetch_access(), slots)?;
        let insn = self
            .arch
            .emulator
            .as_mut()?
            .decode_ahead(mode, code, have)?;
        let what = insn.as_move(|n| gpr(&hw, n))?;
        let base = |s| segment::base(&hw, s);
        insn.is_at(gpa, what.width(), mode, rip, |n| gpr(&hw, n), base)
            .then_some((insn.length, what))
    }

    fn finish_load(&mut self, load: Load, length: u8, value: u64) {
        let old = gpr(&self.hw, load.register);
        set_gpr(&self.hw, load.register, load.merge(old, value));
        self.decoded_instruction_retires(length);
    }
}

/// User space has answered a read.
pub(crate) fn finish_load(r: &mut Running<'_>, pending: PendingLoad) {
    let value = r.vcpu.run.mmio_data();
    let bytes = pending.load.from.bytes();
    trace::mmio(MmioKind::Read, bytes.into(), pending.gpa, || value);
    r.finish_load(pending.load, pending.length, value);
}
