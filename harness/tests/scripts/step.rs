// SPDX-License-Identifier: GPL-2.0

//! `step` of `scripts/lib.sh`: what a signal leaves, and what is said of a failure.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::text;
use crate::Scratch;

/// Waits until a file is there and has a line.
fn line_in(path: &Path) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_string(),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("no {}", path.display());
}

#[test]
fn a_signal_ends_a_step_and_what_it_started() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let scratch = Scratch::new();
        let pid_file = scratch.0.join("pid");
        // The program that counts is one that the step's own program waits for.
        let script = ". scripts/lib.sh
            work() { sh -c 'echo $$ >\"$1\"; exec sleep 1000' sh \"$1\"; echo not reached; }
            step 'a step' advice work \"$1\"
            echo not reached";
        let pid_text = pid_file.to_string_lossy();
        let mut shell = scratch
            .command("bash", &["-ec", script, "bash", &pid_text])
            .spawn()
            .unwrap();
        let pid = line_in(&pid_file);
        kill(Pid::from_raw(shell.id().try_into().unwrap()), signal).unwrap();
        let status = shell.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{signal}: {status}");
        let gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(gone(), "{signal}: what the step started runs on");
    }
}

#[test]
fn a_step_that_fails_says_so() {
    let scratch = Scratch::new();
    let script = ". scripts/lib.sh; step 'a step' 'some advice' sh -c 'echo a reason; exit 3'; echo not reached";
    let output = scratch.command("bash", &["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("a reason") && said.contains("status 3") && said.contains("some advice"));
    assert!(!text(&output).contains("not reached"));
}
