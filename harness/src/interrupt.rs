// SPDX-License-Identifier: GPL-2.0

//! Signals that end the harness. They only leave a mark, which is looked for wherever something takes long: so machines are
//! switched off and files removed in the usual way. In the environment the harness is the first process of a pid namespace,
//! which signals that it does not wait for don't even reach.

use std::fs;
use std::process::ExitCode;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

/// The first signal that came.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Has the signals wait for a thread that does nothing else; to be called while there is no other thread. Programs that are
/// started from now on don't see these signals.
pub fn watch() -> Result<()> {
    let ignored = ignored(&fs::read_to_string("/proc/self/status").context("no /proc")?);
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // What nohup or a shell has this process ignore ends nothing.
        if ignored >> (signal as i32 - 1) & 1 == 0 {
            mask.add(signal);
        }
    }
    mask.thread_block()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = mask.wait() {
                // Only the first counts.
                let _ =
                    CAME.compare_exchange(0, signal as i32, Ordering::AcqRel, Ordering::Acquire);
            }
        })
        .context("starting the thread for signals")?;
    Ok(())
}

/// The set of signals that a process ignores, by its status in `/proc`.
fn ignored(status: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

/// The signal that came.
pub fn came() -> Option<Signal> {
    Signal::try_from(CAME.load(Ordering::Acquire)).ok()
}

/// An error once a signal has come.
pub fn check() -> Result<()> {
    match came() {
        Some(signal) => bail!("ended by {signal}"),
        None => Ok(()),
    }
}

/// The exit status after a signal, as shells have it.
pub fn status(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_known_by_their_bits() {
        let status = "SigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(
            ignored(status),
            1 << (Signal::SIGHUP as i32 - 1) | 1 << (Signal::SIGPIPE as i32 - 1)
        );
        assert_eq!(ignored(""), 0);
    }
}
