// SPDX-License-Identifier: GPL-2.0

//! A running test machine: the emulator's process, its two serial ports, its end.
//!
//! The first port is the kernel's console, the second carries the programs' output and the reports of
//! [`crate::job`]. Both come through named pipes, so that nothing is polled for on a disk.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use nix::fcntl::OFlag;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use nix::unistd::Pid;

use crate::emulator::Backend;
use crate::emulator::Prepared;
use crate::interrupt;

/// Which port something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The kernel's console.
    Console,
    /// Programs and reports.
    Data,
}

/// How an emulator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine switched itself off.
    PowerOff,
    /// Anything else, in words.
    Broken(String),
}

/// A machine that was started.
pub struct Machine {
    child: Child,
    backend: Backend,
    started: Instant,
    ports: [(Port, File, File); 2],
    folder: PathBuf,
    last_words: Option<&'static str>,
    ended: Option<ExitStatus>,
}

impl Machine {
    /// Switches a machine on.
    pub fn start(prepared: Prepared) -> Result<Machine> {
        let Prepared {
            backend,
            folder,
            mut command,
            last_words,
        } = prepared;
        // The reports first: what the console says after a report is then seen after it, too.
        let ports = [
            open_port(&folder, Port::Data, "data")?,
            open_port(&folder, Port::Console, "console")?,
        ];
        if backend == Backend::None {
            // There is no emulator, and so no port: what programs say comes straight from them.
            command.stdout(
                OpenOptions::new()
                    .write(true)
                    .open(folder.join("data.pipe"))?,
            );
        }
        let log = File::create(folder.join("emulator.out"))?;
        if backend != Backend::None {
            command.stdout(log.try_clone()?);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{:?} does not start", command.get_program()))?;
        Ok(Machine {
            child,
            backend,
            started: Instant::now(),
            ports,
            folder,
            last_words,
            ended: None,
        })
    }

    /// Waits until a port says something, the machine ends or `patience` is over, and returns what came.
    pub fn wait(&mut self, patience: Duration) -> Result<Vec<(Port, Vec<u8>)>> {
        // The emulator's end is noticed within one round.
        const ROUND: Duration = Duration::from_millis(50);
        let until = Instant::now() + patience;
        loop {
            interrupt::check()?;
            if self.ended.is_none() {
                self.ended = self.child.try_wait()?;
            }
            let left = until.saturating_duration_since(Instant::now()).min(ROUND);
            if self.ended.is_none() {
                let mut fds = self
                    .ports
                    .each_ref()
                    .map(|(_, pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
                match poll(
                    &mut fds,
                    u16::try_from(left.as_millis()).unwrap_or(u16::MAX),
                ) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => return Err(e).context("polling the serial ports"),
                }
            }
            let mut came = Vec::new();
            for (port, pipe, log) in &mut self.ports {
                let bytes = drain(pipe)?;
                if !bytes.is_empty() {
                    log.write_all(&bytes)?;
                    came.push((*port, bytes));
                }
            }
            if !came.is_empty() || self.ended.is_some() || Instant::now() >= until {
                return Ok(came);
            }
        }
    }

    /// How the emulator has ended, if it has (all output was returned before).
    pub fn ended(&self) -> Option<End> {
        let status = self.ended?;
        let said = match self.last_words {
            Some(_) => self
                .said("bochs.log", |line| line.contains(">>PANIC<<"))
                .pop(),
            None => None,
        };
        Some(match (said, self.last_words) {
            (Some(said), Some(words)) if said.contains(words) => End::PowerOff,
            (Some(said), _) => End::Broken(said),
            (None, None) if status.success() => End::PowerOff,
            (None, _) => End::Broken(format!("the emulator ended: {status}")),
        })
    }

    /// Whether there is a console of its own.
    pub fn has_console(&self) -> bool {
        self.backend != Backend::None
    }

    /// Time since power-on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time that counts for limits. An emulator's own CPU time, so that a busy host does not make tests fail; but
    /// at least a quarter of the wall time, so that an emulator that stands still comes to its end.
    pub fn spent(&self) -> Duration {
        let wall = self.elapsed();
        if !matches!(self.backend, Backend::Bochs | Backend::Tcg) {
            return wall;
        }
        cpu_time(self.child.id()).unwrap_or(wall).max(wall / 4)
    }

    /// Folder with the machine's files: console.log, data.log, emulator.out.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Complaints of the emulator itself.
    pub fn complaints(&self) -> Vec<String> {
        let telling = |line: &str| {
            line.contains("PANIC") || line.starts_with("qemu") || line.starts_with("rkvm-init")
        };
        let mut lines = self.said("bochs.log", telling);
        lines.extend(self.said("emulator.out", telling));
        lines.dedup();
        lines
    }

    /// The lines of a log that tell something. One that is not there says nothing.
    fn said(&self, log: &str, telling: impl Fn(&str) -> bool) -> Vec<String> {
        let text = fs::read(self.folder.join(log)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| telling(line));
        lines.map(|line| line.trim().to_string()).collect()
    }

    /// Ends the machine if it runs still. Keeps the logs, removes the rest.
    pub fn stop(&mut self) -> Result<()> {
        if self.ended.is_none() && self.backend == Backend::None {
            self.ended = self.ask_to_end()?;
        }
        if self.ended.is_none() {
            self.child.kill()?;
            self.ended = Some(self.child.wait()?);
        }
        for name in [
            "disk.img",
            "disk.img.lock",
            "initrd",
            "console.pipe",
            "data.pipe",
        ] {
            match fs::remove_file(self.folder.join(name)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Machine {
    /// Asks the first process on this host to end, which has a module to unload before.
    fn ask_to_end(&mut self) -> Result<Option<ExitStatus>> {
        const PATIENCE: Duration = Duration::from_secs(20);
        const ROUND: Duration = Duration::from_millis(50);
        let until = Instant::now() + PATIENCE;
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(ROUND);
        }
        eprintln!(
            "the tests on this host don't end: see whether rkvm is still loaded (rmmod rkvm)"
        );
        Ok(None)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            eprintln!("stopping the machine in {}: {e}", self.folder.display());
        }
    }
}

/// User and system time of a process.
fn cpu_time(pid: u32) -> Option<Duration> {
    // Fixed for user space on every architecture of Linux.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces; it is closed by the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

/// Makes a named pipe. It is opened for both directions, so that it has no end before the machine has.
fn open_port(folder: &Path, port: Port, name: &str) -> Result<(Port, File, File)> {
    let path = folder.join(format!("{name}.pipe"));
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
        .with_context(|| format!("making the pipe {}", path.display()))?;
    let pipe = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)?;
    Ok((
        port,
        pipe,
        File::create(folder.join(format!("{name}.log")))?,
    ))
}

/// Everything that is in a pipe now.
fn drain(pipe: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 65536];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(bytes),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("reading a serial port"),
        }
    }
}
