// SPDX-License-Identifier: GPL-2.0

//! rkvm: the core of KVM as a Rust module. Entry and wiring only.
//!
//! Load goes from what can fail without a trace to what must be undone: CPU features, the device node, which keeps C KVM
//! out but can't be opened yet, restricted symbols, VMX capabilities, VMX operation on every CPU. Then the node serves.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod sys;

mod debugfs;
mod host;
mod io;
mod irq;
mod memory;
mod nr;
mod system;
mod vcpu;
mod vm;

use kernel::prelude::*;

use sys::{
    clock::Watch,
    fops::Device,
    restricted::Resolved, //
};

module! {
    type: RkvmModule,
    name: "rkvm",
    authors: ["The rkvm authors"],
    description: "KVM for Intel VMX, written in Rust",
    license: "GPL v2",
}

/// What load made; unload drops it in this order.
struct RkvmModule {
    _device: Device,
    _debugfs: debugfs::Registration,
    _irqfds: io::irqfd::Registration,
    _host: host::Registration,
    _clock: Watch,
    _resolved: Resolved,
    _tables: memory::FreedTables,
}

/// Says in the log which part of the load failed, after what that part itself said of the reason.
fn part<T>(name: &str, result: Result<T>) -> Result<T> {
    result.inspect_err(|e| pr_err!("load failed: {}: {:?}\n", name, e))
}

impl kernel::Module for RkvmModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        part("the processor", host::check_cpu())?;
        let device = Device::register::<system::System>(c"rkvm").inspect_err(|e| {
            if *e == EBUSY {
                pr_err!("C KVM is loaded: unload kvm_intel and kvm first\n");
            }
        });
        let device = part("the device node", device)?;
        let resolved = part("the kernel's symbols", Resolved::new())?;
        let clock = part("the host's clock", Watch::new())?;
        let host = part("VMX", host::Registration::new())?;
        let irqfds = part("the work queue of irqfds", io::irqfd::Registration::new())?;
        let debugfs = part("debugfs", debugfs::Registration::new())?;
        device.serve();
        Ok(RkvmModule {
            _device: device,
            _debugfs: debugfs,
            _irqfds: irqfds,
            _host: host,
            _clock: clock,
            _resolved: resolved,
            _tables: memory::FreedTables,
        })
    }
}
