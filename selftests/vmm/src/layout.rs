// SPDX-License-Identifier: GPL-2.0

//! Guest-physical addresses of what the VMM puts into memory.

/// GDT of the first instruction.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of PVH, its module list and memory map.
pub const PVH_INFO: u64 = 0x6000;
/// `boot_params` of the Linux protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// The first stack.
pub const STACK: u64 = 0x8ff0;
/// Page tables of the 64-bit entry: PML4, PDPT, four directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes the command line may have, with its NUL.
pub const CMDLINE_MAX: usize = 2048;
/// End of the memory below 1 MiB.
pub const LOW_END: u64 = 0x9_fc00;
/// RSDP and the tables behind it.
pub const ACPI: u64 = 0xe_0000;
/// Where a bzImage's compressed kernel goes, and the least entry of an ELF.
pub const HIGH: u64 = 0x10_0000;
/// Where the memory below 4 GiB ends at the latest: room for devices and the APICs.
pub const HOLE_START: u64 = 0xc000_0000;
/// The page for KVM's identity map of real mode, and the three for its TSS: in the hole.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// See [`IDENTITY_MAP`].
pub const TSS: u64 = 0xfffb_d000;
/// Where memory goes on.
pub const HOLE_END: u64 = 1 << 32;

/// The ranges (start, bytes) that `bytes` of memory take.
pub fn ram(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= HOLE_START {
        vec![(0, bytes)]
    } else {
        vec![(0, HOLE_START), (HOLE_END, bytes - HOLE_START)]
    }
}

/// The ranges (start, bytes) that the guest may use, for its memory map.
pub fn usable(bytes: u64) -> Vec<(u64, u64)> {
    let mut map = vec![(0, LOW_END)];
    for (start, len) in ram(bytes) {
        let from = start.max(HIGH);
        map.push((from, start + len - from));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole() {
        assert_eq!(ram(256 << 20), vec![(0, 256 << 20)]);
        assert_eq!(ram(4 << 30), vec![(0, HOLE_START), (HOLE_END, 1 << 30)]);
        assert_eq!(usable(4 << 30)[2], (HOLE_END, 1 << 30));
    }
}
