// SPDX-License-Identifier: GPL-2.0

//! `selftests/machine/tap.inc`.

use crate::text;
use crate::Scratch;

#[test]
fn a_command_that_can_t_be_run_or_is_killed_refuses_nothing() {
    let scratch = Scratch::new();
    let refuses = |command: &str| {
        let script = format!(". selftests/machine/tap.inc; refused 'a test' {command}; finish");
        let output = scratch.command("sh", &["-c", &script]).output().unwrap();
        let good = text(&output).starts_with("ok 1 - a test");
        assert_eq!(good, output.status.success(), "{command}");
        good
    };
    assert!(refuses("false"));
    assert!(refuses("sh -c 'exit 125'"));
    assert!(!refuses("true"));
    assert!(!refuses("/nowhere/program"));
    assert!(!refuses("/dev/null"));
    assert!(!refuses("sh -c 'kill -9 $$'"));
}
