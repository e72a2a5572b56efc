// SPDX-License-Identifier: GPL-2.0

//! Loads the module again and again, each time with another of the allocations failing that it makes meanwhile.
//!
//! By system calls of our own: a program like insmod loads a second time when the first is refused.

use crate::errno::Errno;
use crate::faults::{count_calls_of, text_of, Nth};
use crate::tap::Tap;
use crate::Outcome;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

const NAME: &str = "rkvm";
const NAME_C: &CStr = c"rkvm";
/// What it says of a load that fails, once.
const SAID: &str = "rkvm: load failed: ";
/// Modules are no further from each other, and the kernel itself is.
const NEAR: u64 = 16 << 20;
/// More than there can be in one load.
const ENOUGH: u32 = 2000;

/// finit_module.
fn load(module: &File) -> Result<(), Errno> {
    // SAFETY: a descriptor of ours and an empty string.
    let r = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    if r == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// delete_module.
fn unload() -> Result<(), Errno> {
    // SAFETY: the name is a string.
    if unsafe { libc::syscall(libc::SYS_delete_module, NAME_C.as_ptr(), 0) } == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// What there is of the module.
fn left() -> Outcome<Vec<String>> {
    let modules = fs::read_to_string("/proc/modules")?;
    let mut left: Vec<String> = modules
        .lines()
        .filter(|line| line.starts_with("rkvm "))
        .map(String::from)
        .collect();
    for path in ["/dev/rkvm", "/sys/kernel/debug/rkvm", "/sys/module/rkvm"] {
        if Path::new(path).exists() {
            left.push(path.into());
        }
    }
    Ok(left)
}

/// How often the kernel's log has [`SAID`].
fn said() -> Outcome<usize> {
    const READ_ALL: i32 = 3;
    let mut text = vec![0u8; 4 << 20];
    // SAFETY: the buffer has as many bytes.
    let n = unsafe { libc::klogctl(READ_ALL, text.as_mut_ptr().cast(), text.len() as i32) };
    let n = usize::try_from(n).map_err(|_| Errno::last())?;
    Ok(String::from_utf8_lossy(&text[..n]).matches(SAID).count())
}

/// The test. The module is not loaded.
pub fn fail(t: &mut Tap, path: &str) -> Outcome {
    let Some(mut nth) = Nth::new()? else {
        t.skip("failing allocations", "this kernel has no fault injection");
        return Ok(());
    };
    let module = File::open(path)?;
    load(&module)?;
    let (start, end) = text_of(NAME)?;
    unload()?;
    count_calls_of((start - NEAR, end + NEAR))?;

    let before = said()?;
    let (mut refused, mut hidden) = (0, 0);
    let (mut odd, mut remains) = (Vec::new(), Vec::new());
    for n in 1..ENOUGH {
        let (result, fired) = nth.call(n, || load(&module))?;
        match result {
            Ok(()) => unload()?,
            Err(Errno(libc::ENOMEM)) => refused += 1,
            Err(e) => odd.push((n, e)),
        }
        let left = left()?;
        if !left.is_empty() {
            remains.push((n, left));
        }
        if !fired {
            break;
        }
        hidden += usize::from(result.is_ok());
    }
    t.diag(format!(
        "{refused} loads were refused, {hidden} went well in spite of a failure"
    ));
    t.ok("loads are refused", refused > 5);
    t.eq("all with ENOMEM", odd, Vec::new());
    t.eq(
        "the log says each time which part failed",
        said()? - before,
        refused,
    );
    t.eq("nothing is left", remains, Vec::new());
    t.success("the module loads", load(&module));
    t.success("and unloads", unload());
    Ok(())
}
