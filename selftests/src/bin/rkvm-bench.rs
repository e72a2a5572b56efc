// SPDX-License-Identifier: GPL-2.0

//! Measures what exits cost: lines `bench NAME TICKS`.

use clap::{Parser, ValueEnum};
use rkvm_selftests::bench::{Bench, ALL};
use rkvm_selftests::device::{Device, DEFAULT_PATH, ENV};
use rkvm_selftests::setup::Mode;
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
enum Guest {
    /// Real mode.
    Real,
    /// 64-bit mode.
    Long,
}

/// Benchmarks of a KVM device, in ticks of the time-stamp counter.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The benchmarks to run; all of them when none is named.
    names: Vec<String>,
    /// List the benchmarks and what each does.
    #[arg(long)]
    list: bool,
    /// The mode of the guest.
    #[arg(long, value_enum, default_value_t = Guest::Real)]
    mode: Guest,
    /// The device.
    #[arg(long, env = ENV, default_value = DEFAULT_PATH)]
    dev: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for bench in ALL {
            println!("{:20} -- {}", bench.name, bench.about);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(name) = args
        .names
        .iter()
        .find(|n| !ALL.iter().any(|b| b.name == **n))
    {
        eprintln!("rkvm-bench: no benchmark named {name}; --list shows them");
        return ExitCode::from(2);
    }
    let dev = match Device::open(&args.dev) {
        Ok(dev) => dev,
        Err(e) => {
            eprintln!("rkvm-bench: {e}");
            return ExitCode::from(2);
        }
    };
    let mode = match args.mode {
        Guest::Real => Mode::Real,
        Guest::Long => Mode::Long,
    };
    let chosen = |b: &&Bench| args.names.is_empty() || args.names.iter().any(|n| n == b.name);
    let mut status = ExitCode::SUCCESS;
    for bench in ALL.iter().filter(chosen) {
        match (bench.run)(&dev, mode) {
            Ok(ticks) => println!("bench {} {ticks}", bench.name),
            Err(e) => {
                eprintln!("rkvm-bench: {}: {e}", bench.name);
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
