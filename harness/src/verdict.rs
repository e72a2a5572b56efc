// SPDX-License-Identifier: GPL-2.0

//! What became of a test, and whether that is good.

use std::collections::BTreeSet;

use crate::catalog::Test;
use crate::job::Device;
use crate::job::Outcome;
use crate::session::Fate;
use crate::session::TaskLog;
use crate::tap::Point;
use crate::tap::Tap;

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Results that are as wanted.
    pub passed: usize,
    /// Results that are not.
    pub failed: usize,
    /// Results that could not be had.
    pub skipped: usize,
}

/// One test on one device, done or not.
pub struct Finished<'a> {
    /// The test.
    pub test: &'a Test,
    /// Its device.
    pub device: Device,
    /// What it did; `None` if it was not run.
    pub log: Option<TaskLog>,
    /// Why it failed over its single results.
    pub trouble: Vec<String>,
}

impl Finished<'_> {
    /// The single results in the output.
    pub fn tap(&self) -> Tap {
        let mut tap = Tap::default();
        for line in self.log.iter().flat_map(|log| &log.output) {
            tap.line(line);
        }
        tap
    }

    /// Whether all is well.
    pub fn good(&self) -> bool {
        let failed = |point: &Point| matches!(point, Point::Fail(_));
        self.trouble.is_empty() && !self.tap().points.iter().any(failed)
    }

    /// What went wrong, in at most `most` lines: trouble, then the results that are not as wanted (those of a test within the
    /// test, too, which are comments) with the comments around them; where there are none, what was said last.
    pub fn brief(&self, most: usize) -> Vec<String> {
        const AROUND: usize = 3;
        const LAST: usize = 5;
        let output: Vec<&String> = self.log.iter().flat_map(|log| &log.output).collect();
        let is_failed = |line: &str| line.trim_start_matches(['#', ' ']).starts_with("not ok");
        let mut shown = BTreeSet::new();
        for at in (0..output.len()).filter(|at| is_failed(output[*at])) {
            let is_comment = |at: &usize| output[*at].starts_with('#');
            let above = (0..at).rev().take(AROUND).take_while(is_comment);
            let below = (at + 1..output.len()).take(AROUND).take_while(is_comment);
            shown.extend(above.chain([at]).chain(below));
        }
        if shown.is_empty() {
            shown.extend(output.len().saturating_sub(LAST)..output.len());
        }
        let shown = shown.into_iter().map(|at| output[at]);
        self.trouble
            .iter()
            .chain(shown)
            .take(most)
            .cloned()
            .collect()
    }

    /// Counts its results; trouble counts as one failure.
    pub fn count(&self, totals: &mut Totals) {
        for point in self.tap().points {
            match point {
                Point::Pass(_) => totals.passed += 1,
                Point::Fail(_) => totals.failed += 1,
                Point::Skip(..) => totals.skipped += 1,
            }
        }
        totals.failed += usize::from(!self.trouble.is_empty());
    }
}

/// Finds out whether a test is good, from how it ended, what it and the kernel said, and the fate of its machine up to the
/// next test, or to the machine's end.
pub fn judge<'a>(test: &'a Test, device: Device, log: TaskLog, fate: &Fate) -> Finished<'a> {
    let mut trouble = Vec::new();
    let mut ended = false;
    match &log.outcome {
        Some(Outcome::Exit(status)) => {
            ended = true;
            if *status != 0 {
                trouble.push(format!("exit status {status}"));
            }
        }
        Some(Outcome::Signal(signal)) => trouble.push(format!("killed by signal {signal}")),
        Some(Outcome::Timeout) => trouble.push("not done in its time".into()),
        Some(Outcome::NotRun(why)) => trouble.push(format!("not run: {why}")),
        None if *fate == Fate::Done => trouble.push("the machine powered off".into()),
        None => {}
    }
    match fate {
        Fate::Hung(why) => trouble.push(format!("the machine hung: {why}")),
        Fate::Crashed(why) => trouble.push(format!("the machine crashed: {why}")),
        Fate::Done => {}
    }
    for line in &log.kernel {
        trouble.push(format!("kernel: {line}"));
    }
    let mut finished = Finished {
        test,
        device,
        log: Some(log),
        trouble,
    };
    if ended {
        let tap = finished.tap();
        finished.trouble.extend(tap.complaint());
        // A bad exit status with a failed result says the same thing twice.
        let failed = |point: &Point| matches!(point, Point::Fail(_));
        if tap.points.iter().any(failed) {
            finished
                .trouble
                .retain(|line| !line.starts_with("exit status"));
        }
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Needs;
    use crate::catalog::When;

    fn test() -> Test {
        let needs = Needs {
            cpus: 1,
            mem: 64,
            tcg: false,
            tsc: false,
            model: None,
            vmx_off: false,
            append: String::new(),
            files: BTreeSet::new(),
        };
        Test {
            name: "t".into(),
            about: String::new(),
            argv: vec!["/t".into()],
            devices: vec![Device::Rkvm],
            timeout: 5,
            when: When::Always,
            needs,
        }
    }

    fn log(outcome: Option<Outcome>, output: &str, kernel: &[&str]) -> TaskLog {
        TaskLog {
            outcome,
            output: output.lines().map(String::from).collect(),
            kernel: kernel.iter().map(|line| line.to_string()).collect(),
            ticks: 0,
        }
    }

    fn totals(log: TaskLog, fate: &Fate) -> Totals {
        let mut totals = Totals::default();
        judge(&test(), Device::Rkvm, log, fate).count(&mut totals);
        totals
    }

    #[test]
    fn a_good_test_counts_its_results() {
        let log = log(
            Some(Outcome::Exit(0)),
            "ok 1 - a\nok 2 - b # SKIP none\n1..2",
            &[],
        );
        let want = Totals {
            passed: 1,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(totals(log, &Fate::Done), want);
    }

    #[test]
    fn a_failed_result_and_its_exit_status_count_once() {
        let log = log(Some(Outcome::Exit(1)), "ok 1 - a\nnot ok 2 - b\n1..2", &[]);
        let want = Totals {
            passed: 1,
            failed: 1,
            skipped: 0,
        };
        assert_eq!(totals(log, &Fate::Done), want);
    }

    #[test]
    fn what_went_wrong_is_said_briefly() {
        let brief = |outcome, output: &[&str], most| {
            let log = log(Some(outcome), &output.join("\n"), &[]);
            judge(&test(), Device::Rkvm, log, &Fate::Done).brief(most)
        };
        let good = ["# at first", "ok 1 - a"];
        let failed = ["not ok 2 - b", "# got 1", "# want 2"];
        let last = ["ok 3 - c", "1..3"];
        let output = [&good[..], &failed, &last].concat();
        assert_eq!(brief(Outcome::Exit(1), &output, 99), failed);
        assert_eq!(brief(Outcome::Exit(1), &output, 2), failed[..2]);
        let inner = ["# inner", "# not ok 7 - d", "# # got 3", "not ok 1 - e"];
        let output = [&["ok 1 - a"][..], &inner, &["1..2"]].concat();
        assert_eq!(brief(Outcome::Exit(1), &output, 99), inner);
        let silent = brief(Outcome::Timeout, &["1", "2", "3", "4", "5", "6"], 99);
        assert_eq!(silent, ["not done in its time", "2", "3", "4", "5", "6"]);
    }

    #[test]
    fn a_host_warning_fails_a_good_test() {
        let log = log(
            Some(Outcome::Exit(0)),
            "ok 1 - a\n1..1",
            &["WARNING: CPU: 0"],
        );
        assert_eq!(totals(log, &Fate::Done).failed, 1);
    }

    #[test]
    fn a_machine_that_fails_after_a_good_test_fails_it() {
        for fate in [
            Fate::Hung("powering off took too long".into()),
            Fate::Crashed("panic".into()),
        ] {
            let log = log(Some(Outcome::Exit(0)), "ok 1 - a\n1..1", &[]);
            let want = Totals {
                passed: 1,
                failed: 1,
                skipped: 0,
            };
            assert_eq!(totals(log, &fate), want);
        }
    }

    #[test]
    fn hangs_crashes_and_silence_are_failures() {
        for (log, fate) in [
            (log(None, "ok 1 - a", &[]), Fate::Hung("in t".into())),
            (log(None, "", &[]), Fate::Crashed("panic".into())),
            (log(Some(Outcome::Exit(0)), "", &[]), Fate::Done),
            (
                log(Some(Outcome::Signal(11)), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
            (
                log(Some(Outcome::Timeout), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
            (
                log(Some(Outcome::Exit(7)), "ok 1 - a\n1..1", &[]),
                Fate::Done,
            ),
        ] {
            assert_eq!(totals(log, &fate).failed, 1);
        }
    }
}
