// SPDX-License-Identifier: GPL-2.0

//! Boots Linux on a KVM device.

mod acpi;
mod boot;
mod console;
mod cpu;
mod devices;
mod kernel;
mod layout;
mod machine;

use crate::devices::Power;
use crate::machine::{Config, End, Protocol};
use clap::Parser;
use kvm_ioctls::Kvm;
use std::ffi::CString;
use std::path::PathBuf;
use std::process::exit;

/// What the VMM answers when it can't go on.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const STATUS_FAILED: i32 = 2;
const STATUS_SHUTDOWN: i32 = 3;

/// A small VMM. Exit status: 0 power-off or reset, 2 an error, 3 a triple fault, or what the
/// guest wrote to port 0xf4.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A bzImage or an uncompressed vmlinux (ELF).
    #[arg(long)]
    kernel: PathBuf,
    /// The initramfs.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, default_value = "console=ttyS0")]
    cmdline: String,
    /// Mebibytes of memory.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(4..=65536))]
    mem: u64,
    /// vCPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// How the kernel is entered.
    #[arg(long, value_enum, default_value_t = Protocol::Linux)]
    protocol: Protocol,
    /// The device.
    #[arg(long, env = "RKVM_DEV", default_value = "/dev/rkvm")]
    dev: String,
}

fn main() {
    let args = Args::parse();
    console::restore_on_signals();
    let config = Config {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline,
        mem: args.mem,
        cpus: args.cpus,
        protocol: args.protocol,
    };
    let end = open(&args.dev).and_then(|kvm| machine::run(&kvm, &config));
    // The vCPU threads end with the process.
    exit(match end {
        Ok(End::Power(Power::Exit(status))) => i32::from(status),
        Ok(End::Power(Power::Off | Power::Reset)) => 0,
        Ok(End::Shutdown) => complain(STATUS_SHUTDOWN, "the guest made a triple fault"),
        Ok(End::Failed(text)) => complain(STATUS_FAILED, &text),
        Err(e) => complain(STATUS_FAILED, &e.to_string()),
    })
}

fn open(path: &str) -> Outcome<Kvm> {
    let name = CString::new(path)?;
    Ok(Kvm::new_with_path(&name).map_err(|e| format!("{path}: {e}"))?)
}

fn complain(status: i32, text: &str) -> i32 {
    eprintln!("rkvm-vmm: {text}");
    status
}
