// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness`: see Documentation/testing.rst.

#![deny(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use clap::Subcommand;

mod shell;

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
}

fn main() -> ExitCode {
    let outcome: Result<ExitCode> = match Cli::parse().command {
        Cmd::Shell(args) => shell::run(&args),
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("rkvm-harness: {e:#}");
        ExitCode::from(125)
    })
}
