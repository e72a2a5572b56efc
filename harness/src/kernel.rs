// SPDX-License-Identifier: GPL-2.0

//! Gets the flat vmlinux out of a bzImage, once, into the cache.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::UNIX_EPOCH;

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::paths::new_folder;
use crate::tidy;

/// Magic bytes of the compressed payload and the program that unpacks it.
const UNPACKERS: [(&[u8], &[&str]); 5] = [
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dcq"]),
    (b"\xfd7zXZ\0", &["xz", "-dc"]),
    (b"\x1f\x8b", &["gzip", "-dc"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dc"]),
    (b"BZh", &["bzip2", "-dc"]),
];

/// Path of the vmlinux inside `vmlinuz`, unpacked into `cache` unless it is there already.
pub fn vmlinux(vmlinuz: &Path, cache: &Path) -> Result<PathBuf> {
    let meta = fs::metadata(vmlinuz).with_context(|| format!("no kernel {}", vmlinuz.display()))?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
    let images = cache.join("images");
    fs::create_dir_all(&images)?;
    let path = images.join(format!("vmlinux-{}-{changed}", meta.len()));
    if path.exists() {
        tidy::used(&path);
        return Ok(path);
    }
    let image = fs::read(vmlinuz)?;
    let elf = unpack(&image).with_context(|| format!("unpacking {}", vmlinuz.display()))?;
    store(&path, &elf)?;
    Ok(path)
}

/// Writes a file so that it is there either completely or not at all.
pub fn store(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    let own = new_folder(folder, "part")?;
    let part = own.join("part");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        // A name that outlives a power failure is that of a whole file.
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, path)?;
    fs::remove_dir(own)?;
    Ok(())
}

/// Takes the payload of a bzImage (boot protocol 2.08 or newer) apart.
fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "this is no bzImage"
    );
    let setup_sectors = usize::from(*image.get(0x1f1).context("cut short")?).max(4);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes of the payload are its unpacked size.
    let payload = image
        .get(start..start + word(0x24c)? - 4)
        .context("the payload is cut short")?;
    for (magic, command) in UNPACKERS {
        if payload.starts_with(magic) {
            return filter(command, payload);
        }
    }
    bail!(
        "unknown compression {:02x?}",
        &payload[..payload.len().min(6)]
    );
}

/// Runs `input` through a program.
pub fn filter(command: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let (program, args) = command.split_first().context("empty command")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} does not start"))?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        // A program that stops reading early shows in its exit status.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        output.status
    );
    Ok(output.stdout)
}
