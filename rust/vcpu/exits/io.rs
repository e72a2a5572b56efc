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

/// Where QEMU's code for the task priority calls QEMU, which replaces the instruction before RIP.
const VAPIC_PORT: u16 = 0x7e;

impl Running<'_> {
    /// A port that a device in the kernel answers for, or else user space. The string forms are left.
    pub(super) fn fast_io(&mut self) -> Fast {
        let io = IoAccess::decode(self.hw.read(EXIT_QUALIFICATION));
        if io.string {
            return Fast::Leave;
        }
        self.vcpu.stats.io_exits.inc();
        if io.input {
            match self.port_read(io.port, io.size) {
                Some(value) => set_accumulator(self, io.size, value),
                None => return self.user_port_in(io.port, io.size),
            }
        } else {
            let value = accumulator(self, io.size);
            if !self.port_write(io.port, io.size, value) {
                return self.user_port_out(io.port, io.size, value);
            }
        }
        self.instruction_retires();
        Fast::Handled
    }

    /// An IN that user space answers.
    fn user_port_in(&mut self, port: u16, size: u8) -> Fast {
        self.arch.events.injected = None;
        self.arch.completion = Completion::PortIn {
            port,
            size,
            at: self.linear_rip(),
        };
        self.vcpu.run.set_io(false, size, port, 1);
        Fast::ToUser
    }

    /// An OUT that user space takes.
    fn user_port_out(&mut self, port: u16, size: u8, value: u32) -> Fast {
        if port == VAPIC_PORT && self.vm.caps.moves_rip_past_out_7e() {
            self.instruction_retires();
        } else {
            self.arch.events.injected = None;
            self.arch.completion = Completion::PortOut {
                at: self.linear_rip(),
            };
        }
        self.vcpu.run.set_pio_value(size, value);
        self.vcpu.run.set_io(true, size, port, 1);
        Fast::ToUser
    }

    /// The string forms.
    pub(super) fn exit_io(&mut self) -> Result<Flow> {
        self.vcpu.stats.io_exits.inc();
        self.emulate(Operand::Unknown)
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
