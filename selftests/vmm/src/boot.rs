// SPDX-License-Identifier: GPL-2.0

//! The information each boot protocol hands the kernel, and where the kernel is entered.

use crate::kernel::{self, Loaded};
use crate::layout;
use crate::machine::{Config, Protocol};
use crate::Outcome;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// How the first vCPU begins.
pub struct Entry {
    /// The mode and what the registers point at.
    pub protocol: Protocol,
    /// The first instruction.
    pub ip: u64,
}

/// Loads the images and writes what the protocol hands over.
pub fn load(memory: &GuestMemoryMmap<()>, config: &Config) -> Outcome<Entry> {
    let loaded = kernel::load(memory, config)?;
    match config.protocol {
        Protocol::Linux => zero_page(memory, config, &loaded)?,
        Protocol::Pvh => start_info(memory, config, &loaded)?,
    }
    Ok(Entry {
        protocol: config.protocol,
        ip: loaded.entry,
    })
}

/// The guest's memory map: (start, bytes, type).
fn map(config: &Config) -> Vec<(u64, u64, u32)> {
    let mut map: Vec<_> = layout::usable(config.mem << 20)
        .into_iter()
        .map(|(start, len)| (start, len, E820_RAM))
        .collect();
    map.push((layout::ACPI, layout::HIGH - layout::ACPI, E820_RESERVED));
    map
}

fn zero_page(memory: &GuestMemoryMmap<()>, config: &Config, loaded: &Loaded) -> Outcome {
    const BOOT_FLAG: u16 = 0xaa55;
    const HDRS: u32 = 0x5372_6448;
    const LOADER_OTHER: u8 = 0xff;
    let mut p = boot_params::default();
    if let Some(header) = loaded.header {
        p.hdr = header;
    }
    p.hdr.boot_flag = BOOT_FLAG;
    p.hdr.header = HDRS;
    p.hdr.type_of_loader = LOADER_OTHER;
    p.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    p.hdr.cmdline_size = layout::CMDLINE_MAX as u32 - 1;
    if let Some((start, len)) = loaded.initrd {
        p.hdr.ramdisk_image = u32::try_from(start)?;
        p.hdr.ramdisk_size = u32::try_from(len)?;
    }
    p.acpi_rsdp_addr = layout::ACPI;
    for (i, (addr, size, type_)) in map(config).into_iter().enumerate() {
        p.e820_table[i] = boot_e820_entry { addr, size, type_ };
        p.e820_entries += 1;
    }
    memory.write_obj(p, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

/// `hvm_start_info` with a module list and a memory map behind it.
fn start_info(memory: &GuestMemoryMmap<()>, config: &Config, loaded: &Loaded) -> Outcome {
    const MAGIC: u32 = 0x336e_c578;
    const MODULES: u64 = layout::PVH_INFO + 0x40;
    const MAP: u64 = layout::PVH_INFO + 0x80;
    let map = map(config);
    let mut info = Vec::new();
    for word in [MAGIC, 1, 0, u32::from(loaded.initrd.is_some())] {
        info.extend(word.to_le_bytes());
    }
    for quad in [MODULES, layout::CMDLINE, layout::ACPI, MAP] {
        info.extend(quad.to_le_bytes());
    }
    for word in [map.len() as u32, 0] {
        info.extend(word.to_le_bytes());
    }
    memory.write_slice(&info, GuestAddress(layout::PVH_INFO))?;
    if let Some((start, len)) = loaded.initrd {
        let module: Vec<u8> = [start, len, 0, 0]
            .iter()
            .flat_map(|q| q.to_le_bytes())
            .collect();
        memory.write_slice(&module, GuestAddress(MODULES))?;
    }
    let mut entries = Vec::new();
    for (start, len, kind) in map {
        entries.extend(start.to_le_bytes());
        entries.extend(len.to_le_bytes());
        entries.extend(kind.to_le_bytes());
        entries.extend(0u32.to_le_bytes());
    }
    memory.write_slice(&entries, GuestAddress(MAP))?;
    Ok(())
}
