// SPDX-License-Identifier: GPL-2.0

//! The vCPU with an emulator and an instruction for it.

use super::Mock;
use rkvm_core::emulate::*;

/// Where test code lies.
pub const CODE: u64 = 0x1000;
/// Where test data lie.
pub const DATA: u64 = 0x8000;

/// A vCPU with one instruction at `CODE`.
pub struct Machine {
    pub emulator: Emulator,
    pub regs: Regs,
    pub cpu: Mock,
}

impl Machine {
    pub fn new(mode: Mode, code: &[u8]) -> Self {
        let mut cpu = Mock::new(mode);
        cpu.put(CODE, code);
        let mut regs = Regs {
            rip: CODE,
            rflags: 2,
            ..Regs::default()
        };
        regs.gpr[4] = 0x7000;
        Self {
            emulator: Emulator::new(),
            regs,
            cpu,
        }
    }

    pub fn start(&mut self) -> Outcome {
        self.emulator
            .start(&mut self.regs, &mut self.cpu, Cause::Exit)
    }

    pub fn resume(&mut self) -> Outcome {
        self.emulator.resume(&mut self.regs, &mut self.cpu)
    }

    /// Starts, and expects completion.
    pub fn complete(&mut self) -> Completed {
        match self.start() {
            Outcome::Completed(c) => c,
            other => panic!("not completed: {other:?}"),
        }
    }
}
