// SPDX-License-Identifier: GPL-2.0

//! Building for another kernel: `scripts/check-kdir`, and `make check`, which does not.

use std::fs;
use std::path::PathBuf;

use crate::text;
use crate::Scratch;

/// A kernel's build folder that is as it should be, and what `make KDIR=` says of it.
struct Kernel(Scratch);

impl Kernel {
    fn new() -> Kernel {
        let kernel = Kernel(Scratch::new());
        for (path, text) in [
            ("Makefile", ""),
            ("include/config/auto.conf", CONFIG),
            ("include/config/kernel.release", "7.2.12+deb13-amd64\n"),
            ("rust/libkernel.rmeta", ""),
            ("Module.symvers", ""),
        ] {
            kernel.write(path, text);
        }
        kernel
            .0
            .program("rustc", "echo 'rustc 1.85.1 (4eb161250 2025-03-15)'");
        kernel.0.program("bindgen", "");
        kernel
    }

    fn folder(&self) -> PathBuf {
        self.0 .0.join("kernel")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.folder().join(path)).unwrap();
    }

    fn said(&self) -> Option<String> {
        let folder = self.folder();
        let mut command = self
            .0
            .command("scripts/check-kdir", &[&folder.to_string_lossy()]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        (!said.is_empty()).then_some(said)
    }
}

const CONFIG: &str =
    "CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb161250 2025-03-15)\"\n";

#[test]
fn a_kernel_that_modules_can_be_built_for_is_taken() {
    assert_eq!(Kernel::new().said(), None);
    let kernel = Kernel::new();
    kernel.write("include/config/kernel.release", "7.10.0-rc1\n");
    assert_eq!(kernel.said(), None);
}

#[test]
fn what_a_kernel_s_folder_lacks_is_said_in_words() {
    let wrong = |change: &dyn Fn(&Kernel), words: &[&str]| {
        let kernel = Kernel::new();
        change(&kernel);
        let said = kernel.said().unwrap_or_default();
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    wrong(&|kernel| kernel.remove("Makefile"), &["linux-headers"]);
    wrong(
        &|kernel| kernel.remove("include/config/auto.conf"),
        &["modules_prepare"],
    );
    wrong(
        &|kernel| kernel.remove("rust/libkernel.rmeta"),
        &["metadata", "make without KDIR"],
    );
    wrong(
        &|kernel| kernel.remove("Module.symvers"),
        &["Module.symvers"],
    );
    wrong(
        &|kernel| kernel.write("include/config/kernel.release", "6.12.5+deb13-amd64\n"),
        &["Linux 6.12.5", "7.2 or later"],
    );
    let no_rust = "# CONFIG_RUST is not set\n";
    wrong(
        &|kernel| kernel.write("include/config/auto.conf", no_rust),
        &["CONFIG_RUST"],
    );
    wrong(
        &|kernel| kernel.0.program("rustc", "echo 'rustc 1.90.0 (x)'"),
        &["rustc 1.85.1", "rustc 1.90.0"],
    );
}

#[test]
fn make_check_does_not_take_another_kernel_silently() {
    let scratch = Scratch::new();
    let mut command = scratch.command("scripts/check", &[]);
    let output = command.env("KDIR", "/a/kernel").output().unwrap();
    assert!(!output.status.success());
    assert_eq!(text(&output).lines().last(), Some("0 passed, 1 failed"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("/a/kernel") && said.contains("VM=none"),
        "{said}"
    );
}
