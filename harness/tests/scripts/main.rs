// SPDX-License-Identifier: GPL-2.0

//! The shell scripts around the harness, with stand-ins for what they call.

mod cargo;
mod ci;
mod clean;
mod kdir;
mod step;
mod tap;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use rkvm_harness::paths::new_folder;

/// A folder with stand-ins, which comes first in PATH.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        Scratch(new_folder(&std::env::temp_dir(), "scripts").unwrap())
    }

    /// A program of the given name.
    fn program(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A command that is run in the checkout.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(checkout())
            .env("PATH", format!("{}:{path}", self.0.display()))
            .env("RKVM_CACHE", self.0.join("cache"));
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
