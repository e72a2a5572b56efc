// SPDX-License-Identifier: GPL-2.0

//! IN and OUT. The string forms go to the emulator (SDM, "Exit Qualification for I/O Instructions").

use kernel::prelude::*;
use rkvm_core::vmx::{
    exit::qualification::IoAccess,
    fields::*,
    Vmcs, //
};

use super::fast::Fast;
use crate::{
    sys::trace,
    vcpu::{
        emulation::Operand,
        run::{
            Completion,
            Flow, //
        },
        Running, //
    },
};

impl Running<'_> {
    /// A port that a device in the kernel answers for.
    pub(super) fn fast_io(&mut self) -> Fast {
        let io = IoAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        if io.string {
            return Fast::Leave;
        }
        if io.input {
            match self.port_read(io.port, io.size) {
                Some(value) => set_accumulator(self, io.size, value),
                None => return Fast::Leave,
            }
        } else if !self.port_write(io.port, io.size, accumulator(self, io.size)) {
            return Fast::Leave;
        }
        self.vcpu.stats.io_exits.inc();
        self.instruction_retires();
        Fast::Handled
    }

    /// A port that user space answers for. The devices in the kernel were asked already.
    pub(super) fn exit_io(&mut self) -> Result<Flow> {
        let io = IoAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        self.vcpu.stats.io_exits.inc();
        if io.string {
            return self.emulate(Operand::Unknown);
        }
        if io.input {
            self.arch.completion = Completion::PortIn {
                port: io.port,
                size: io.size,
            };
        } else {
            let value = accumulator(self, io.size);
            self.vcpu.run.set_pio_value(io.size, value);
            self.arch.completion = Completion::PortOut {
                rip: self.hw.read(GUEST_RIP),
            };
        }
        self.vcpu.run.set_io(!io.input, io.size, io.port, 1);
        Ok(Flow::ToUser)
    }
}

fn accumulator(r: &Running<'_>, size: u8) -> u32 {
    let rax = r.hw.gpr(0) as u32;
    match size {
        1 => rax & 0xff,
        2 => rax & 0xffff,
        _ => rax,
    }
}

/// Writes AL, AX or EAX; the last clears the upper half of RAX, the others leave the rest alone.
fn set_accumulator(r: &mut Running<'_>, size: u8, value: u32) {
    let rax = r.hw.gpr(0);
    let value = u64::from(value);
    r.hw.set_gpr(
        0,
        match size {
            1 => (rax & !0xff) | (value & 0xff),
            2 => (rax & !0xffff) | (value & 0xffff),
            _ => value,
        },
    );
}

/// User space has answered an IN.
pub(crate) fn finish_in(r: &mut Running<'_>, port: u16, size: u8) {
    let value = r.vcpu.run.pio_value(size);
    trace::pio(false, port, size.into(), 1, || value);
    set_accumulator(r, size, value);
    r.skip_instruction();
}
