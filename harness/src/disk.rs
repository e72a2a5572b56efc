// SPDX-License-Identifier: GPL-2.0

//! Lays out the disk that a Bochs machine boots from: boot sector, parameter block, kernel, initramfs.
//! The other side of this layout is boot/boot.S.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::elf::Kernel;

const BOOT_SECTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/boot.bin"));
const SECTOR: usize = 512;
const PARAM_SECTORS: usize = 8;
/// Physical addresses that boot.S and the parameter block agree upon.
const PARAMS: u32 = 0x8000;
const MEMMAP: u64 = 0x5000;
const START_INFO: usize = 0x40;
const MODLIST: usize = 0x80;
const EXTENTS: usize = 0x100;
const CMDLINE: usize = 0x700;
/// Where the initramfs is put: above any kernel.
const INITRD: u32 = 0x0800_0000;
const HVM_START_MAGIC: u32 = 0x336e_c578;
/// Bochs takes 16 heads of 63 sectors and wants whole cylinders.
const CYLINDER: usize = 16 * 63 * SECTOR;
/// Zeros in the kernel are filled in, not read, from this many bytes on.
const ZERO_RUN: usize = 64 * 1024;

/// A run of sectors and where the boot sector puts it.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    /// First sector, or 0 for zeros.
    lba: u32,
    sectors: u32,
    dest: u32,
}

/// Writes the disk image to `path`. The initramfs is the concatenation of `initramfs`.
pub fn write(path: &Path, vmlinux: &[u8], initramfs: &[&[u8]], cmdline: &str) -> Result<()> {
    let kernel = Kernel::parse(vmlinux)?;
    let mut data: Vec<&[u8]> = Vec::new();
    let mut extents = Vec::new();
    let mut lba = 1 + PARAM_SECTORS as u32;
    for segment in &kernel.segments {
        let start = segment.offset as usize;
        let bytes = vmlinux
            .get(start..start + segment.file_size as usize)
            .context("a segment of the kernel lies outside its file")?;
        for (offset, length, zero) in zero_runs(bytes) {
            let sectors = length.div_ceil(SECTOR) as u32;
            let dest = u32::try_from(segment.paddr as usize + offset)?;
            extents.push(Extent {
                lba: if zero { 0 } else { lba },
                sectors,
                dest,
            });
            if !zero {
                data.push(&bytes[offset..offset + length]);
                lba += sectors;
            }
        }
        let rest = (segment.mem_size - segment.file_size) as usize;
        if rest > 0 {
            let dest = u32::try_from(segment.paddr + segment.file_size)?;
            extents.push(Extent {
                lba: 0,
                sectors: rest.div_ceil(SECTOR) as u32,
                dest,
            });
        }
        ensure!(
            segment.paddr + segment.mem_size <= u64::from(INITRD),
            "the kernel is too large"
        );
    }
    let initrd_size: usize = initramfs.iter().map(|part| part.len()).sum();
    let initrd_sectors = initrd_size.div_ceil(SECTOR) as u32;
    extents.push(Extent {
        lba,
        sectors: initrd_sectors,
        dest: INITRD,
    });

    let params = params(kernel.entry, &extents, initrd_size as u64, cmdline)?;
    let mut out = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    out.write_all(BOOT_SECTOR)?;
    out.write_all(&params)?;
    for part in data {
        out.write_all(part)?;
        out.write_all(&[0u8; SECTOR][..(SECTOR - part.len() % SECTOR) % SECTOR])?;
    }
    for part in initramfs {
        out.write_all(part)?;
    }
    let size = (lba as usize + initrd_sectors as usize) * SECTOR;
    out.set_len(size.next_multiple_of(CYLINDER) as u64)?;
    Ok(())
}

/// Splits `bytes` into runs `(offset, length, all zero)` that start at sector borders.
fn zero_runs(bytes: &[u8]) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (index, block) in bytes.chunks(ZERO_RUN).enumerate() {
        let zero = block.iter().all(|&b| b == 0);
        match runs.last_mut() {
            Some(last) if last.2 == zero => last.1 += block.len(),
            _ => runs.push((index * ZERO_RUN, block.len(), zero)),
        }
    }
    runs
}

/// Builds the parameter block.
fn params(entry: u32, extents: &[Extent], initrd_size: u64, cmdline: &str) -> Result<Vec<u8>> {
    let mut block = vec![0u8; PARAM_SECTORS * SECTOR];
    put(&mut block, 0, &entry.to_le_bytes());

    let address = |offset: usize| u64::from(PARAMS) + offset as u64;
    put(&mut block, START_INFO, &HVM_START_MAGIC.to_le_bytes());
    put(&mut block, START_INFO + 0x04, &1u32.to_le_bytes());
    put(&mut block, START_INFO + 0x0c, &1u32.to_le_bytes());
    put(
        &mut block,
        START_INFO + 0x10,
        &address(MODLIST).to_le_bytes(),
    );
    put(
        &mut block,
        START_INFO + 0x18,
        &address(CMDLINE).to_le_bytes(),
    );
    put(&mut block, START_INFO + 0x28, &MEMMAP.to_le_bytes());
    put(&mut block, MODLIST, &u64::from(INITRD).to_le_bytes());
    put(&mut block, MODLIST + 8, &initrd_size.to_le_bytes());

    let table = EXTENTS + extents.len() * 12;
    ensure!(
        table + 12 <= CMDLINE,
        "the kernel falls into too many extents"
    );
    for (index, extent) in extents.iter().enumerate() {
        let at = EXTENTS + index * 12;
        put(&mut block, at, &extent.lba.to_le_bytes());
        put(&mut block, at + 4, &extent.sectors.to_le_bytes());
        put(&mut block, at + 8, &extent.dest.to_le_bytes());
    }
    ensure!(
        CMDLINE + cmdline.len() < block.len(),
        "the kernel command line is too long"
    );
    put(&mut block, CMDLINE, cmdline.as_bytes());
    Ok(block)
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_one_sector_with_its_signature() {
        assert_eq!(BOOT_SECTOR.len(), SECTOR);
        assert_eq!(&BOOT_SECTOR[510..], [0x55, 0xaa]);
    }

    #[test]
    fn runs_cover_everything_once() {
        let mut bytes = vec![1u8; ZERO_RUN];
        bytes.extend(vec![0u8; 2 * ZERO_RUN]);
        bytes.extend([7u8; 100]);
        let runs = zero_runs(&bytes);
        assert_eq!(
            runs,
            [
                (0, ZERO_RUN, false),
                (ZERO_RUN, 2 * ZERO_RUN, true),
                (3 * ZERO_RUN, 100, false)
            ]
        );
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        assert!(params(0, &[], 0, &"x".repeat(4096)).is_err());
        assert!(params(0, &[], 0, "console=ttyS0").is_ok());
    }
}
