// SPDX-License-Identifier: GPL-2.0

//! The files of an initramfs, gathered from the environment and turned into a cpio archive.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::cpio::Archive;
use crate::cpio::Node;
use crate::kernel::filter;
use crate::paths::Paths;

enum Entry {
    Dir,
    Bytes(u32, Vec<u8>),
    Symlink(String),
    Char(u32, u32),
}

/// A tree of files, by their path in the machine without the leading slash.
#[derive(Default)]
pub struct FileSet {
    entries: BTreeMap<String, Entry>,
}

impl FileSet {
    /// The base of every machine: `/init`, busybox, a console node, the usual folders.
    pub fn base(paths: &Paths) -> Result<FileSet> {
        let mut set = FileSet::default();
        set.busybox()?;
        set.file(&paths.bin.join("rkvm-init"), "init")?;
        Ok(set)
    }

    /// The usual folders, a console node, busybox under all its names.
    pub fn busybox(&mut self) -> Result<()> {
        for dir in [
            "dev", "proc", "sys", "tmp", "run", "root", "etc", "mnt", "usr/bin", "usr/lib",
        ] {
            self.dir(dir);
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/bin"),
            ("usr/sbin", "bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            self.entries
                .insert(link.into(), Entry::Symlink(target.into()));
        }
        self.dir("usr/lib64");
        self.entries.insert("dev/console".into(), Entry::Char(5, 1));
        self.bytes(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\n".to_vec(),
        );
        self.bytes("etc/group", 0o644, b"root:x:0:\n".to_vec());
        let busybox = find_busybox()?;
        self.file(&busybox, "usr/bin/busybox")?;
        for applet in applets(&busybox)? {
            self.entries.insert(
                format!("usr/bin/{applet}"),
                Entry::Symlink("busybox".into()),
            );
        }
        Ok(())
    }

    /// Whether a file is there.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(&self.resolve(path))
    }

    /// Adds a folder and those above it.
    pub fn dir(&mut self, path: &str) {
        let mut at = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
            self.entries.entry(at.clone()).or_insert(Entry::Dir);
        }
    }

    /// Adds a file with the given contents.
    pub fn bytes(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        let path = self.resolve(path);
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.dir(folder);
        }
        self.entries.insert(path, Entry::Bytes(mode, bytes));
    }

    /// Adds one file (not what it needs) as `dest`.
    pub fn file(&mut self, source: &Path, dest: &str) -> Result<()> {
        let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o7777;
        self.bytes(dest, mode, bytes);
        Ok(())
    }

    /// Adds a file or a folder with all below it; of a dynamic executable also the libraries it needs.
    pub fn tree(&mut self, source: &Path, dest: &str) -> Result<()> {
        let meta = fs::metadata(source).with_context(|| format!("no file {}", source.display()))?;
        if !meta.is_dir() {
            self.file(source, dest)?;
            return self.libraries(source);
        }
        self.dir(dest);
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("a file name is no UTF-8")?;
            self.tree(
                &entry.path(),
                &format!("{}/{name}", dest.trim_end_matches('/')),
            )?;
        }
        Ok(())
    }

    /// Adds the shared libraries and the loader of a dynamic executable.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        if !is_dynamic(program)? {
            return Ok(());
        }
        let output = Command::new("ldd")
            .arg(program)
            .output()
            .context("running ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text.lines() {
            let line = line.trim();
            ensure!(
                !line.ends_with("not found"),
                "{}: {line}",
                program.display()
            );
            let path = line.split(" => ").last().unwrap_or(line);
            let path = path.split(" (").next().unwrap_or(path);
            if path.starts_with('/') {
                self.file(Path::new(path), path)?;
            }
        }
        Ok(())
    }

    /// Adds kernel modules by name with all they depend on, unpacked, and the tables that modprobe reads.
    pub fn modules(&mut self, paths: &Paths, names: &[String]) -> Result<()> {
        let table = read_dependencies(paths)?;
        let folder = format!("usr/lib/modules/{}", paths.release);
        let mut wanted = BTreeSet::new();
        for name in names {
            let found = table
                .keys()
                .find(|path| module_name(path) == normal(name))
                .with_context(|| format!("the stock kernel has no module {name}"))?;
            wanted.insert(found.clone());
            wanted.extend(table[found].iter().cloned());
        }
        let mut dep = String::new();
        for path in &wanted {
            let plain = path.trim_end_matches(".xz");
            let mut bytes = fs::read(paths.modules.join(path))?;
            if path.ends_with(".xz") {
                bytes = filter(&["xz", "-dc"], &bytes)?;
            }
            self.bytes(&format!("{folder}/{plain}"), 0o644, bytes);
            let needs: Vec<&str> = table[path]
                .iter()
                .map(|p| p.trim_end_matches(".xz"))
                .collect();
            dep.push_str(&format!("{plain}: {}\n", needs.join(" ")));
        }
        self.bytes(&format!("{folder}/modules.dep"), 0o644, dep.into_bytes());
        let builtin = fs::read(paths.modules.join("modules.builtin"))?;
        self.bytes(&format!("{folder}/modules.builtin"), 0o644, builtin);
        Ok(())
    }

    /// The archive.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Dir => archive.add(path, 0o755, &Node::Dir)?,
                Entry::Bytes(mode, bytes) => archive.add(path, *mode, &Node::File(bytes))?,
                Entry::Symlink(target) => archive.add(path, 0o777, &Node::Symlink(target))?,
                Entry::Char(major, minor) => {
                    archive.add(path, 0o600, &Node::Char(*major, *minor))?
                }
            }
        }
        Ok(archive.finish()?)
    }

    /// Replaces a leading symbolic link of the tree, so that nothing is put below a link.
    fn resolve(&self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        if let Some((first, rest)) = path.split_once('/') {
            if let Some(Entry::Symlink(target)) = self.entries.get(first) {
                return format!("{target}/{rest}");
            }
        }
        path.to_string()
    }
}

/// Whether an ELF file names a loader. Scripts and data are not dynamic.
fn is_dynamic(program: &Path) -> Result<bool> {
    let bytes = fs::read(program)?;
    if !bytes.starts_with(b"\x7fELF\x02") {
        return Ok(false);
    }
    let table = u64::from_le_bytes(bytes[32..40].try_into()?) as usize;
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    // PT_DYNAMIC: libraries have it too, and their needs are added as well.
    Ok((0..count).any(|i| bytes.get(table + i * 56) == Some(&2)))
}

fn find_busybox() -> Result<PathBuf> {
    for path in ["/usr/bin/busybox", "/bin/busybox"] {
        let path = PathBuf::from(path);
        if path.exists() && !is_dynamic(&path)? {
            return Ok(path);
        }
    }
    bail!("no static busybox (package busybox-static)")
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .context("running busybox")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter(|name| *name != "busybox")
        .map(String::from)
        .collect())
}

/// Reads modules.dep; paths are relative to the kernel's module folder.
fn read_dependencies(paths: &Paths) -> Result<BTreeMap<String, Vec<String>>> {
    let file = paths.modules.join("modules.dep");
    if !file.exists() {
        let base = paths.stock.join("usr");
        let status = Command::new("depmod")
            .arg("-b")
            .arg(base)
            .arg(&paths.release)
            .status();
        ensure!(
            status.context("running depmod (package kmod)")?.success(),
            "depmod failed"
        );
    }
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let parse = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        Some((
            path.to_string(),
            needs.split_whitespace().map(String::from).collect(),
        ))
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// `kernel/arch/x86/kvm/kvm-intel.ko.xz` -> `kvm_intel`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split(".ko").next().unwrap_or(file))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_behind_links_of_the_tree() {
        let mut set = FileSet::default();
        set.dir("usr/lib");
        set.entries
            .insert("lib".into(), Entry::Symlink("usr/lib".into()));
        set.bytes("/lib/x86_64/libc.so.6", 0o644, vec![1]);
        assert!(set.entries.contains_key("usr/lib/x86_64/libc.so.6"));
        assert!(set.entries.contains_key("usr/lib/x86_64"));
    }

    #[test]
    fn module_names_are_compared_as_the_kernel_does() {
        assert_eq!(
            module_name("kernel/arch/x86/kvm/kvm-intel.ko.xz"),
            normal("kvm_intel")
        );
        assert_eq!(module_name("a/b/irqbypass.ko"), "irqbypass");
    }
}
