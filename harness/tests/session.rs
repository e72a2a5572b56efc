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

/// What a machine does that runs its only task well. It says so at once: how fast the shell is does not matter.
const GOOD: &str = r"data '\001up 1\n\001begin 0\nok 1 - a\n\001end 0 5 exit 0\n\001done'; ";
/// How it ends then.
const OFF: &str = "console '[ 1.0] reboot: Power down'; ";

/// For a machine that works, and for one that is found to hang. A busy host lets nobody wait so long as that.
const PATIENT: Duration = Duration::from_secs(20);
const IMPATIENT: Duration = Duration::from_secs(1);

fn boot_with(
    backend: Backend,
    last_words: Option<&'static str>,
    pause: Duration,
    script: &str,
) -> Boot {
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
        boot: PATIENT,
        task: PATIENT,
        pause,
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
    boot_with(Backend::Qemu, None, PATIENT, script)
}

fn boot_impatiently(script: &str) -> Boot {
    boot_with(Backend::Qemu, None, IMPATIENT, script)
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
    let said = r"\001begin 0'; console '[ 0.5] WARNING: x'; data '\001kernel 0 WARNING: x\n";
    let boot = boot(&format!("{}{OFF}", GOOD.replace(r"\001begin 0\n", said)));
    assert_eq!(boot.tasks[0].kernel, ["WARNING: x"]);
}

#[test]
fn what_the_kernel_says_while_it_boots_is_of_no_task() {
    // The order of what comes by two ports is known only if one was read before.
    let read = "until [ -s console.log ]; do sleep 0.01; done; ";
    let boot = boot(&format!("console 'WARNING: x'; {read}{GOOD}{OFF}"));
    assert!(boot.tasks[0].kernel.is_empty());
}

#[test]
fn a_panic_after_the_last_task_is_a_crash() {
    let panic = "console 'Kernel panic - not syncing: x'; ";
    for end in ["exit 0", "sleep 100"] {
        let boot = boot_impatiently(&format!("{GOOD}{panic}{end}"));
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
    let boot = boot_impatiently(&format!("{GOOD}sleep 100"));
    assert_eq!(boot.fate, Fate::Hung("powering off took too long".into()));
}

#[test]
fn a_power_off_before_the_end_is_a_crash() {
    let early = GOOD.replace(r"\n\001done", "");
    crashed(&boot(&format!("{early}{OFF}")));
}

#[test]
fn the_end_of_bochs_is_told_by_its_last_words() {
    let end = |last_words, said: &str| {
        let script = format!("{GOOD}{OFF}echo '0034p[ACPI ] >>PANIC<< {said}' >bochs.log; exit 1");
        boot_with(Backend::Bochs, Some(last_words), PATIENT, &script)
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
        boot_with(Backend::None, None, PATIENT, &format!("{script}{end}"))
    };
    assert_eq!(boot("exit 0").fate, Fate::Done);
    crashed(&boot("exit 1"));
}
