// SPDX-License-Identifier: GPL-2.0

//! `scripts/bin/cargo`: checkouts that share what cargo has built.

use std::fs;

use crate::checkout;
use crate::text;
use crate::Scratch;

/// Makes a checkout with a program that prints `said`.
fn checkout_that_says(scratch: &Scratch, name: &str, said: &str) {
    let folder = scratch.0.join(name);
    for path in ["scripts/bin", "src"] {
        fs::create_dir_all(folder.join(path)).unwrap();
    }
    for path in ["scripts/bin/cargo", ".gitignore"] {
        fs::copy(checkout().join(path), folder.join(path)).unwrap();
    }
    for (path, content) in [
        (
            "Cargo.toml",
            "[package]\nname = \"said\"\nversion = \"0.1.0\"\nedition = \"2021\"\n".to_string(),
        ),
        (
            "src/main.rs",
            format!("fn main() {{ println!(\"{said}\"); }}\n"),
        ),
    ] {
        fs::write(folder.join(path), content).unwrap();
    }
}

/// What the program of a checkout prints, and whether it was compiled before.
fn run(scratch: &Scratch, name: &str) -> (String, bool) {
    let folder = scratch.0.join(name);
    let cargo = folder.join("scripts/bin/cargo");
    let output = scratch
        .command(&cargo.to_string_lossy(), &["run", "--offline"])
        .current_dir(folder.join("src"))
        .env("CARGO_TARGET_DIR", scratch.0.join("target"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    (text(&output), errors.contains("Compiling"))
}

#[test]
fn what_is_compiled_follows_the_contents() {
    let scratch = Scratch::new();
    let said = |text: &str, compiled| (format!("{text}\n"), compiled);
    checkout_that_says(&scratch, "one", "1");
    assert_eq!(run(&scratch, "one"), said("1", true));
    assert_eq!(run(&scratch, "one"), said("1", false));
    // Newer, but the same.
    checkout_that_says(&scratch, "same", "1");
    assert_eq!(run(&scratch, "same"), said("1", false));
    checkout_that_says(&scratch, "other", "2");
    assert_eq!(run(&scratch, "other"), said("2", true));
    // Older, but not the same.
    assert_eq!(run(&scratch, "one"), said("1", true));
    // What is gone from the checkout is gone.
    fs::write(
        scratch.0.join("one/src/main.rs"),
        "mod a;\nfn main() { a::f() }\n",
    )
    .unwrap();
    fs::write(
        scratch.0.join("one/src/a.rs"),
        "pub fn f() { println!(\"3\") }\n",
    )
    .unwrap();
    assert_eq!(run(&scratch, "one"), said("3", true));
    assert_eq!(run(&scratch, "same"), said("1", true));
    assert!(!scratch.0.join("target/sources/src/a.rs").exists());
}
