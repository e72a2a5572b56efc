// SPDX-License-Identifier: GPL-2.0

//! Running one program, in a process group of its own and not longer than its time.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::signal::killpg;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use rkvm_job::Outcome;
use rkvm_job::Task;

use super::Init;
use super::Stop;
use super::PATIENCE;

impl Init {
    /// Runs one program and waits for it, but not longer than its time.
    pub(super) fn execute(&mut self, task: &Task) -> Outcome {
        match self.spawn(task) {
            Ok(pid) => self.wait(pid, Duration::from_secs(u64::from(task.timeout))),
            Err(e) => Outcome::NotRun(format!("{e:#}")),
        }
    }

    fn spawn(&self, task: &Task) -> Result<Pid> {
        let (program, args) = task.argv.split_first().context("the task has no program")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env("HOME", "/root")
            .env("RKVM_DEV", task.device.node())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(self.data.try_clone()?)
            .stderr(self.data.try_clone()?)
            .process_group(0);
        // A program is born with the mask of who starts it, and a shell that does not see SIGCHLD waits for ever. A
        // signal that comes meanwhile is no loss: waiting begins with a look at who has ended.
        let mask = signals();
        mask.thread_unblock()?;
        let child = command.spawn();
        mask.thread_block()?;
        let child = child.with_context(|| format!("starting {program}"))?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    fn wait(&mut self, pid: Pid, time: Duration) -> Outcome {
        let until = Instant::now() + time;
        loop {
            // As the first process, this one also gets the orphans of others.
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                match status {
                    WaitStatus::StillAlive => break,
                    WaitStatus::Exited(of, status) if of == pid => {
                        return self.end_group(pid, Outcome::Exit(status));
                    }
                    WaitStatus::Signaled(of, signal, _) if of == pid => {
                        return self.end_group(pid, Outcome::Signal(signal as i32));
                    }
                    _ => {}
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.end_group(pid, Outcome::Timeout);
            }
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            // An interrupted or early end only means one more round.
            let _ = poll(&mut fds, millis);
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if signal.ssi_signo != Signal::SIGCHLD as u32 && self.stop == Stop::No {
                    self.stop = Stop::Asked;
                }
            }
            if self.stop == Stop::Asked {
                return self.end_group(pid, Outcome::NotRun("a signal ended it".into()));
            }
        }
    }

    /// Kills what a program left behind, so that it does not disturb the next.
    fn end_group(&mut self, pid: Pid, outcome: Outcome) -> Outcome {
        // ESRCH: nothing was left.
        let _ = killpg(pid, Signal::SIGKILL);
        // One that hangs in the kernel does not end.
        for _ in 0..PATIENCE * 10 {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(100)),
                _ => break,
            }
        }
        outcome
    }
}

/// What this process waits for. SIGHUP and the like come from the harness, or from its terminal.
pub(super) fn signals() -> SigSet {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGHUP);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask
}
