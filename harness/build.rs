// SPDX-License-Identifier: GPL-2.0

//! Assembles the boot sector into a flat binary that the harness embeds.

use std::env;
use std::path::Path;
use std::process::Command;

/// Runs one tool of binutils and stops the build with its name if it fails.
fn run(tool: &str, args: &[&str]) {
    let status = Command::new(tool)
        .args(args)
        .status()
        .unwrap_or_else(|e| panic!("{tool} (package binutils) does not start: {e}"));
    assert!(status.success(), "{tool} {args:?} failed: {status}");
}

fn main() {
    println!("cargo:rerun-if-changed=boot/boot.S");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let object = Path::new(&out).join("boot.o").display().to_string();
    let flat = Path::new(&out).join("boot.bin").display().to_string();
    run("as", &["--32", "-o", &object, "boot/boot.S"]);
    run(
        "ld",
        &[
            "-m",
            "elf_i386",
            "-Ttext",
            "0x7c00",
            "--oformat",
            "binary",
            "-o",
            &flat,
            &object,
        ],
    );
}
