// SPDX-License-Identifier: GPL-2.0

//! Statistics as text, a line for each: what debugfs shows.

use super::Stats;
use core::fmt;

/// Writes `name value`, and for a histogram `name value value ...`, in the order of the table.
pub fn write<S: Stats>(stats: &S, out: &mut dyn fmt::Write) -> fmt::Result {
    for index in 0..S::DESCRIPTORS.len() {
        let Some(descriptor) = S::DESCRIPTORS.get(index) else {
            break;
        };
        out.write_str(descriptor.name)?;
        for word in 0..descriptor.kind.words() {
            write!(out, " {}", stats.word(index, word).unwrap_or(0))?;
        }
        out.write_str("\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{VcpuStats, VmStats, HISTOGRAM_BUCKETS};
    use super::*;
    use std::string::String;

    #[test]
    fn one_line_for_each_statistic() {
        let stats = VmStats::default();
        stats.pages_2m.set(12);
        let mut text = String::new();
        write(&stats, &mut text).unwrap();
        assert_eq!(text.lines().count(), VmStats::DESCRIPTORS.len());
        assert!(text.lines().any(|line| line == "pages_2m 12"));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn histogram_is_one_line_of_all_buckets() {
        let stats = VcpuStats::default();
        stats.halt_wait_hist.record(1);
        let mut text = String::new();
        write(&stats, &mut text).unwrap();
        let line = text.lines().find(|l| l.starts_with("halt_wait_hist "));
        let values: std::vec::Vec<_> = line.unwrap().split(' ').skip(1).collect();
        assert_eq!(values.len(), HISTOGRAM_BUCKETS);
        assert_eq!(values[..3], ["0", "1", "0"]);
    }
}
