// SPDX-License-Identifier: GPL-2.0

//! A vCPU made of plain fields: one megabyte of memory mapped one to one, devices that answer from lists, and a log.

#[path = "mock/machine.rs"]
mod machine;
#[path = "mock/ops.rs"]
mod ops;

pub use machine::{Machine, CODE, DATA};
use rkvm_core::addr::{Gpa, Gva};
use rkvm_core::emulate::*;
use rkvm_core::exception::{pfec, Exception};
use rkvm_core::regs::{cr0, cr4};
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
