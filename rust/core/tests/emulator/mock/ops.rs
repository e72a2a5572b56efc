// SPDX-License-Identifier: GPL-2.0

//! What the emulator asks of the vCPU, answered from its fields.

use super::{Mock, Seen};
use rkvm_core::addr::{Gpa, Gva};
use rkvm_core::emulate::*;
use rkvm_core::exception::Exception;
use rkvm_core::regs::{cr4, SegReg};

impl VcpuOps for Mock {
    fn fetch(&mut self, at: Gva, buf: &mut [u8]) -> Reply<usize> {
        self.fetches += 1;
        if self.range(at, buf.len(), Access::READ)? != Backing::Ram {
            return Err(Stop::Unhandled);
        }
        buf.copy_from_slice(self.get(at.0, buf.len()));
        Ok(buf.len())
    }

    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply<Backing> {
        let b = self.range(at, buf.len(), access)?;
        if b == Backing::Ram {
            buf.copy_from_slice(self.get(at.0, buf.len()));
        }
        Ok(b)
    }

    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Reply<Backing> {
        let b = self.range(at, data.len(), access)?;
        if b == Backing::Ram {
            self.put(at.0, data);
        }
        Ok(b)
    }

    fn probe(&mut self, at: Gva, access: Access) -> Reply<Backing> {
        self.range(at, 1, access)
    }

    fn cmpxchg(&mut self, at: Gva, bytes: u8, old: u128, new: u128, access: Access) -> Reply<Swap> {
        assert!(at.0 % 64 + u64::from(bytes) <= 64 && (bytes < 16 || at.0 % 16 == 0));
        let access = Access {
            kind: AccessKind::Modify,
            ..access
        };
        let len = usize::from(bytes);
        match self.range(at, len, access)? {
            Backing::Mmio(gpa) => Ok(Swap::Mmio(gpa)),
            Backing::Ram => {
                if self.contention > 0 {
                    self.contention -= 1;
                    let other = self.ram[at.0 as usize] ^ 1;
                    self.put(at.0, &[other]);
                }
                let mut raw = [0; 16];
                raw[..len].copy_from_slice(self.get(at.0, len));
                if u128::from_le_bytes(raw) != old {
                    return Ok(Swap::Changed);
                }
                self.put(at.0, &new.to_le_bytes()[..len]);
                Ok(Swap::Done)
            }
        }
    }

    fn mmio_read(&mut self, at: Gpa, buf: &mut [u8]) -> IoReply {
        assert!(!buf.is_empty() && buf.len() <= 8);
        self.accesses += 1;
        if at.0 >= self.user_devices {
            return IoReply::User;
        }
        self.seen.push(Seen::MmioRead(at.0, buf.len()));
        if self.echo {
            for (n, b) in buf.iter_mut().enumerate() {
                *b = (at.0 as u8).wrapping_add(n as u8);
            }
            return IoReply::Done;
        }
        for b in buf {
            *b = self.answers.pop_front().unwrap_or(0xff);
        }
        IoReply::Done
    }

    fn mmio_write(&mut self, at: Gpa, data: &[u8]) -> IoReply {
        assert!(!data.is_empty() && data.len() <= 8);
        self.accesses += 1;
        if at.0 >= self.user_devices {
            return IoReply::User;
        }
        self.seen.push(Seen::MmioWrite(at.0, data.to_vec()));
        IoReply::Done
    }

    fn pio_in(&mut self, port: u16, size: u8, buf: &mut [u8]) -> IoReply {
        self.accesses += 1;
        if u32::from(port) >= self.user_ports {
            return IoReply::User;
        }
        self.seen
            .push(Seen::PioIn(port, size, buf.len() / usize::from(size)));
        if self.echo {
            buf.fill(port as u8);
            return IoReply::Done;
        }
        for b in buf {
            *b = self.answers.pop_front().unwrap_or(0xff);
        }
        IoReply::Done
    }

    fn pio_out(&mut self, port: u16, size: u8, data: &[u8]) -> IoReply {
        self.accesses += 1;
        if u32::from(port) >= self.user_ports {
            return IoReply::User;
        }
        self.seen.push(Seen::PioOut(port, size, data.to_vec()));
        IoReply::Done
    }

    fn mode(&mut self) -> Mode {
        self.mode
    }

    fn cpl(&mut self) -> u8 {
        self.cpl
    }

    fn segment(&mut self, which: SegReg) -> Segment {
        self.segments[which as usize]
    }

    fn set_segment(&mut self, which: SegReg, value: &Segment) {
        self.segments[which as usize] = *value;
        let protected = self.mode != Mode::Real && self.mode != Mode::Vm86;
        if which == SegReg::Cs && protected {
            let long = self.efer & 0x400 != 0;
            self.mode = match value.access >> 13 & 3 {
                1 | 3 if long => Mode::Long64,
                2 | 3 => Mode::Prot32,
                _ => Mode::Prot16,
            };
        }
        if which == SegReg::Ss && self.mode != Mode::Real && self.mode != Mode::Vm86 {
            self.cpl = value.dpl();
        }
    }

    fn table(&mut self, which: TableKind) -> TableReg {
        match which {
            TableKind::Gdt => self.gdt,
            TableKind::Idt => self.idt,
        }
    }

    fn set_table(&mut self, which: TableKind, value: TableReg) {
        match which {
            TableKind::Gdt => self.gdt = value,
            TableKind::Idt => self.idt = value,
        }
    }

    fn cr(&mut self, which: Cr) -> u64 {
        match which {
            Cr::Cr0 => self.cr0,
            Cr::Cr2 => self.cr2,
            Cr::Cr3 => self.cr3,
            Cr::Cr4 => self.cr4,
            Cr::Cr8 => self.cr8,
        }
    }

    fn set_cr(&mut self, which: Cr, value: u64) -> Reply {
        match which {
            Cr::Cr0 => self.cr0 = value,
            Cr::Cr2 => self.cr2 = value,
            Cr::Cr3 => self.cr3 = value,
            Cr::Cr4 => self.cr4 = value,
            Cr::Cr8 => self.cr8 = value,
        }
        Ok(())
    }

    fn cet(&mut self) -> Reply<Option<Cet>> {
        let control = if self.cpl == 3 {
            self.u_cet
        } else {
            self.s_cet
        };
        let ssp = self.ssp;
        Ok((self.cr4 & cr4::CET != 0).then_some(Cet { control, ssp }))
    }

    fn set_cet(&mut self, value: &Cet) {
        match self.cpl {
            3 => self.u_cet = value.control,
            _ => self.s_cet = value.control,
        }
        self.ssp = value.ssp;
    }

    fn dr(&mut self, number: u8) -> u64 {
        self.dr[usize::from(number)]
    }

    fn set_dr(&mut self, number: u8, value: u64) -> Reply {
        self.dr[usize::from(number)] = value;
        Ok(())
    }

    fn efer(&mut self) -> u64 {
        self.efer
    }

    fn read_msr(&mut self, index: u32) -> Reply<u64> {
        if index >= 0xf000_0000 || self.user_msrs {
            return Err(Stop::User);
        }
        self.msrs.get(&index).copied().ok_or(Exception::GP0.into())
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Reply {
        if index >= 0xf000_0000 || self.user_msrs {
            return Err(Stop::User);
        }
        self.msrs.insert(index, value);
        Ok(())
    }

    fn implied_msr(&mut self, index: u32) -> Reply<u64> {
        self.msrs.get(&index).copied().ok_or(Exception::GP0.into())
    }

    fn set_implied_msr(&mut self, index: u32, value: u64) -> Reply {
        self.msrs.insert(index, value);
        Ok(())
    }

    fn read_pmc(&mut self, index: u32) -> Reply<u64> {
        Ok(u64::from(index))
    }

    fn tsc(&mut self) -> u64 {
        0x1234_5678_9abc_def0
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, 3, 4]
    }

    fn has(&mut self, feature: Feature) -> bool {
        !self.without.contains(&feature)
    }

    fn xcr0(&mut self) -> u64 {
        0xe7
    }

    fn set_xcr(&mut self, _index: u32, _value: u64) -> Reply {
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Reply {
        self.effects.push(effect);
        Ok(())
    }

    fn read_vector(&mut self, number: u8, into: &mut [u8]) -> Reply {
        register_file::read(&self.vectors, number, into);
        Ok(())
    }

    fn write_vector(&mut self, number: u8, from: &[u8], clear_rest: bool) -> Reply {
        register_file::write(&mut self.vectors, number, from, clear_rest);
        Ok(())
    }

    fn read_opmask(&mut self, number: u8) -> Reply<u64> {
        Ok(self.opmasks[usize::from(number)])
    }

    fn x87(&mut self, what: X87) -> Reply<u16> {
        Ok(match what {
            X87::StatusWord => self.x87_status,
            X87::ControlWord => 0x37f,
            X87::Init => 0,
        })
    }

    fn fxsave(&mut self, image: &mut [u8], _wide: bool) -> Reply {
        image.copy_from_slice(&self.fx);
        Ok(())
    }

    fn fxrstor(&mut self, image: &[u8], _wide: bool) -> Reply {
        self.fx.copy_from_slice(image);
        Ok(())
    }

    fn read_mmx(&mut self, number: u8) -> Reply<u64> {
        Ok(self.mmx[usize::from(number)])
    }

    fn write_mmx(&mut self, number: u8, value: u64) -> Reply {
        self.mmx[usize::from(number)] = value;
        Ok(())
    }
}
