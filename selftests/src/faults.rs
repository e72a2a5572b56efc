// SPDX-License-Identifier: GPL-2.0

//! Makes allocations and copies to and from user space fail, one at a time, by the kernel's fault injection.
//!
//! `/proc/thread-self/fail-nth` makes the n-th such call of this thread fail. Only what the module under test is on the
//! stack of counts, and kmemleak not, so that neither this program nor the rest of the kernel is hit.

use crate::errno::Errno;
use crate::Outcome;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is made to fail, and the settings of each that a thread's own count does not go without.
const KINDS: [(&str, &[(&str, &str)]); 3] = [
    (
        "failslab",
        &[("ignore-gfp-wait", "N"), ("cache-filter", "N")],
    ),
    (
        "fail_page_alloc",
        &[
            ("ignore-gfp-wait", "N"),
            ("ignore-gfp-highmem", "N"),
            ("min-order", "0"),
        ],
    ),
    ("fail_usercopy", &[]),
];

/// More than there can be in one call.
const ENOUGH: u32 = 5000;

/// A program of calls that runs in rounds, until each call has met each of its failures.
pub struct Faults {
    nth: Nth,
    /// How often a call was made in this round, by its name.
    made: BTreeMap<&'static str, usize>,
    /// The next failure that a call, by its name and how often it was made before, is to meet; 0 once all are done.
    next: BTreeMap<(&'static str, usize), u32>,
    /// Whether a call of this round has more failures to meet, after one that it did not tell of.
    unfinished: bool,
    /// How often which call failed, over all rounds.
    pub failed: BTreeMap<&'static str, usize>,
    /// How many failures did not show.
    pub hidden: usize,
    /// Calls that told something else than that memory or an address is missing.
    pub odd: Vec<(&'static str, Errno)>,
}

impl Faults {
    /// Sets the kernel up, for the module `module`. `None` if it has no fault injection.
    pub fn new(module: &str) -> Outcome<Option<Self>> {
        let Some(nth) = Nth::new()? else {
            return Ok(None);
        };
        count_calls_of(text_of(module)?)?;
        Ok(Some(Faults {
            nth,
            made: BTreeMap::new(),
            next: BTreeMap::new(),
            unfinished: false,
            failed: BTreeMap::new(),
            hidden: 0,
            odd: Vec::new(),
        }))
    }

    /// Starts the program from its beginning. False if all its calls have met all their failures.
    pub fn again(&mut self) -> bool {
        let first = self.next.is_empty();
        self.made.clear();
        std::mem::replace(&mut self.unfinished, false) || first
    }

    /// Makes a call that may meet failures: the first time the first of the things that can fail in it does, then the
    /// second, and so on, until none is left. When it tells of a failure it is made again; when it succeeds in spite of
    /// one, it meets the next in the next round.
    pub fn call<T>(
        &mut self,
        name: &'static str,
        mut call: impl FnMut() -> Result<T, Errno>,
    ) -> Outcome<T> {
        let made = self.made.entry(name).or_default();
        let key = (name, *made);
        *made += 1;
        loop {
            let n = *self.next.entry(key).or_insert(1);
            let (result, fired) = self.nth.call(n, &mut call)?;
            self.next.insert(key, if fired { n + 1 } else { 0 });
            match result {
                Err(e) if !fired => return Err(format!("{name}, failure {n}: {e}").into()),
                Err(_) if n == ENOUGH => return Err(format!("{name} never ends to fail").into()),
                Err(e) => {
                    *self.failed.entry(name).or_default() += 1;
                    if e.0 != libc::ENOMEM && e.0 != libc::EFAULT {
                        self.odd.push((name, e));
                    }
                }
                Ok(value) => {
                    self.hidden += usize::from(fired);
                    self.unfinished |= fired;
                    return Ok(value);
                }
            }
        }
    }
}

/// The count of this thread.
pub struct Nth(fs::File);

impl Nth {
    /// `None` if the kernel has no fault injection.
    pub fn new() -> Outcome<Option<Self>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth");
        Ok(file.ok().map(Self))
    }

    /// Makes a call in which the `n`-th thing that can fail does; 0: none does. Answers what it returns, and whether the
    /// failure has happened.
    pub fn call<T>(&mut self, n: u32, call: impl FnOnce() -> T) -> Outcome<(T, bool)> {
        self.set(n)?;
        let result = call();
        let mut text = [0; 16];
        let len = self.0.read_at(&mut text, 0)?;
        let fired = n != 0 && text[..len].trim_ascii() == b"0";
        self.set(0)?;
        Ok((result, fired))
    }

    fn set(&mut self, n: u32) -> Outcome {
        self.0.write_all(n.to_string().as_bytes())?;
        Ok(())
    }
}

impl Drop for Nth {
    fn drop(&mut self) {
        // A count that stays would hit whatever comes next; a thread that can't write it is about to end anyway.
        let _ = self.set(0);
    }
}

/// Sets the kernel up: what counts is what code in this range of addresses calls.
pub fn count_calls_of((start, end): (u64, u64)) -> Outcome {
    let (books, books_end) = kmemleak()?;
    for (kind, own) in KINDS {
        let folder = Path::new("/sys/kernel/debug").join(kind);
        let set = |name: &str, value: &str| {
            fs::write(folder.join(name), value)
                .map_err(|e| format!("{}/{name}: {e}", folder.display()))
        };
        // Each failure is wanted: no word of it in the kernel's log.
        set("verbose", "0")?;
        set("stacktrace-depth", "32")?;
        set("require-start", &start.to_string())?;
        set("require-end", &end.to_string())?;
        set("reject-start", &books.to_string())?;
        set("reject-end", &books_end.to_string())?;
        for (name, value) in own {
            set(name, value)?;
        }
    }
    Ok(())
}

/// Where a module's code is, from /proc/modules: the first address and one behind the last (or a little more).
pub fn text_of(module: &str) -> Outcome<(u64, u64)> {
    let modules = fs::read_to_string("/proc/modules")?;
    let fields = |line: &str| -> Option<(u64, u64)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if *words.first()? != module {
            return None;
        }
        let start = u64::from_str_radix(words.get(5)?.strip_prefix("0x")?, 16).ok()?;
        Some((start, start + words.get(1)?.parse::<u64>().ok()?))
    };
    modules
        .lines()
        .find_map(fields)
        .ok_or_else(|| format!("no module {module} in /proc/modules").into())
}

/// Where the code of kmemleak is: it keeps books of each allocation, and gives up if there is no memory for them. (0, 0)
/// if this kernel has none.
fn kmemleak() -> Outcome<(u64, u64)> {
    let entries = [
        "kmemleak_alloc",
        "kmemleak_alloc_percpu",
        "kmemleak_vmalloc",
        "kmemleak_scan_area",
    ];
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let mut places = Vec::new();
    let mut own = Vec::new();
    for line in symbols.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, name] = words[..] else {
            continue;
        };
        let address = u64::from_str_radix(address, 16)?;
        places.push(address);
        if entries.contains(&name) {
            own.push(address);
        }
    }
    let (Some(&start), Some(&last)) = (own.iter().min(), own.iter().max()) else {
        return Ok((0, 0));
    };
    let end = places.into_iter().filter(|&place| place > last).min();
    Ok((start, end.unwrap_or(last)))
}
