// SPDX-License-Identifier: GPL-2.0

//! What a machine is told to do and how it answers. The harness writes the job to `/job` in the machine;
//! the machine's first process (`rkvm-init`) reads it and reports on the second serial port.
//!
//! Reports are lines that start with [`MARK`]; all other lines come from the programs that were run.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fmt;

mod complaints;

pub use complaints::Complaints;

/// Starts every line that rkvm-init itself writes. Programs don't print this byte.
pub const MARK: char = '\x01';

/// Which implementation of KVM a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// rkvm, on `/dev/rkvm`.
    Rkvm,
    /// The kernel's own, on `/dev/kvm`.
    Kvm,
    /// Neither module is touched.
    Any,
}

impl Device {
    /// The device node, also the value of `RKVM_DEV`.
    pub fn node(self) -> &'static str {
        match self {
            Device::Rkvm | Device::Any => "/dev/rkvm",
            Device::Kvm => "/dev/kvm",
        }
    }

    fn parse(text: &str) -> Option<Device> {
        [Device::Rkvm, Device::Kvm, Device::Any]
            .into_iter()
            .find(|device| device.to_string() == text)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Rkvm => "rkvm",
            Device::Kvm => "kvm",
            Device::Any => "any",
        })
    }
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name in the reports; no spaces.
    pub name: String,
    /// What it runs on.
    pub device: Device,
    /// Seconds of the machine's time after which it is killed.
    pub timeout: u32,
    /// Program and arguments; no spaces in them.
    pub argv: Vec<String>,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argv = self.argv.join(" ");
        write!(
            f,
            "task {} {} {} {argv}",
            self.name, self.device, self.timeout
        )
    }
}

impl Task {
    /// Reads a line that [`Task`] was written to.
    pub fn parse(line: &str) -> Option<Task> {
        let mut words = line.split_whitespace();
        if words.next() != Some("task") {
            return None;
        }
        Some(Task {
            name: words.next()?.to_string(),
            device: Device::parse(words.next()?)?,
            timeout: words.next()?.parse().ok()?,
            argv: words.map(String::from).collect(),
        })
    }
}

/// A report of rkvm-init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The machine is up; ticks since power-on.
    Up(u64),
    /// Task number `n` starts.
    Begin(usize),
    /// The kernel complained while task number `n` ran.
    Kernel(usize, String),
    /// Task number `n` ended.
    End(usize, Outcome, u64),
    /// All tasks are done; power-off follows.
    Done,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status.
    Exit(i32),
    /// A signal killed it.
    Signal(i32),
    /// It ran out of its time.
    Timeout,
    /// It could not be started, or its device could not be made ready.
    NotRun(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exit(status) => write!(f, "exit {status}"),
            Outcome::Signal(signal) => write!(f, "signal {signal}"),
            Outcome::Timeout => f.write_str("timeout"),
            Outcome::NotRun(why) => write!(f, "notrun {why}"),
        }
    }
}

impl Outcome {
    fn parse(text: &str) -> Option<Outcome> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "exit" => Some(Outcome::Exit(rest.parse().ok()?)),
            "signal" => Some(Outcome::Signal(rest.parse().ok()?)),
            "timeout" => Some(Outcome::Timeout),
            "notrun" => Some(Outcome::NotRun(rest.to_string())),
            _ => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Up(ticks) => write!(f, "{MARK}up {ticks}"),
            Report::Begin(task) => write!(f, "{MARK}begin {task}"),
            Report::Kernel(task, line) => write!(f, "{MARK}kernel {task} {line}"),
            Report::End(task, outcome, ticks) => write!(f, "{MARK}end {task} {ticks} {outcome}"),
            Report::Done => write!(f, "{MARK}done"),
        }
    }
}

impl Report {
    /// Reads a report; `None` for a line that is none.
    pub fn parse(line: &str) -> Option<Report> {
        let line = line.strip_prefix(MARK)?;
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "up" => Some(Report::Up(rest.parse().ok()?)),
            "begin" => Some(Report::Begin(rest.parse().ok()?)),
            "done" => Some(Report::Done),
            "kernel" => {
                let (task, text) = rest.split_once(' ')?;
                Some(Report::Kernel(task.parse().ok()?, text.to_string()))
            }
            "end" => {
                let mut parts = rest.splitn(3, ' ');
                let task = parts.next()?.parse().ok()?;
                let ticks = parts.next()?.parse().ok()?;
                Some(Report::End(task, Outcome::parse(parts.next()?)?, ticks))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_survive_the_way_into_the_machine() {
        let task = Task {
            name: "hlt".into(),
            device: Device::Kvm,
            timeout: 30,
            argv: vec!["/tests/hlt".into(), "--fast".into()],
        };
        assert_eq!(Task::parse(&task.to_string()), Some(task));
        assert_eq!(Task::parse("ok 1 - something"), None);
    }

    #[test]
    fn reports_survive_the_way_out() {
        for report in [
            Report::Up(12),
            Report::Begin(3),
            Report::Kernel(3, "WARNING: CPU: 0 at x".into()),
            Report::End(3, Outcome::Exit(1), 99),
            Report::End(3, Outcome::Signal(11), 99),
            Report::End(3, Outcome::Timeout, 99),
            Report::End(3, Outcome::NotRun("no such file".into()), 99),
            Report::Done,
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn what_a_program_prints_is_no_report() {
        assert_eq!(Report::parse("end 3 99 exit 0"), None);
        assert_eq!(Report::parse("\x01end 3"), None);
    }
}
