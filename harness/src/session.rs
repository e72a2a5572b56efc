// SPDX-License-Identifier: GPL-2.0

//! One boot of a machine with a list of tasks: follows its two ports, keeps the time limits and finds out
//! how each task, and the machine itself, ended.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::emulator;
use crate::emulator::Config;
use crate::emulator::Prepared;
use crate::fileset::FileSet;
use crate::interrupt;
use crate::job::Complaints;
use crate::job::Outcome;
use crate::job::Report;
use crate::job::Task;
use crate::machine::End;
use crate::machine::Machine;
use crate::machine::Port;

/// Last lines of the ports that are kept for the report of a hung machine.
const KEPT_LINES: usize = 40;
/// What a kernel says last.
const GOODBYES: [&str; 2] = ["reboot: Power down", "reboot: Restarting system"];

/// Time limits, in time that the machine spends ([`Machine::spent`]).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From power-on to the first process.
    pub boot: Duration,
    /// For each task; the machine itself ends it earlier by its own clock if it can.
    pub task: Duration,
    /// Between two tasks, and after the machine said that it panics; twice that after it was done.
    pub pause: Duration,
}

impl Limits {
    /// Those of a machine whose kernel takes `slowness` times as long as a stock one, with `task` as it is.
    pub fn new(task: Duration, slowness: u32) -> Self {
        Limits {
            boot: Duration::from_secs(180) * slowness,
            task,
            pause: Duration::from_secs(5) * slowness,
        }
    }
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All tasks ran and the machine powered off.
    Done,
    /// The boot or a task took too long.
    Hung(String),
    /// The kernel panicked, the machine reset or the emulator ended by itself.
    Crashed(String),
}

/// What became of one task.
#[derive(Clone, Debug, Default)]
pub struct TaskLog {
    /// How it ended; `None` if it did not.
    pub outcome: Option<Outcome>,
    /// What it printed.
    pub output: Vec<String>,
    /// What the kernel complained of meanwhile.
    pub kernel: Vec<String>,
    /// Ticks it took (instructions on Bochs).
    pub ticks: u64,
}

/// What became of one boot.
pub struct Boot {
    /// How it ended.
    pub fate: Fate,
    /// One entry for each task that was begun.
    pub tasks: Vec<TaskLog>,
    /// Time and ticks from power-on to the first process.
    pub up: Option<(Duration, u64)>,
    /// From power-on to the end.
    pub total: Duration,
    /// The last lines of both ports.
    pub last: VecDeque<String>,
}

/// A line of the machine, for whoever watches.
pub enum Line<'a> {
    /// From the kernel's console.
    Console(&'a str),
    /// From a program.
    Output(&'a str),
    /// From rkvm-init.
    Report(&'a Report),
}

/// Makes a machine of a kernel and an initramfs, which is to run `tasks`, in an empty folder.
pub fn prepare(
    config: &Config,
    (vmlinux, base): (&Path, &[u8]),
    tasks: &[Task],
    folder: &Path,
) -> Result<Prepared> {
    let mut job = FileSet::default();
    let text: Vec<String> = tasks.iter().map(|task| format!("{task}\n")).collect();
    job.bytes("job", 0o644, text.concat().into_bytes());
    emulator::prepare(config, vmlinux, &[base, &job.archive()?], folder)
}

/// Boots a machine that was made for `tasks` and tells `watch` every line at once.
pub fn boot(
    machine: Prepared,
    limits: Limits,
    tasks: &[Task],
    watch: &mut dyn FnMut(Line<'_>),
) -> Result<Boot> {
    let folder = machine.folder.clone();
    let mut session = Session::new(limits, tasks);
    let followed = session.follow(Machine::start(machine)?, watch);
    if interrupt::came().is_some() {
        // There is nothing to learn from a machine that somebody ended. What can't be removed stays.
        let _ = fs::remove_dir_all(folder);
    }
    followed?;
    Ok(session.boot)
}

/// Goes once more through what the data port of an earlier boot, which was done with all its tasks, said.
pub fn replay(tasks: &[Task], data: &[u8], watch: &mut dyn FnMut(Line<'_>)) -> Boot {
    let limits = Limits::new(Duration::ZERO, 0);
    let mut session = Session::new(limits, tasks);
    session.take(Port::Data, data, Duration::ZERO, watch);
    if !session.done {
        session.boot.fate = Fate::Crashed("the kept results are cut short".into());
    }
    session.boot
}

/// A line of the console without the time that it begins with.
fn without_time(line: &str) -> &str {
    match line
        .trim()
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "))
    {
        Some((_, text)) => text,
        None => line.trim(),
    }
}

struct Session<'a> {
    limits: Limits,
    tasks: &'a [Task],
    boot: Boot,
    /// Line not yet complete, for each port.
    partial: [Vec<u8>; 2],
    /// Time spent by the machine ([`Machine::spent`]) at which it is given up.
    deadline: Duration,
    /// Time it has spent by now.
    now: Duration,
    /// What the machine is waited for, in words.
    awaited: String,
    done: bool,
    /// The kernel said that it switches the machine off.
    switched_off: bool,
    panic: Option<String>,
    complaints: Complaints,
    /// Complaints on the console since rkvm-init looks for them, too.
    on_console: Vec<String>,
}

impl<'a> Session<'a> {
    fn new(limits: Limits, tasks: &'a [Task]) -> Self {
        Session {
            limits,
            tasks,
            boot: Boot {
                fate: Fate::Done,
                tasks: Vec::new(),
                up: None,
                total: Duration::ZERO,
                last: VecDeque::new(),
            },
            partial: [Vec::new(), Vec::new()],
            deadline: limits.boot,
            now: Duration::ZERO,
            awaited: "to start its first process".into(),
            done: false,
            switched_off: false,
            panic: None,
            complaints: Complaints::default(),
            on_console: Vec::new(),
        }
    }

    fn follow(&mut self, mut machine: Machine, watch: &mut dyn FnMut(Line<'_>)) -> Result<()> {
        loop {
            self.now = machine.spent();
            let left = self.deadline.saturating_sub(self.now);
            for (port, bytes) in machine.wait(left)? {
                self.take(port, &bytes, machine.elapsed(), watch);
            }
            if let Some(end) = machine.ended() {
                self.ended(end, machine.has_console());
                break;
            }
            if machine.spent() >= self.deadline {
                self.boot.fate = match self.panic.take() {
                    Some(why) => Fate::Crashed(why),
                    None if self.done => Fate::Hung("powering off took too long".into()),
                    None => Fate::Hung(format!("took too long {}", self.awaited)),
                };
                break;
            }
        }
        self.complain_of_the_rest();
        self.boot.total = machine.elapsed();
        machine.complaints().iter().for_each(|line| self.keep(line));
        machine.stop()
    }

    /// Has the last task answer for what the console complained of and rkvm-init did not report: it came after that task, or
    /// rkvm-init did not live to see it.
    fn complain_of_the_rest(&mut self) {
        let tasks = &mut self.boot.tasks;
        for reported in tasks.iter().flat_map(|task| &task.kernel) {
            // A record of several lines is one report.
            let same = |line: &String| line.contains(reported) || reported.contains(line.as_str());
            if let Some(at) = self.on_console.iter().position(same) {
                self.on_console.remove(at);
            }
        }
        if let Some(task) = tasks.last_mut() {
            task.kernel.append(&mut self.on_console);
        }
    }

    /// The emulator has ended: that is good if the machine was done with its tasks and switched the power off.
    fn ended(&mut self, end: End, has_console: bool) {
        let how = match end {
            End::PowerOff if !self.done => Some("it powered off before it was done".into()),
            End::PowerOff if has_console && !self.switched_off => {
                Some("it ended before its kernel switched it off".into())
            }
            End::PowerOff => None,
            End::Broken(how) => Some(how),
        };
        if let Some(why) = self.panic.take().or(how) {
            self.boot.fate = Fate::Crashed(why);
        }
    }

    fn take(
        &mut self,
        port: Port,
        bytes: &[u8],
        elapsed: Duration,
        watch: &mut dyn FnMut(Line<'_>),
    ) {
        let index = usize::from(port == Port::Data);
        let mut partial = std::mem::take(&mut self.partial[index]);
        for &byte in bytes {
            if byte != b'\n' {
                partial.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&partial)
                .trim_end_matches('\r')
                .to_string();
            partial.clear();
            self.line(port, &line, elapsed, watch);
        }
        self.partial[index] = partial;
    }

    fn line(&mut self, port: Port, line: &str, elapsed: Duration, watch: &mut dyn FnMut(Line<'_>)) {
        if port == Port::Data {
            // A program that died amid a line leaves its rest before the mark.
            let (rest, marked) = match line.find(crate::job::MARK) {
                Some(at) => line.split_at(at),
                None => (line, ""),
            };
            if marked.is_empty() || !rest.is_empty() {
                self.keep(rest);
                if let Some(task) = self.boot.tasks.last_mut() {
                    task.output.push(rest.to_string());
                }
                watch(Line::Output(rest));
            }
            if let Some(report) = Report::parse(marked) {
                self.report(&report, elapsed);
                watch(Line::Report(&report));
            }
            return;
        }
        self.keep(line);
        watch(Line::Console(line));
        if self.panic.is_none() && line.contains("Kernel panic - not syncing") {
            self.panic = Some(line.trim().to_string());
            self.deadline = self.now + self.limits.pause;
        }
        self.switched_off |= GOODBYES.iter().any(|words| line.contains(words));
        if self.complaints.has(line) && self.boot.up.is_some() {
            self.on_console.push(without_time(line).to_string());
        }
    }

    fn keep(&mut self, line: &str) {
        if self.boot.last.len() == KEPT_LINES {
            self.boot.last.pop_front();
        }
        self.boot.last.push_back(line.to_string());
    }

    fn report(&mut self, report: &Report, elapsed: Duration) {
        match report {
            Report::Up(_) if self.boot.up.is_some() => {
                self.panic = Some("the machine reset itself".into());
                self.deadline = self.now;
            }
            Report::Up(ticks) => {
                self.boot.up = Some((elapsed, *ticks));
                self.deadline = self.now + self.limits.pause;
                self.awaited = "to begin its first task".into();
            }
            Report::Begin(number) => {
                self.boot.tasks.push(TaskLog::default());
                self.deadline = self.now + self.limits.task;
                let name = self
                    .tasks
                    .get(*number)
                    .map_or("?", |task| task.name.as_str());
                self.awaited = format!("in {name}");
            }
            Report::Kernel(number, line) => {
                if let Some(task) = self.boot.tasks.get_mut(*number) {
                    task.kernel.push(line.clone());
                }
            }
            Report::End(number, outcome, ticks) => {
                if let Some(task) = self.boot.tasks.get_mut(*number) {
                    task.outcome = Some(outcome.clone());
                    task.ticks = *ticks;
                }
                self.awaited = "between two tasks".into();
                self.deadline = self.now + self.limits.pause;
            }
            Report::Done => {
                self.done = true;
                self.deadline = self.now + 2 * self.limits.pause;
            }
        }
    }
}
