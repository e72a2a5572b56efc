// SPDX-License-Identifier: GPL-2.0

//! The tests that KVM brings itself, `tools/testing/selftests/kvm` of the kernel's source, and those of rust-vmm's crate
//! `kvm-ioctls`: which of them run on what, as `selftests/upstream` says. `scripts/build-upstream` builds them, `selftests/machine/upstream.inc` runs one.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::catalog::Test;
use crate::catalog::When;

/// The list, in the checkout.
const LIST: &str = "selftests/upstream";
/// The programs' folder in the machine.
pub const FOLDER: &str = "/upstream/";
/// Before the names of these tests.
const PREFIX: &str = "upstream/";

/// The tests of the list, with those on no device that are left out.
pub fn tests(checkout: &Path) -> Result<Vec<Test>> {
    let list = fs::read_to_string(checkout.join(LIST)).with_context(|| format!("no {LIST}"))?;
    list.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| parse(line).with_context(|| format!("{LIST}: {line}")))
        .collect()
}

/// Reads `PROGRAM key=value... -- text`.
fn parse(line: &str) -> Result<Test> {
    let (head, about) = line.split_once(" -- ").context("a line says why")?;
    let mut words = head.split_whitespace();
    let program = words.next().context("no program")?;
    let name = program.rsplit('/').next().unwrap_or(program);
    let mut test = Test::new(&format!("{PREFIX}{name}"), &[]);
    test.about = about.trim().into();
    test.when = When::Named;
    let mut skips = "none";
    let mut args = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').context("a word is no key=value")?;
        match key {
            "skips" => {
                let known = ["rkvm", "kvm", "both"].contains(&value);
                ensure!(known, "skips={value} is neither rkvm, kvm nor both");
                skips = value;
            }
            "args" => args.extend(value.split(',')),
            _ => test.set(key, value)?,
        }
    }
    let program = format!("{FOLDER}{program}");
    let run = ["/bin/sh", "/tests/upstream.inc", &program, skips];
    test.argv = run.into_iter().chain(args).map(String::from).collect();
    Ok(test)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Device;

    #[test]
    fn a_line_is_a_test() {
        let test = parse("x86/debug_regs  cpus=2 skips=rkvm args=-s,3 -- not yet").unwrap();
        assert_eq!(test.name, "upstream/debug_regs");
        assert_eq!(test.about, "not yet");
        assert_eq!(test.needs.cpus, 2);
        assert_eq!(test.when, When::Named);
        assert_eq!(test.devices, [Device::Rkvm, Device::Kvm]);
        let words = "/bin/sh /tests/upstream.inc /upstream/x86/debug_regs rkvm -s 3";
        assert_eq!(test.argv.join(" "), words);
    }

    #[test]
    fn what_is_left_out_says_why() {
        let test = parse("x86/sev_smoke_test on=none -- needs SEV").unwrap();
        assert!(test.devices.is_empty());
        assert!(parse("x86/sev_smoke_test on=none").is_err());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("rseq_test quick -- a").is_err());
        assert!(parse("rseq_test skips=me -- a").is_err());
        assert!(parse("rseq_test colour=red -- a").is_err());
    }

    #[test]
    fn the_list_of_this_checkout_is_good() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = super::tests(&checkout).unwrap();
        assert!(found.iter().any(|test| test.devices.len() == 2));
    }
}
