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

            last_words: None,
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
