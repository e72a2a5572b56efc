// SPDX-License-Identifier: GPL-2.0

//! The terminal: what COM1 sends goes to stdout, what is typed goes to COM1.

use crate::devices::Devices;
use crate::Outcome;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Bytes that wait for the end of their line.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
}

/// Collects bytes into lines: a write for each byte would cost the host a system call each. A
/// line that is not finished, like a prompt, follows after a moment.
pub struct Lines {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
}

impl Lines {
    /// Lines for stdout.
    pub fn stdout() -> Outcome<Self> {
        let shared = Arc::new((Mutex::<Waiting>::default(), Condvar::new()));
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || unfinished_lines(&theirs))?;
        Ok(Lines { shared })
    }

    /// Writes out what is there.
    pub fn push_out(&mut self) {
        let mut waiting = self.shared.0.lock().unwrap_or_else(|e| e.into_inner());
        write_out(&mut waiting.bytes);
    }
}

fn write_out(bytes: &mut Vec<u8>) {
    let mut out = io::stdout().lock();
    // A closed stdout must not stop the machine.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
    bytes.clear();
}

/// Writes out lines that stay unfinished for a moment.
fn unfinished_lines(shared: &(Mutex<Waiting>, Condvar)) {
    const MOMENT: Duration = Duration::from_millis(50);
    let (mutex, more) = shared;
    let mut waiting = mutex.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        while waiting.bytes.is_empty() {
            waiting = more.wait(waiting).unwrap_or_else(|e| e.into_inner());
        }
        let before = waiting.bytes.len();
        drop(waiting);
        std::thread::sleep(MOMENT);
        waiting = mutex.lock().unwrap_or_else(|e| e.into_inner());
        if waiting.bytes.len() == before {
            write_out(&mut waiting.bytes);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const FULL: usize = 4096;
        let (mutex, more) = &*self.shared;
        let mut waiting = mutex.lock().unwrap_or_else(|e| e.into_inner());
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend(bytes);
        if bytes.contains(&b'\n') || waiting.bytes.len() >= FULL {
            write_out(&mut waiting.bytes);
        } else if first {
            more.notify_one();
        }
        Ok(bytes.len())
    }

    /// Nothing: the UART flushes after each byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The settings of the terminal, put back when this is dropped.
pub struct Terminal(Option<libc::termios>);

/// Signals that end the VMM from outside, Ctrl-C among them.
const ENDS: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Puts the terminal back before such a signal ends the process. To be called while there is no other thread.
pub fn restore_on_signals() {
    // SAFETY: sets and actions of zeros are valid memory, and the calls only write to them.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in ENDS {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            // What nohup or a shell has this process ignore ends nothing.
            if action.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&mut set, signal);
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let settings = settings();
    // Without the thread the signals are only blocked: then they had better end the process as they are.
    let waiting = std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut signal = 0;
            // SAFETY: the pointers are to live objects.
            while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
            drop(Terminal(settings));
            std::process::exit(128 + signal);
        });
    if waiting.is_err() {
        // SAFETY: the set is valid.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
    }
}

/// Makes the terminal raw and feeds what is typed to COM1.
pub fn start(devices: Arc<Devices>) -> Terminal {
    let terminal = Terminal(raw_mode());
    // Without the thread there is no input; the machine runs all the same.
    let _ = std::thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = io::stdin().read(&mut buffer) {
                devices.type_in(&buffer[..n]);
            }
        });
    terminal
}

/// The terminal's settings; `None` when stdin is no terminal.
fn settings() -> Option<libc::termios> {
    // SAFETY: a termios of zeros is valid, and is filled in by tcgetattr.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live termios.
    (unsafe { libc::tcgetattr(0, &mut settings) } == 0).then_some(settings)
}

/// Keys and newlines go to the guest as they are and at once, but for Ctrl-C and the like, which end the VMM. Gives the
/// settings from before.
fn raw_mode() -> Option<libc::termios> {
    let old = settings()?;
    let mut raw = old;
    raw.c_lflag &= !(libc::ICANON | libc::ECHO);
    raw.c_iflag &= !libc::ICRNL;
    // SAFETY: as above.
    unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw) };
    Some(old)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            // SAFETY: the settings came from tcgetattr.
            unsafe { libc::tcsetattr(0, libc::TCSANOW, old) };
        }
    }
}
