// SPDX-License-Identifier: GPL-2.0

//! The CPUs that a thread runs on.

use crate::errno::Errno;

/// Has this thread run on `cpu` only.
pub fn run_on(cpu: usize) -> Result<(), Errno> {
    // SAFETY: a zeroed set is an empty one, and the calls write to it and read it.
    let r = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if r == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// Keeps this thread on the CPU that it is on, which is answered.
pub fn stay() -> Result<u32, Errno> {
    // SAFETY: asks for a number.
    let cpu = unsafe { libc::sched_getcpu() };
    let index = usize::try_from(cpu).map_err(|_| Errno::last())?;
    run_on(index)?;
    Ok(cpu as u32)
}
