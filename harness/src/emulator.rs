// SPDX-License-Identifier: GPL-2.0

//! What a machine is made of: the emulator, and the files that tell it all the rest. These are in a folder of the
//! machine's own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

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

/// A machine that only has to be switched on.
pub struct Prepared {
    /// Emulator.
    pub backend: Backend,
    /// Folder with the files it was made of, and no others as yet.
    pub folder: PathBuf,
    /// What starts it.
    pub command: Command,
    /// What Bochs says last where the machine has switched itself off, as it should; others say so by their exit status.
    pub last_words: Option<&'static str>,
}

/// Writes the files of a machine to an empty folder.
pub fn prepare(
    config: &Config,
    vmlinux: &Path,
    initramfs: &[&[u8]],
    folder: &Path,
) -> Result<Prepared> {
    let mut last_words = None;
    let command = match config.backend {
        Backend::Bochs => {
            last_words = Some(if ends_by_triple_fault(config) {
                "3rd ("
            } else {
                "soft power off"
            });
            bochs(config, vmlinux, initramfs, folder)?
        }
        Backend::Qemu | Backend::Tcg => qemu(config, vmlinux, initramfs, folder)?,
        Backend::None => host(initramfs, folder)?,
    };
    Ok(Prepared {
        backend: config.backend,
        folder: folder.to_path_buf(),
        command,
        last_words,
    })
}

/// Whether the machine has no power switch.
fn ends_by_triple_fault(config: &Config) -> bool {
    config.debug && config.cpus == 1
}

/// The versions of the packages that a Bochs machine comes from.
pub fn bochs_version() -> Result<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "bochs", "bochsbios", "vgabios"])
        .output()
        .context("dpkg-query does not start")?;
    ensure!(
        output.status.success(),
        "dpkg-query does not know Bochs: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel's command line.
fn cmdline(config: &Config) -> String {
    let mut line = String::from(
        "console=ttyS0,115200 loglevel=5 nokaslr cryptomgr.notests nowatchdog random.trust_cpu=on",
    );
    if ends_by_triple_fault(config) {
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
    let bios = if config.vmx_off {
        let changed = bios_without_vmx(fs::read(BIOS).with_context(|| format!("reading {BIOS}"))?)?;
        fs::write(folder.join("bios"), changed)?;
        "bios"
    } else {
        BIOS
    };
    // Bochs takes no more than 2 GiB at once; what the machine touches over that goes to a file.
    let host = mem.min(&2048);
    // Paths are relative, so that a machine is the same in any folder.
    let rc = format!(
        "config_interface: textconfig
display_library: rfb, options=\"timeout=0, hideIPS\"
cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest={mem}, host={host}
romimage: file={bios}, options=fastboot
vgaromimage: file=/usr/share/vgabios/vgabios.bin
vga: extension=none, update_freq=1, realtime=0
ata0-master: type=disk, mode=flat, path=disk.img
boot: disk
com1: enabled=1, mode=file, dev=console.pipe
com2: enabled=1, mode=file, dev=data.pipe
speaker: enabled=0
clock: sync=none, time0=utc
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"
    );
    fs::write(folder.join("bochsrc"), rc)?;
    let mut command = Command::new("bochs");
    command.arg("-q").arg("-f").arg(folder.join("bochsrc"));
    command.current_dir(folder);
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
