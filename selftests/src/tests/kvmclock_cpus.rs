// SPDX-License-Identifier: GPL-2.0

//! The clock page on a host that does not trust its TSC: it is written again on each CPU that the vCPU comes to.

use crate::cpu::run_on;
use crate::device::Device;
use crate::tap::Tap;
use crate::tests::kvmclock::{host_counts_tsc, other_source, Clocked, Source};
use crate::vm::Vm;
use crate::{Outcome, MIB};

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    if run_on(1).is_err() {
        t.skip("all", "one CPU");
        return Ok(());
    }
    run_on(0)?;
    let _source = if host_counts_tsc() {
        let Some(other) = other_source()? else {
            t.skip("all", "the host has no other clock than its TSC");
            return Ok(());
        };
        Some(Source::switch_to(&other)?)
    } else {
        None
    };

    let vm = Vm::with_irqchip(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut one = Clocked::new(&vm, &ram, 0)?;
    one.page(&ram)?;
    let first = one.page(&ram)?;
    t.ok("a clock of one CPU is not stable", !first.is_stable());
    run_on(1)?;
    let second = one.page(&ram)?;
    t.ok("another CPU, another page", second.version != first.version);
    Ok(())
}
