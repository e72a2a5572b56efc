// SPDX-License-Identifier: GPL-2.0

//! Tests of the statistics file, read as user space reads it.

use super::*;
use std::string::String;
use std::vec;
use std::vec::Vec;

fn u32_at(file: &[u8], at: usize) -> usize {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).expect("terminated");
    String::from_utf8(field[..end].to_vec()).unwrap()
}

fn whole<S: Stats>(id: &str, stats: &S) -> Vec<u8> {
    let mut file = vec![0xaa; file_size::<S>() + 100];
    let len = read_at(id, stats, 0, &mut file);
    file.truncate(len);
    file
}

/// The data of one statistic, found through the header and its descriptor.
fn lookup(file: &[u8], wanted: &str) -> (u32, i16, Vec<u64>) {
    let (count, descriptors, data) = (u32_at(file, 8), u32_at(file, 16), u32_at(file, 20));
    for i in 0..count {
        let d = &file[descriptors + i * 64..][..64];
        if text(&d[16..]) == wanted {
            let exponent = i16::from_le_bytes([d[4], d[5]]);
            let words = u16::from_le_bytes([d[6], d[7]]) as usize;
            let start = data + u32_at(d, 8);
            let values = file[start..start + words * 8]
                .chunks(8)
                .map(|w| u64::from_le_bytes(w.try_into().unwrap()))
                .collect();
            return (u32_at(d, 0) as u32, exponent, values);
        }
    }
    panic!("no statistic {wanted}");
}

#[test]
fn header_leads_to_name_descriptors_and_data() {
    let file = whole("kvm-17", &VmStats::default());
    assert_eq!(file.len(), file_size::<VmStats>());
    assert_eq!(u32_at(&file, 0), 0);
    assert_eq!(u32_at(&file, 4), 48);
    assert_eq!(u32_at(&file, 8), VmStats::DESCRIPTORS.len());
    assert_eq!(u32_at(&file, 12), 24);
    assert_eq!(text(&file[24..72]), "kvm-17");
    assert_eq!(u32_at(&file, 16), 72);
    assert_eq!(u32_at(&file, 20), 72 + 64 * VmStats::DESCRIPTORS.len());
}

#[test]
fn values_are_found_by_name() {
    let stats = VcpuStats::default();
    stats.exits.add(41);
    stats.exits.inc();
    stats.notify_window_exits.set(7);
    stats.halt_wait_ns.add(1_000_000);
    stats.blocking.set(1);
    let file = whole("kvm-17/vcpu-0", &stats);
    assert_eq!(lookup(&file, "exits"), (0, 0, vec![42]));
    assert_eq!(lookup(&file, "notify_window_exits"), (0, 0, vec![7]));
    assert_eq!(lookup(&file, "halt_wait_ns"), (0x20, -9, vec![1_000_000]));
    assert_eq!(lookup(&file, "blocking"), (0x41, 0, vec![1]));
    assert_eq!(lookup(&file, "io_exits"), (0, 0, vec![0]));
}

#[test]
fn histogram_counts_by_order_of_magnitude() {
    let stats = VcpuStats::default();
    for value in [0, 1, 2, 3, 4, u64::MAX] {
        stats.halt_wait_hist.record(value);
    }
    let (flags, exponent, values) = lookup(&whole("x", &stats), "halt_wait_hist");
    assert_eq!((flags, exponent), (0x24, -9));
    let mut expected = vec![0; HISTOGRAM_BUCKETS];
    expected[..4].copy_from_slice(&[1, 1, 2, 1]);
    expected[HISTOGRAM_BUCKETS - 1] = 1;
    assert_eq!(values, expected);
}

#[test]
fn pieces_of_any_size_make_up_the_whole() {
    let stats = VcpuStats::default();
    stats.exits.set(0x0123_4567_89ab_cdef);
    let file = whole("kvm-17/vcpu-3", &stats);
    for step in [1, 3, 8, 24, 61, 4096] {
        let mut pieces = Vec::new();
        let mut piece = vec![0; step];
        loop {
            let len = read_at("kvm-17/vcpu-3", &stats, pieces.len() as u64, &mut piece);
            if len == 0 {
                break;
            }
            pieces.extend_from_slice(&piece[..len]);
        }
        assert_eq!(pieces, file, "in steps of {step}");
    }
}

#[test]
fn nothing_is_read_past_the_end() {
    let stats = VmStats::default();
    let mut buffer = [0xaa; 16];
    let end = file_size::<VmStats>() as u64;
    assert_eq!(read_at("x", &stats, end, &mut buffer), 0);
    assert_eq!(read_at("x", &stats, u64::MAX, &mut buffer), 0);
    assert_eq!(read_at("x", &stats, end - 4, &mut buffer), 4);
    assert_eq!(buffer[4..], [0xaa; 12]);
}

#[test]
fn long_id_is_cut_and_terminated() {
    let id = "k".repeat(100);
    let file = whole(&id, &VmStats::default());
    assert_eq!(text(&file[24..72]).len(), 47);
}

#[test]
fn names_fit_and_differ() {
    for table in [VmStats::DESCRIPTORS, VcpuStats::DESCRIPTORS] {
        for (i, d) in table.iter().enumerate() {
            assert!(d.name.len() < NAME_SIZE);
            assert!(table[i + 1..].iter().all(|other| other.name != d.name));
        }
    }
}

#[test]
fn peak_only_rises() {
    let peak = Counter::default();
    peak.raise(5);
    peak.raise(3);
    assert_eq!(peak.get(), 5);
    peak.add_shared(u64::MAX);
    assert_eq!(peak.get(), 4);
    assert_eq!(Kind::Peak.flags(), 2);
}
