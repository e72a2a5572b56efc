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
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use nix::fcntl::OFlag;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::disk;

/// What the machine is emulated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Bochs: VMX for everybody.
    Bochs,
    /// QEMU with nested VT-x of the host.
    Qemu,
    /// QEMU without VMX, for what must fail there.
    Tcg,
    /// No machine: this host itself, which has to be run by root.
    None,
}

/// How the machine is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Emulator.
    pub backend: Backend,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub mem: u32,
    /// Instructions per second of the machine's time (Bochs only).
    pub ips: u32,
    /// CPU model (Bochs only).
    pub model: String,
    /// The firmware switches VMX off (Bochs only).
    pub vmx_off: bool,
    /// Whether the kernel may use the TSC as a clock.
    pub tsc: bool,
    /// Whether the kernel is the debug kernel.
    pub debug: bool,
    /// Kernel parameters over the usual ones.
    pub append: String,
}

/// Which port something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The kernel's console.
    Console,
    /// Programs and reports.
    Data,
}

/// A machine that was started.
pub struct Machine {
    child: Child,
    /// Whether a program does the CPU's work.
    emulated: bool,
    started: Instant,
    ports: [(Port, File, File); 2],
    folder: PathBuf,
    ended: Option<ExitStatus>,
}

impl Machine {
    /// Starts a machine with its files in `folder`.
    pub fn start(
        config: &Config,
        vmlinux: &Path,
        initramfs: &[&[u8]],
        folder: &Path,
    ) -> Result<Machine> {
        let ports = [
            open_port(folder, Port::Console, "console")?,
            open_port(folder, Port::Data, "data")?,
        ];
        let mut command = match config.backend {
            Backend::Bochs => bochs(config, vmlinux, initramfs, folder)?,
            Backend::Qemu | Backend::Tcg => qemu(config, vmlinux, initramfs, folder)?,
            Backend::None => host(initramfs, folder)?,
        };
        if config.backend == Backend::None {
            // There is no emulator, and so no port: what programs say comes straight from them.
            command.stdout(
                OpenOptions::new()
                    .write(true)
                    .open(folder.join("data.pipe"))?,
            );
        }
        let log = File::create(folder.join("emulator.out"))?;
        if config.backend != Backend::None {
            command.stdout(log.try_clone()?);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{:?} does not start", command.get_program()))?;
        let folder = folder.to_path_buf();
        Ok(Machine {
            child,
            emulated: matches!(config.backend, Backend::Bochs | Backend::Tcg),
            started: Instant::now(),
            ports,
            folder,
            ended: None,
        })
    }

    /// Waits until a port says something, the machine ends or `patience` is over, and returns what came.
    pub fn wait(&mut self, patience: Duration) -> Result<Vec<(Port, Vec<u8>)>> {
        // The emulator's end is noticed within one round.
        const ROUND: Duration = Duration::from_millis(50);
        let until = Instant::now() + patience;
        loop {
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

    /// Whether the emulator has ended (all output was returned before).
    pub fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    /// Time since power-on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time that counts for limits. An emulator's own CPU time, so that a busy host does not make tests fail; but
    /// at least a quarter of the wall time, so that an emulator that stands still comes to its end.
    pub fn spent(&self) -> Duration {
        let wall = self.elapsed();
        if !self.emulated {
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
        let mut lines = Vec::new();
        for name in ["bochs.log", "emulator.out"] {
            // A log that is not there says nothing.
            let text = fs::read(self.folder.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let telling = |line: &&str| line.contains("PANIC") || line.starts_with("qemu");
            lines.extend(text.lines().filter(telling).map(String::from));
        }
        lines.dedup();
        lines
    }

    /// Ends the machine if it runs still. Keeps the logs, removes the rest.
    pub fn stop(&mut self) -> Result<()> {
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

/// The kernel's command line.
fn cmdline(config: &Config) -> String {
    let mut line = String::from(
        "console=ttyS0,115200 loglevel=5 nokaslr cryptomgr.notests nowatchdog random.trust_cpu=on",
    );
    if config.debug && config.cpus == 1 {
        // The debug kernel takes a minute and more for ACPI alone. One CPU is found without it; a triple fault, which
        // ends the emulator, stands in for the power switch, and the TSC for the clocks that ACPI knows.
        line.push_str(" acpi=off reboot=triple tsc=reliable");
    } else if !config.tsc {
        line.push_str(" notsc tsc=unstable lapic=notscdeadline");
    }
    if !config.append.is_empty() {
        line.push(' ');
        line.push_str(&config.append);
    }
    line
}

/// Bochs's BIOS.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";

/// Makes a BIOS that locks IA32_FEATURE_CONTROL with VMX off of one that locks it with VMX on.
fn bios_without_vmx(mut bios: Vec<u8>) -> Result<Vec<u8>> {
    // or eax, 5 (in 16-bit code with a prefix); wrmsr
    const SET: [u8; 5] = [0x83, 0xc8, 0x05, 0x0f, 0x30];
    let places: Vec<usize> = (0..bios.len())
        .filter(|at| bios[*at..].starts_with(&SET))
        .collect();
    ensure!(!places.is_empty(), "the BIOS never switches VMX on");
    for at in places {
        bios[at + 2] = 0x01;
    }
    Ok(bios)
}

fn bochs(config: &Config, vmlinux: &Path, initramfs: &[&[u8]], folder: &Path) -> Result<Command> {
    let kernel = fs::read(vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?;
    disk::write(
        &folder.join("disk.img"),
        &kernel,
        initramfs,
        &cmdline(config),
    )?;
    let Config {
        cpus,
        mem,
        ips,
        model,
        ..
    } = config;
    let at = folder.display();
    let bios = if config.vmx_off {
        let changed = bios_without_vmx(fs::read(BIOS).with_context(|| format!("reading {BIOS}"))?)?;
        let path = folder.join("bios");
        fs::write(&path, changed)?;
        path.display().to_string()
    } else {
        BIOS.into()
    };
    // Bochs takes no more than 2 GiB at once; what the machine touches over that goes to a file.
    let host = mem.min(&2048);
    let rc = format!(
        "config_interface: textconfig
display_library: rfb, options=\"timeout=0, hideIPS\"
cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest={mem}, host={host}
romimage: file={bios}, options=fastboot
vgaromimage: file=/usr/share/vgabios/vgabios.bin
vga: extension=none, update_freq=1, realtime=0
ata0-master: type=disk, mode=flat, path={at}/disk.img
boot: disk
com1: enabled=1, mode=file, dev={at}/console.pipe
com2: enabled=1, mode=file, dev={at}/data.pipe
speaker: enabled=0
clock: sync=none, time0=utc
log: {at}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"
    );
    fs::write(folder.join("bochsrc"), rc)?;
    let mut command = Command::new("bochs");
    command.arg("-q").arg("-f").arg(folder.join("bochsrc"));
    Ok(command)
}

fn qemu(config: &Config, vmlinux: &Path, initramfs: &[&[u8]], folder: &Path) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    if config.backend == Backend::Qemu {
        let nested = fs::read_to_string("/sys/module/kvm_intel/parameters/nested");
        let nested = nested.context("this host has no kvm_intel: VM=qemu needs nested VT-x")?;
        ensure!(
            matches!(nested.trim(), "Y" | "1"),
            "nested VT-x is off on this host: modprobe kvm_intel nested=1"
        );
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        command.args(["-accel", "tcg", "-cpu", "max,-svm"]);
    }
    let initrd = folder.join("initrd");
    fs::write(&initrd, initramfs.concat())?;
    command.args([
        "-machine",
        "q35",
        "-display",
        "none",
        "-no-reboot",
        "-nodefaults",
    ]);
    command.arg("-smp").arg(config.cpus.to_string());
    command.arg("-m").arg(config.mem.to_string());
    command
        .arg("-kernel")
        .arg(vmlinux)
        .arg("-initrd")
        .arg(initrd);
    command.arg("-append").arg(cmdline(config));
    for name in ["console", "data"] {
        command
            .arg("-serial")
            .arg(format!("file:{}/{name}.pipe", folder.display()));
    }
    Ok(command)
}

/// Unpacks the files of a machine and runs its first process in them, on this host.
fn host(initramfs: &[&[u8]], folder: &Path) -> Result<Command> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "VM=none loads modules: run it as root"
    );
    let root = folder.join("root");
    fs::create_dir(&root)?;
    for part in initramfs {
        let mut child = Command::new("cpio")
            .args([
                "--extract",
                "--make-directories",
                "--quiet",
                "--unconditional",
            ])
            .current_dir(&root)
            .stdin(Stdio::piped())
            .spawn()
            .context("cpio does not start")?;
        let mut stdin = child.stdin.take().context("no pipe to cpio")?;
        stdin.write_all(part)?;
        drop(stdin);
        ensure!(child.wait()?.success(), "cpio failed");
    }
    // The mounts are seen by these processes only and go with them.
    // In the environment's folder, / is no mount and its mounts are private already.
    let script = "mount --make-rprivate / 2>/dev/null
                  for d in dev proc sys; do mount --rbind /$d \"$0/$d\" || exit; done
                  mount -t tmpfs tmpfs \"$0/tmp\" || exit
                  exec chroot \"$0\" /init --host";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "unchanged", "sh", "-c", script])
        .arg(&root);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bios_that_does_not_know_vmx_is_refused() {
        assert!(bios_without_vmx(vec![0x90; 64]).is_err());
        let bios = vec![0x90, 0x83, 0xc8, 0x05, 0x0f, 0x30, 0x90];
        let changed = vec![0x90, 0x83, 0xc8, 0x01, 0x0f, 0x30, 0x90];
        assert_eq!(bios_without_vmx(bios).unwrap(), changed);
    }
}
