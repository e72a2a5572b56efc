// SPDX-License-Identifier: GPL-2.0

//! The first process of a test machine. It mounts what programs expect, runs the tasks of `/job` one after
//! the other, each with a time limit and with an eye on the kernel's log, reports on the second serial port
//! and powers the machine off.

mod program;

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use nix::mount::mount;
use nix::mount::MsFlags;
use nix::sys::reboot::reboot;
use nix::sys::reboot::RebootMode;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;
use nix::sys::termios;

use rkvm_job::Complaints;
use rkvm_job::Device;
use rkvm_job::Outcome;
use rkvm_job::Report;
use rkvm_job::Task;

use program::signals;

/// The instruction count on Bochs, the cycle count elsewhere.
fn ticks() -> u64 {
    // SAFETY: RDTSC has no precondition; every CPU that can run VMX has it and the kernel lets it be used.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Seconds that something may take to end.
const PATIENCE: u32 = 3;

struct Init {
    data: File,
    kmsg: File,
    complaints: Complaints,
    /// Children that end, and whoever wants this process to end.
    signals: SignalFd,
    loaded: Option<Device>,
    /// There is no machine that ends with this process: it is one of this host's.
    on_host: bool,
    stop: Stop,
}

/// Whether a signal ends the tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// It came: nothing more is begun.
    Asked,
    /// What is begun now has to be done in any case.
    Never,
}

fn main() {
    let ticks = ticks();
    if std::env::args().nth(1).as_deref() == Some("--host") {
        // No machine: the harness has unpacked the files and changed into them.
        if let Err(e) = Init::on_host().and_then(|mut init| init.run(ticks)) {
            eprintln!("rkvm-init: {e:#}");
            std::process::exit(1);
        }
        return;
    }
    if std::process::id() != 1 {
        eprintln!("rkvm-init is the first process of a test machine; it does nothing elsewhere");
        std::process::exit(1);
    }
    if let Err(e) = Init::in_machine().and_then(|mut init| init.run(ticks)) {
        println!("rkvm-init: {e:#}");
    }
    // The data port may still be sending.
    let port = OpenOptions::new().write(true).open("/dev/ttyS1");
    if let Ok(port) = port {
        // Nothing else can be done if the port fails: the power goes off.
        let _ = termios::tcdrain(&port);
    }
    // Without ACPI nothing switches the power off, and a reset is the end of the emulator.
    let how = if Path::new("/sys/firmware/acpi").exists() {
        RebootMode::RB_POWER_OFF
    } else {
        RebootMode::RB_AUTOBOOT
    };
    let e = reboot(how);
    println!("rkvm-init: power-off failed: {e:?}");
}

impl Init {
    /// Reports on the standard output.
    fn on_host() -> Result<Init> {
        let data = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        Init::new(data, true)
    }

    /// Mounts what programs expect and reports on the second serial port.
    fn in_machine() -> Result<Init> {
        for (kind, at) in [
            ("devtmpfs", "/dev"),
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("tmpfs", "/tmp"),
            ("tmpfs", "/run"),
            ("debugfs", "/sys/kernel/debug"),
            ("tracefs", "/sys/kernel/tracing"),
            ("tmpfs", "/dev/shm"),
        ] {
            if !at.starts_with("/sys/") {
                fs::create_dir_all(at)?;
            }
            mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("mounting {at}"))?;
        }
        let data = OpenOptions::new()
            .write(true)
            .open("/dev/ttyS1")
            .context("opening ttyS1")?;
        let stty = ["stty", "-F", "/dev/ttyS1", "115200", "raw", "-echo"];
        Command::new("/usr/bin/busybox")
            .args(stty)
            .status()
            .context("running stty")?;
        Init::new(data, false)
    }

    fn new(data: File, on_host: bool) -> Result<Init> {
        // Programs start where this one is and are found where it finds them. Had each a folder or a PATH of its own, std
        // would need sockets to start them by, which not every kernel has.
        std::env::set_current_dir("/root")?;
        std::env::set_var("PATH", "/usr/bin");
        let mut kmsg = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")?;
        new_records(&mut kmsg);
        let mask = signals();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Init {
            data,
            kmsg,
            complaints: Complaints::default(),
            signals,
            loaded: None,
            on_host,
            stop: Stop::No,
        })
    }

    fn run(&mut self, ticks: u64) -> Result<()> {
        self.report(&Report::Up(ticks))?;
        let ran = self.run_tasks();
        if self.on_host {
            // Whoever comes next finds the host as it was, whatever happened.
            self.stop = Stop::Never;
            self.unload_all().context("a module stays loaded")?;
        }
        if let Some(last) = ran?.checked_sub(1) {
            self.report_complaints(last)?;
        }
        self.report(&Report::Done)
    }

    /// Runs the tasks and gives their number.
    fn run_tasks(&mut self) -> Result<usize> {
        let job = fs::read_to_string("/job").context("reading /job")?;
        let tasks: Vec<Task> = job.lines().filter_map(Task::parse).collect();
        for (number, task) in tasks.iter().enumerate() {
            self.report(&Report::Begin(number))?;
            let before = self::ticks();
            let outcome = match self.make_ready(task.device) {
                Ok(()) => self.execute(task),
                Err(e) => Outcome::NotRun(format!("{e:#}").replace('\n', "; ")),
            };
            // A suspended machine begins to count anew.
            let spent = self::ticks().saturating_sub(before);
            self.report_complaints(number)?;
            if self.stop == Stop::Asked {
                anyhow::bail!("a signal ended the tasks");
            }
            self.report(&Report::End(number, outcome, spent))?;
        }
        Ok(tasks.len())
    }

    /// Reports what the kernel has complained of since the last time, on account of one task.
    fn report_complaints(&mut self, number: usize) -> Result<()> {
        for line in new_records(&mut self.kmsg) {
            if self.complaints.has(&line) {
                self.report(&Report::Kernel(number, line))?;
            }
        }
        Ok(())
    }

    fn report(&mut self, report: &Report) -> Result<()> {
        // In one write, so that it is not torn apart by a program's output.
        self.data.write_all(format!("{report}\n").as_bytes())?;
        Ok(())
    }

    /// Loads the module that `device` belongs to, the other one goes.
    fn make_ready(&mut self, device: Device) -> Result<()> {
        if device == Device::Any || self.loaded == Some(device) {
            return Ok(());
        }
        self.unload()?;
        let options = fs::read_to_string("/module-options").unwrap_or_default();
        let mut load: Vec<&str> = match device {
            Device::Rkvm => vec!["insmod", "/rkvm.ko"],
            // Bochs wants a page-aligned posted-interrupt descriptor, which C KVM does not give it.
            _ => vec!["modprobe", "kvm_intel", "enable_apicv=0"],
        };
        if device == Device::Rkvm {
            load.extend(options.split_whitespace());
        }
        self.tool(&load)?;
        self.loaded = Some(device);
        Ok(())
    }

    /// Unloads the module that is loaded.
    fn unload(&mut self) -> Result<()> {
        let names: &[&str] = match self.loaded {
            Some(Device::Rkvm) => &["rkvm"],
            Some(Device::Kvm) => &["kvm_intel", "kvm"],
            _ => &[],
        };
        names.iter().try_for_each(|name| self.remove(name))?;
        self.loaded = None;
        Ok(())
    }

    /// Unloads all that tests may have loaded, however far they got.
    fn unload_all(&mut self) -> Result<()> {
        // A kernel without modules has no such file.
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        for name in ["rkvm", "kvm_intel", "kvm"] {
            if modules
                .lines()
                .any(|line| line.split(' ').next() == Some(name))
            {
                self.remove(name)?;
            }
        }
        self.loaded = None;
        Ok(())
    }

    /// Unloads a module. What was killed a moment ago may still have its device open.
    fn remove(&mut self, name: &str) -> Result<()> {
        let mut removed = self.tool(&["rmmod", name]);
        for _ in 0..PATIENCE {
            if removed.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            removed = self.tool(&["rmmod", name]);
        }
        removed
    }

    /// Runs a program that must succeed.
    fn tool(&mut self, argv: &[&str]) -> Result<()> {
        let task = Task {
            name: String::new(),
            device: Device::Any,
            timeout: 60,
            argv: argv.iter().map(|arg| arg.to_string()).collect(),
        };
        match self.execute(&task) {
            Outcome::Exit(0) => Ok(()),
            outcome => anyhow::bail!("{}: {outcome}", argv.join(" ")),
        }
    }
}

/// Lines of the kernel's log that came since the last call, without their prefix.
fn new_records(kmsg: &mut File) -> Vec<String> {
    let mut lines = Vec::new();
    let mut record = [0u8; 8192];
    loop {
        match kmsg.read(&mut record) {
            Ok(0) => return lines,
            Ok(count) => {
                let text = String::from_utf8_lossy(&record[..count]).into_owned();
                let body = text.split_once(';').map_or(text.as_str(), |(_, body)| body);
                lines.extend(body.lines().next().map(String::from));
            }
            // Records were overwritten before they were read: go on with the oldest there is.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => return lines,
        }
    }
}
