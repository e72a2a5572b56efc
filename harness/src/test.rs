// SPDX-License-Identifier: GPL-2.0

//! `rkvm-harness test`: runs the behaviour tests in machines and says what became of them.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Result;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use rkvm_harness::catalog;
use rkvm_harness::catalog::Needs;
use rkvm_harness::catalog::Test;
use rkvm_harness::catalog::When;
use rkvm_harness::emulator::Backend;
use rkvm_harness::job::Device;
use rkvm_harness::paths::Paths;
use rkvm_harness::session::Boot;
use rkvm_harness::session::Fate;
use rkvm_harness::session::Line;
use rkvm_harness::suite;
use rkvm_harness::suite::Group;
use rkvm_harness::suite::Options;
use rkvm_harness::suite::Watcher;
use rkvm_harness::tap::Point;
use rkvm_harness::verdict::Finished;

use crate::shell::MachineArgs;

/// Which implementations are tested.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum On {
    Both,
    Rkvm,
    Kvm,
}

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Run on rkvm, on C KVM or on both.
    #[arg(long, value_enum, default_value = "both")]
    on: On,
    /// The module.
    #[arg(long, default_value = "rkvm.ko", env = "RKVM_MODULE")]
    module: PathBuf,
    /// Seconds of wall time for everything.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// Machines that run at a time; one for each CPU by default.
    #[arg(short, long)]
    jobs: Option<usize>,
    /// Boot machines of C KVM, too, whose results are kept.
    #[arg(long)]
    fresh: bool,
    /// Only list the tests.
    #[arg(long)]
    list: bool,
    /// Tests to run: names, or beginnings of names closed by a star. All by default.
    names: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let paths = Paths::find()?;
    let checkout = std::env::current_dir()?;
    let (last, tests) = catalog::find(&paths, &checkout)?
        .into_iter()
        .partition(|test: &Test| test.when == When::Last);
    let tests = choose(tests, paths.debug, args)?;
    if args.list {
        for test in &tests {
            let devices: Vec<String> = test.devices.iter().map(Device::to_string).collect();
            println!("{:28} {:9} {}", test.name, devices.join(","), test.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    args.machine.check_host(&checkout.join(&args.module))?;
    let options = Options {
        machine: args.machine.config(&paths),
        vmlinux: args.machine.vmlinux(&paths)?,
        module: checkout.join(&args.module),
        checkout,
        fresh: args.fresh,
        last: if paths.debug { last } else { Vec::new() },
        deadline: Instant::now() + Duration::from_secs(args.timeout),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = match args.machine.vm {
        // There is but one host to run on.
        Backend::None => 1,
        _ => args.jobs.unwrap_or(cores),
    };
    // What comes last in each machine is not foreseen in the bar's length.
    let runs = tests.iter().map(|test| test.devices.len()).sum::<usize>();
    let mut console = Console {
        bar: bar(runs as u64),
        paths: &paths,
        verbose: args.machine.verbose,
        failed: Vec::new(),
    };
    let totals = suite::run(&paths, &options, &tests, jobs, &mut console);
    console.bar.finish_and_clear();
    console.say_what_failed();
    let totals = totals?;
    println!("{} skipped", totals.skipped);
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(if totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Keeps the tests that were asked for, on the devices that were asked for.
fn choose(mut tests: Vec<Test>, debug: bool, args: &Args) -> Result<Vec<Test>> {
    let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    for pattern in &args.names {
        if !tests.iter().any(|test| matches(pattern, &test.name)) {
            bail!("no test is named {pattern}; --list shows them");
        }
    }
    let wanted = |test: &Test| {
        args.names
            .iter()
            .any(|pattern| matches(pattern, &test.name))
    };
    let usual = |test: &Test| match test.when {
        When::Always => true,
        When::Named => false,
        When::Stock => !debug,
        When::Debug => debug,
        When::Last => false,
    };
    // On this host itself there is no machine like those that some tests are about.
    let vm = args.machine.vm;
    let possible = |test: &Test| vm != Backend::None || test.needs.backend(vm) == vm;
    tests.retain(|test| (args.names.is_empty() && usual(test) && possible(test)) || wanted(test));
    for test in &mut tests {
        test.devices.retain(|device| match args.on {
            On::Both => true,
            On::Rkvm => *device != Device::Kvm,
            On::Kvm => *device == Device::Kvm,
        });
    }
    // What runs on no device is only listed, with its reason.
    tests.retain(|test| args.list || !test.devices.is_empty());
    Ok(tests)
}

fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} [{wide_bar}] {pos}/{len} {msg}");
    // Where the output is no terminal, indicatif draws nothing.
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Names a machine.
fn label(group: &Group<'_>) -> String {
    let Needs {
        cpus, mem, files, ..
    } = group.needs;
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let with = if files.is_empty() {
        String::new()
    } else {
        format!(", {}", files.join(", "))
    };
    format!("[{}: {cpus} CPU, {mem} MiB{with}]", group.device)
}

/// Most lines on what went wrong in one test.
const BRIEF: usize = 10;
/// Most lines on what went wrong in all: the end of a long log is what is seen of it.
const ALL_BRIEF: usize = 40;

/// Shows a run on the terminal.
struct Console<'a> {
    bar: ProgressBar,
    paths: &'a Paths,
    verbose: bool,
    /// Each test that failed, with what went wrong.
    failed: Vec<(String, Vec<String>)>,
}

impl Console<'_> {
    fn print(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }

    /// Says once more what failed, where everything else has been said.
    fn say_what_failed(&self) {
        // A name takes a line, too.
        let room = ALL_BRIEF.saturating_sub(self.failed.len());
        let most = room / self.failed.len().max(1);
        for (name, brief) in &self.failed {
            println!("failed: {name}");
            for line in brief.iter().take(most) {
                println!("    {line}");
            }
        }
    }
}

impl Watcher for Console<'_> {
    fn boot(&mut self, group: &Group<'_>, first: usize) {
        let tests = group.tests.len() - first;
        self.print(&format!("{}: power-on, {tests} tests to do", label(group)));
    }

    fn kept(&mut self, group: &Group<'_>) {
        self.print(&format!(
            "{}: unchanged since it passed, results are kept",
            label(group)
        ));
    }

    fn line(&mut self, group: &Group<'_>, line: &Line<'_>) {
        match line {
            Line::Console(text) if self.verbose => {
                self.print(&format!("{}: console| {text}", label(group)));
            }
            Line::Output(text) if self.verbose => self.print(&format!("{}: {text}", label(group))),
            _ => {}
        }
    }

    fn ended(&mut self, group: &Group<'_>, boot: &Boot, folder: &Path) {
        let total = boot.total.as_secs();
        let label = label(group);
        match &boot.fate {
            Fate::Done => {
                let (up, ticks) = boot.up.unwrap_or_default();
                let (up, ticks) = (up.as_secs_f32(), ticks / 1_000_000);
                self.print(&format!(
                    "{label}: off after {total} s (up after {up:.1} s, {ticks} M ticks)"
                ));
            }
            Fate::Hung(why) | Fate::Crashed(why) => {
                self.print(&format!(
                    "{label}: FAILED after {total} s: {why}; it last said:"
                ));
                boot.last
                    .iter()
                    .for_each(|line| self.print(&format!("  | {line}")));
                self.print(&format!("  logs: {}", self.paths.shown(folder)));
            }
        }
    }

    fn finished(&mut self, finished: &Finished<'_>) {
        let Finished {
            test,
            device,
            log,
            trouble,
        } = finished;
        let tap = finished.tap();
        let ticks = log.as_ref().map_or(0, |log| log.ticks / 1_000_000);
        let word = if finished.good() { "ok" } else { "FAILED" };
        let count = tap.points.len();
        let name = format!("{} on {device}", test.name);
        self.print(&format!(
            "{word:6} {name:36} {count:4} results, {ticks} M ticks"
        ));
        for point in &tap.points {
            if let Point::Skip(what, why) = point {
                self.print(&format!("       skipped: {what}: {why}"));
            }
        }
        if !finished.good() {
            trouble
                .iter()
                .for_each(|line| self.print(&format!("       {line}")));
            let output = log.iter().flat_map(|log| &log.output);
            output.for_each(|line| self.print(&format!("       | {line}")));
            self.failed.push((name, finished.brief(BRIEF)));
        }
        self.bar.inc(1);
    }
}
