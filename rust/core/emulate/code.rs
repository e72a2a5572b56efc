// SPDX-License-Identifier: GPL-2.0

//! The bytes of the instruction, as the processor would fetch them.

use super::decode::CodeSource;
use super::ops::{Reply, Stop, VcpuOps};
use super::state::Cr;
use crate::addr::Gva;
use crate::exception::Exception;
use crate::regs::{cr4, is_canonical};

/// Instruction bytes at RIP through the guest's page tables.
pub(super) struct Code<'a> {
    pub(super) ops: &'a mut dyn VcpuOps,
    pub(super) start: u64,
    /// Bytes from RIP to the end of the code segment.
    pub(super) room: u64,
    pub(super) long: bool,
    /// A fetch did not go through.
    pub(super) failed: bool,
}

impl CodeSource for Code<'_> {
    fn more(&mut self, have: u8, buf: &mut [u8]) -> Reply<usize> {
        let got = self.fetch(have, buf);
        self.failed = got.is_err();
        got
    }
}

impl Code<'_> {
    /// Fetches into `buf` what follows the `have` bytes that are there; the number of bytes.
    fn fetch(&mut self, have: u8, buf: &mut [u8]) -> Reply<usize> {
        let mut at = self.start.wrapping_add(u64::from(have));
        if self.long {
            let wide = |ops: &mut dyn VcpuOps| ops.cr(Cr::Cr4) & cr4::LA57 != 0;
            if !is_canonical(at, 48) && (!wide(self.ops) || !is_canonical(at, 57)) {
                return Err(Exception::GP0.into());
            }
        } else {
            at &= 0xffff_ffff;
        }
        let at = Gva(at);
        let room = self.room.saturating_sub(u64::from(have));
        let most = room.min(at.bytes_to_page_end()).min(buf.len() as u64);
        if most == 0 {
            return Err(Exception::GP0.into());
        }
        match buf.get_mut(..most as usize) {
            Some(buf) => self.ops.fetch(at, buf),
            None => Err(Stop::Unhandled),
        }
    }
}
