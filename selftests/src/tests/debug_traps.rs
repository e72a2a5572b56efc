// SPDX-License-Identifier: GPL-2.0

//! Single steps and breakpoints that the guest makes for itself, also where an interrupt shadow lies: what DR6 tells its
//! handler, and where it finds RIP.

use crate::asm::*;
use crate::device::Device;
use crate::prefix::{Prefix, PREFIX};
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DS};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const HANDLER: u64 = CODE + 0x800;
/// The handler of #DB tells of RIP and DR6 here.
const RIP_PORT: u16 = 0x80;
const DR6_PORT: u16 = 0x84;
const DB: u8 = 1;
const TF: i32 = 1 << 8;
const RF: i32 = 1 << 16;
const DR6_NOTHING: u32 = 0xffff_0ff0;
const DR6_B0: u32 = 1 << 0;
const DR6_BS: u32 = 1 << 14;
/// DR7 with DR0 enabled as an instruction breakpoint.
const DR7_EXECUTE: i32 = 0x401;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let guest = &mut Guest {
        t,
        vcpu: vm.vcpu(0)?,
        ram,
    };
    steps(guest)?;
    emulated_step(guest)?;
    breakpoint_after_sti(guest)?;
    conditions_follow_each_other(guest)
}

struct Guest<'a> {
    t: &'a mut Tap,
    vcpu: Vcpu,
    ram: Ram,
}

impl Guest<'_> {
    /// Runs `code`, with a handler of #DB that changes the RFLAGS that it returns to by `change`.
    fn start(&mut self, code: &[u8], change: impl FnOnce(&mut CodeAssembler) -> Asm) -> Outcome {
        setup::start(&self.vcpu, &self.ram, Mode::Long, code)?;
        let handler = assemble(64, HANDLER, |a| {
            a.mov(rax, qword_ptr(rsp))?;
            a.out(i32::from(RIP_PORT), eax)?;
            a.mov(rax, dr6)?;
            a.out(i32::from(DR6_PORT), eax)?;
            change(a)?;
            a.iretq()
        });
        self.ram.write(HANDLER, &handler);
        setup::gate(&self.ram, Mode::Long, DB, HANDLER);
        let mut debug = self.vcpu.fd.get_debug_regs()?;
        (debug.db, debug.dr6, debug.dr7) = ([0; 4], DR6_NOTHING.into(), 0x400);
        self.vcpu.fd.set_debug_regs(&debug)?;
        Ok(())
    }

    /// The next run has to end in the handler of #DB.
    fn traps(&mut self, what: &str, rip: u64, conditions: u32) -> Outcome {
        let expected = [
            Exit::out32(RIP_PORT, rip as u32),
            Exit::out32(DR6_PORT, DR6_NOTHING | conditions),
        ];
        let got = [self.vcpu.run()?, self.vcpu.run()?];
        self.t
            .eq(format!("{what}: #DB, RIP and DR6"), got, expected);
        Ok(())
    }

    fn halts(&mut self, what: &str) -> Outcome {
        let exit = self.vcpu.run()?;
        self.t
            .eq(format!("{what}: the guest goes on"), exit, Exit::Hlt);
        Ok(())
    }
}

/// Sets TF: the trap comes behind the instruction that follows.
fn begin_stepping(a: &mut CodeAssembler) -> Asm {
    a.pushfq()?;
    a.or(qword_ptr(rsp), TF)?;
    a.popfq()
}

fn end_stepping(a: &mut CodeAssembler) -> Asm {
    a.and(qword_ptr(rsp + 16), !TF)
}

/// The offset of what follows [`begin_stepping`].
const STEPPED: u64 = CODE + 1 + 8 + 1;

/// A step over STI ends in its shadow, one over MOV SS behind the instruction that follows.
fn steps(guest: &mut Guest<'_>) -> Outcome {
    let code = asm64(|a| {
        begin_stepping(a)?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    guest.start(&code, end_stepping)?;
    guest.traps("a step over STI", STEPPED + 1, DR6_BS)?;
    guest.halts("a step over STI")?;

    let code = asm64(|a| {
        a.mov(eax, i32::from(DS))?;
        begin_stepping(a)?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.hlt()
    });
    guest.start(&code, end_stepping)?;
    guest.traps("a step over MOV SS", STEPPED + 5 + 3, DR6_BS)?;
    guest.halts("a step over MOV SS")
}

fn emulated_step(guest: &mut Guest<'_>) -> Outcome {
    let what = "a step over STI in the emulator";
    let _prefix = match Prefix::on() {
        Ok(prefix) => prefix,
        Err(why) => {
            guest.t.skip(what, why);
            return Ok(());
        }
    };
    let code = asm64(|a| {
        begin_stepping(a)?;
        a.db(&PREFIX)?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    guest.start(&code, end_stepping)?;
    guest.traps(what, STEPPED + PREFIX.len() as u64 + 1, DR6_BS)?;
    guest.halts(what)
}

fn set_breakpoint(a: &mut CodeAssembler, at: u64) -> Asm {
    a.mov(rax, at)?;
    a.mov(dr0, rax)?;
    a.mov(eax, DR7_EXECUTE)?;
    a.mov(dr7, rax)
}

/// Bytes of [`set_breakpoint`].
const SET_BREAKPOINT: u64 = 10 + 3 + 5 + 3;

/// A breakpoint at the instruction in the shadow, without TF.
fn breakpoint_after_sti(guest: &mut Guest<'_>) -> Outcome {
    let what = "a breakpoint behind STI";
    let at = CODE + SET_BREAKPOINT + 1;
    let code = asm64(|a| {
        set_breakpoint(a, at)?;
        a.sti()?;
        a.nop()?;
        a.hlt()
    });
    guest.start(&code, |a| a.or(qword_ptr(rsp + 16), RF))?;
    guest.traps(what, at, DR6_B0)?;
    guest.halts(what)
}

/// A breakpoint, then a step: B0 is that of the first only, as the processor clears it with the next #DB.
fn conditions_follow_each_other(guest: &mut Guest<'_>) -> Outcome {
    let at = CODE + SET_BREAKPOINT;
    let code = asm64(|a| {
        set_breakpoint(a, at)?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    // The first time TF is set, the second time cleared.
    guest.start(&code, |a| {
        a.or(qword_ptr(rsp + 16), RF)?;
        a.xor(qword_ptr(rsp + 16), TF)
    })?;
    guest.traps("a breakpoint", at, DR6_B0)?;
    guest.traps("a step behind it", at + 1, DR6_BS)?;
    guest.halts("a step behind it")
}
