// SPDX-License-Identifier: GPL-2.0

//! Puts the kernel image, the initramfs and the command line into guest memory.

use crate::layout;
use crate::machine::{Config, Protocol};
use crate::Outcome;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{BzImage, KernelLoader};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, ReadVolatile};

/// What is in memory, and where.
pub struct Loaded {
    /// The entry of the chosen protocol.
    pub entry: u64,
    /// The setup header of a bzImage.
    pub header: Option<setup_header>,
    /// Start and bytes of the initramfs.
    pub initrd: Option<(u64, u64)>,
}

/// Loads everything that `config` names.
pub fn load(memory: &GuestMemoryMmap<()>, config: &Config) -> Outcome<Loaded> {
    let (entry, end, header) = image(memory, &config.kernel, config.protocol)?;
    let mut line = config.cmdline.clone().into_bytes();
    line.push(0);
    if line.len() > layout::CMDLINE_MAX {
        return Err(format!(
            "the command line has more than {} bytes",
            layout::CMDLINE_MAX - 1
        )
        .into());
    }
    memory.write_slice(&line, GuestAddress(layout::CMDLINE))?;
    let initrd = match &config.initrd {
        Some(path) => Some(initrd(memory, path, config.mem << 20, end)?),
        None => None,
    };
    Ok(Loaded {
        entry,
        header,
        initrd,
    })
}

fn open(path: &Path) -> Outcome<File> {
    File::open(path).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// The entry, the end in memory, and the setup header when there is one.
fn image(
    memory: &GuestMemoryMmap<()>,
    path: &Path,
    protocol: Protocol,
) -> Outcome<(u64, u64, Option<setup_header>)> {
    let mut file = open(path)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    file.rewind()?;
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let high = Some(GuestAddress(layout::HIGH));
    if magic == *b"\x7fELF" {
        let loaded = Elf::load(memory, None, &mut file, high).map_err(|e| wrong(&e))?;
        let entry = match (protocol, loaded.pvh_boot_cap) {
            (Protocol::Linux, _) => loaded.kernel_load.0,
            (Protocol::Pvh, PvhBootCapability::PvhEntryPresent(entry)) => entry.0,
            (Protocol::Pvh, _) => return Err(wrong(&"no PVH entry note").into()),
        };
        return Ok((entry, loaded.kernel_end, None));
    }
    if protocol == Protocol::Pvh {
        return Err(wrong(&"PVH wants an ELF vmlinux").into());
    }
    let loaded = BzImage::load(memory, None, &mut file, high).map_err(|e| wrong(&e))?;
    let header = loaded
        .setup_header
        .ok_or_else(|| wrong(&"no setup header"))?;
    const XLF_KERNEL_64: u16 = 1;
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(wrong(&"the kernel has no 64-bit entry").into());
    }
    // While it unpacks itself the kernel needs init_size bytes from where it likes to be.
    let end = loaded
        .kernel_end
        .max(header.pref_address + u64::from(header.init_size));
    Ok((loaded.kernel_load.0 + 0x200, end, Some(header)))
}

/// Puts the initramfs as high as the memory below 4 GiB allows.
fn initrd(
    memory: &GuestMemoryMmap<()>,
    path: &Path,
    bytes: u64,
    kernel_end: u64,
) -> Outcome<(u64, u64)> {
    let mut file = open(path)?;
    let len = file.metadata()?.len();
    let top = bytes.min(layout::HOLE_START);
    let start = top
        .checked_sub(len)
        .map(|s| s & !0xfff)
        .filter(|s| *s >= kernel_end);
    let start = start.ok_or_else(|| {
        format!(
            "{}: no room in {} MiB of memory",
            path.display(),
            bytes >> 20
        )
    })?;
    read_all(memory, start, &mut file, len)?;
    Ok((start, len))
}

fn read_all(
    memory: &GuestMemoryMmap<()>,
    start: u64,
    file: &mut impl ReadVolatile,
    len: u64,
) -> Outcome {
    memory.read_exact_volatile_from(GuestAddress(start), file, len as usize)?;
    Ok(())
}
