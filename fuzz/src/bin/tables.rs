// SPDX-License-Identifier: GPL-2.0

//! CPUID, MSRs, routes and memory slots under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rkvm_fuzz::tables::check(data));
