// SPDX-License-Identifier: GPL-2.0

//! Memory of this process that a guest uses as its own.
//!
//! A guest writes it at any time, so it is never borrowed: bytes are copied in and out by
//! volatile accesses, words by atomics.

use crate::errno::Errno;
use crate::PAGE;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A mapping and the guest-physical address it stands at.
pub struct Ram {
    base: *mut u8,
    len: usize,
    gpa: u64,
}

// SAFETY: the mapping belongs to the process, and is only accessed by volatile or atomic means.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Maps `len` bytes, zero, for the guest-physical address `gpa`.
    pub fn new(gpa: u64, len: usize) -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Ram::map(gpa, len, flags, None)
    }

    /// Maps `len` bytes of huge pages of `1 << shift` bytes each.
    pub fn huge(gpa: u64, len: usize, shift: i32) -> Result<Self, Errno> {
        let size = shift << libc::MAP_HUGE_SHIFT;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size;
        Ram::map(gpa, len, flags, None)
    }

    /// Maps `len` bytes of `file` from the byte `offset` on, shared.
    pub fn of_file(gpa: u64, len: usize, file: &File, offset: i64) -> Result<Self, Errno> {
        Ram::map(gpa, len, libc::MAP_SHARED, Some((file, offset)))
    }

    fn map(gpa: u64, len: usize, flags: i32, file: Option<(&File, i64)>) -> Result<Self, Errno> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let (fd, offset) = file.map_or((-1, 0), |(f, offset)| (f.as_raw_fd(), offset));
        // SAFETY: a new mapping at an address the kernel picks touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Ram {
            base: base.cast(),
            len,
            gpa,
        })
    }

    /// The user-space address of the first byte.
    pub fn hva(&self) -> u64 {
        self.base as u64
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least a page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The guest-physical address of the first byte.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    fn at(&self, gpa: u64, len: usize) -> *mut u8 {
        let offset = gpa.checked_sub(self.gpa).expect("below this memory") as usize;
        assert!(offset + len <= self.len, "{gpa:#x} is beyond this memory");
        // SAFETY: the offset was just checked to be inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// Copies `bytes` to the guest-physical address `gpa`.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let to = self.at(gpa, bytes.len());
        for (i, b) in bytes.iter().enumerate() {
            // SAFETY: `at` checked the whole range.
            unsafe { to.add(i).write_volatile(*b) };
        }
    }

    /// Copies `len` bytes from the guest-physical address `gpa`.
    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let from = self.at(gpa, len);
        // SAFETY: `at` checked the whole range.
        (0..len)
            .map(|i| unsafe { from.add(i).read_volatile() })
            .collect()
    }

    fn word64(&self, gpa: u64) -> &AtomicU64 {
        assert!(gpa % 8 == 0, "{gpa:#x} is not aligned");
        // SAFETY: in range by `at`, aligned as just checked, and atomics may be shared with a guest.
        unsafe { AtomicU64::from_ptr(self.at(gpa, 8).cast()) }
    }

    fn word32(&self, gpa: u64) -> &AtomicU32 {
        assert!(gpa % 4 == 0, "{gpa:#x} is not aligned");
        // SAFETY: as in `word64`.
        unsafe { AtomicU32::from_ptr(self.at(gpa, 4).cast()) }
    }

    /// Reads the aligned quadword at `gpa`.
    pub fn get64(&self, gpa: u64) -> u64 {
        self.word64(gpa).load(Ordering::SeqCst)
    }

    /// Writes the aligned quadword at `gpa`.
    pub fn set64(&self, gpa: u64, value: u64) {
        self.word64(gpa).store(value, Ordering::SeqCst);
    }

    /// The quadwords of `len` bytes from the aligned `gpa`.
    pub fn words(&self, gpa: u64, len: usize) -> &[AtomicU64] {
        assert!(gpa % 8 == 0, "{gpa:#x} is not aligned");
        // SAFETY: in range by `at`, aligned as just checked, and atomics may be shared with a guest.
        unsafe { std::slice::from_raw_parts(self.at(gpa, len).cast(), len / 8) }
    }

    /// Reads the aligned doubleword at `gpa`.
    pub fn get32(&self, gpa: u64) -> u32 {
        self.word32(gpa).load(Ordering::SeqCst)
    }

    /// Writes the aligned doubleword at `gpa`.
    pub fn set32(&self, gpa: u64, value: u32) {
        self.word32(gpa).store(value, Ordering::SeqCst);
    }

    /// Gives the kernel advice (`MADV_*`) on `len` bytes from `gpa`.
    pub fn advise(&self, gpa: u64, len: usize, advice: i32) -> Result<(), Errno> {
        let start = self.at(gpa, len);
        // SAFETY: the range is inside our own mapping; what it holds is only guest memory.
        match unsafe { libc::madvise(start.cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Replaces `len` bytes from `gpa` by fresh zero pages with the protection `prot`.
    pub fn remap(&self, gpa: u64, len: usize, prot: i32) -> Result<(), Errno> {
        let start = self.at(gpa, len);
        // SAFETY: MAP_FIXED inside our own mapping replaces guest memory only.
        let r = unsafe {
            libc::mmap(
                start.cast(),
                len,
                prot,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if r == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(())
    }

    /// Moves the pages of `from` over those at `gpa` (mremap); `from`'s range is unmapped by it.
    pub fn move_pages_from(
        &self,
        gpa: u64,
        from: &Ram,
        from_gpa: u64,
        len: usize,
    ) -> Result<(), Errno> {
        let (to, from) = (self.at(gpa, len), from.at(from_gpa, len));
        // SAFETY: both ranges are inside mappings of guest memory; nothing borrows them.
        let r = unsafe {
            libc::mremap(
                from.cast(),
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to,
            )
        };
        if r == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(())
    }

    /// Unmaps `len` bytes from `gpa`. They must not be read or written here until `remap`.
    pub fn unmap(&self, gpa: u64, len: usize) -> Result<(), Errno> {
        // SAFETY: guest memory only; the caller was told.
        match unsafe { libc::munmap(self.at(gpa, len).cast(), len) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Changes the protection of `len` bytes from `gpa`.
    pub fn protect(&self, gpa: u64, len: usize, prot: i32) -> Result<(), Errno> {
        // SAFETY: guest memory only.
        match unsafe { libc::mprotect(self.at(gpa, len).cast(), len, prot) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Which of the pages from `gpa` are in memory (mincore).
    pub fn resident(&self, gpa: u64, len: usize) -> Result<Vec<bool>, Errno> {
        let mut map = vec![0u8; len.div_ceil(PAGE)];
        // SAFETY: `map` has a byte for each page of the range.
        match unsafe { libc::mincore(self.at(gpa, len).cast(), len, map.as_mut_ptr()) } {
            0 => Ok(map.iter().map(|b| b & 1 != 0).collect()),
            _ => Err(Errno::last()),
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
