// SPDX-License-Identifier: GPL-2.0

//! `scripts/clean`.

use std::fs;

use crate::checkout;
use crate::Scratch;

#[test]
fn clean_removes_what_was_made_and_nothing_else() {
    let scratch = Scratch::new();
    let copy = scratch.0.join("checkout");
    let kept = [
        "Kbuild",
        "Makefile",
        "config.mk",
        "rust/a.rs",
        "rust/sys/b.c",
        "include/c.h",
    ];
    let made = [
        "rkvm.ko",
        "rkvm.mod.c",
        "rkvm.o",
        ".rkvm.o.cmd",
        ".module-common.o",
        "modules.order",
        "Module.symvers",
        "rust-project.json",
        ".tmp_1/x",
        "rust/a.o",
        "rust/sys/.b.o.cmd",
        "rust/sys/bindings_generated.rs",
        "rust/core/librkvm_core.rmeta",
        "build-debug/rkvm.ko",
    ];
    for path in kept.iter().chain(&made) {
        let path = copy.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    fs::create_dir(copy.join("scripts")).unwrap();
    fs::copy(checkout().join("scripts/clean"), copy.join("scripts/clean")).unwrap();
    // The second time there is nothing to do.
    for _ in 0..2 {
        let clean = copy.join("scripts/clean");
        let status = scratch
            .command(&clean.to_string_lossy(), &[])
            .status()
            .unwrap();
        assert!(status.success());
        assert!(made.iter().all(|path| !copy.join(path).exists()));
        assert!(kept.iter().all(|path| copy.join(path).exists()));
    }
}
