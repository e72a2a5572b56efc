// SPDX-License-Identifier: GPL-2.0

//! The interrupt chips under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rkvm_fuzz::chips::check(data));
