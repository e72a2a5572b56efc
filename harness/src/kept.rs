// SPDX-License-Identifier: GPL-2.0

//! Results that are kept, by all that they come from: the files that a machine was made of (kernel, programs, tests,
//! settings) and the emulator.

use std::fs;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;

use crate::emulator;
use crate::emulator::Backend;
use crate::emulator::Prepared;
use crate::kernel;
use crate::tidy;

/// Where the results of a machine are kept. `None` if it would not do the same once more: where it is not emulated, it
/// is made of the processor and the kernel of this host, too.
pub fn place(cache: &Path, machine: &Prepared) -> Result<Option<PathBuf>> {
    if machine.backend != Backend::Bochs {
        return Ok(None);
    }
    let name = digest(&emulator::bochs_version()?, &machine.folder)?;
    let folder = cache.join("reference");
    fs::create_dir_all(&folder)?;
    Ok(Some(folder.join(format!("{name:016x}"))))
}

/// What begins a file of results, before their length and sum.
const MAGIC: &str = "rkvm-results-1";

/// Keeps results.
pub fn store(path: &Path, results: &[u8]) -> Result<()> {
    kernel::store(path, &[header(results).as_bytes(), results].concat())
}

/// The results that are kept at a place. None if there are none, or not all of what was stored, which then goes.
pub fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, results) = bytes.split_at(end.map_or(0, |end| end + 1));
    if head != header(results).as_bytes() {
        // If it can't be removed, it is no better the next time.
        let _ = fs::remove_file(path);
        return None;
    }
    tidy::used(path);
    Some(results.to_vec())
}

fn header(results: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    results.hash(&mut hasher);
    format!("{MAGIC} {} {:016x}\n", results.len(), hasher.finish())
}

/// Tells machines apart by their emulator and the files in `folder`.
fn digest(emulator: &str, folder: &Path) -> Result<u64> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    emulator.hash(&mut hasher);
    for path in files {
        path.file_name().hash(&mut hasher);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        bytes.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::new_folder;
    use std::process::Command;

    fn machine(files: &[(&str, &str)]) -> Prepared {
        let folder = new_folder(&std::env::temp_dir(), "kept").unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        Prepared {
            backend: Backend::Bochs,
            folder,
            command: Command::new("true"),
            last_words: None,
        }
    }

    fn digest_of(emulator: &str, files: &[(&str, &str)]) -> u64 {
        let machine = machine(files);
        let digest = digest(emulator, &machine.folder).unwrap();
        fs::remove_dir_all(machine.folder).unwrap();
        digest
    }

    #[test]
    fn a_machine_is_known_by_all_it_is_made_of() {
        let first = digest_of("bochs 3", &[("disk", "programs"), ("rc", "1 cpu")]);
        let again = digest_of("bochs 3", &[("rc", "1 cpu"), ("disk", "programs")]);
        assert_eq!(first, again);
        for (emulator, files) in [
            ("bochs 4", &[("disk", "programs"), ("rc", "1 cpu")][..]),
            ("bochs 3", &[("disk", "program?"), ("rc", "1 cpu")]),
            ("bochs 3", &[("disk", "programs"), ("rc", "2 cpu")]),
            ("bochs 3", &[("disk", "programs"), ("rd", "1 cpu")]),
            ("bochs 3", &[("disk", "programs")]),
            (
                "bochs 3",
                &[("disk", "programs"), ("more", ""), ("rc", "1 cpu")],
            ),
        ] {
            assert_ne!(digest_of(emulator, files), first, "{emulator}, {files:?}");
        }
    }

    #[test]
    fn results_that_are_not_whole_are_none() {
        let folder = new_folder(&std::env::temp_dir(), "results").unwrap();
        let path = folder.join("results");
        let results = b"ok 1 - a\n1..1\ndone\n";
        assert_eq!(read(&path), None);
        store(&path, results).unwrap();
        assert_eq!(read(&path).as_deref(), Some(&results[..]));
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() - 3] ^= 1;
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        for bytes in cut.chain([changed, results.to_vec(), [&whole[..], b"more"].concat()]) {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path), None, "{} bytes", bytes.len());
            assert!(!path.exists());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nothing_is_kept_of_a_machine_that_this_host_is_a_part_of() {
        let cache = Path::new("/nowhere");
        for backend in [Backend::Qemu, Backend::None] {
            let mut machine = machine(&[]);
            machine.backend = backend;
            assert_eq!(place(cache, &machine).unwrap(), None);
            fs::remove_dir_all(machine.folder).unwrap();
        }
    }
}
