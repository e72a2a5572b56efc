// SPDX-License-Identifier: GPL-2.0

//! IN and OUT, and the permission to use a port (SDM volume 1, "I/O Permission Bit Map").

use crate::addr::Gva;
use crate::exception::Exception;
use crate::regs::{cr0, Gpr, SegReg};

use super::exec::Exec;
use super::ops::{Access, IoReply, Reply, Stop};
use super::state::{ar, Cr, Mode, Width};
use super::table::{Loc, Op};
use super::work::{Answer, Port};

/// Offset of the I/O map base in a 32- or 64-bit TSS.
pub(super) const IO_MAP_BASE: u64 = 102;

/// Up to 8 bytes as an integer.
pub(super) fn little_endian(data: &[u8]) -> u64 {
    let mut raw = [0u8; 8];
    if let Some(to) = raw.get_mut(..data.len()) {
        to.copy_from_slice(data);
    }
    u64::from_le_bytes(raw)
}

impl Exec<'_> {
    /// Port accesses are at most four bytes wide.
    #[inline]
    pub(super) fn port_width(&self) -> Width {
        self.insn.width.min(Width::B4)
    }

    /// #GP(0) unless IOPL or the I/O bitmap of the TSS allow the access.
    pub(super) fn check_port(&mut self, port: u16, width: Width) -> Reply {
        if self.mode == Mode::Real {
            return Ok(());
        }
        let vm86 = self.mode == Mode::Vm86;
        if !vm86 && self.ops.cpl() <= self.iopl() {
            return Ok(());
        }
        if self.cr(Cr::Cr0) & cr0::PE == 0 {
            return Ok(());
        }
        let tss = self.ops.segment(SegReg::Tr);
        let kind = tss.access & ar::TYPE;
        let has_map = !tss.has(ar::UNUSABLE) && (kind == 9 || kind == 11);
        if !has_map || tss.limit < 103 {
            return Err(Exception::GP0.into());
        }
        let base = self.read_linear(
            Gva(tss.base.wrapping_add(IO_MAP_BASE)),
            Width::B2,
            Access::SYSTEM_READ,
        )?;
        let first = base.wrapping_add(u64::from(port >> 3));
        // Two bytes are always read, so that an access may cross a byte of the map.
        if first.wrapping_add(1) > u64::from(tss.limit) {
            return Err(Exception::GP0.into());
        }
        let map = self.read_linear(
            Gva(tss.base.wrapping_add(first)),
            Width::B2,
            Access::SYSTEM_READ,
        )?;
        let bits = 1u64
            .wrapping_shl(u32::from(width.bytes()))
            .wrapping_sub(1)
            .wrapping_shl(u32::from(port & 7));
        if map & bits != 0 {
            return Err(Exception::GP0.into());
        }
        Ok(())
    }

    /// IN and OUT.
    pub(super) fn port(&mut self, op: Op) -> Reply {
        let width = self.port_width();
        let port = match self.insn.entry.src {
            Loc::Dx => self.named(Gpr::Rdx, Width::B2) as u16,
            _ => self.insn.imm as u16 & 0xff,
        };
        self.check_port(port, width)?;
        if op == Op::In {
            let answered = matches!(self.work.answer, Answer::Port(p)
                if p.port == port && p.size == width.bytes());
            if !answered {
                self.port_read(port, width, 1)?;
            }
            self.work.answer = Answer::None;
            let value = match self.work.data.get(..width.size()) {
                Some(data) => little_endian(data),
                None => return Err(Stop::Unhandled),
            };
            self.set_named(Gpr::Rax, width, value);
            return Ok(());
        }
        let value = self.named(Gpr::Rax, width).to_le_bytes();
        let Some(data) = value.get(..width.size()) else {
            return Err(Stop::Unhandled);
        };
        if self.ops.pio_out(port, width.bytes(), data) == IoReply::User {
            if let Some(to) = self.work.data.get_mut(..width.size()) {
                to.copy_from_slice(data);
            }
            self.work.port_out = Some(Port {
                port,
                size: width.bytes(),
                count: 1,
            });
        }
        Ok(())
    }
}
