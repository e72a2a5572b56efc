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
use crate::emulator::Config;
use crate::fileset::FileSet;
use crate::guest;
use crate::job::Device;
use crate::job::Task;
use crate::kernel;
use crate::paths::new_folder;
use crate::paths::Paths;
use crate::session;
use crate::session::Boot;
use crate::session::Fate;
use crate::session::Limits;
use crate::session::Line;
use crate::session::TaskLog;
use crate::verdict::judge;
use crate::verdict::Finished;
use crate::verdict::Totals;

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
        let machine = session::prepare(config, images, &tasks, folder)?;
        let boot = session::boot(machine, limits, &tasks, &mut watch)?;
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
