// SPDX-License-Identifier: GPL-2.0

//! String instructions whose operands are where no RAM is: every access an exit, in order, and what is left in the
//! registers.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, CODE, DATA, REAL_IP};
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};

/// Where no slot is: the source, the destination.
const SOURCE: u64 = 0xd000_0000;
const DESTINATION: u64 = 0xd000_8000;
const DF: u64 = 1 << 10;
const ZF: u64 = 1 << 6;
const CF: u64 = 1 << 0;

/// What a pointer register points to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ram,
    Device,
}
use Place::{Device as Dev, Ram as Mem};

/// One exit.
enum Step {
    /// From this offset in the source or the destination, and the answer.
    Read(u64, &'static [u8]),
    ReadDestination(u64, &'static [u8]),
    /// From both, with the same answer. Processors read the destination of CMPS first, C KVM the source.
    ReadBoth(&'static [u8]),
    Write(u64, &'static [u8]),
}
use Step::{Read, ReadBoth, ReadDestination, Write};

struct Case {
    name: &'static str,
    code: fn(&mut CodeAssembler) -> Asm,
    /// RCX before and after.
    count: (u64, u64),
    si: Place,
    di: Place,
    flags: u64,
    steps: &'static [Step],
    /// How far RSI and RDI went.
    moved: (i64, i64),
}

/// In RAM, at what RSI or RDI points to there.
const MEMORY: [u8; 8] = [0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58];
const RAX: u64 = 0x4433_2211;

const CASES: &[Case] = &[
    Case {
        name: "REP STOSB",
        code: |a| a.rep().stosb(),
        count: (3, 0),
        si: Mem,
        di: Dev,
        flags: 0,
        steps: &[Write(0, &[0x11]), Write(1, &[0x11]), Write(2, &[0x11])],
        moved: (0, 3),
    },
    Case {
        name: "REP STOSW, downwards",
        code: |a| a.rep().stosw(),
        count: (2, 0),
        si: Mem,
        di: Dev,
        flags: DF,
        steps: &[Write(0, &[0x11, 0x22]), Write(-2i64 as u64, &[0x11, 0x22])],
        moved: (0, -4),
    },
    Case {
        name: "STOSD",
        code: |a| a.stosd(),
        count: (7, 7),
        si: Mem,
        di: Dev,
        flags: 0,
        steps: &[Write(0, &[0x11, 0x22, 0x33, 0x44])],
        moved: (0, 4),
    },
    Case {
        name: "REP LODSW",
        code: |a| a.rep().lodsw(),
        count: (2, 0),
        si: Dev,
        di: Mem,
        flags: 0,
        steps: &[Read(0, &[1, 2]), Read(2, &[0x11, 0x22])],
        moved: (4, 0),
    },
    Case {
        name: "REP MOVSB from the device",
        code: |a| a.rep().movsb(),
        count: (2, 0),
        si: Dev,
        di: Mem,
        flags: 0,
        steps: &[Read(0, &[0x51]), Read(1, &[0x52])],
        moved: (2, 2),
    },
    Case {
        name: "REP MOVSD to the device",
        code: |a| a.rep().movsd(),
        count: (2, 0),
        si: Mem,
        di: Dev,
        flags: 0,
        steps: &[
            Write(0, &[0x51, 0x52, 0x53, 0x54]),
            Write(4, &[0x55, 0x56, 0x57, 0x58]),
        ],
        moved: (8, 8),
    },
    Case {
        name: "REP MOVSW from device to device",
        code: |a| a.rep().movsw(),
        count: (2, 0),
        si: Dev,
        di: Dev,
        flags: 0,
        steps: &[
            Read(0, &[1, 2]),
            Write(0, &[1, 2]),
            Read(2, &[3, 4]),
            Write(2, &[3, 4]),
        ],
        moved: (4, 4),
    },
    Case {
        name: "REPE CMPSB of device and memory",
        code: |a| a.repe().cmpsb(),
        count: (5, 3),
        si: Dev,
        di: Mem,
        flags: 0,
        steps: &[Read(0, &[0x51]), Read(1, &[0x50])],
        moved: (2, 2),
    },
    Case {
        name: "CMPSW of two devices",
        code: |a| a.cmpsw(),
        count: (1, 1),
        si: Dev,
        di: Dev,
        flags: 0,
        steps: &[ReadBoth(&[1, 2])],
        moved: (2, 2),
    },
    Case {
        name: "REPNE SCASB",
        code: |a| a.repne().scasb(),
        count: (9, 6),
        si: Mem,
        di: Dev,
        flags: 0,
        steps: &[
            ReadDestination(0, &[1]),
            ReadDestination(1, &[0x12]),
            ReadDestination(2, &[0x11]),
        ],
        moved: (0, 3),
    },
];

/// The arithmetic flags that a case leaves, if it sets them.
fn flags_after(case: &Case) -> Option<u64> {
    match case.name {
        "REPE CMPSB of device and memory" => Some(CF),
        "CMPSW of two devices" | "REPNE SCASB" => Some(ZF),
        _ => None,
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    for mode in [Mode::Real, Mode::Protected, Mode::Long] {
        for case in CASES {
            one(t, &mut vcpu, &ram, mode, case)?;
        }
    }
    Ok(())
}

/// Linear address of an operand.
fn address(place: Place, device: u64, memory: u64) -> u64 {
    match place {
        Mem => memory,
        Dev => device,
    }
}

fn one(t: &mut Tap, vcpu: &mut Vcpu, ram: &Ram, mode: Mode, case: &Case) -> Outcome {
    let ip = if mode == Mode::Real { REAL_IP } else { CODE };
    let code = assemble(mode.bits(), ip, |a| {
        (case.code)(a)?;
        a.hlt()
    });
    setup::start(vcpu, ram, mode, &code)?;
    ram.write(DATA, &MEMORY);
    ram.write(DATA + 0x100, &MEMORY);
    let source = address(case.si, SOURCE, DATA);
    let destination = address(case.di, DESTINATION, DATA + 0x100);
    // In 64-bit mode the bases of DS and ES do not count; elsewhere the offsets stay small.
    let (from, to) = if mode == Mode::Long {
        (source, destination)
    } else {
        vcpu.with_sregs(|s| {
            (s.ds.base, s.es.base) = (source - 0x40, destination - 0x40);
            for segment in [&mut s.ds, &mut s.es] {
                segment.limit = 0xffff_ffff;
                segment.g = 1;
            }
        })?;
        (0x40, 0x40)
    };
    vcpu.with_regs(|r| {
        (r.rax, r.rcx, r.rsi, r.rdi) = (RAX, case.count.0, from, to);
        r.rflags |= case.flags;
    })?;

    let name = format!("{mode:?}: {}", case.name);
    for (n, step) in case.steps.iter().enumerate() {
        let (expected, answer) = match step {
            Read(at, answer) => (read(SOURCE.wrapping_add(*at), answer), Some(*answer)),
            ReadDestination(at, answer) => {
                (read(DESTINATION.wrapping_add(*at), answer), Some(*answer))
            }
            ReadBoth(answer) => {
                let mut exits = [vcpu.run()?, Exit::Hlt];
                vcpu.reply(answer);
                exits[1] = vcpu.run()?;
                if exits[0] == read(DESTINATION, answer) {
                    exits.swap(0, 1);
                }
                let expected = [read(SOURCE, answer), read(DESTINATION, answer)];
                t.eq(format!("{name}, both reads"), exits, expected);
                vcpu.reply(answer);
                continue;
            }
            Write(at, data) => (Exit::mmio_write(DESTINATION.wrapping_add(*at), data), None),
        };
        t.eq(format!("{name}, exit {n}"), vcpu.run()?, expected);
        if let Some(answer) = answer {
            vcpu.reply(answer);
        }
    }
    t.eq(format!("{name}, then HLT"), vcpu.run()?, Exit::Hlt);
    let r = vcpu.regs()?;
    let moved = (
        r.rsi.wrapping_sub(from) as i64,
        r.rdi.wrapping_sub(to) as i64,
    );
    t.eq(
        format!("{name}, RCX, RSI, RDI"),
        (r.rcx, moved),
        (case.count.1, case.moved),
    );
    if let Some(flags) = flags_after(case) {
        t.eq(format!("{name}, flags"), r.rflags & (ZF | CF), flags);
    }
    if case.name == "REP LODSW" {
        t.eq(format!("{name}, AX"), r.rax, RAX);
    }
    if case.name.starts_with("REP MOVSB") {
        t.eq(
            format!("{name}, memory"),
            ram.read(DATA + 0x100, 2),
            vec![0x51, 0x52],
        );
    }
    Ok(())
}

fn read(gpa: u64, answer: &[u8]) -> Exit {
    Exit::MmioRead {
        gpa,
        len: answer.len() as u32,
    }
}
