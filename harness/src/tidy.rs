// SPDX-License-Identifier: GPL-2.0

//! What nobody has used for long goes from the cache: folders of machines that were looked at or left by a harness that was
//! killed, results and kernels of another time.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Tidies the cache up. What can't be removed stays.
pub fn tidy(cache: &Path) {
    remove_unused(&cache.join("run"), 3 * DAY, "");
    for folder in ["reference", "images"].map(|name| cache.join(name)) {
        // See kernel::store().
        remove_unused(&folder, DAY, "part-");
        remove_unused(&folder, 60 * DAY, "");
    }
}

/// Notes that a file is in use.
pub fn used(path: &Path) {
    // Where that fails, the file is made once more some day.
    let _ = File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes what begins with `start` and has not changed for as long as `age`, nor any file in it.
fn remove_unused(folder: &Path, age: Duration, start: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(start);
        if !named || changed(&path).is_none_or(|time| time.elapsed().unwrap_or_default() < age) {
            continue;
        }
        let _ = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
    }
}

/// When a file, or anything in a folder, changed last.
fn changed(path: &Path) -> Option<SystemTime> {
    let own = fs::symlink_metadata(path).ok()?.modified().ok()?;
    let inner = fs::read_dir(path).into_iter().flatten().flatten();
    let inner = inner.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    Some(inner.fold(own, SystemTime::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::new_folder;

    fn age(path: &Path, days: u32) {
        let time = SystemTime::now() - days * DAY;
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_is_old_goes_and_what_is_in_use_stays() {
        let cache = new_folder(&std::env::temp_dir(), "tidy").unwrap();
        for (name, days) in [
            ("run/test-0/console.log", 4),
            ("run/test-1/console.log", 2),
            ("reference/part-0/part", 2),
            ("reference/aaaa", 61),
            ("reference/bbbb", 61),
            ("reference/cccc", 2),
            ("elsewhere/file", 999),
        ] {
            let path = cache.join(name);
            let folder = path.parent().unwrap();
            fs::create_dir_all(folder).unwrap();
            fs::write(&path, "x").unwrap();
            age(&path, days);
            age(folder, 999);
        }
        used(&cache.join("reference/bbbb"));
        tidy(&cache);
        let left = |folder: &str| {
            let entries = fs::read_dir(cache.join(folder)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left("run"), ["test-1"]);
        assert_eq!(left("reference"), ["bbbb", "cccc"]);
        assert_eq!(left("elsewhere"), ["file"]);
        fs::remove_dir_all(cache).unwrap();
    }
}
