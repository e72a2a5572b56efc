// SPDX-License-Identifier: GPL-2.0

//! The guest that makes the same exit again and again.

use super::{now, BATCHES};
use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, REAL_IP, STACK};
use crate::sys;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

/// A write here ends a batch.
const END_PORT: u16 = 0x81;
/// Turns of a batch.
const TURNS: u64 = 100;
/// Turns of the first batch, which is not counted.
const WARM_UP: u64 = 10;

/// The vCPU with its loop.
pub struct Loop {
    /// The machine, for what the benchmark adds to it.
    pub vm: Vm,
    pub(super) vcpu: Vcpu,
    /// The guest's memory, kept as long as the guest.
    _ram: Ram,
    mode: Mode,
}

impl Loop {
    /// A machine with in-kernel chips whose guest does `turn` in its loop. `turn` may use EAX, EBX,
    /// ECX, EDX and EDI; GS is based at `device`, without a limit.
    pub fn new(
        dev: &Device,
        mode: Mode,
        device: u64,
        turn: impl Fn(&mut CodeAssembler) -> Asm,
    ) -> Outcome<Self> {
        let vm = Vm::with_irqchip(dev)?;
        let ram = vm.add_ram(0, 0, MIB)?;
        let vcpu = vm.vcpu(0)?;
        let ip = if mode == Mode::Real { REAL_IP } else { CODE };
        let code = assemble(mode.bits(), ip, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            turn(a)?;
            a.dec(esi)?;
            a.jnz(again)?;
            a.out(i32::from(END_PORT), al)?;
            a.hlt()
        });
        setup::start(&vcpu, &ram, mode, &code)?;
        let guest = Loop {
            vm,
            vcpu,
            _ram: ram,
            mode,
        };
        guest.base(device)?;
        guest.prepare_timer()?;
        Ok(guest)
    }

    /// Puts GS at `device`.
    pub fn base(&self, device: u64) -> Outcome {
        self.vcpu.with_sregs(|s| {
            s.gs.base = device;
            s.gs.limit = 0xffff_ffff;
            s.gs.g = 1;
        })?;
        Ok(())
    }

    /// The local APIC on, its timer masked and in TSC-deadline mode.
    fn prepare_timer(&self) -> Outcome {
        const SPURIOUS: usize = 0xf0;
        const LVT_TIMER: usize = 0x320;
        let mut cpuid = self.vcpu.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
        for e in cpuid.as_mut_slice() {
            if e.function == 1 {
                e.ecx |= 1 << 24;
            }
        }
        self.vcpu.fd.set_cpuid2(&cpuid)?;
        let mut lapic = self.vcpu.fd.get_lapic()?;
        for (offset, value) in [
            (SPURIOUS, 0x1ffu32),
            (LVT_TIMER, (1 << 16) | (2 << 17) | 0x60),
        ] {
            for (i, b) in value.to_le_bytes().into_iter().enumerate() {
                lapic.regs[offset + i] = b as _;
            }
        }
        self.vcpu.fd.set_lapic(&lapic)?;
        Ok(())
    }

    /// Ticks of a turn: what many take more than one, each at its cheapest, so that getting into
    /// the guest and out of it at the end is not counted.
    pub fn cheapest(&mut self) -> Outcome<u64> {
        self.batch(WARM_UP)?;
        let (mut one, mut many) = (u64::MAX, u64::MAX);
        for _ in 0..BATCHES {
            one = one.min(self.batch(1)?);
            many = many.min(self.batch(1 + TURNS)?);
        }
        Ok(many.saturating_sub(one) / TURNS)
    }

    /// Ticks of `turns` turns together, with what it takes to begin and to end them.
    pub fn batch(&mut self, turns: u64) -> Outcome<u64> {
        let ip = if self.mode == Mode::Real {
            REAL_IP
        } else {
            CODE
        };
        self.vcpu.with_regs(|r| {
            r.rip = ip;
            r.rsp = if self.mode == Mode::Real {
                setup::REAL_STACK
            } else {
                STACK
            };
            r.rsi = turns;
            r.rdi = 0;
        })?;
        let fd = self.vcpu.raw();
        let start = now();
        loop {
            sys::ioctl(fd, sys::KVM_RUN, 0)?;
            let run = self.vcpu.shared();
            // SAFETY: KVM_EXIT_IO says that `io` is the valid member.
            let io = run.exit_reason == KVM_EXIT_IO
                && unsafe { run.__bindgen_anon_1.io.port } != END_PORT;
            if !(io || run.exit_reason == KVM_EXIT_MMIO) {
                break;
            }
        }
        let ticks = now() - start;
        match self.vcpu.exit() {
            Exit::Out { port: END_PORT, .. } => Ok(ticks),
            other => Err(format!("the guest left its loop: {other:x?}").into()),
        }
    }
}
