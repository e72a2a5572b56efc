// SPDX-License-Identifier: GPL-2.0

//! Clocks that a guest puts across the end of a slot: the next page of the guest is another one than the next of the VMM,
//! which no guest may reach.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode};
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::{Outcome, MIB, PAGE};
use std::time::{SystemTime, UNIX_EPOCH};

const WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];
const SYSTEM_TIMES: [u32; 2] = [0x12, 0x4b56_4d01];
/// The last page of a slot, and the guest's page behind it, which is in another slot.
const LAST: u64 = 0x20_0000;
const BEHIND: u64 = LAST + PAGE as u64;
/// What is in the guest's pages before.
const GUEST: u8 = 0xff;
/// What is in the VMM's.
const OWN: u8 = 0x5b;
/// More than a clock has.
const BYTES: usize = 64;

/// A guest that makes an exit.
struct Guest {
    vcpu: Vcpu,
    low: Ram,
    /// The page of the slot, and behind it one of the VMM's own.
    last: Ram,
    behind: Ram,
    _vm: Vm,
}

impl Guest {
    fn new(dev: &Device) -> Outcome<Self> {
        let vm = Vm::with_irqchip(dev)?;
        let low = vm.add_ram(0, 0, MIB)?;
        let last = Ram::new(LAST, 2 * PAGE)?;
        vm.set_slot(1, 0, LAST, PAGE as u64, last.hva())?;
        let behind = vm.add_ram(2, BEHIND, PAGE)?;
        let guest = Guest {
            vcpu: vm.vcpu(0)?,
            low,
            last,
            behind,
            _vm: vm,
        };
        guest.last.write(LAST, &[GUEST; PAGE]);
        guest.last.write(BEHIND, &[OWN; PAGE]);
        guest.behind.write(BEHIND, &[GUEST; PAGE]);
        Ok(guest)
    }

    /// Has the guest write an MSR and go on until what that asks for is done.
    fn write_msr(&mut self, msr: u32, value: u64) -> Outcome {
        let code = asm64(|a| {
            a.mov(ecx, msr)?;
            a.mov(eax, value as u32)?;
            a.mov(edx, (value >> 32) as u32)?;
            a.wrmsr()?;
            a.out(0x41, al)?;
            a.out(0x41, al)
        });
        setup::start(&self.vcpu, &self.low, Mode::Long, &code)?;
        self.vcpu.run()?;
        self.vcpu.run()?;
        Ok(())
    }

    /// What the guest has at the end of the slot and behind it.
    fn around(&self, at: u64) -> Vec<u8> {
        let mut bytes = self.last.read(at, (BEHIND - at) as usize);
        bytes.extend(self.behind.read(BEHIND, BYTES));
        bytes
    }

    /// Nothing is written to what lies behind the slot in the VMM.
    fn spared(&self) -> bool {
        self.last.read(BEHIND, PAGE).iter().all(|b| *b == OWN)
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    for msr in WALL_CLOCKS {
        for before in [1, 2, 3, 5] {
            wall_clock(t, dev, msr, BEHIND - before)?;
        }
    }
    for msr in SYSTEM_TIMES {
        for before in [2, 16, 30] {
            system_time(t, dev, msr, BEHIND - before)?;
        }
    }
    whole(t, dev)?;
    stopped(t, dev)
}

/// It is written to both pages.
fn wall_clock(t: &mut Tap, dev: &Device, msr: u32, at: u64) -> Outcome {
    let mut guest = Guest::new(dev)?;
    guest.write_msr(msr, at)?;
    let what = format!("wall clock {msr:#x} at {at:#x}");
    t.ok(format!("{what}: the VMM's memory"), guest.spared());
    let bytes = guest.around(at);
    let word = |n: usize| u32::from_le_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
    // The first odd one, and the next, behind the highest.
    t.eq(format!("{what}: the version"), word(0), 2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    t.ok(
        format!("{what}: the time"),
        u64::from(word(4)).abs_diff(now) <= 60 && word(8) < 1_000_000_000,
    );
    Ok(())
}

/// It is not written at all.
fn system_time(t: &mut Tap, dev: &Device, msr: u32, at: u64) -> Outcome {
    let mut guest = Guest::new(dev)?;
    guest.write_msr(msr, at | 1)?;
    let what = format!("system time {msr:#x} at {at:#x}");
    t.ok(format!("{what}: the VMM's memory"), guest.spared());
    t.ok(
        format!("{what}: the guest's memory"),
        guest.around(at).iter().all(|b| *b == GUEST),
    );
    t.eq(
        format!("{what}: the MSR"),
        guest.vcpu.msr(msr)?,
        Some(at | 1),
    );
    Ok(())
}

/// One that ends with the page is good.
fn whole(t: &mut Tap, dev: &Device) -> Outcome {
    let mut guest = Guest::new(dev)?;
    let at = BEHIND - 32;
    guest.write_msr(SYSTEM_TIMES[1], at | 1)?;
    let version = guest.last.get32(at);
    t.ok(
        "a system time that ends with the slot",
        version != u32::MAX && version % 2 == 0,
    );
    t.ok("the VMM's memory", guest.spared());
    Ok(())
}

/// KVM_KVMCLOCK_CTRL wants a clock: one that is across two pages is none, and one that was there before it stays.
fn stopped(t: &mut Tap, dev: &Device) -> Outcome {
    let (good, across) = ((BEHIND - 32) | 1, (BEHIND - 16) | 1);
    let guest = Guest::new(dev)?;
    for (name, place, is_clock) in [
        ("a clock across two pages", across, false),
        ("one in a page", good, true),
        ("one across two pages behind it", across, true),
        ("one that is switched off", 0, false),
    ] {
        guest.vcpu.set_msr(SYSTEM_TIMES[1], place)?;
        let told = guest.vcpu.fd.kvmclock_ctrl();
        if is_clock {
            t.success(format!("{name} is told of"), told);
        } else {
            t.errno(format!("{name} is none"), told, libc::EINVAL);
        }
    }
    Ok(())
}
