// SPDX-License-Identifier: GPL-2.0

//! Runs tests in as few boots as possible. A machine that hangs or crashes is started again with the tests
//! that are left.

use std::collections::BTreeMap;
use std::fs;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;

use crate::catalog::Needs;
use crate::catalog::Test;
use crate::fileset::FileSet;
use crate::guest;
use crate::job::Device;
use crate::job::Outcome;
use crate::job::Task;
use crate::kernel;
use crate::machine::Config;
use crate::paths::new_folder;
use crate::paths::Paths;
use crate::session;
use crate::session::Boot;
use crate::session::Fate;
use crate::session::Limits;
use crate::session::Line;
use crate::session::TaskLog;
use crate::tap::Point;
use crate::tap::Tap;

/// How a run is to be made.
pub struct Options {
    /// The machine where a test wants nothing else.
    pub machine: Config,
    /// The kernel that is booted.
    pub vmlinux: PathBuf,
    /// Folder of the sources.
    pub checkout: PathBuf,
    /// The module under test.
    pub module: PathBuf,
    /// Run on C KVM again what passed there before, though nothing changed.
    pub fresh: bool,
    /// What every machine runs after its other tests.
    pub last: Vec<Test>,
    /// No new boot is begun after this instant.
    pub deadline: Instant,
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Results that are as wanted.
    pub passed: usize,
    /// Results that are not.
    pub failed: usize,
    /// Results that could not be had.
    pub skipped: usize,
}

/// One test on one device, done or not.
pub struct Finished<'a> {
    /// The test.
    pub test: &'a Test,
    /// Its device.
    pub device: Device,
    /// What it did; `None` if it was not run.
    pub log: Option<TaskLog>,
    /// Why it failed over its single results.
    pub trouble: Vec<String>,
}

impl Finished<'_> {
    /// The single results in the output.
    pub fn tap(&self) -> Tap {
        let mut tap = Tap::default();
        for line in self.log.iter().flat_map(|log| &log.output) {
            tap.line(line);
        }
        tap
    }

    /// Whether all is well.
    pub fn good(&self) -> bool {
        let failed = |point: &Point| matches!(point, Point::Fail(_));
        self.trouble.is_empty() && !self.tap().points.iter().any(failed)
    }

    /// Counts its results; trouble counts as one failure.
    pub fn count(&self, totals: &mut Totals) {
        for point in self.tap().points {
            match point {
                Point::Pass(_) => totals.passed += 1,
                Point::Fail(_) => totals.failed += 1,
                Point::Skip(..) => totals.skipped += 1,
            }
        }
        totals.failed += usize::from(!self.trouble.is_empty());
    }
}

/// Tests that share a boot: same needs, same device.
pub struct Group<'a> {
    /// What the machine must have.
    pub needs: &'a Needs,
    /// The device all of them run on.
    pub device: Device,
    /// The tests in their order.
    pub tests: Vec<&'a Test>,
}

impl Group<'_> {
    /// What the group costs at most; the dearest is begun first.
    fn cost(&self) -> u32 {
        self.tests.iter().map(|test| test.timeout).sum()
    }
}

/// Whoever watches a run. Several machines may be running at once.
pub trait Watcher: Send {
    /// A machine is started for the tests from `first` on.
    fn boot(&mut self, group: &Group<'_>, first: usize);
    /// A group needs no machine: nothing has changed since it passed.
    fn kept(&mut self, group: &Group<'_>);
    /// A line of a machine.
    fn line(&mut self, group: &Group<'_>, line: &Line<'_>);
    /// A machine has ended.
    fn ended(&mut self, group: &Group<'_>, boot: &Boot, folder: &Path);
    /// A test has ended.
    fn finished(&mut self, finished: &Finished<'_>);
}

/// Runs the tests on their devices, in `jobs` machines at a time, and gives the totals.
pub fn run(
    paths: &Paths,
    options: &Options,
    tests: &[Test],
    jobs: usize,
    watcher: &mut dyn Watcher,
) -> Result<Totals> {
    let mut sorted: BTreeMap<(&Needs, Device), Vec<&Test>> = BTreeMap::new();
    for test in tests {
        for device in &test.devices {
            sorted.entry((&test.needs, *device)).or_default().push(test);
        }
    }
    let mut groups: Vec<Group<'_>> = sorted
        .into_iter()
        .map(|((needs, device), mut tests)| {
            tests.extend(&options.last);
            Group {
                needs,
                device,
                tests,
            }
        })
        .collect();
    groups.sort_by_key(|group| group.cost());
    let queue = Mutex::new(groups);
    let shared = Shared {
        paths,
        options,
        watcher: Mutex::new(watcher),
        totals: Mutex::default(),
    };
    let work = || -> Result<()> {
        loop {
            let group = lock(&queue).pop();
            let Some(group) = group else { return Ok(()) };
            shared.run_group(&group).with_context(|| {
                let Needs { cpus, mem, .. } = group.needs;
                format!("machine with {cpus} CPUs, {mem} MiB")
            })?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let totals = *lock(&shared.totals);
    Ok(totals)
}

/// Locks; a thread that panicked ends the run anyway, so what it left is looked at no more.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the workers share.
struct Shared<'a> {
    paths: &'a Paths,
    options: &'a Options,
    watcher: Mutex<&'a mut dyn Watcher>,
    totals: Mutex<Totals>,
}

impl Shared<'_> {
    fn run_group(&self, group: &Group<'_>) -> Result<()> {
        let Shared { paths, options, .. } = self;
        let mut set = FileSet::base(paths)?;
        guest::add_tests(&mut set, paths, &options.checkout)?;
        if group.device != Device::Kvm {
            guest::add_module(&mut set, paths, &options.module)?;
        }
        for name in &group.needs.files {
            guest::add(&mut set, paths, name)?;
        }
        let image = set.archive()?;
        let config = machine_for(group.needs, &options.machine);
        let reference = self.reference(group, &config, &image);
        if let Some(data) = reference.as_ref().and_then(|path| fs::read(path).ok()) {
            lock(&self.watcher).kept(group);
            let boot = session::replay(&self.tasks(&group.tests, group.device), &data, &mut |_| {});
            self.settle(group, &group.tests, boot);
            return Ok(());
        }
        let mut first = 0;
        while first < group.tests.len() {
            if Instant::now() >= options.deadline {
                for test in &group.tests[first..] {
                    let trouble = vec!["not run: the time for all tests is over".to_string()];
                    self.finish(&Finished {
                        test,
                        device: group.device,
                        log: None,
                        trouble,
                    });
                }
                return Ok(());
            }
            let folder = new_folder(&self.paths.cache.join("run"), "test")?;
            let (settled, good) = self.boot(group, first, (&config, &image), &folder)?;
            if let (true, Some(path)) = (good && settled == group.tests.len(), &reference) {
                kernel::store(path, &fs::read(folder.join("data.log"))?)?;
            }
            if good {
                fs::remove_dir_all(&folder)?;
            }
            first += settled;
        }
        Ok(())
    }

    /// Where the results of a group on C KVM are kept once all of it passed, by all that went into them. C KVM is
    /// the reference, not under test: there is nothing new to learn from the same run.
    fn reference(&self, group: &Group<'_>, config: &Config, image: &[u8]) -> Option<PathBuf> {
        if group.device != Device::Kvm || self.options.fresh {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        self.options.vmlinux.hash(&mut hasher);
        format!("{config:?}").hash(&mut hasher);
        for task in self.tasks(&group.tests, group.device) {
            task.to_string().hash(&mut hasher);
        }
        let folder = self.paths.cache.join("reference");
        fs::create_dir_all(&folder).ok()?;
        Some(folder.join(format!("{:016x}", hasher.finish())))
    }

    /// Boots a machine for the tests from `first` on. Gives the number of tests that are settled by it and whether
    /// all of them are good; the machine's files are kept.
    fn boot(
        &self,
        group: &Group<'_>,
        first: usize,
        (config, image): (&Config, &[u8]),
        folder: &Path,
    ) -> Result<(usize, bool)> {
        let tests = &group.tests[first..];
        // The machine's own clock ends a task first, unless the machine hangs.
        let longest = tests.iter().map(|test| test.timeout).max().unwrap_or(60);
        let limits = Limits::new(
            Duration::from_secs(u64::from(longest) + 60) * self.paths.slowness(),
            self.paths.slowness(),
        );
        let images = (self.options.vmlinux.as_path(), image);
        let tasks = self.tasks(tests, group.device);
        lock(&self.watcher).boot(group, first);
        let mut watch = |line: Line<'_>| lock(&self.watcher).line(group, &line);
        let boot = session::boot(config, limits, images, &tasks, folder, &mut watch)?;
        lock(&self.watcher).ended(group, &boot, folder);
        Ok(self.settle(group, tests, boot))
    }

    /// Judges the tests that a boot got to. Gives their number and whether all is well.
    fn settle(&self, group: &Group<'_>, tests: &[&Test], boot: Boot) -> (usize, bool) {
        // If the machine did not get so far as to begin a test, the first takes the blame, or there would be no end.
        let mut logs = boot.tasks;
        if logs.is_empty() {
            logs.push(TaskLog::default());
        }
        let settled = logs.len();
        let mut good = boot.fate == Fate::Done;
        for (log, test) in logs.into_iter().zip(tests) {
            let finished = judge(test, group.device, log, &boot.fate);
            good &= finished.good();
            self.finish(&finished);
        }
        (settled, good)
    }

    fn tasks(&self, tests: &[&Test], device: Device) -> Vec<Task> {
        let task = |test: &&Test| Task {
            name: test.name.clone(),
            device,
            timeout: test.timeout * self.paths.slowness(),
            argv: test.argv.clone(),
        };
        tests.iter().map(task).collect()
    }

    fn finish(&self, finished: &Finished<'_>) {
        finished.count(&mut lock(&self.totals));
        lock(&self.watcher).finished(finished);
    }
}

fn machine_for(needs: &Needs, usual: &Config) -> Config {
    let mut config = usual.clone();
    config.backend = needs.backend(usual.backend);
    config.cpus = needs.cpus;
    config.mem = needs.mem.max(usual.mem);
    if let Some(model) = &needs.model {
        config.model.clone_from(model);
    }
    config.vmx_off |= needs.vmx_off;
    if !needs.append.is_empty() {
        config.append = format!("{} {}", config.append, needs.append);
    }
    config
}

/// Finds out whether a test is good, from how it ended and what it and the kernel said.
fn judge<'a>(test: &'a Test, device: Device, log: TaskLog, fate: &Fate) -> Finished<'a> {
    let mut trouble = Vec::new();
    let mut ended = false;
    match (&log.outcome, fate) {
        (Some(Outcome::Exit(status)), _) => {
            ended = true;
            if *status != 0 {
                trouble.push(format!("exit status {status}"));
            }
        }
        (Some(Outcome::Signal(signal)), _) => trouble.push(format!("killed by signal {signal}")),
        (Some(Outcome::Timeout), _) => trouble.push("not done in its time".into()),
        (Some(Outcome::NotRun(why)), _) => trouble.push(format!("not run: {why}")),
        (None, Fate::Hung(why)) => trouble.push(format!("the machine hung: {why}")),
        (None, Fate::Crashed(why)) => trouble.push(format!("the machine crashed: {why}")),
        (None, Fate::Done) => trouble.push("the machine powered off".into()),
    }
    for line in &log.kernel {
        trouble.push(format!("kernel: {line}"));
    }
    let mut finished = Finished {
        test,
        device,
        log: Some(log),
        trouble,
    };
    if ended {
        let tap = finished.tap();
        finished.trouble.extend(tap.complaint());
        // A bad exit status with a failed result says the same thing twice.
        let failed = |point: &Point| matches!(point, Point::Fail(_));
        if tap.points.iter().any(failed) {
            finished
                .trouble
                .retain(|line| !line.starts_with("exit status"));
        }
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::When;
    use std::collections::BTreeSet;

    fn test() -> Test {
        let needs = Needs {
            cpus: 1,
            mem: 64,
            tcg: false,
            model: None,
            vmx_off: false,
            append: String::new(),
            files: BTreeSet::new(),
        };
        Test {
            name: "t".into(),
            about: String::new(),
            argv: vec!["/t".into()],
            devices: vec![Device::Rkvm],
            timeout: 5,
            when: When::Always,
            needs,
        }
    }

    fn log(outcome: Option<Outcome>, output: &str, kernel: &[&str]) -> TaskLog {
        TaskLog {
            outcome,
            output: output.lines().map(String::from).collect(),
            kernel: kernel.iter().map(|line| line.to_string()).collect(),
            ticks: 0,
        }
    }

    fn totals(log: TaskLog, fate: &Fate) -> Totals {
        let mut totals = Totals::default();
        judge(&test(), Device::Rkvm, log, fate).count(&mut totals);
        totals
    }

    #[test]
    fn a_good_test_counts_its_results() {
        let log = log(
            Some(Outcome::Exit(0)),
            "ok 1 - a\nok 2 - b # SKIP none\n1..2",
            &[],
        );
        let want = Totals {
            passed: 1,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(totals(log, &Fate::Done), want);
    }

    #[test]
    fn a_failed_result_and_its_exit_status_count_once() {
        let log = log(Some(Outcome::Exit(1)), "ok 1 - a\nnot ok 2 - b\n1..2", &[]);
        let want = Totals {
            passed: 1,
            failed: 1,
            skipped: 0,
        };
        assert_eq!(totals(log, &Fate::Done), want);
    }

    #[test]
    fn a_host_warning_fails_a_good_test() {
        let log = log(
            Some(Outcome::Exit(0)),
            "ok 1 - a\n1..1",
            &["WARNING: CPU: 0"],
        );
        assert_eq!(totals(log, &Fate::Done).failed, 1);
    }

    #[test]
    fn hangs_crashes_and_silence_are_failures() {
        for (log, fate) in [
            (log(None, "ok 1 - a", &[]), Fate::Hung("in t".into())),
            (log(None, "", &[]), Fate::Crashed("panic".into())),
            (log(Some(Outcome::Exit(0)), "", &[]), Fate::Done),
            (
                log(Some(Outcome::Signal(11)), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
            (
                log(Some(Outcome::Timeout), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
            (
                log(Some(Outcome::Exit(7)), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
        ] {
            assert_eq!(totals(log, &fate).failed, 1);
        }
    }
}
