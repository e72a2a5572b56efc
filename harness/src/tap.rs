// SPDX-License-Identifier: GPL-2.0

//! Reads the Test Anything Protocol that a test program prints.

/// One result line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// `ok`
    Pass(String),
    /// `not ok`
    Fail(String),
    /// `ok ... # SKIP reason`
    Skip(String, String),
}

/// Everything one program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tap {
    /// Result lines in order.
    pub points: Vec<Point>,
    /// Announced number of results.
    pub plan: Option<usize>,
    /// Text of `Bail out!`.
    pub bail: Option<String>,
}

impl Tap {
    /// Takes one more line of output.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("Bail out!") {
            self.bail = Some(rest.trim().to_string());
        } else if let Some(count) = line.strip_prefix("1..") {
            let count = count.split_whitespace().next().unwrap_or("");
            self.plan = self.plan.or(count.parse().ok());
        } else if let Some(rest) = after_word(line, "not ok") {
            self.points.push(Point::Fail(description(rest)));
        } else if let Some(rest) = after_word(line, "ok") {
            let text = description(rest);
            let skip = text
                .split_once("# SKIP")
                .or_else(|| text.split_once("# skip"));
            self.points.push(match skip {
                Some((name, why)) if why.trim().is_empty() => {
                    Point::Fail(format!("{}: skipped without a reason", name.trim()))
                }
                Some((name, why)) => Point::Skip(name.trim().into(), why.trim().into()),
                None => Point::Pass(text),
            });
        }
    }

    /// What is wrong with the output as a whole, over the single results.
    pub fn complaint(&self) -> Option<String> {
        if let Some(why) = &self.bail {
            return Some(format!("bailed out: {why}"));
        }
        match self.plan {
            None => Some("printed no plan (1..N)".into()),
            Some(plan) if plan != self.points.len() => Some(format!(
                "planned {plan} results, gave {}",
                self.points.len()
            )),
            Some(_) => None,
        }
    }
}

/// The rest of the line if it starts with `word` as a word.
fn after_word<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(word)?;
    (rest.is_empty() || rest.starts_with(' ')).then_some(rest)
}

/// Cuts the number and the dash off.
fn description(rest: &str) -> String {
    let rest = rest
        .trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit());
    rest.trim_start()
        .trim_start_matches("- ")
        .trim()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tap {
        let mut tap = Tap::default();
        text.lines().for_each(|line| tap.line(line));
        tap
    }

    #[test]
    fn results_and_plan() {
        let tap = read("TAP version 13\n1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no EPT\n");
        let points = [
            Point::Pass("a".into()),
            Point::Fail("b".into()),
            Point::Skip("c".into(), "no EPT".into()),
        ];
        assert_eq!(tap.points, points);
        assert_eq!(tap.complaint(), None);
    }

    #[test]
    fn a_missing_result_is_noticed() {
        assert!(read("1..2\nok 1 - a\n").complaint().is_some());
        assert!(read("ok 1 - a\n").complaint().is_some());
        assert!(read("1..1\nok 1\nBail out! no device\n")
            .complaint()
            .is_some());
    }

    #[test]
    fn a_skip_needs_its_reason() {
        assert!(matches!(
            read("1..1\nok 1 - a # SKIP\n").points[..],
            [Point::Fail(_)]
        ));
    }

    #[test]
    fn other_lines_are_left_alone() {
        assert!(read("okay\n# ok 1\nnot okay\nnotable\n").points.is_empty());
    }
}
