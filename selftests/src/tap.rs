// SPDX-License-Identifier: GPL-2.0

//! The reporter: Test Anything Protocol, version 13, the plan last.

use crate::errno::Errno;
use std::fmt::{Debug, Display};

/// Counts and prints the results of one test.
#[derive(Default)]
pub struct Tap {
    done: usize,
    failed: usize,
}

impl Tap {
    /// Opens the report.
    pub fn new() -> Self {
        println!("TAP version 13");
        Tap::default()
    }

    /// One result.
    pub fn ok(&mut self, what: impl Display, holds: bool) -> bool {
        self.done += 1;
        if holds {
            println!("ok {} - {what}", self.done);
        } else {
            self.failed += 1;
            println!("not ok {} - {what}", self.done);
        }
        holds
    }

    /// `got` has to equal `want`; both are printed when they differ.
    pub fn eq<T: PartialEq<U> + Debug, U: Debug>(
        &mut self,
        what: impl Display,
        got: T,
        want: U,
    ) -> bool {
        let holds = got == want;
        if !self.ok(what, holds) {
            self.diag(format!("got  {got:x?}"));
            self.diag(format!("want {want:x?}"));
        }
        holds
    }

    /// The call has to fail with `want`.
    pub fn errno<T: Debug, E: Into<Errno>>(
        &mut self,
        what: impl Display,
        got: Result<T, E>,
        want: i32,
    ) -> bool {
        let got = got.map_err(Into::into);
        let holds = matches!(&got, Err(e) if e.0 == want);
        if !self.ok(what, holds) {
            self.diag(format!("got  {got:?}"));
            self.diag(format!("want {:?}", Errno(want)));
        }
        holds
    }

    /// The call has to succeed; its value is handed on.
    pub fn success<T, E: Debug>(&mut self, what: impl Display, got: Result<T, E>) -> Option<T> {
        let (value, error) = match got {
            Ok(v) => (Some(v), None),
            Err(e) => (None, Some(e)),
        };
        self.ok(what, value.is_some());
        if let Some(e) = error {
            self.diag(format!("{e:?}"));
        }
        value
    }

    /// A result that can't be had here, and why.
    pub fn skip(&mut self, what: impl Display, why: impl Display) {
        self.done += 1;
        println!("ok {} - {what} # SKIP {why}", self.done);
    }

    /// A line for the reader.
    pub fn diag(&self, text: impl Display) {
        for line in text.to_string().lines() {
            println!("# {line}");
        }
    }

    /// Prints the plan; true when nothing failed and something was checked.
    pub fn finish(self) -> bool {
        println!("1..{}", self.done);
        if self.failed > 0 {
            println!("# {} of {} failed", self.failed, self.done);
        }
        self.failed == 0 && self.done > 0
    }
}
