// SPDX-License-Identifier: GPL-2.0

//! `.ci/run`: the last line and the exit status.

use crate::text;
use crate::Scratch;

/// What `.ci/run` makes of a `make check` that says and does this: its last line, and whether it succeeds.
fn ci(make: &str) -> (String, bool) {
    ci_for("100", make)
}

/// The same, with so many seconds for it.
fn ci_for(seconds: &str, make: &str) -> (String, bool) {
    let scratch = Scratch::new();
    scratch.program("make", make);
    let mut command = scratch.command(".ci/run", &[]);
    let output = command.env("RKVM_CI_SECONDS", seconds).output().unwrap();
    let last = text(&output).lines().last().unwrap_or_default().to_string();
    (last, output.status.success())
}

const ALL_DONE: &str = "echo '[12:34] all done'; ";

#[test]
fn ci_gives_the_result_of_a_good_run() {
    let good = ci(&format!(
        "echo '7 passed, 0 failed'; {ALL_DONE} echo '99 passed, 0 failed'"
    ));
    assert_eq!(good, ("99 passed, 0 failed".into(), true));
}

#[test]
fn ci_finds_the_result_whatever_make_says_after_it() {
    let after =
        "for i in 1 2 3 4 5; do echo \"make: *** [Makefile:$i: check] Error 1\"; done; exit 2";
    let bad = ci(&format!("{ALL_DONE} echo '98 passed, 1 failed'; {after}"));
    assert_eq!(bad, ("98 passed, 1 failed".into(), false));
}

#[test]
fn ci_does_not_take_the_result_of_a_part_for_that_of_all() {
    for cut in ["exit 0", "exit 2", "kill -9 $$", "sleep 100"] {
        let (last, good) = ci_for("2", &format!("echo '20 passed, 0 failed'; {cut}"));
        assert_eq!(
            (last.as_str(), good),
            ("0 passed, 1 failed", false),
            "{cut}"
        );
    }
}

#[test]
fn ci_fails_if_anything_did() {
    let lost = ci(&format!("{ALL_DONE} echo '98 passed, 1 failed'"));
    assert_eq!(lost, ("98 passed, 1 failed".into(), false));
    let late = ci(&format!("{ALL_DONE} echo '99 passed, 0 failed'; exit 2"));
    assert_eq!(late, ("99 passed, 1 failed".into(), false));
}
