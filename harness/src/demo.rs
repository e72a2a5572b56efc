// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness run`: the module in the stock kernel, and a second Linux on `/dev/rkvm`, live.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use rkvm_harness::contents;
use rkvm_harness::guest;
use rkvm_harness::job::Device;
use rkvm_harness::job::Outcome;
use rkvm_harness::job::Report;
use rkvm_harness::job::Task;
use rkvm_harness::paths::new_folder;
use rkvm_harness::paths::Paths;
use rkvm_harness::session;
use rkvm_harness::session::Boot;
use rkvm_harness::session::Fate;
use rkvm_harness::session::Limits;
use rkvm_harness::session::Line;

use crate::shell::MachineArgs;

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// The module.
    #[arg(long, default_value = "rkvm.ko", env = "RKVM_MODULE")]
    module: PathBuf,
    /// CPUs of the guest.
    #[arg(long, default_value_t = 1)]
    guest_cpus: u32,
    /// Run the guest on C KVM for comparison.
    #[arg(long)]
    kvm: bool,
    /// Seconds of CPU time of the emulator for the guest (wall time: four times that).
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let paths = Paths::find()?;
    let checkout = std::env::current_dir()?;
    let module = checkout.join(&args.module);
    args.machine.check_host(&module)?;
    let mut set = contents::with_module(&paths, &module, args.machine.vm)?;
    guest::add(&mut set, &paths, "guest")?;
    let script = format!(
        "echo \"HOST: $(uname -r), $RKVM_DEV:\"; ls -l $RKVM_DEV; dmesg | grep rkvm:\n\
         exec rkvm-vmm --dev $RKVM_DEV --kernel /guest/vmlinux --initrd /guest/initrd --protocol pvh \
         --cpus {} --mem 256 --cmdline 'console=ttyS0 panic=-1 nokaslr cryptomgr.notests'\n",
        args.guest_cpus
    );
    contents::add_named(&mut set, &paths, &checkout, &script)?;
    set.bytes("job.sh", 0o755, script.into_bytes());
    let device = if args.kvm { Device::Kvm } else { Device::Rkvm };
    let task = Task {
        name: "guest".into(),
        device,
        timeout: u32::try_from(args.timeout)?.saturating_mul(4),
        argv: vec!["/bin/sh".into(), "/job.sh".into()],
    };
    let limits = Limits::new(Duration::from_secs(args.timeout), paths.slowness());
    let folder = new_folder(&paths.cache.join("run"), "run")?;
    let vmlinux = args.machine.vmlinux(&paths)?;
    let config = args.machine.config(&paths);
    println!(
        "powering on a machine: CPUs {}, memory {} MiB",
        config.cpus, config.mem
    );
    let started = Instant::now();
    let mut done = false;
    let tasks = [task];
    let machine = session::prepare(&config, (&vmlinux, &set.archive()?), &tasks, &folder)?;
    let boot = session::boot(machine, limits, &tasks, &mut |line| match line {
        Line::Console(text) => println!("host  | {text}"),
        Line::Output(text) => {
            done |= text.starts_with("GUEST-DONE");
            println!("guest | {text}");
        }
        Line::Report(report) => {
            if let Some(text) = in_words(report) {
                println!("=== {:3.0} s: {text}", started.elapsed().as_secs_f64());
            }
        }
    })?;
    if let Fate::Hung(why) | Fate::Crashed(why) = &boot.fate {
        println!(
            "the machine failed: {why}; its logs are in {}",
            paths.shown(&folder)
        );
        return Ok(ExitCode::FAILURE);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(end(&boot, device, done))
}

/// Says how the guest ended. `done`: it said so itself.
fn end(boot: &Boot, device: Device, done: bool) -> ExitCode {
    let task = boot.tasks.first();
    let complaints = task.map_or(0, |task| task.kernel.len());
    if complaints != 0 {
        println!("the host's kernel complained {complaints} times, see above");
        return ExitCode::FAILURE;
    }
    let outcome = task.and_then(|task| task.outcome.clone());
    if outcome == Some(Outcome::Exit(0)) && done {
        println!("a second Linux booted on {device}, worked and powered off");
        return ExitCode::SUCCESS;
    }
    let how = outcome.map_or("nothing".into(), |outcome| outcome.to_string());
    println!("the guest did not get to its end: {how}");
    ExitCode::FAILURE
}

/// What a person who watches wants to know of a report.
fn in_words(report: &Report) -> Option<String> {
    Some(match report {
        Report::Up(ticks) => format!("the host is up after {} M instructions", ticks / 1_000_000),
        Report::Kernel(_, line) => format!("the host's kernel complains: {line}"),
        Report::End(_, outcome, ticks) => {
            format!(
                "the guest's VMM ended after {} M instructions: {outcome}",
                ticks / 1_000_000
            )
        }
        Report::Begin(_) | Report::Done => return None,
    })
}
