// SPDX-License-Identifier: GPL-2.0

//! A userfaultfd: this process is told of the faults on memory that it registered, and ends each of them itself.
//!
//! The numbers and structures are those of uapi linux/userfaultfd.h, which the libc crate does not have.

use crate::errno::Errno;
use crate::ram::Ram;
use crate::sys;
use crate::PAGE;
use std::fs::File;
use std::io::Read;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`: [`Faults::WriteProtected`] of private memory.
pub const FEATURE_WP: u64 = 1 << 0;
/// `UFFD_FEATURE_MINOR_SHMEM`: [`Faults::Minor`] of a memfd.
pub const FEATURE_MINOR_SHMEM: u64 = 1 << 10;

/// `UFFD_PAGEFAULT_FLAG_WRITE`: the access was a write.
pub const FLAG_WRITE: u64 = 1 << 0;
/// `UFFD_PAGEFAULT_FLAG_WP`: to a write-protected page.
pub const FLAG_WP: u64 = 1 << 1;
/// `UFFD_PAGEFAULT_FLAG_MINOR`: to a page that the file has.
pub const FLAG_MINOR: u64 = 1 << 2;

/// UFFD_USER_MODE_ONLY: faults of the kernel are not told.
pub const USER_MODE_ONLY: i32 = 1;

const UFFD_API: u64 = 0xaa;
const EVENT_PAGEFAULT: u8 = 0x12;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

/// Which faults on a range are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// On pages that are not there.
    Missing = 1 << 0,
    /// Writes to pages that are write-protected by [`Userfaultfd::write_protect`].
    WriteProtected = 1 << 1,
    /// On pages that the file has and the mapping has not.
    Minor = 1 << 2,
}

/// A fault that somebody waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The user-space address of the page.
    pub address: u64,
    /// `FLAG_*`
    pub flags: u64,
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

/// The argument of the ioctls that do something to a range: UFFDIO_REGISTER, ZEROPAGE, CONTINUE. The kernel writes
/// `answer`: which ioctls there are, or how many bytes were done.
#[repr(C)]
struct RangeMode {
    range: Range,
    mode: u64,
    answer: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

#[repr(C)]
struct CopyPage {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const fn iowr<T>(nr: u64) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | (UFFD_API << 8) | nr
}

const UFFDIO_REGISTER: u64 = iowr::<RangeMode>(0x00);
const UFFDIO_COPY: u64 = iowr::<CopyPage>(0x03);
const UFFDIO_ZEROPAGE: u64 = iowr::<RangeMode>(0x04);
const UFFDIO_WRITEPROTECT: u64 = iowr::<WriteProtect>(0x06);
const UFFDIO_CONTINUE: u64 = iowr::<RangeMode>(0x07);
const UFFDIO_API: u64 = iowr::<Api>(0x3f);

/// The file descriptor. When it is closed, all who wait go on as if nothing had been registered.
pub struct Userfaultfd(File);

impl Userfaultfd {
    /// Makes one with `features`, which does not block a reader. EINVAL if the kernel lacks a feature, ENOSYS if it has no
    /// userfaultfd at all.
    pub fn new(flags: i32, features: u64) -> Result<Self, Errno> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes a new descriptor, nothing else.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            return Err(Errno::last());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let uffd = Userfaultfd(unsafe { File::from_raw_fd(fd as RawFd) });
        let mut api = Api {
            api: UFFD_API,
            features,
            ioctls: 0,
        };
        sys::ioctl_mut(uffd.raw(), UFFDIO_API, &mut api)?;
        Ok(uffd)
    }

    /// The raw descriptor, for poll().
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn change(&self, request: u64, start: u64, len: usize, mode: u64) -> Result<(), Errno> {
        let mut arg = RangeMode {
            range: Range {
                start,
                len: len as u64,
            },
            mode,
            answer: 0,
        };
        sys::ioctl_mut(self.raw(), request, &mut arg).map(drop)
    }

    /// From now on `faults` on the pages of `ram` are told.
    pub fn register(&self, ram: &Ram, faults: Faults) -> Result<(), Errno> {
        self.change(UFFDIO_REGISTER, ram.hva(), ram.len(), faults as u64)
    }

    /// Brings the missing page at `address`, with a copy of `page` in it.
    pub fn copy(&self, address: u64, page: &[u8; PAGE]) -> Result<(), Errno> {
        let mut arg = CopyPage {
            dst: address,
            src: page.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        sys::ioctl_mut(self.raw(), UFFDIO_COPY, &mut arg).map(drop)
    }

    /// Brings the missing page at `address`, full of zeros.
    pub fn zero_page(&self, address: u64) -> Result<(), Errno> {
        self.change(UFFDIO_ZEROPAGE, address, PAGE, 0)
    }

    /// Maps the page at `address` that the file has.
    pub fn continue_with(&self, address: u64) -> Result<(), Errno> {
        self.change(UFFDIO_CONTINUE, address, PAGE, 0)
    }

    /// Write-protects the page at `address`, or ends that.
    pub fn write_protect(&self, address: u64, protect: bool) -> Result<(), Errno> {
        let arg = WriteProtect {
            range: Range {
                start: address,
                len: PAGE as u64,
            },
            mode: if protect { WRITEPROTECT_MODE_WP } else { 0 },
        };
        sys::ioctl_with(self.raw(), UFFDIO_WRITEPROTECT, &arg).map(drop)
    }

    /// The next fault that somebody waits in and that was not told yet; EAGAIN if there is none.
    pub fn read(&self) -> Result<PageFault, Errno> {
        // uffd_msg: the event in the first byte, then, from the ninth on, what belongs to it.
        let mut message = [0u8; 32];
        (&self.0)
            .read_exact(&mut message)
            .map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)))?;
        assert_eq!(message[0], EVENT_PAGEFAULT, "no other event was asked for");
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&message[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        Ok(PageFault {
            address: word(16),
            flags: word(8),
        })
    }
}
