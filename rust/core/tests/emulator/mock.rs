// SPDX-License-Identifier: GPL-2.0

//! A vCPU made of plain fields: one megabyte of memory mapped one to one, devices that answer from lists, and a log.

use rkvm_core::addr::{Gpa, Gva};
use rkvm_core::emulate::*;
use rkvm_core::exception::{pfec, Exception};
use rkvm_core::regs::{cr0, cr4, SegReg};
use std::collections::VecDeque;

/// Bytes of memory, at linear and physical address 0.
pub const RAM: u64 = 1 << 20;
/// Where devices begin; up to `DEVICES_END`. What lies between memory and devices is not mapped.
pub const DEVICES: u64 = 0xfee0_0000;
pub const DEVICES_END: u64 = 0xfee1_0000;
/// From here on devices are user space's.
pub const USER_DEVICES: u64 = 0xfee0_8000;

/// What devices saw, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    MmioRead(u64, usize),
    MmioWrite(u64, Vec<u8>),
    PioIn(u16, u8, usize),
    PioOut(u16, u8, Vec<u8>),
}

pub struct Mock {
    pub ram: Vec<u8>,
    pub mode: Mode,
    pub cpl: u8,
    pub segments: [Segment; 8],
    pub gdt: TableReg,
    pub idt: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    /// IA32_U_CET and IA32_S_CET, and the shadow-stack pointer.
    pub u_cet: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub dr: [u64; 8],
    pub efer: u64,
    pub msrs: std::collections::BTreeMap<u32, u64>,
    /// User space answers RDMSR and WRMSR.
    pub user_msrs: bool,
    pub seen: Vec<Seen>,
    /// Values for in-kernel device reads.
    pub answers: VecDeque<u8>,
    /// Ports from here on are user space's.
    pub user_ports: u32,
    /// Device addresses from here on are user space's.
    pub user_devices: u64,
    /// Pages that are not writable.
    pub read_only: Vec<u64>,
    /// Pages of shadow stacks.
    pub shadow: Vec<u64>,
    /// Pages of memory that are not mapped.
    pub absent: Vec<u64>,
    /// Pages of memory that were written, a bit each.
    pub touched: [u64; 4],
    pub fetches: usize,
    /// Accesses to memory and devices, and probes.
    pub accesses: usize,
    pub effects: Vec<Effect>,
    pub vectors: [[u8; 64]; 32],
    pub opmasks: [u64; 8],
    pub mmx: [u64; 8],
    /// The x87 status word.
    pub x87_status: u16,
    /// Changes memory right before this many exchanges, as another CPU would.
    pub contention: u32,
    pub without: Vec<Feature>,
    /// In-kernel devices answer with the low byte of each address, ports with that of the port.
    pub echo: bool,
    /// The FXSAVE image.
    pub fx: [u8; 512],
}

pub const FLAT_DATA: u32 = 0xc093;

impl Mock {
    pub fn new(mode: Mode) -> Self {
        Self::with_memory(mode, vec![0; RAM as usize])
    }

    /// With memory that is there already, all zero.
    pub fn with_memory(mode: Mode, ram: Vec<u8>) -> Self {
        assert_eq!(ram.len() as u64, RAM);
        let long = mode == Mode::Long64;
        let flat = |access| Segment {
            selector: 0x10,
            base: 0,
            limit: 0xffff_ffff,
            access,
        };
        let real = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            access: if mode == Mode::Vm86 { 0xf3 } else { 0x93 },
        };
        let mut segments = [match mode {
            Mode::Real | Mode::Vm86 => real,
            Mode::Prot16 => flat(0x8093),
            _ => flat(FLAT_DATA),
        }; 8];
        match mode {
            Mode::Real | Mode::Vm86 => {}
            Mode::Prot16 => segments[1] = flat(0x809b),
            Mode::Prot32 => segments[1] = flat(0xc09b),
            Mode::Long64 => segments[1] = flat(0xa09b),
        }
        Self {
            ram,
            mode,
            cpl: if mode == Mode::Vm86 { 3 } else { 0 },
            segments,
            gdt: TableReg::default(),
            idt: TableReg {
                base: 0,
                limit: 0x3ff,
            },
            cr0: if mode == Mode::Real {
                cr0::ET
            } else {
                cr0::ET | cr0::PE
            },
            cr2: 0,
            cr3: 0,
            cr4: cr4::OSFXSR | cr4::OSXSAVE,
            cr8: 0,
            u_cet: 0,
            s_cet: 0,
            ssp: 0,
            dr: [0; 8],
            efer: if long { 0x500 } else { 0 },
            msrs: Default::default(),
            user_msrs: false,
            seen: Vec::new(),
            answers: VecDeque::new(),
            user_ports: 0x8000,
            user_devices: USER_DEVICES,
            read_only: Vec::new(),
            shadow: Vec::new(),
            absent: Vec::new(),
            touched: [0; 4],
            fetches: 0,
            accesses: 0,
            effects: Vec::new(),
            vectors: [[0; 64]; 32],
            opmasks: [u64::MAX; 8],
            mmx: [0; 8],
            x87_status: 0,
            contention: 0,
            without: Vec::new(),
            echo: false,
            fx: [0; 512],
        }
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        self.ram[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        self.touch(at);
        self.touch(at + bytes.len().saturating_sub(1) as u64);
    }

    fn touch(&mut self, at: u64) {
        let page = at / 4096;
        self.touched[page as usize / 64] |= 1 << (page % 64);
    }

    pub fn get(&self, at: u64, len: usize) -> &[u8] {
        &self.ram[at as usize..at as usize + len]
    }

    fn range(&mut self, at: Gva, len: usize, access: Access) -> Reply<Backing> {
        self.accesses += 1;
        let write = access.kind != AccessKind::Read;
        assert!(
            at.page_offset() + len as u64 <= 4096,
            "a piece crosses a page"
        );
        let code = if access.shadow_stack { pfec::SS } else { 0 };
        let absent = self.absent.contains(&at.page_base().0);
        if at.0.saturating_add(len as u64) <= RAM && !absent {
            let shadow = self.shadow.contains(&at.page_base().0);
            let wrong = if access.shadow_stack {
                !shadow
            } else {
                write && (shadow || self.read_only.contains(&at.page_base().0))
            };
            if wrong {
                let code = code | pfec::PRESENT | if write { pfec::WRITE } else { 0 };
                return Err(Exception::pf(at, code).into());
            }
            return Ok(Backing::Ram);
        }
        if (DEVICES..DEVICES_END).contains(&at.0) {
            return Ok(Backing::Mmio(Gpa(at.0)));
        }
        Err(Exception::pf(at, code | if write { pfec::WRITE } else { 0 }).into())
    }
}

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

/// Where test code lies.
pub const CODE: u64 = 0x1000;
/// Where test data lie.
pub const DATA: u64 = 0x8000;

/// A vCPU with one instruction at `CODE`.
pub struct Machine {
    pub emulator: Emulator,
    pub regs: Regs,
    pub cpu: Mock,
}

impl Machine {
    pub fn new(mode: Mode, code: &[u8]) -> Self {
        let mut cpu = Mock::new(mode);
        cpu.put(CODE, code);
        let mut regs = Regs {
            rip: CODE,
            rflags: 2,
            ..Regs::default()
        };
        regs.gpr[4] = 0x7000;
        Self {
            emulator: Emulator::new(),
            regs,
            cpu,
        }
    }

    pub fn start(&mut self) -> Outcome {
        self.emulator
            .start(&mut self.regs, &mut self.cpu, Cause::Exit)
    }

    pub fn resume(&mut self) -> Outcome {
        self.emulator.resume(&mut self.regs, &mut self.cpu)
    }

    /// Starts, and expects completion.
    pub fn complete(&mut self) -> Completed {
        match self.start() {
            Outcome::Completed(c) => c,
            other => panic!("not completed: {other:?}"),
        }
    }
}
