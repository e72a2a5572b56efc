// SPDX-License-Identifier: GPL-2.0

//! System calls as a 32-bit program makes them: by INT 0x80, which a 64-bit program can do as well.

use crate::child::Child;
use crate::errno::Errno;
use std::arch::asm;
use std::os::fd::RawFd;

/// The number of ioctl for 32-bit programs.
const IOCTL: u32 = 54;

/// Whether the kernel takes such calls; without them, INT 0x80 is a fault.
pub fn available() -> Result<bool, Errno> {
    let child = Child::fork(|| {
        // The kernel logs a fault that nobody handles.
        // SAFETY: the handler makes one system call.
        unsafe { libc::signal(libc::SIGSEGV, end_child as usize) };
        Ok(ioctl(-1, 0, 0) == Err(Errno(libc::EBADF)))
    })?;
    Ok(child.end() == Some(0))
}

extern "C" fn end_child(_signal: i32) {
    // SAFETY: ends the process without running anything else.
    unsafe { libc::_exit(1) };
}

/// An ioctl whose argument is a number, or an address below 4 GiB.
pub fn ioctl(fd: RawFd, request: u32, arg: u32) -> Result<i32, Errno> {
    let result: i32;
    // SAFETY: as `sys::ioctl`. RBX, which is the compiler's own, comes back; the call leaves the other registers alone,
    // but for R8 to R11 in some kernels.
    unsafe {
        asm!(
            "xchg {fd:r}, rbx",
            "int 0x80",
            "xchg {fd:r}, rbx",
            fd = inout(reg) i64::from(fd) => _,
            inlateout("eax") IOCTL as i32 => result,
            in("ecx") request,
            in("edx") arg,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    if result < 0 {
        Err(Errno(-result))
    } else {
        Ok(result)
    }
}

/// Memory with an address that a 32-bit program can have.
pub struct LowMemory {
    words: *mut u32,
}

impl LowMemory {
    /// How many words there are.
    const LEN: usize = crate::PAGE / 4;

    /// A page of zeros.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: a new mapping, where nothing is.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                crate::PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(LowMemory { words: at.cast() })
    }

    /// Writes `words` from `index` on, and answers their address.
    pub fn put(&self, index: usize, words: &[u32]) -> u32 {
        assert!(index + words.len() <= Self::LEN);
        for (i, word) in words.iter().enumerate() {
            // SAFETY: within the mapping, as just checked.
            unsafe { self.words.add(index + i).write_volatile(*word) };
        }
        (self.words as usize + 4 * index) as u32
    }

    /// The word at `index`.
    pub fn get(&self, index: usize) -> u32 {
        assert!(index < Self::LEN);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.words.add(index).read_volatile() }
    }
}

impl Drop for LowMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.words.cast(), crate::PAGE) };
    }
}
