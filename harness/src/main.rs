// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness`: see Documentation/testing.rst.

#![deny(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use clap::Subcommand;

use rkvm_harness::interrupt;
use rkvm_harness::paths::Paths;
use rkvm_harness::tidy;

mod bench;
mod demo;
mod shell;
mod test;

/// Builds test images, runs test machines and collects their results.
#[derive(Parser)]
#[command(name = "rkvm-harness", version)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Boot a machine and run shell commands in it.
    Shell(shell::Args),
    /// Run the behaviour tests in machines.
    Test(test::Args),
    /// Boot a machine with the module and a second Linux on it, and show both.
    Run(demo::Args),
    /// Run the benchmarks on rkvm and on C KVM and compare them.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    run(command).unwrap_or_else(|e| {
        eprintln!("rkvm-harness: {e:#}");
        interrupt::came().map_or(ExitCode::from(125), interrupt::status)
    })
}

fn run(command: Cmd) -> Result<ExitCode> {
    interrupt::watch()?;
    tidy::tidy(&Paths::find()?.cache);
    match command {
        Cmd::Shell(args) => shell::run(&args),
        Cmd::Test(args) => test::run(&args),
        Cmd::Run(args) => demo::run(&args),
        Cmd::Bench(args) => bench::run(&args),
    }
}
