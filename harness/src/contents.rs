// SPDX-License-Identifier: GPL-2.0

//! What of this checkout goes into a machine: the module under test, and what the commands name that are run there, and
//! the scripts among that in turn. Nothing else does. So no test can use what its machine was not told to have, and the
//! results of a machine change with its files only.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::emulator::Backend;
use crate::fileset::FileSet;
use crate::host;
use crate::paths::new_folder;
use crate::paths::Paths;
use crate::upstream;

/// Programs that are built for the machine.
const PROGRAMS: [&str; 3] = ["rkvm-selftest", "rkvm-bench", "rkvm-vmm"];
/// Where the scripts of `selftests/machine` are in the machine.
const SCRIPTS: &str = "/tests/";

/// Adds the programs and scripts that `text` names, which is a command or a script.
pub fn add_named(set: &mut FileSet, paths: &Paths, checkout: &Path, text: &str) -> Result<()> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    for word in text.split(|c| !in_word(c)) {
        // A sentence ends in a full stop.
        let word = word.trim_end_matches('.');
        let name = word.rsplit('/').next().unwrap_or(word);
        if PROGRAMS.contains(&name) {
            set.file(&paths.bin.join(name), &format!("/usr/bin/{name}"))?;
        } else if let Some(program) = word.strip_prefix(upstream::FOLDER) {
            set.file(&paths.cache.join("upstream/programs").join(program), word)?;
        } else if word.starts_with(SCRIPTS) && !set.has(word) {
            let script = checkout.join("selftests/machine").join(name);
            set.file(&script, word)?;
            add_named(set, paths, checkout, &fs::read_to_string(script)?)?;
        }
    }
    Ok(())
}

/// What a machine has that loads the module under test, or C KVM in its place.
pub fn with_module(paths: &Paths, module: &Path, backend: Backend) -> Result<FileSet> {
    let mut set = FileSet::base(paths)?;
    add_kernel_modules(&mut set, paths)?;
    add_module(&mut set, paths, module, backend)?;
    Ok(set)
}

/// Adds the modules of the kernel that tests load: C KVM and a device to swap to.
pub fn add_kernel_modules(set: &mut FileSet, paths: &Paths) -> Result<()> {
    set.modules(paths, &["kvm_intel".into(), "zram".into()])
}

/// Adds the module under test, if it is for the kernel of that machine.
pub fn add_module(set: &mut FileSet, paths: &Paths, module: &Path, backend: Backend) -> Result<()> {
    ensure!(
        module.exists(),
        "no {} (make modules builds it)",
        module.display()
    );
    let mut bytes = fs::read(module)?;
    // A signature is one of the whole file.
    if !host::is_signed(&bytes) {
        bytes = stripped(module, paths)?;
    }
    let release = match backend {
        Backend::None => host::release()?,
        _ => paths.release.clone(),
    };
    let built = host::built_for(&bytes).context("the module does not say what kernel it is for")?;
    ensure!(
        built == release,
        "{} is for the kernel {built}, the machine's is {release}: make modules, without KDIR, builds it for that",
        module.display()
    );
    set.bytes("/rkvm.ko", 0o644, bytes);
    Ok(())
}

/// A module without debug information: the machine has to load it.
pub fn stripped(module: &Path, paths: &Paths) -> Result<Vec<u8>> {
    let folder = new_folder(&paths.cache.join("run"), "strip")?;
    let plain = folder.join("plain.ko");
    let mut command = Command::new("objcopy");
    let status = command
        .arg("--strip-debug")
        .arg(module)
        .arg(&plain)
        .status();
    ensure!(
        status.context("objcopy does not start")?.success(),
        "objcopy failed"
    );
    let bytes = fs::read(&plain)?;
    fs::remove_dir_all(folder)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A checkout with its programs, each of which holds its name.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            let scratch = Scratch(new_folder(&std::env::temp_dir(), "contents").unwrap());
            for program in PROGRAMS {
                scratch.write(&format!("bin/{program}"), program);
            }
            scratch
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn script(&self, name: &str, text: &str) {
            self.write(&format!("selftests/machine/{name}"), text);
        }

        fn add(&self, checkout: &Path, command: &str) -> Result<FileSet> {
            let paths = Paths {
                cache: PathBuf::new(),
                stock: PathBuf::new(),
                modules: PathBuf::new(),
                release: String::new(),
                debug: false,
                guest_kernel: PathBuf::new(),
                cache_outside: PathBuf::new(),
                bin: self.0.join("bin"),
            };
            let mut set = FileSet::default();
            add_named(&mut set, &paths, checkout, command)?;
            Ok(set)
        }

        /// What goes into a machine that runs `command`.
        fn machine(&self, command: &str) -> Result<Vec<u8>> {
            self.add(&self.0, command)?.archive()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_change_reaches_the_machines_that_name_it_and_no_others() {
        let scratch = Scratch::new();
        scratch.script("tap.inc", "finish() { exit; }");
        scratch.script("guest.inc", ". /tests/tap.inc\n{ rkvm-vmm --cpus 1; }");
        scratch.script("guest.sh", ". /tests/guest.inc\n. /tests/tap.inc\nfinish");
        scratch.script("swap.sh", "a=$(rkvm-selftest notifier)");
        let guest = "/bin/sh /tests/guest.sh";
        let swap = "/bin/sh /tests/swap.sh";
        let pio = "/usr/bin/rkvm-selftest pio";
        let commands = [guest, swap, pio];
        for (changed, reached) in [
            ("bin/rkvm-selftest", vec![swap, pio]),
            ("bin/rkvm-vmm", vec![guest]),
            ("bin/rkvm-bench", vec![]),
            ("selftests/machine/guest.inc", vec![guest]),
            ("selftests/machine/tap.inc", vec![guest]),
            ("selftests/machine/swap.sh", vec![swap]),
        ] {
            let before = commands.map(|command| scratch.machine(command).unwrap());
            let mut text = fs::read_to_string(scratch.0.join(changed)).unwrap();
            text.push_str("\n# another");
            scratch.write(changed, &text);
            for (command, before) in commands.into_iter().zip(before) {
                let differs = scratch.machine(command).unwrap() != before;
                assert_eq!(
                    differs,
                    reached.contains(&command),
                    "{changed} for {command}"
                );
            }
        }
    }

    #[test]
    fn only_what_is_named_is_there() {
        let scratch = Scratch::new();
        scratch.script("a.sh", "# Nothing but this.\necho rkvm-selftests");
        scratch.script(
            "b.sh",
            "# As said in /tests/a.sh.\nsh -c 'rkvm-vmm --mem 4'",
        );
        let set = scratch.add(&scratch.0, "/bin/sh /tests/a.sh").unwrap();
        assert!(set.has("/tests/a.sh") && !set.has("/tests/b.sh"));
        assert!(!set.has("/usr/bin/rkvm-selftest"));
        let set = scratch.add(&scratch.0, "/bin/sh /tests/b.sh").unwrap();
        assert!(set.has("/tests/a.sh") && set.has("/usr/bin/rkvm-vmm"));
    }

    #[test]
    fn what_is_named_must_exist() {
        let scratch = Scratch::new();
        scratch.script("a.sh", ". /tests/gone.inc");
        assert!(scratch.machine("/bin/sh /tests/a.sh").is_err());
    }

    /// The scripts of this very checkout: whole guests on C KVM need not boot again for a behaviour test.
    #[test]
    fn whole_guests_depend_on_no_behaviour_test() {
        let scratch = Scratch::new();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (script, programs) in [
            ("linux-guest", vec!["rkvm-vmm"]),
            ("linux-guest-smp", vec!["rkvm-vmm"]),
            ("linux-guests-swap", vec!["rkvm-vmm"]),
            ("qemu-pc", vec![]),
            ("qemu-microvm", vec![]),
            ("swap", vec!["rkvm-selftest"]),
        ] {
            let set = scratch.add(&checkout, &format!("/bin/sh /tests/{script}.sh"));
            let set = set.unwrap();
            let there = |name: &&str| set.has(&format!("/usr/bin/{name}"));
            let found: Vec<&str> = PROGRAMS.into_iter().filter(there).collect();
            assert_eq!(found, programs, "{script}");
        }
    }

    /// As a script that is told to have a program refused does not notice otherwise that there is none.
    #[test]
    fn a_program_that_is_missing_has_refused_nothing() {
        let tap = Path::new(env!("CARGO_MANIFEST_DIR")).join("../selftests/machine/tap.inc");
        for (command, result) in [("false", "ok 1 - a"), ("no-such-program", "not ok 1 - a")] {
            let script = format!(". {}; refused a {command}", tap.display());
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), result);
        }
    }
}
