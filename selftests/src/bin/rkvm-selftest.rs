// SPDX-License-Identifier: GPL-2.0

//! Runs behaviour tests, reporting in TAP.

use clap::Parser;
use rkvm_selftests::device::{Device, DEFAULT_PATH, ENV};
use rkvm_selftests::tap::Tap;
use rkvm_selftests::tests::{Test, ALL};
use rkvm_selftests::{load, spin, Outcome};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;

/// Behaviour tests of a KVM device.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The tests to run; all of them when none is named.
    names: Vec<String>,
    /// List the tests and what each looks at.
    #[arg(long)]
    list: bool,
    /// Instead of a test, load this module again and again, each time with an allocation that fails.
    #[arg(long)]
    fail_load: Option<String>,
    /// Instead of a test, run a guest that makes no exit, until this is killed.
    #[arg(long)]
    spin: bool,
    /// The device under test.
    #[arg(long, env = ENV, default_value = DEFAULT_PATH)]
    dev: String,
    /// Die by SIGALRM after so many seconds for each test; 0 waits for ever.
    #[arg(long, default_value_t = 0)]
    timeout: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for test in ALL {
            println!("{:18} {}-- {}", test.name, test.needs(), test.about);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(module) = &args.fail_load {
        return code(report("failing loads", |tap| load::fail(tap, module)));
    }
    if args.spin {
        return code(report("a guest without an end", |_| {
            spin::run(&Device::open(&args.dev)?)
        }));
    }
    let mut chosen: Vec<&Test> = Vec::new();
    for name in &args.names {
        match ALL.iter().find(|t| t.name == name) {
            Some(test) => chosen.push(test),
            None => {
                eprintln!("rkvm-selftest: no test named {name}; --list shows them");
                return ExitCode::from(2);
            }
        }
    }
    if chosen.is_empty() {
        chosen = ALL.iter().collect();
    }
    let mut failed = Vec::new();
    for test in &chosen {
        // SAFETY: sets the process's alarm clock, nothing else.
        unsafe { libc::alarm(args.timeout) };
        if !run(test, &args.dev) {
            failed.push(test.name);
        }
    }
    if chosen.len() > 1 {
        println!(
            "# {} passed, {} failed",
            chosen.len() - failed.len(),
            failed.len()
        );
        for name in &failed {
            println!("# failed: {name}");
        }
    }
    code(failed.is_empty())
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one test; an error or a panic of it is a failed check.
fn run(test: &Test, path: &str) -> bool {
    println!("# {}: {}", test.name, test.about);
    report(test.name, |tap| {
        let dev = Device::open(path)?;
        (test.run)(tap, &dev)
    })
}

fn report(name: &str, test: impl FnOnce(&mut Tap) -> Outcome) -> bool {
    let mut tap = Tap::new();
    let result = catch_unwind(AssertUnwindSafe(|| test(&mut tap)));
    match result {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            tap.ok(format!("{name} runs to its end"), false);
            tap.diag(e);
        }
        Err(_) => {
            tap.ok(format!("{name} does not panic"), false);
        }
    }
    tap.finish()
}
