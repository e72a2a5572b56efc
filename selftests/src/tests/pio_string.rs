// SPDX-License-Identifier: GPL-2.0

//! INS and OUTS: sizes, REP, direction, page borders. How many items an exit carries is the
//! kernel's choice; their order and sum are not.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

const PORT: u16 = 0x70;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    outs(t, &mut vcpu, &ram)?;
    backwards(t, &mut vcpu, &ram)?;
    ins(t, &mut vcpu, &ram)?;
    zero(t, &mut vcpu, &ram)?;
    real_mode(t, &mut vcpu, &ram)
}

/// REP OUTS of bytes, words and doublewords, the last over a page border.
fn outs(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let pattern: Vec<u8> = (0..64).collect();
    for (name, size, count, at) in [
        ("OUTSB", 1, 64, DATA),
        ("OUTSW", 2, 32, DATA + 0x100),
        ("OUTSD", 4, 16, DATA + 0xff0),
    ] {
        ram.write(at, &pattern);
        let code = asm64(|a| {
            a.mov(rsi, at)?;
            a.mov(ecx, count)?;
            a.mov(edx, u32::from(PORT))?;
            a.cld()?;
            match size {
                1 => a.rep().outsb()?,
                2 => a.rep().outsw()?,
                _ => a.rep().outsd()?,
            }
            a.hlt()
        });
        setup::start(vcpu, ram, Mode::Long, &code)?;
        let (all, last) = vcpu.run_collecting(PORT)?;
        t.eq(
            format!("REP {name} sends all in order"),
            all,
            pattern.clone(),
        );
        t.eq(format!("REP {name} ends"), last, Exit::Hlt);
        let r = vcpu.regs()?;
        t.eq(
            format!("REP {name}: RCX and RSI"),
            (r.rcx, r.rsi),
            (0, at + 64),
        );
    }
    Ok(())
}

/// With DF set the items come from the top down.
fn backwards(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    ram.write(DATA, &[1, 0, 2, 0, 3, 0, 4, 0]);
    let code = asm64(|a| {
        a.mov(rsi, DATA + 6)?;
        a.mov(ecx, 4)?;
        a.mov(edx, u32::from(PORT))?;
        a.std()?;
        a.rep().outsw()?;
        a.cld()?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    let (all, last) = vcpu.run_collecting(PORT)?;
    t.eq("REP OUTSW downwards", all, vec![4, 0, 3, 0, 2, 0, 1, 0]);
    t.eq("ends", last, Exit::Hlt);
    t.eq("RSI is below the first item", vcpu.regs()?.rsi, DATA - 2);
    Ok(())
}

/// REP INSD over a page border: every item asked for arrives in its place.
fn ins(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let at = DATA + 0x1ff0;
    let code = asm64(|a| {
        a.mov(rdi, at)?;
        a.mov(ecx, 8)?;
        a.mov(edx, u32::from(PORT))?;
        a.rep().insd()?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    let mut sent = 0u8;
    let last = loop {
        match vcpu.run()? {
            Exit::In {
                port: PORT,
                size: 4,
                count,
            } => {
                let answer: Vec<u8> = (0..count as usize * 4).map(|i| sent + i as u8).collect();
                sent += answer.len() as u8;
                vcpu.reply(&answer);
            }
            other => break other,
        }
    };
    t.eq("REP INSD ends", last, Exit::Hlt);
    t.eq("and asked for all", sent, 32);
    t.eq(
        "which lies in memory in order",
        ram.read(at, 32),
        (0..32).collect::<Vec<u8>>(),
    );
    let r = vcpu.regs()?;
    t.eq("RCX and RDI", (r.rcx, r.rdi), (0, at + 32));
    Ok(())
}

/// RCX 0 does nothing at all.
fn zero(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    let code = asm64(|a| {
        a.mov(rsi, DATA)?;
        a.xor(ecx, ecx)?;
        a.mov(edx, u32::from(PORT))?;
        a.rep().outsb()?;
        a.hlt()
    });
    setup::start(vcpu, ram, Mode::Long, &code)?;
    t.eq("REP with RCX 0 makes no exit", vcpu.run()?, Exit::Hlt);
    t.eq("and RSI stays", vcpu.regs()?.rsi, DATA);
    Ok(())
}

/// 16-bit addresses, a segment override, no REP.
fn real_mode(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram) -> Outcome {
    setup::start(vcpu, ram, Mode::Protected, &[0xf4])?;
    t.eq("a switch of mode in between", vcpu.run()?, Exit::Hlt);
    let code = asm16(|a| {
        a.mov(ax, (DATA >> 4) as u32)?;
        a.mov(es, ax)?;
        a.mov(si, 0xffffu32)?;
        a.mov(dx, u32::from(PORT))?;
        a.cld()?;
        // OUTSB ES:[SI].
        a.db(&[0x26, 0x6e])?;
        a.db(&[0x26, 0x6e])?;
        a.hlt()
    });
    let vm_sregs = vcpu.fd.get_sregs()?;
    let mut s = vm_sregs;
    s.cr0 = 0x10;
    for seg in [
        &mut s.cs, &mut s.ds, &mut s.es, &mut s.fs, &mut s.gs, &mut s.ss,
    ] {
        (seg.base, seg.selector, seg.limit, seg.g, seg.db) = (0, 0, 0xffff, 0, 0);
    }
    s.idt.limit = 0x3ff;
    s.idt.base = 0;
    vcpu.fd.set_sregs(&s)?;
    setup::start(vcpu, ram, Mode::Real, &code)?;
    ram.write(DATA + 0xffff, &[0x5e]);
    ram.write(DATA, &[0x6f]);
    t.eq(
        "OUTSB with an override",
        vcpu.run()?,
        Exit::out8(PORT, 0x5e),
    );
    t.eq("SI wraps at 64 KiB", vcpu.run()?, Exit::out8(PORT, 0x6f));
    t.eq("HLT", vcpu.run()?, Exit::Hlt);
    Ok(())
}
