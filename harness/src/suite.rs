// SPDX-License-Identifier: GPL-2.0

//! Runs tests in as few boots as possible. A machine that hangs or crashes is started again with the tests
//! that are left.

use std::collections::BTreeMap;
use std::fs;
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
use crate::contents;
use crate::emulator::Backend;
use crate::emulator::Config;
use crate::emulator::Prepared;
use crate::fileset::FileSet;
use crate::guest;
use crate::interrupt;
use crate::job::Device;
use crate::job::Task;
use crate::kept;
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
    /// Boot machines of C KVM, too, whose results are kept.
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
            interrupt::check()?;
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
        let config = machine_for(group.needs, &self.options.machine);
        let image = self.image(group, config.backend)?;
        let mut first = 0;
        while first < group.tests.len() {
            first += self.run_machine(group, first, &config, &image)?;
        }
        Ok(())
    }

    /// The initramfs of a group's machines.
    fn image(&self, group: &Group<'_>, backend: Backend) -> Result<Vec<u8>> {
        let Shared { paths, options, .. } = self;
        let mut set = FileSet::base(paths)?;
        contents::add_kernel_modules(&mut set, paths)?;
        if group.device != Device::Kvm {
            contents::add_module(&mut set, paths, &options.module, backend)?;
        }
        for name in &group.needs.files {
            guest::add(&mut set, paths, name)?;
        }
        for test in &group.tests {
            contents::add_named(&mut set, paths, &options.checkout, &test.argv.join(" "))?;
        }
        set.archive()
    }

    /// Makes a machine for the tests from `first` on and boots it, unless its results are kept. Gives the number of
    /// tests that are settled by it. The files of a machine that is not good are left for a look.
    fn run_machine(
        &self,
        group: &Group<'_>,
        first: usize,
        config: &Config,
        image: &[u8],
    ) -> Result<usize> {
        let tests = &group.tests[first..];
        let tasks = self.tasks(tests, group.device);
        let folder = new_folder(&self.paths.cache.join("run"), "test")?;
        let images = (self.options.vmlinux.as_path(), image);
        let machine = session::prepare(config, images, &tasks, &folder)?;
        let place = self.place(group, &machine)?;
        let kept = place.as_ref().and_then(|path| kept::read(path));
        let kept = kept.map(|data| session::replay(&tasks, &data, &mut |_| {}));
        // Only good results are kept; what is good may have changed since.
        let kept = kept.filter(|boot| all_good(tests, group.device, boot));
        let (settled, good) = if let Some(boot) = kept {
            lock(&self.watcher).kept(group);
            self.settle(group, tests, boot)
        } else if Instant::now() >= self.options.deadline {
            self.give_up(group, tests)
        } else {
            lock(&self.watcher).boot(group, first);
            let mut watch = |line: Line<'_>| lock(&self.watcher).line(group, &line);
            let boot = session::boot(machine, self.limits(tests), &tasks, &mut watch)?;
            lock(&self.watcher).ended(group, &boot, &folder);
            let (settled, good) = self.settle(group, tests, boot);
            if let (true, Some(path)) = (good && settled == tests.len(), place) {
                kept::store(&path, &fs::read(folder.join("data.log"))?)?;
            }
            (settled, good)
        };
        if good {
            fs::remove_dir_all(&folder)?;
        }
        Ok(settled)
    }

    /// Where the results of a machine for C KVM are kept once all of its tests passed. C KVM is the reference, not under
    /// test: there is nothing new to learn from the same machine.
    fn place(&self, group: &Group<'_>, machine: &Prepared) -> Result<Option<PathBuf>> {
        if group.device != Device::Kvm || self.options.fresh {
            return Ok(None);
        }
        kept::place(&self.paths.cache, machine)
    }

    fn limits(&self, tests: &[&Test]) -> Limits {
        // The machine's own clock ends a task first, unless the machine hangs. A busy second of it takes an emulator more than
        // one on any processor, and two on a slow one.
        let longest = tests.iter().map(|test| test.timeout).max().unwrap_or(60);
        Limits::new(
            Duration::from_secs(2 * u64::from(longest) + 60) * self.paths.slowness(),
            self.paths.slowness(),
        )
    }

    /// Settles tests that nothing is begun for any more. Nothing of their machine is worth a look.
    fn give_up(&self, group: &Group<'_>, tests: &[&Test]) -> (usize, bool) {
        for test in tests {
            self.finish(&Finished {
                test,
                device: group.device,
                log: None,
                trouble: vec!["not run: the time for all tests is over".into()],
            });
        }
        (tests.len(), true)
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
        for (number, (log, test)) in logs.into_iter().zip(tests).enumerate() {
            // Whatever befell the machine, it did so in the last test that was begun or after it.
            let last = number + 1 == settled;
            let fate = if last { &boot.fate } else { &Fate::Done };
            let finished = judge(test, group.device, log, fate);
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

/// Whether a boot ran all of its tests, and well.
fn all_good(tests: &[&Test], device: Device, boot: &Boot) -> bool {
    let good =
        |(test, log): (&&Test, &TaskLog)| judge(test, device, log.clone(), &Fate::Done).good();
    boot.fate == Fate::Done
        && boot.tasks.len() == tests.len()
        && tests.iter().zip(&boot.tasks).all(good)
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
    config.tsc |= needs.tsc;
    if !needs.append.is_empty() {
        config.append = format!("{} {}", config.append, needs.append);
    }
    config
}
