// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness bench`: the same benchmarks on rkvm and on C KVM, in turn in one machine, as a table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use anyhow::Result;

use rkvm_harness::contents;
use rkvm_harness::job::Device;
use rkvm_harness::job::Outcome;
use rkvm_harness::job::Task;
use rkvm_harness::paths::new_folder;
use rkvm_harness::paths::Paths;
use rkvm_harness::session;
use rkvm_harness::session::Fate;
use rkvm_harness::session::Limits;
use rkvm_harness::session::Line;

use crate::shell::MachineArgs;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// The module.
    #[arg(long, default_value = "rkvm.ko", env = "RKVM_MODULE")]
    module: PathBuf,
    /// Seconds of CPU time of the emulator for each of the two runs (wall time: four times that).
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// Benchmarks to run; all by default.
    names: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let paths = Paths::find()?;
    let checkout = std::env::current_dir()?;
    let module = checkout.join(&args.module);
    args.machine.check_host(&module)?;
    let mut set = contents::with_module(&paths, &module, args.machine.vm)?;
    let mut argv = vec!["/usr/bin/rkvm-bench".to_string()];
    contents::add_named(&mut set, &paths, &checkout, &argv[0])?;
    argv.extend(args.names.iter().cloned());
    let tasks = [Device::Rkvm, Device::Kvm].map(|device| Task {
        name: format!("bench-{device}"),
        device,
        timeout: u32::try_from(args.timeout)
            .unwrap_or(u32::MAX)
            .saturating_mul(4),
        argv: argv.clone(),
    });
    let limits = Limits::new(Duration::from_secs(args.timeout), paths.slowness());
    let folder = new_folder(&paths.cache.join("run"), "bench")?;
    let vmlinux = args.machine.vmlinux(&paths)?;
    let images = (vmlinux.as_path(), set.archive()?);
    let verbose = args.machine.verbose;
    let config = args.machine.config(&paths);
    let machine = session::prepare(&config, (images.0, &images.1), &tasks, &folder)?;
    let boot = session::boot(machine, limits, &tasks, &mut |line| match line {
        Line::Console(text) | Line::Output(text) if verbose => println!("{text}"),
        _ => {}
    })?;
    if let Fate::Hung(why) | Fate::Crashed(why) = &boot.fate {
        println!("the machine failed: {why}; it last said:");
        boot.last.iter().for_each(|line| println!("  | {line}"));
        println!("logs: {}", paths.shown(&folder));
        return Ok(ExitCode::FAILURE);
    }
    std::fs::remove_dir_all(&folder)?;
    let mut status = ExitCode::SUCCESS;
    for (task, log) in tasks.iter().zip(&boot.tasks) {
        if log.outcome != Some(Outcome::Exit(0)) || !log.kernel.is_empty() {
            println!("{} failed ({:?}):", task.name, log.outcome);
            log.output
                .iter()
                .chain(&log.kernel)
                .for_each(|line| println!("  | {line}"));
            status = ExitCode::FAILURE;
        }
    }
    ensure!(boot.tasks.len() == 2, "the machine did not run both");
    table(&boot.tasks[0].output, &boot.tasks[1].output);
    Ok(status)
}

/// Lines `bench NAME TICKS`, in their order.
fn results(output: &[String]) -> Vec<(&str, f64)> {
    let parse = |line: &'_ String| -> Option<(usize, f64)> {
        let rest = line.strip_prefix("bench ")?;
        let (name, ticks) = rest.trim_end().rsplit_once(' ')?;
        Some((name.trim().len(), ticks.parse().ok()?))
    };
    let mut found = Vec::new();
    for line in output {
        if let Some((length, ticks)) = parse(line) {
            let name = line["bench ".len()..].trim_start();
            found.push((&name[..length], ticks));
        }
    }
    found
}

fn table(rkvm: &[String], kvm: &[String]) {
    let reference: BTreeMap<&str, f64> = results(kvm).into_iter().collect();
    println!(
        "{:36} {:>10} {:>10} {:>7}",
        "ticks for each (instructions)", "rkvm", "C KVM", "ratio"
    );
    for (name, ticks) in results(rkvm) {
        match reference.get(name) {
            Some(other) => println!("{name:36} {ticks:10.0} {other:10.0} {:7.2}", ticks / other),
            None => println!("{name:36} {ticks:10.0} {:>10} {:>7}", "-", "-"),
        }
    }
}
