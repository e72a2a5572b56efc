// SPDX-License-Identifier: GPL-2.0

//! The least ACPI that a Linux without MP-table support needs: RSDP, XSDT, FADT with a power-off
//! and a reset register, FACS, a DSDT with `_S5`, and the MADT with the processors.

use crate::layout::ACPI;
use crate::Outcome;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// PM1 event block: status and enable, two bytes each.
pub const PM1_EVENT: u16 = 0x600;
/// PM1 control register.
pub const PM1_CONTROL: u16 = 0x604;
/// The reset register.
pub const RESET: u16 = 0xcf9;
/// What to write there.
pub const RESET_VALUE: u8 = 6;
/// SLP_TYP of `_S5`.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// The interrupt of ACPI.
const SCI: u16 = 9;

const IOAPIC_ADDR: u32 = 0xfec0_0000;
const LAPIC_ADDR: u32 = 0xfee0_0000;

/// Writes all tables for `cpus` processors at [`ACPI`].
pub fn write(memory: &GuestMemoryMmap<()>, cpus: u32) -> Outcome {
    let mut at = ACPI + 0x40;
    let mut put = |bytes: &[u8]| -> Outcome<u64> {
        let here = at;
        memory.write_slice(bytes, GuestAddress(here))?;
        at += (bytes.len() as u64).next_multiple_of(64);
        Ok(here)
    };
    let facs = put(&facs())?;
    let dsdt = put(&dsdt())?;
    let fadt = put(&fadt(facs, dsdt))?;
    let madt = put(&madt(cpus))?;
    let xsdt = put(&xsdt(&[fadt, madt]))?;
    memory.write_slice(&rsdp(xsdt), GuestAddress(ACPI))?;
    Ok(())
}

/// Bytes that make the sum of `bytes` zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, b| sum.wrapping_add(*b))
        .wrapping_neg()
}

/// Puts the common header before `body`.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut t = Vec::with_capacity(36 + body.len());
    t.extend(signature);
    t.extend((36 + body.len() as u32).to_le_bytes());
    t.extend([revision, 0]);
    t.extend(b"RKVM  RKVMVMM ");
    t.extend(1u32.to_le_bytes());
    t.extend(b"RKVM");
    t.extend(1u32.to_le_bytes());
    t.extend(body);
    t[9] = checksum(&t);
    t
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut r = Vec::new();
    r.extend(b"RSD PTR \0RKVM  \x02");
    r.extend(0u32.to_le_bytes());
    r.extend(36u32.to_le_bytes());
    r.extend(xsdt.to_le_bytes());
    r.extend([0; 4]);
    r[8] = checksum(&r[..20]);
    r[32] = checksum(&r);
    r
}

fn xsdt(tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|t| t.to_le_bytes()).collect();
    table(b"XSDT", 1, &body)
}

fn facs() -> Vec<u8> {
    let mut f = vec![0; 64];
    f[..4].copy_from_slice(b"FACS");
    f[4] = 64;
    f[32] = 2;
    f
}

/// `Name (_S5, Package () {5, 5, 0, 0})`.
fn dsdt() -> Vec<u8> {
    let off = SLEEP_TYPE_OFF;
    let aml = [
        0x08, b'_', b'S', b'5', b'_', 0x12, 8, 4, 0x0a, off, 0x0a, off, 0, 0,
    ];
    table(b"DSDT", 2, &aml)
}

/// An I/O port as a generic address.
fn port(at: u16, bits: u8) -> [u8; 12] {
    let mut g = [1, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    g[4..6].copy_from_slice(&at.to_le_bytes());
    g
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    const WBINVD: u32 = 1 << 0;
    const NO_POWER_BUTTON: u32 = 1 << 4;
    const NO_SLEEP_BUTTON: u32 = 1 << 5;
    const RESET_REGISTER: u32 = 1 << 10;
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;
    let mut b = vec![0; 276 - 36];
    // Offsets are those of the table, whose header is not in the body.
    let mut put = |offset: usize, bytes: &[u8]| {
        b[offset - 36..offset - 36 + bytes.len()].copy_from_slice(bytes)
    };
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    put(46, &SCI.to_le_bytes());
    put(56, &u32::from(PM1_EVENT).to_le_bytes());
    put(64, &u32::from(PM1_CONTROL).to_le_bytes());
    put(88, &[4, 2]);
    put(109, &(LEGACY_DEVICES | NO_VGA).to_le_bytes());
    put(
        112,
        &(WBINVD | NO_POWER_BUTTON | NO_SLEEP_BUTTON | RESET_REGISTER).to_le_bytes(),
    );
    put(116, &port(RESET, 8));
    put(128, &[RESET_VALUE]);
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(148, &port(PM1_EVENT, 32));
    put(172, &port(PM1_CONTROL, 16));
    table(b"FACP", 6, &b)
}

fn madt(cpus: u32) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    let mut b = Vec::new();
    b.extend(LAPIC_ADDR.to_le_bytes());
    b.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus as u8 {
        // Processor local APIC: enabled.
        b.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    // The IOAPIC takes the id behind the processors and GSIs from 0.
    b.extend([1, 12, cpus as u8, 0]);
    b.extend(IOAPIC_ADDR.to_le_bytes());
    b.extend(0u32.to_le_bytes());
    // The SCI is active high and level triggered.
    b.extend([2, 10, 0, SCI as u8]);
    b.extend(u32::from(SCI).to_le_bytes());
    b.extend(0x000du16.to_le_bytes());
    // NMI at LINT1 of all processors.
    b.extend([4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", 4, &b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s: u8, b| s.wrapping_add(*b))
    }

    #[test]
    fn every_table_sums_to_zero_and_tells_its_length() {
        for t in [dsdt(), fadt(0x1000, 0x2000), madt(3), xsdt(&[1, 2])] {
            assert_eq!(sum(&t), 0);
            assert_eq!(
                u32::from_le_bytes([t[4], t[5], t[6], t[7]]) as usize,
                t.len()
            );
        }
        let r = rsdp(0xe_0100);
        assert_eq!((sum(&r[..20]), sum(&r), r.len()), (0, 0, 36));
    }

    #[test]
    fn madt_has_an_entry_for_each_processor() {
        assert_eq!(madt(4).len() - madt(1).len(), 3 * 8);
    }
}
