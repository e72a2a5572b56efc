// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness shell`: boots a machine, runs shell commands in it and exits with their status.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;

use rkvm_harness::emulator::Backend;
use rkvm_harness::emulator::Config;
use rkvm_harness::fileset::FileSet;
use rkvm_harness::guest;
use rkvm_harness::host;
use rkvm_harness::job::Device;
use rkvm_harness::job::Outcome;
use rkvm_harness::job::Report;
use rkvm_harness::job::Task;
use rkvm_harness::kernel;
use rkvm_harness::paths::new_folder;
use rkvm_harness::paths::Paths;
use rkvm_harness::session;
use rkvm_harness::session::Fate;
use rkvm_harness::session::Limits;
use rkvm_harness::session::Line;

/// What the machine is to be like.
#[derive(clap::Args, Clone)]
pub struct MachineArgs {
    /// What emulates the machine.
    #[arg(long, value_enum, default_value = "bochs", env = "VM")]
    pub vm: Backend,
    /// Number of CPUs.
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Memory in MiB; 1024, or 2048 for the debug kernel, by default.
    #[arg(long)]
    pub mem: Option<u32>,
    /// Instructions a second of the machine's time (Bochs).
    #[arg(long, default_value_t = 100_000_000)]
    pub ips: u32,
    /// CPU model (Bochs).
    #[arg(long, default_value = "tigerlake")]
    pub model: String,
    /// The firmware switches VMX off (Bochs).
    #[arg(long)]
    pub vmx_off: bool,
    /// Let the kernel use the TSC as its clock (slow on Bochs: a second is 2.4 billion instructions).
    #[arg(long)]
    pub tsc: bool,
    /// More kernel parameters.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Kernel (bzImage or vmlinux); the stock kernel by default.
    #[arg(long)]
    pub kernel: Option<PathBuf>,
    /// Show the kernel's console.
    #[arg(short, long)]
    pub verbose: bool,
}

impl MachineArgs {
    /// The machine these arguments describe.
    pub fn config(&self, paths: &Paths) -> Config {
        Config {
            backend: self.vm,
            cpus: self.cpus,
            mem: self.mem.unwrap_or(if paths.debug { 2048 } else { 1024 }),
            ips: self.ips,
            model: self.model.clone(),
            vmx_off: self.vmx_off,
            tsc: self.tsc,
            debug: paths.debug,
            append: self.append.clone(),
        }
    }

    /// If there is to be no machine, looks whether this host can do its work.
    pub fn check_host(&self, module: &Path) -> Result<()> {
        if self.vm != Backend::None {
            return Ok(());
        }
        let module = std::fs::read(module)
            .with_context(|| format!("no {} (make KDIR=... builds it)", module.display()))?;
        host::check(Path::new("/"), host::is_root(), &module)
    }

    /// The kernel that is booted, as vmlinux.
    pub fn vmlinux(&self, paths: &Paths) -> Result<PathBuf> {
        let stock = paths.modules.join("vmlinuz");
        kernel::vmlinux(self.kernel.as_deref().unwrap_or(&stock), &paths.cache)
    }
}

/// Arguments of `shell`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Seconds of CPU time of the emulator after which the machine is ended (wall time: four times that).
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// A file or folder to put into the machine (with the libraries that programs need); DST defaults to
    /// the file's name under /root.
    #[arg(long = "file", value_name = "SRC[:DST]")]
    files: Vec<String>,
    /// A module of the stock kernel to put into the machine with all it needs (not loaded).
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// A set of files: guest (/guest/vmlinux and /guest/initrd), vmlinuz, qemu, firecracker.
    #[arg(long = "files", value_name = "SET")]
    sets: Vec<String>,
    /// Shell commands.
    #[arg(last = true, required = true)]
    commands: Vec<String>,
}

/// Adds `SRC[:DST]` to the files.
pub fn add_file(set: &mut FileSet, spec: &str) -> Result<()> {
    let (source, dest) = match spec.split_once(':') {
        Some((source, dest)) => (source, dest.to_string()),
        None => {
            let name = Path::new(spec)
                .file_name()
                .context("--file names no file")?;
            (spec, format!("/root/{}", name.to_string_lossy()))
        }
    };
    set.tree(Path::new(source), &dest)
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let paths = Paths::find()?;
    let mut set = FileSet::base(&paths)?;
    if !args.modules.is_empty() {
        set.modules(&paths, &args.modules)?;
    }
    for name in &args.sets {
        guest::add(&mut set, &paths, name)?;
    }
    for spec in &args.files {
        add_file(&mut set, spec)?;
    }
    set.bytes(
        "job.sh",
        0o755,
        format!("{}\n", args.commands.join(" ")).into_bytes(),
    );
    let task = Task {
        name: "shell".into(),
        device: Device::Any,
        timeout: u32::try_from(args.timeout)?.saturating_mul(10),
        argv: vec!["/bin/sh".into(), "/job.sh".into()],
    };
    let limits = Limits::new(Duration::from_secs(args.timeout), paths.slowness());
    let folder = new_folder(&paths.cache.join("run"), "shell")?;
    let config = args.machine.config(&paths);
    let vmlinux = args.machine.vmlinux(&paths)?;
    let verbose = args.machine.verbose;
    let mut up = None;
    let tasks = [task];
    let machine = session::prepare(&config, (&vmlinux, &set.archive()?), &tasks, &folder)?;
    let boot = session::boot(machine, limits, &tasks, &mut |line| match line {
        Line::Output(text) => println!("{text}"),
        Line::Console(text) if verbose => eprintln!("{text}"),
        Line::Console(_) => {}
        Line::Report(Report::Up(ticks)) => up = Some(*ticks),
        Line::Report(Report::Kernel(_, text)) => eprintln!("kernel: {text}"),
        Line::Report(_) => {}
    })?;
    if let Some((wall, ticks)) = boot.up {
        let (total, wall) = (boot.total.as_secs_f32(), wall.as_secs_f32());
        let ticks = ticks as f64 / 1e6;
        eprintln!("[up after {wall:.1} s, {ticks:.0} M ticks; off after {total:.1} s]");
    }
    match &boot.fate {
        Fate::Done => std::fs::remove_dir_all(&folder)?,
        Fate::Hung(why) | Fate::Crashed(why) => {
            eprintln!("rkvm-harness: the machine failed: {why}; it last said:");
            boot.last.iter().for_each(|line| eprintln!("  | {line}"));
            eprintln!("rkvm-harness: logs are in {}", paths.shown(&folder));
            return Ok(ExitCode::from(124));
        }
    }
    let outcome = boot.tasks.first().and_then(|task| task.outcome.clone());
    Ok(match outcome {
        Some(Outcome::Exit(status)) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Some(other) => {
            eprintln!("rkvm-harness: the commands ended with {other}");
            ExitCode::from(1)
        }
        None => ExitCode::from(1),
    })
}
