// SPDX-License-Identifier: GPL-2.0

//! Which tests there are and what each needs: the behaviour tests that `rkvm-selftest --list` names, the scripts in
//! `selftests/machine`, and upstream's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use clap::ValueEnum;

use crate::emulator::Backend;
use crate::job::Device;
use crate::paths::Paths;
use crate::upstream;

/// One test and the machine it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its name, unique.
    pub name: String,
    /// What it looks at.
    pub about: String,
    /// Program and arguments in the machine.
    pub argv: Vec<String>,
    /// The devices it runs on.
    pub devices: Vec<Device>,
    /// Seconds of the machine's time.
    pub timeout: u32,
    /// In which runs it takes part.
    pub when: When,
    /// The machine.
    pub needs: Needs,
}

/// The runs that a test takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// Those that name it.
    Named,
    /// Those on a stock kernel, which is that of its guests.
    Stock,
    /// Those on the debug kernel, without which it has nothing to work with.
    Debug,
    /// Those on the debug kernel, and there as the last test of each machine: it asks the kernel's own checkers.
    Last,
}

/// What a machine must have; tests with the same needs share one boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub mem: u32,
    /// Another emulator than the one asked for.
    pub tcg: bool,
    /// CPU model of the emulator, if it matters.
    pub model: Option<String>,
    /// The firmware switches VMX off.
    pub vmx_off: bool,
    /// The kernel trusts the TSC, which takes longer.
    pub tsc: bool,
    /// Kernel parameters.
    pub append: String,
    /// Sets of files, see [`crate::guest::add`].
    pub files: BTreeSet<String>,
}

impl Needs {
    /// The emulator to use where `usual` is the one asked for.
    pub fn backend(&self, usual: Backend) -> Backend {
        if self.tcg {
            Backend::Tcg
        } else if self.model.is_some() || self.vmx_off {
            Backend::Bochs
        } else {
            usual
        }
    }
}

impl Test {
    /// One that runs on both devices, in a machine that has nothing special.
    pub fn new(name: &str, argv: &[&str]) -> Test {
        Test {
            name: name.into(),
            about: String::new(),
            argv: argv.iter().map(|arg| arg.to_string()).collect(),
            devices: vec![Device::Rkvm, Device::Kvm],
            timeout: 60,
            when: When::Always,
            needs: Needs {
                cpus: 1,
                mem: 1024,
                tcg: false,
                model: None,
                vmx_off: false,
                tsc: false,
                append: String::new(),
                files: BTreeSet::new(),
            },
        }
    }

    /// Takes one `key=value`.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "cpus" => self.needs.cpus = value.parse()?,
            "mem" => self.needs.mem = value.parse()?,
            "timeout" => self.timeout = value.parse()?,
            "vm" => self.needs.tcg = Backend::from_str(value, true) == Ok(Backend::Tcg),
            "model" => self.needs.model = Some(value.into()),
            "firmware" if value == "vmx-off" => self.needs.vmx_off = true,
            "clock" if value == "tsc" => self.needs.tsc = true,
            "append" => self.needs.append = value.replace(',', " "),
            "files" => self.needs.files.extend(value.split(',').map(String::from)),
            "on" => {
                self.devices = match value {
                    "rkvm" => vec![Device::Rkvm],
                    "kvm" => vec![Device::Kvm],
                    "any" => vec![Device::Any],
                    "both" => vec![Device::Rkvm, Device::Kvm],
                    "none" => Vec::new(),
                    _ => bail!("on={value} is neither rkvm, kvm, both, any nor none"),
                }
            }
            "when" => {
                self.when = match value {
                    "always" => When::Always,
                    "stock" => When::Stock,
                    "debug" => When::Debug,
                    "last" => When::Last,
                    "named" => When::Named,
                    _ => bail!("when={value} is neither always, stock, debug, last nor named"),
                }
            }
            _ => bail!("no test has a property {key}={value}"),
        }
        Ok(())
    }

    /// Takes `key=value... -- text` or just `text`.
    fn describe(&mut self, text: &str) -> Result<()> {
        let mut rest = text.trim();
        loop {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            if word == "--" {
                self.about = after.trim().into();
                return Ok(());
            }
            match word.split_once('=') {
                Some((key, value)) => self
                    .set(key, value)
                    .with_context(|| format!("test {}", self.name))?,
                None => {
                    self.about = rest.into();
                    return Ok(());
                }
            }
            rest = after.trim_start();
        }
    }
}

/// All tests, scripts after the programs, upstream's last.
pub fn find(paths: &Paths, checkout: &Path) -> Result<Vec<Test>> {
    let mut tests = programs(paths)?;
    tests.extend(scripts(checkout)?);
    tests.extend(upstream::tests(checkout)?);
    for (index, test) in tests.iter().enumerate() {
        let first = tests.iter().position(|other| other.name == test.name);
        ensure!(first == Some(index), "two tests are named {}", test.name);
    }
    Ok(tests)
}

fn programs(paths: &Paths) -> Result<Vec<Test>> {
    let program = paths.bin.join("rkvm-selftest");
    let output = Command::new(&program).arg("--list").output();
    let output = output.with_context(|| format!("{} does not start", program.display()))?;
    ensure!(
        output.status.success(),
        "rkvm-selftest --list failed: {}",
        output.status
    );
    parse_list(&String::from_utf8_lossy(&output.stdout))
}

fn parse_list(list: &str) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let mut test = Test::new(name, &["/usr/bin/rkvm-selftest", name]);
        test.describe(rest)?;
        tests.push(test);
    }
    Ok(tests)
}

/// Scripts say what they need in lines `# rkvm-test: key=value... -- text`.
fn scripts(checkout: &Path) -> Result<Vec<Test>> {
    let folder = checkout.join("selftests/machine");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut tests = Vec::new();
    for name in names.iter().filter_map(|name| name.strip_suffix(".sh")) {
        let text = fs::read_to_string(folder.join(format!("{name}.sh")))?;
        let path = format!("/tests/{name}.sh");
        let mut test = Test::new(name, &["/bin/sh", &path]);
        let described = text
            .lines()
            .find_map(|line| line.strip_prefix("# rkvm-test:"));
        test.describe(described.with_context(|| format!("{name}.sh has no line # rkvm-test:"))?)?;
        tests.push(test);
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_properties() {
        let tests =
            parse_list("hlt cpus=2 timeout=30 -- HLT and wake-ups\nplain  just text\n").unwrap();
        assert_eq!(tests[0].needs.cpus, 2);
        assert_eq!(tests[0].timeout, 30);
        assert_eq!(tests[0].about, "HLT and wake-ups");
        assert_eq!(tests[1].about, "just text");
        assert_eq!(tests[1].argv, ["/usr/bin/rkvm-selftest", "plain"]);
    }

    #[test]
    fn unknown_properties_are_errors() {
        assert!(parse_list("a colour=red -- b\n").is_err());
        assert!(parse_list("a on=moon -- b\n").is_err());
        assert!(parse_list("a cpus=x -- b\n").is_err());
        assert!(parse_list("a when=never -- b\n").is_err());
    }
}
