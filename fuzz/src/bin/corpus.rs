// SPDX-License-Identifier: GPL-2.0

//! `corpus unpack FILE FOLDER` and `corpus pack FOLDER FILE`, for scripts/fuzz.

use rkvm_fuzz::corpus;
use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", file, folder] => corpus::unpack(&fs::read_to_string(file)?, Path::new(folder)),
        ["pack", folder, file] => fs::write(file, corpus::pack(Path::new(folder))?),
        _ => Err(std::io::Error::other(
            "usage: corpus unpack FILE FOLDER | corpus pack FOLDER FILE",
        )),
    }
}
