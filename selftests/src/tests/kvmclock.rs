// SPDX-License-Identifier: GPL-2.0

//! The clock page of each vCPU: its flags, its frequency, and when it is written again.

use crate::asm::*;
use crate::device::Device;
use crate::ram::Ram;
use crate::setup::{self, Mode, DATA, STACK};
use crate::tap::Tap;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

const TSC: u32 = 0x10;
const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const PORT: u16 = 0x41;
const SOURCES: &str = "/sys/devices/system/clocksource/clocksource0/";
/// Runs after which the guest has to have heard of a change of the host's clock.
const SOON: u32 = 10_000;

/// Whether the host's own clock is its TSC.
pub fn host_counts_tsc() -> bool {
    source("current").is_ok_and(|source| source.trim() == "tsc")
}

fn source(which: &str) -> std::io::Result<String> {
    fs::read_to_string(format!("{SOURCES}{which}_clocksource"))
}

/// Another clock of the host than the one that it uses.
pub fn other_source() -> std::io::Result<Option<String>> {
    let current = source("current")?;
    let all = source("available")?;
    let mut others = all.split_whitespace().filter(|s| *s != current.trim());
    Ok(others.next().map(str::to_owned))
}

/// Has the host use another clock, until this is dropped.
pub struct Source {
    before: String,
}

impl Source {
    pub fn switch_to(name: &str) -> std::io::Result<Self> {
        let before = source("current")?;
        fs::write(format!("{SOURCES}current_clocksource"), name)?;
        Ok(Source { before })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = fs::write(format!("{SOURCES}current_clocksource"), &self.before);
    }
}

/// A vCPU with a clock page.
pub struct Clocked {
    pub vcpu: Vcpu,
    pub at: u64,
}

/// `struct pvclock_vcpu_time_info`.
#[derive(Clone, Copy)]
pub struct Page {
    pub version: u32,
    tsc: u64,
    ns: u64,
    mul: u32,
    shift: i8,
    flags: u8,
}

impl Page {
    /// The time at `tsc`, as a guest computes it.
    pub fn time(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc);
        let shifted = if self.shift >= 0 {
            ticks << self.shift
        } else {
            ticks >> -self.shift
        };
        self.ns + ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }

    /// The frequency that it takes the TSC for, in kHz.
    fn khz(&self) -> f64 {
        let ns_per_tick = f64::from(self.mul) / 2f64.powi(32 - i32::from(self.shift));
        1e6 / ns_per_tick
    }

    /// PVCLOCK_TSC_STABLE_BIT.
    pub fn is_stable(&self) -> bool {
        self.flags & 1 != 0
    }
}

impl Clocked {
    /// vCPU `id`, which makes exits for ever.
    pub fn new(vm: &Vm, ram: &Ram, id: u32) -> Outcome<Self> {
        let vcpu = vm.vcpu(id)?;
        let code = asm64(|a| forever(a, |a| a.out(i32::from(PORT), al)));
        setup::start(&vcpu, ram, Mode::Long, &code)?;
        vcpu.with_regs(|r| r.rsp = STACK - 0x1000 * u64::from(id))?;
        vcpu.fd.set_mp_state(kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        })?;
        let at = DATA + 64 * u64::from(id);
        vcpu.set_msr(SYSTEM_TIME_NEW, at | 1)?;
        Ok(Clocked { vcpu, at })
    }

    /// The page after the guest has run.
    pub fn page(&mut self, ram: &Ram) -> Outcome<Page> {
        self.vcpu.run()?;
        let scale = ram.read(self.at + 24, 6);
        Ok(Page {
            version: ram.get32(self.at),
            tsc: ram.get64(self.at + 8),
            ns: ram.get64(self.at + 16),
            mul: u32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]),
            shift: scale[4] as i8,
            flags: scale[5],
        })
    }
}

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    stable(t, dev)?;
    distrusted(t, dev)?;
    set(t, dev)?;
    pairing(t, dev)?;
    frequency(t, dev)
}

/// KVM_HC_CLOCK_PAIRING: the host's time of day and the guest's TSC of one moment.
fn pairing(t: &mut Tap, dev: &Device) -> Outcome {
    const CLOCK_PAIRING: u64 = 9;
    const AT: u64 = DATA + 0x200;
    const NO_MEMORY: u64 = 0x4000_0000;
    const EFAULT: u64 = -14i64 as u64;
    const EOPNOTSUPP: u64 = -95i64 as u64;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.vmcall()?;
        a.out(i32::from(PORT), al)?;
        a.hlt()
    });
    let mut call = |at: u64, clock: u64| -> Outcome<u64> {
        setup::start(&vcpu, &ram, Mode::Long, &code)?;
        vcpu.with_regs(|r| (r.rax, r.rbx, r.rcx) = (CLOCK_PAIRING, at, clock))?;
        vcpu.run()?;
        Ok(vcpu.regs()?.rax)
    };
    if !host_counts_tsc() {
        t.eq(
            "no pairing with a TSC that the host does not trust",
            call(AT, 0)?,
            EOPNOTSUPP,
        );
        return Ok(());
    }
    t.eq("a clock that there is not", call(AT, 1)?, EOPNOTSUPP);
    t.eq("an address without memory", call(NO_MEMORY, 0)?, EFAULT);
    t.eq("the time of day", call(AT, 0)?, 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    t.ok("its seconds", ram.get64(AT).abs_diff(now) <= 60);
    t.ok("its nanoseconds", ram.get64(AT + 8) < 1_000_000_000);
    let tsc = vcpu.msr(TSC)?.unwrap_or(0);
    let paired = ram.get64(AT + 16);
    t.ok(
        "the TSC, a moment ago",
        paired < tsc && tsc - paired < 1 << 34,
    );
    Ok(())
}

/// A guest may use any vCPU's page with any vCPU's TSC if the flag says so: only if all TSCs are one.
fn stable(t: &mut Tap, dev: &Device) -> Outcome {
    if !host_counts_tsc() {
        t.skip("stable clocks", "the host's clock is not the TSC");
        return Ok(());
    }
    let vm = Vm::with_irqchip(dev)?;
    t.eq(
        "without vCPUs KVM_GET_CLOCK promises nothing",
        vm.fd.get_clock()?.flags & KVM_CLOCK_TSC_STABLE,
        0,
    );
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut both = [Clocked::new(&vm, &ram, 0)?, Clocked::new(&vm, &ram, 1)?];
    let check = |t: &mut Tap, what: &str, wanted: bool, both: &mut [Clocked]| -> Outcome {
        // What one does may change the page of the other.
        for one in both.iter_mut() {
            one.page(&ram)?;
        }
        for (i, one) in both.iter_mut().enumerate() {
            let page = one.page(&ram)?;
            t.eq(format!("{what}: page {i}"), page.is_stable(), wanted);
        }
        t.eq(
            format!("{what}: KVM_GET_CLOCK"),
            vm.fd.get_clock()?.flags & KVM_CLOCK_TSC_STABLE != 0,
            wanted,
        );
        Ok(())
    };
    check(t, "new TSCs are one", true, &mut both)?;
    both[1].vcpu.set_msr(TSC, 1 << 50)?;
    both.reverse();
    check(t, "one is far ahead", false, &mut both)?;
    let offset = both[1].vcpu.tsc_offset()?;
    for one in &both {
        one.vcpu.set_tsc_offset(offset)?;
    }
    check(t, "they are one again", true, &mut both)?;
    Ok(())
}

/// The host loses its trust in the TSC while guests run: no page says any longer that it is stable.
fn distrusted(t: &mut Tap, dev: &Device) -> Outcome {
    let other = other_source()?.filter(|_| host_counts_tsc());
    let Some(other) = other else {
        t.skip(
            "a host that loses its trust in the TSC",
            "it has no other clock",
        );
        return Ok(());
    };
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut both = [Clocked::new(&vm, &ram, 0)?, Clocked::new(&vm, &ram, 1)?];
    for one in &mut both {
        one.page(&ram)?;
    }
    for (i, one) in both.iter_mut().enumerate() {
        t.ok(
            format!("page {i} is stable before"),
            one.page(&ram)?.is_stable(),
        );
    }
    let source = Source::switch_to(&other)?;
    for (i, one) in both.iter_mut().enumerate() {
        let mut heard = false;
        for _ in 0..SOON {
            heard = !one.page(&ram)?.is_stable();
            if heard {
                break;
            }
        }
        t.ok(format!("page {i} is not any more"), heard);
    }
    t.eq(
        "KVM_GET_CLOCK promises nothing, either",
        vm.fd.get_clock()?.flags & KVM_CLOCK_TSC_STABLE,
        0,
    );
    drop(source);
    Ok(())
}

fn set(t: &mut Tap, dev: &Device) -> Outcome {
    const FAR: u64 = 1 << 45;
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut one = Clocked::new(&vm, &ram, 0)?;
    let old = one.page(&ram)?;
    t.ok("there is a page", old.version != 0 && old.version % 2 == 0);
    vm.fd.set_clock(&kvm_clock_data {
        clock: FAR,
        ..Default::default()
    })?;
    let page = one.page(&ram)?;
    t.ok("KVM_SET_CLOCK is in it", page.ns >= FAR);
    one.vcpu.set_msr(TSC, 1 << 50)?;
    let page = one.page(&ram)?;
    t.ok("a write of the TSC, too", page.tsc > 1 << 49);
    agrees(t, "far ahead", &vm, &one, &page)?;
    one.vcpu.set_msr(TSC, 0)?;
    let page = one.page(&ram)?;
    agrees(t, "at 0", &vm, &one, &page)
}

/// The page tells the time that KVM_GET_CLOCK does.
fn agrees(t: &mut Tap, what: &str, vm: &Vm, one: &Clocked, page: &Page) -> Outcome {
    // The two are rounded differently.
    const SLACK: u64 = 1000;
    if !host_counts_tsc() {
        t.skip(
            format!("{what}: the time"),
            "the host's clock is not the TSC",
        );
        return Ok(());
    }
    let before = vm.fd.get_clock()?.clock;
    let tsc = one.vcpu.msr(TSC)?.unwrap_or(0);
    let after = vm.fd.get_clock()?.clock;
    let now = page.time(tsc);
    if !t.ok(
        format!("{what}: the guest's time is KVM_GET_CLOCK's"),
        before <= now + SLACK && now <= after + SLACK,
    ) {
        t.diag(format!("{before} <= {now} <= {after}"));
    }
    Ok(())
}

fn frequency(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut one = Clocked::new(&vm, &ram, 0)?;
    let khz = one.vcpu.fd.get_tsc_khz()?;
    let page = one.page(&ram)?;
    agrees(t, "the host's frequency", &vm, &one, &page)?;
    // Within the tolerance the guest's TSC runs as the host's does.
    one.vcpu.fd.set_tsc_khz(khz + khz / 5000)?;
    let near = one.page(&ram)?;
    t.eq(
        "one that is near: the scale is that of the real one",
        (near.mul, near.shift),
        (page.mul, page.shift),
    );
    if dev.cap(KVM_CAP_TSC_CONTROL) <= 0 {
        t.skip("other frequencies", "no KVM_CAP_TSC_CONTROL");
        return Ok(());
    }
    for wanted in [khz / 2, khz / 3 * 4] {
        one.vcpu.fd.set_tsc_khz(wanted)?;
        one.vcpu.set_msr(TSC, 0)?;
        let page = one.page(&ram)?;
        let off = page.khz() / f64::from(wanted) - 1.0;
        if !t.ok(format!("{wanted} kHz: the scale"), off.abs() < 1e-5) {
            t.diag(format!("{} kHz", page.khz()));
        }
        agrees(t, &format!("{wanted} kHz"), &vm, &one, &page)?;
    }
    Ok(())
}
