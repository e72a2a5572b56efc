// SPDX-License-Identifier: GPL-2.0

//! Memory operands: segmentation, alignment check, page crossing, and the split of device accesses.
//!
//! SDM volume 3, "Segment Descriptors", "Limit Checking", "Type Checking", "Canonical Addressing"; volume 1,
//! "Alignment Check Exception".

use crate::addr::{Gpa, Gva};
use crate::exception::Exception;
use crate::regs::{cr0, cr4, is_canonical, rflags, SegReg};

use super::exec::Exec;
use super::ops::{Access, AccessKind, Backing, IoReply, Reply, Stop, Swap};
use super::state::{ar, Cr, Mode, Segment, Width};
use super::work::Wanted;

/// #SS(0) for the stack segment, #GP(0) for the others.
#[inline]
pub(super) fn segment_fault(which: SegReg) -> Stop {
    match which {
        SegReg::Ss => Exception::ss(0).into(),
        _ => Exception::GP0.into(),
    }
}

/// Whether `size` bytes at `offset` lie inside the limit of a segment.
pub(super) fn inside_limit(s: &Segment, offset: u64, size: u64) -> bool {
    let last = offset.wrapping_add(size.wrapping_sub(1));
    if s.access & (ar::S | ar::CODE | ar::DC) == ar::S | ar::DC {
        let top = if s.has(ar::DB) { 0xffff_ffff } else { 0xffff };
        return offset > u64::from(s.limit) && last <= top;
    }
    if s.limit == u32::MAX {
        // Accesses wrap at the end of a segment of the largest size.
        return true;
    }
    last <= u64::from(s.limit)
}

/// Whether an operand lies in two cache lines: the host's processor, too, may not like a lock on it.
#[inline]
pub(super) fn splits_line(at: Gva, size: u64) -> bool {
    const LINE: u64 = 64;
    (at.0 & (LINE - 1)).wrapping_add(size) > LINE
}

impl Exec<'_> {
    /// The linear address of `size` bytes at an offset in a segment, checked as data.
    #[inline]
    pub(super) fn linear(
        &mut self,
        which: SegReg,
        offset: u64,
        size: u64,
        kind: AccessKind,
    ) -> Reply<Gva> {
        if self.mode == Mode::Long64 {
            let base = self.base_of(which);
            let at = base.wrapping_add(offset);
            self.check_canonical(which, at)?;
            let last = at.wrapping_add(size.wrapping_sub(1));
            if !is_canonical(last, 48) && !self.canonical(last) {
                // An operand that leaves the canonical range is misaligned, which comes first.
                if size <= 8 {
                    self.check_alignment(Gva(at), size)?;
                }
                return Err(segment_fault(which));
            }
            return Ok(Gva(at));
        }
        self.linear_32(which, offset, size, kind)
    }

    /// The base of a segment as addressing uses it.
    #[inline]
    pub(super) fn base_of(&mut self, which: SegReg) -> u64 {
        match which {
            SegReg::Fs | SegReg::Gs => self.ops.segment_base(which),
            _ if self.mode == Mode::Long64 => 0,
            _ => self.ops.segment_base(which),
        }
    }

    /// A fault unless the address is canonical for the guest's paging mode.
    #[inline]
    pub(super) fn check_canonical(&mut self, which: SegReg, at: u64) -> Reply {
        if is_canonical(at, 48) || self.canonical(at) {
            return Ok(());
        }
        Err(segment_fault(which))
    }

    /// Whether an address is canonical for the guest's paging mode.
    pub(super) fn canonical(&mut self, at: u64) -> bool {
        let bits = if self.cr(Cr::Cr4) & cr4::LA57 != 0 {
            57
        } else {
            48
        };
        is_canonical(at, bits)
    }

    fn linear_32(&mut self, which: SegReg, offset: u64, size: u64, kind: AccessKind) -> Reply<Gva> {
        let s = self.ops.segment(which);
        if self.mode.is_real_like() {
            if !inside_limit(&s, offset, size) {
                return Err(segment_fault(which));
            }
            return Ok(Gva(s.base.wrapping_add(offset) & 0xffff_ffff));
        }
        if s.has(ar::UNUSABLE) {
            return Err(segment_fault(which));
        }
        let code = s.has(ar::CODE);
        let writable = !code && s.has(ar::RW);
        let readable = !code || s.has(ar::RW);
        let allowed = match kind {
            AccessKind::Read => readable,
            AccessKind::Write | AccessKind::Modify => writable,
        };
        if !allowed || !inside_limit(&s, offset, size) {
            return Err(segment_fault(which));
        }
        Ok(Gva(s.base.wrapping_add(offset) & 0xffff_ffff))
    }

    /// #AC(0) if alignment checks are on and the address is not a multiple of `size`, a power of two.
    #[inline]
    pub(super) fn check_alignment(&mut self, at: Gva, size: u64) -> Reply {
        if self.regs.rflags & rflags::AC != 0 && at.0 & size.wrapping_sub(1) != 0 {
            return self.alignment_fault();
        }
        Ok(())
    }

    #[cold]
    fn alignment_fault(&mut self) -> Reply {
        if self.ops.cpl() == 3 && self.cr(Cr::Cr0) & cr0::AM != 0 {
            return Err(Exception::AC.into());
        }
        Ok(())
    }

    /// Reads an integer operand.
    #[inline]
    pub(super) fn load(
        &mut self,
        which: SegReg,
        offset: u64,
        width: Width,
        access: Access,
    ) -> Reply<u64> {
        let size = u64::from(width.bytes());
        let at = self.linear(which, offset, size, access.kind)?;
        self.check_alignment(at, size)?;
        self.read_linear(at, width, access)
    }

    /// Writes an integer operand.
    #[inline]
    pub(super) fn store(&mut self, which: SegReg, offset: u64, width: Width, value: u64) -> Reply {
        let size = u64::from(width.bytes());
        let at = self.linear(which, offset, size, AccessKind::Write)?;
        self.check_alignment(at, size)?;
        self.write_linear(at, width, value)
    }

    /// Reads an integer at a linear address.
    #[inline]
    pub(super) fn read_linear(&mut self, at: Gva, width: Width, access: Access) -> Reply<u64> {
        let mut raw = [0u8; 8];
        match raw.get_mut(..width.size()) {
            Some(buf) => self.read_bytes(at, buf, access)?,
            None => return Err(Stop::Unhandled),
        }
        Ok(u64::from_le_bytes(raw))
    }

    /// Writes an integer at a linear address.
    #[inline]
    pub(super) fn write_linear(&mut self, at: Gva, width: Width, value: u64) -> Reply {
        match value.to_le_bytes().get(..width.size()) {
            Some(data) => self.write_bytes(at, data, Access::WRITE),
            None => Err(Stop::Unhandled),
        }
    }

    /// The address after `bytes`, in the address space of the mode.
    #[inline]
    pub(super) fn after(&self, at: Gva, bytes: u64) -> Gva {
        let next = at.wrapping_add(bytes);
        if self.mode == Mode::Long64 {
            next
        } else {
            Gva(next.0 & 0xffff_ffff)
        }
    }

    /// Whether `len` bytes at a linear address can be accessed; they may cross a page. What is not accessed in the end
    /// faults, too.
    pub(super) fn probe_bytes(&mut self, at: Gva, len: u64, access: Access) -> Reply {
        self.ops.probe(at, access)?;
        let first = at.bytes_to_page_end();
        if len > first {
            let second = self.after(at, first);
            self.ops.probe(second, access)?;
        }
        Ok(())
    }

    /// Reads up to 64 bytes at a linear address; they may cross a page.
    #[inline]
    pub(super) fn read_bytes(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply {
        if buf.len() as u64 <= at.bytes_to_page_end() {
            return self.read_piece(at, buf, access);
        }
        self.read_crossing(at, buf, access)
    }

    #[cold]
    fn read_crossing(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply {
        let first = at.bytes_to_page_end();
        let Some((a, b)) = buf.split_at_mut_checked(first as usize) else {
            return Err(Stop::Unhandled);
        };
        let second = self.after(at, first);
        // Both pages fault, in order, before either is read: a device register must not be read twice.
        self.ops.probe(at, access)?;
        self.ops.probe(second, access)?;
        self.read_piece(at, a, access)?;
        self.read_piece(second, b, access)
    }

    #[inline]
    fn read_piece(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply {
        match self.ops.read(at, buf, access)? {
            Backing::Ram => Ok(()),
            Backing::Mmio(gpa) => self.read_device(gpa, buf),
        }
    }

    /// Reads from a device in fragments of 8 bytes, as KVM_EXIT_MMIO wants them.
    fn read_device(&mut self, gpa: Gpa, buf: &mut [u8]) -> Reply {
        let mut at = gpa;
        for part in buf.chunks_mut(8) {
            let bytes = part.len() as u64;
            if !self.work.reads.take(at, part) {
                match self.ops.mmio_read(at, part) {
                    IoReply::Done => {
                        if !self.work.reads.record(at, part) {
                            return Err(Stop::Unhandled);
                        }
                    }
                    IoReply::User => {
                        self.work.wanted = Wanted::Mmio {
                            gpa: at,
                            len: part.len() as u8,
                        };
                        return Err(Stop::User);
                    }
                }
            }
            at = at.wrapping_add(bytes);
        }
        Ok(())
    }

    /// Writes up to 64 bytes at a linear address; they may cross a page.
    #[inline]
    pub(super) fn write_bytes(&mut self, at: Gva, data: &[u8], access: Access) -> Reply {
        if data.len() as u64 <= at.bytes_to_page_end() {
            return self.write_piece(at, data, access);
        }
        self.write_crossing(at, data, access)
    }

    #[cold]
    fn write_crossing(&mut self, at: Gva, data: &[u8], access: Access) -> Reply {
        let first = at.bytes_to_page_end();
        let Some((a, b)) = data.split_at_checked(first as usize) else {
            return Err(Stop::Unhandled);
        };
        let second = self.after(at, first);
        self.ops.probe(at, access)?;
        self.ops.probe(second, access)?;
        self.write_piece(at, a, access)?;
        self.write_piece(second, b, access)
    }

    #[inline]
    fn write_piece(&mut self, at: Gva, data: &[u8], access: Access) -> Reply {
        match self.ops.write(at, data, access)? {
            Backing::Ram => Ok(()),
            Backing::Mmio(gpa) => self.write_device(gpa, data),
        }
    }

    /// Writes to a device in fragments of 8 bytes; those for user space wait for commit.
    pub(super) fn write_device(&mut self, gpa: Gpa, data: &[u8]) -> Reply {
        let mut at = gpa;
        for part in data.chunks(8) {
            // Once user space has one, the later ones go there in turn too, so that their order is kept.
            let user =
                !self.work.writes.is_empty() || self.ops.mmio_write(at, part) == IoReply::User;
            if user && !self.work.writes.push(at, part) {
                return Err(Stop::Unhandled);
            }
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    /// Replaces the memory operand of a LOCKed instruction: `change` makes the new value from the old one, and may be
    /// called again with what another CPU has written meanwhile. The old value.
    pub(super) fn exchange(
        &mut self,
        width: Width,
        change: &mut dyn FnMut(u64) -> u64,
    ) -> Reply<u64> {
        self.exchange_at(self.effective_address(), width, change)
    }

    /// As [`Self::exchange()`], at an offset in the segment of the memory operand.
    pub(super) fn exchange_at(
        &mut self,
        offset: u64,
        width: Width,
        change: &mut dyn FnMut(u64) -> u64,
    ) -> Reply<u64> {
        let size = u64::from(width.bytes());
        let at = self.linear(self.insn.segment, offset, size, AccessKind::Modify)?;
        self.check_alignment(at, size)?;
        // A split lock is not done by one exchange: read and write, as C KVM does.
        let split = splits_line(at, size);
        for _ in 0..16 {
            let old = self.read_linear(at, width, Access::MODIFY)?;
            let new = change(old) & width.mask();
            if split {
                self.write_linear(at, width, new)?;
                return Ok(old);
            }
            match self.ops.cmpxchg(
                at,
                width.bytes(),
                u128::from(old),
                u128::from(new),
                Access::MODIFY,
            )? {
                Swap::Done => return Ok(old),
                Swap::Changed => {}
                Swap::Mmio(gpa) => {
                    if let Some(data) = new.to_le_bytes().get(..width.size()) {
                        self.write_device(gpa, data)?;
                    }
                    return Ok(old);
                }
            }
        }
        // Other CPUs keep changing it: let events in, then start over.
        Err(Stop::Retry)
    }
}
