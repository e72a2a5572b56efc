// SPDX-License-Identifier: GPL-2.0

//! The little of the ELF format that booting a kernel needs: loadable segments and the PVH entry note.

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Type of the note "Xen" that holds the 32-bit physical entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// One loadable segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Physical address it is loaded to.
    pub paddr: u64,
    /// Bytes taken from the file.
    pub file_size: u64,
    /// Bytes taken in memory; what is over `file_size` is zero.
    pub mem_size: u64,
}

/// What the boot sector has to know of a kernel.
pub struct Kernel {
    /// Segments in file order.
    pub segments: Vec<Segment>,
    /// Physical address of the PVH entry point.
    pub entry: u32,
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N]> {
    image
        .get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .context("the kernel's ELF file is cut short")
}

fn u16_at(image: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(image, at)?))
}

fn u32_at(image: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(image, at)?))
}

fn u64_at(image: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(image, at)?))
}

impl Kernel {
    /// Reads a 64-bit little-endian vmlinux.
    pub fn parse(image: &[u8]) -> Result<Kernel> {
        if image.get(..6) != Some(b"\x7fELF\x02\x01") {
            bail!("the kernel is no 64-bit little-endian ELF file");
        }
        let table = u64_at(image, 32)? as usize;
        let entry_size = usize::from(u16_at(image, 54)?);
        let count = usize::from(u16_at(image, 56)?);
        let mut segments = Vec::new();
        let mut entry = None;
        for index in 0..count {
            let at = table + index * entry_size;
            let (offset, file_size) = (u64_at(image, at + 8)?, u64_at(image, at + 32)?);
            match u32_at(image, at)? {
                PT_LOAD => segments.push(Segment {
                    offset,
                    paddr: u64_at(image, at + 24)?,
                    file_size,
                    mem_size: u64_at(image, at + 40)?,
                }),
                PT_NOTE => entry = entry.or(pvh_entry(image, offset as usize, file_size as usize)?),
                _ => {}
            }
        }
        let entry = entry.context("the kernel has no PVH entry note (CONFIG_PVH is off)")?;
        Ok(Kernel { segments, entry })
    }
}

/// Looks for the PVH entry among the notes at `at`.
fn pvh_entry(image: &[u8], mut at: usize, size: usize) -> Result<Option<u32>> {
    let end = at + size;
    while at + 12 <= end {
        let name_size = u32_at(image, at)? as usize;
        let data_size = u32_at(image, at + 4)? as usize;
        let name = at + 12;
        let data = name + name_size.next_multiple_of(4);
        let is_xen = image.get(name..name + name_size) == Some(b"Xen\0");
        if is_xen && u32_at(image, at + 8)? == XEN_ELFNOTE_PHYS32_ENTRY {
            return Ok(Some(u32_at(image, data)?));
        }
        at = data + data_size.next_multiple_of(4);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment and one note.
    fn image(note_name: &[u8; 4]) -> Vec<u8> {
        let mut elf = vec![0u8; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = PT_LOAD as u8;
        elf[64 + 24..64 + 28].copy_from_slice(&0x0100_0000u32.to_le_bytes());
        elf[64 + 32] = 8;
        elf[64 + 40] = 16;
        let note = elf.len() as u8;
        elf[120] = PT_NOTE as u8;
        elf[128] = note;
        elf[120 + 32] = 20;
        elf.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        elf.extend(note_name);
        elf.extend(0x1234_5678u32.to_le_bytes());
        elf
    }

    #[test]
    fn segments_and_entry_are_found() {
        let kernel = Kernel::parse(&image(b"Xen\0")).unwrap();
        assert_eq!(kernel.entry, 0x1234_5678);
        let segment = Segment {
            offset: 0,
            paddr: 0x0100_0000,
            file_size: 8,
            mem_size: 16,
        };
        assert_eq!(kernel.segments, [segment]);
    }

    #[test]
    fn a_kernel_without_the_note_is_refused() {
        assert!(Kernel::parse(&image(b"GNU\0")).is_err());
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let whole = image(b"Xen\0");
        for length in 0..whole.len() {
            assert!(Kernel::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
