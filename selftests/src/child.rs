// SPDX-License-Identifier: GPL-2.0

//! Child processes, for what may end a process.

use crate::errno::Errno;
use crate::Outcome;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// A pipe from one process to the other: its ends to read and to write.
pub fn pipe() -> Result<(File, File), Errno> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are nobody else's.
    unsafe {
        if libc::pipe(ends.as_mut_ptr()) != 0 {
            return Err(Errno::last());
        }
        Ok((File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])))
    }
}

/// A child of this process.
pub struct Child(libc::pid_t);

impl Child {
    /// Forks a child that ends with status 0 if `f` answers true. This process has one thread.
    pub fn fork(f: impl FnOnce() -> Outcome<bool>) -> Result<Self, Errno> {
        // SAFETY: this process has one thread here; the child ends by a signal or _exit.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            0 => {
                let good = f().unwrap_or(false);
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(i32::from(!good)) }
            }
            child => Ok(Child(child)),
        }
    }

    /// Sends it SIGKILL.
    pub fn kill(&self) {
        // SAFETY: a child of this process that nobody has waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// How it ends: its status or its signal. `None` if it doesn't.
    pub fn end(self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let mut status = 0;
            // SAFETY: a child of this process, and room for its status.
            if unsafe { libc::waitpid(self.0, &mut status, libc::WNOHANG) } == self.0 {
                return Some(if libc::WIFSIGNALED(status) {
                    libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}
