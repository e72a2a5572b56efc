// SPDX-License-Identifier: GPL-2.0

//! A signal that ends the harness ends its machine and removes what that left.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use rkvm_harness::emulator::Backend;
use rkvm_harness::emulator::Prepared;
use rkvm_harness::interrupt;
use rkvm_harness::paths::new_folder;
use rkvm_harness::session;
use rkvm_harness::session::Limits;

fn main() {
    interrupt::watch().unwrap();
    assert_eq!(interrupt::came(), None);
    let folder = new_folder(&std::env::temp_dir(), "interrupt").unwrap();
    let outside = folder.with_extension("pid");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("echo $$ >\"$0\"; exec sleep 1000")
        .arg(&outside);
    let machine = Prepared {
        backend: Backend::Tcg,
        folder: folder.clone(),
        command,
        last_words: None,
    };
    let pid_file = outside.clone();
    let killer = thread::spawn(move || {
        let pid = loop {
            if let Ok(pid) = std::fs::read_to_string(&pid_file)
                .unwrap_or_default()
                .trim()
                .parse()
            {
                break pid;
            }
            thread::sleep(Duration::from_millis(20));
        };
        kill(Pid::this(), Signal::SIGTERM).unwrap();
        pid
    });
    let began = Instant::now();
    let limits = Limits::new(Duration::from_secs(100), 1);
    let booted = session::boot(machine, limits, &[], &mut |_| {});
    let pid: u32 = killer.join().unwrap();
    assert_eq!(booted.err().unwrap().to_string(), "ended by SIGTERM");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(interrupt::came(), Some(Signal::SIGTERM));
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "the emulator runs on"
    );
    assert!(!folder.exists(), "the machine's files are left");
    std::fs::remove_file(outside).unwrap();
    println!("a signal ends the machine");
}
