// SPDX-License-Identifier: GPL-2.0

//! How a boot ends, from what a machine says on its two ports and how its emulator ends. A shell script stands in for the
//! emulator.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rkvm_harness::emulator::Backend;
use rkvm_harness::emulator::Prepared;
use rkvm_harness::job::Device;
use rkvm_harness::job::Task;
use rkvm_harness::paths::new_folder;
use rkvm_harness::session;
use rkvm_harness::session::Boot;
use rkvm_harness::session::Fate;
use rkvm_harness::session::Limits;

/// What a machine does that runs its only task well.
const GOOD: &str = r"data '\001up 1'; data '\001begin 0'; data 'ok 1 - a'; data '\001end 0 5 exit 0'; data '\001done'; ";
/// How it ends then.
const OFF: &str = "console '[ 1.0] reboot: Power down'; ";

fn boot_with(backend: Backend, last_words: Option<&'static str>, script: &str) -> Boot {
    let folder = new_folder(&std::env::temp_dir(), "session").unwrap();
    let mut command = Command::new("sh");
    command.current_dir(&folder).arg("-c").arg(format!(
        r#"data() {{ printf "$1\n" >data.pipe; }}
           console() {{ printf "$1\n" >console.pipe; }}
           {script}"#
    ));
    let machine = Prepared {
        backend,
        folder: folder.clone(),
        command,
        last_words,
    };
    let limits = Limits {
        boot: Duration::from_secs(20),
        task: Duration::from_secs(20),
        pause: Duration::from_millis(300),
    };
    let task = Task {
        name: "t".into(),
        device: Device::Any,
        timeout: 10,
        argv: vec!["/t".into()],
    };
    let boot = session::boot(machine, limits, &[task], &mut |_| {}).unwrap();
    fs::remove_dir_all(folder).unwrap();
    boot
}

fn boot(script: &str) -> Boot {
    boot_with(Backend::Qemu, None, script)
}

fn crashed(boot: &Boot) -> &str {
    match &boot.fate {
        Fate::Crashed(why) => why,
        fate => panic!("{fate:?}"),
    }
}

#[test]
fn a_machine_that_works_and_powers_off_is_good() {
    let boot = boot(&format!("{GOOD}{OFF}"));
    assert_eq!(boot.fate, Fate::Done);
    assert_eq!(boot.tasks.len(), 1);
    assert!(boot.tasks[0].kernel.is_empty());
}

#[test]
fn what_the_kernel_complains_of_after_the_last_task_counts() {
    for complaint in [
        "WARNING: CPU: 0 PID: 1 at rust/rkvm.rs:1",
        "BUG: KASAN: use-after-free",
        "refcount_t: underflow; use-after-free.",
        "Oops: 0000 [#1]",
        "WARNING: possible circular locking dependency detected",
    ] {
        let boot = boot(&format!("{GOOD}console '[ 1.0] {complaint}'; {OFF}"));
        assert_eq!(boot.tasks[0].kernel.len(), 1, "{complaint}");
    }
}

#[test]
fn what_is_reported_and_on_the_console_counts_once() {
    let said = r"console '[ 0.5] WARNING: x'; data '\001kernel 0 WARNING: x'; data 'ok";
    let boot = boot(&format!("{}{OFF}", GOOD.replace("data 'ok", said)));
    assert_eq!(boot.tasks[0].kernel, ["WARNING: x"]);
}

#[test]
fn what_the_kernel_says_while_it_boots_is_of_no_task() {
    let boot = boot(&format!("console 'WARNING: x'; sleep 0.2; {GOOD}{OFF}"));
    assert!(boot.tasks[0].kernel.is_empty());
}

#[test]
fn a_panic_after_the_last_task_is_a_crash() {
    let panic = "console 'Kernel panic - not syncing: x'; ";
    for end in ["exit 0", "sleep 100"] {
        let boot = boot(&format!("{GOOD}{panic}{end}"));
        assert_eq!(crashed(&boot), "Kernel panic - not syncing: x");
    }
}

#[test]
fn a_reset_after_the_last_task_is_a_crash() {
    let boot = boot(&format!(r"{GOOD}data '\001up 1'; sleep 100"));
    assert_eq!(crashed(&boot), "the machine reset itself");
    // Of an emulator that ends where the machine resets itself, there is nothing else to be seen.
    crashed(&self::boot(GOOD));
}

#[test]
fn an_emulator_that_fails_after_the_last_task_is_a_crash() {
    assert!(crashed(&boot(&format!("{GOOD}{OFF}exit 3"))).contains("exit status: 3"));
}

#[test]
fn a_machine_that_does_not_power_off_hangs() {
    let boot = boot(&format!("{GOOD}sleep 100"));
    assert_eq!(boot.fate, Fate::Hung("powering off took too long".into()));
}

#[test]
fn a_power_off_before_the_end_is_a_crash() {
    let early = GOOD.replace(r"data '\001done'; ", "");
    crashed(&boot(&format!("{early}{OFF}")));
}

#[test]
fn the_end_of_bochs_is_told_by_its_last_words() {
    let end = |last_words, said: &str| {
        let script = format!("{GOOD}{OFF}echo '0034p[ACPI ] >>PANIC<< {said}' >bochs.log; exit 1");
        boot_with(Backend::Bochs, Some(last_words), &script)
    };
    let off = "ACPI control: soft power off";
    let fault = "exception(): 3rd (13) exception with no resolution";
    assert_eq!(end("soft power off", off).fate, Fate::Done);
    assert!(crashed(&end("soft power off", fault)).contains("3rd (13)"));
    assert_eq!(end("3rd (", fault).fate, Fate::Done);
    crashed(&end("3rd (", off));
}

#[test]
fn on_this_host_there_is_no_console_and_no_power_switch() {
    let boot = |end: &str| {
        let script = GOOD.replace("data", "printf '%b\\n'");
        boot_with(Backend::None, None, &format!("{script}{end}"))
    };
    assert_eq!(boot("exit 0").fate, Fate::Done);
    crashed(&boot("exit 1"));
}
