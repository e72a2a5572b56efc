// SPDX-License-Identifier: GPL-2.0

//! The emulator's side: a user-mode vCPU whose memory looks like the native process's.

use crate::compare::{After, Ending};
use crate::generate::{self, Case};
use crate::native::{self, has_avx512, Registers, CODE, DATA, DATA_BYTES, READ_ONLY};
use rkvm_core::addr::{Gpa, Gva};
use rkvm_core::emulate::*;
use rkvm_core::exception::{pfec, Exception};
use rkvm_core::regs::{cr0, cr4, SegReg};

/// See the module.
pub struct Mirror {
    /// The code at `CODE + 0x800`.
    pub code: [u8; 16],
    /// The data pages.
    pub data: Box<[u8; DATA_BYTES]>,
    /// Mode of the code.
    pub mode: Mode,
    /// ZMM registers.
    pub vectors: [[u8; 64]; 32],
    /// Opmask registers.
    pub opmasks: [u64; 8],
}

impl Mirror {
    /// Data all zero.
    pub fn new() -> Self {
        Self {
            code: [0xcc; 16],
            data: Box::new([0; DATA_BYTES]),
            mode: Mode::Long64,
            vectors: [[0; 64]; 32],
            opmasks: [0; 8],
        }
    }

    /// The emulator's side of a case, from `registers` and the data that are there: until the instruction has ended.
    pub fn emulate(
        &mut self,
        emulator: &mut Emulator,
        case: &Case,
        registers: &Registers,
    ) -> (Regs, Ending) {
        self.code = [0xcc; 16];
        self.code[..case.code.len()].copy_from_slice(&case.code);
        self.mode = generate::mode(case.long);
        self.vectors = registers.vectors;
        self.opmasks = registers.opmasks;
        let mut regs = registers.general();
        loop {
            let ending = match emulator.start(&mut regs, self, Cause::Exit) {
                Outcome::Completed(c) if c.more => continue,
                Outcome::Completed(_) => Ending::Completed,
                Outcome::Inject(e, _) => Ending::Fault(e),
                Outcome::Unhandled(_) => Ending::Unhandled,
                other => panic!("{other:?} at {CODE:x}"),
            };
            return (regs, ending);
        }
    }

    /// What the emulator's side has come to.
    pub fn after(&self, regs: Regs, ending: Ending) -> After {
        After {
            ending,
            regs,
            vectors: self.vectors,
            data: self.data.clone(),
        }
    }

    /// The exception of an access to one byte of data, if there is one.
    pub fn fault(&self, at: Gva, access: Access) -> Option<Exception> {
        match self.offset(at, 1, access) {
            Err(Stop::Fault(e)) => Some(e),
            _ => None,
        }
    }

    fn offset(&self, at: Gva, len: usize, access: Access) -> Result<usize, Stop> {
        let write = access.kind != AccessKind::Read;
        let mut code = if write { pfec::WRITE } else { 0 };
        if !access.implicit_supervisor {
            code |= pfec::USER;
        }
        let offset = at.0.wrapping_sub(DATA) as usize;
        if offset >= DATA_BYTES {
            return Err(Exception::pf(at, code).into());
        }
        assert!(offset + len <= DATA_BYTES);
        if write && at.0 >= READ_ONLY {
            return Err(Exception::pf(at, code | pfec::PRESENT).into());
        }
        Ok(offset)
    }
}

impl VcpuOps for Mirror {
    fn fetch(&mut self, at: Gva, buf: &mut [u8]) -> Reply<usize> {
        let offset = at.0.wrapping_sub(CODE + 0x800) as usize;
        let Some(from) = self.code.get(offset..) else {
            return Err(Exception::pf(at, pfec::USER | pfec::FETCH).into());
        };
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply<Backing> {
        let o = self.offset(at, buf.len(), access)?;
        buf.copy_from_slice(&self.data[o..o + buf.len()]);
        Ok(Backing::Ram)
    }

    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Reply<Backing> {
        let o = self.offset(at, data.len(), access)?;
        self.data[o..o + data.len()].copy_from_slice(data);
        Ok(Backing::Ram)
    }

    fn probe(&mut self, at: Gva, access: Access) -> Reply<Backing> {
        self.offset(at, 1, access).map(|_| Backing::Ram)
    }

    fn cmpxchg(&mut self, at: Gva, bytes: u8, old: u128, new: u128, access: Access) -> Reply<Swap> {
        let n = usize::from(bytes);
        let o = self.offset(
            at,
            n,
            Access {
                kind: AccessKind::Write,
                ..access
            },
        )?;
        let mut raw = [0; 16];
        raw[..n].copy_from_slice(&self.data[o..o + n]);
        assert_eq!(u128::from_le_bytes(raw), old);
        self.data[o..o + n].copy_from_slice(&new.to_le_bytes()[..n]);
        Ok(Swap::Done)
    }

    fn mmio_read(&mut self, _: Gpa, _: &mut [u8]) -> IoReply {
        IoReply::User
    }

    fn mmio_write(&mut self, _: Gpa, _: &[u8]) -> IoReply {
        IoReply::User
    }

    fn pio_in(&mut self, _: u16, _: u8, _: &mut [u8]) -> IoReply {
        IoReply::User
    }

    fn pio_out(&mut self, _: u16, _: u8, _: &[u8]) -> IoReply {
        IoReply::User
    }

    fn mode(&mut self) -> Mode {
        self.mode
    }

    fn cpl(&mut self) -> u8 {
        3
    }

    /// What Linux gives a process; GS has a base in 64-bit code only.
    fn segment(&mut self, which: SegReg) -> Segment {
        let long = self.mode == Mode::Long64;
        let flat = |selector, access| Segment {
            selector,
            base: 0,
            limit: 0xffff_ffff,
            access,
        };
        match which {
            SegReg::Cs if long => flat(0x33, 0xa0fb),
            SegReg::Cs => flat(0x23, 0xc0fb),
            SegReg::Ss | SegReg::Ds | SegReg::Es => flat(0x2b, 0xc0f3),
            SegReg::Gs if long => Segment {
                base: DATA,
                ..Segment::unusable(0)
            },
            _ => Segment::unusable(0),
        }
    }

    fn set_segment(&mut self, _: SegReg, _: &Segment) {}

    fn table(&mut self, _: TableKind) -> TableReg {
        TableReg::default()
    }

    fn set_table(&mut self, _: TableKind, _: TableReg) {}

    fn cr(&mut self, which: Cr) -> u64 {
        match which {
            Cr::Cr0 => cr0::PE | cr0::PG | cr0::AM | cr0::WP | cr0::NE | cr0::MP,
            Cr::Cr4 => cr4::OSFXSR | cr4::OSXSAVE | cr4::PAE | cr4::UMIP,
            _ => 0,
        }
    }

    fn set_cr(&mut self, _: Cr, _: u64) -> Reply {
        Err(Stop::Unhandled)
    }

    fn dr(&mut self, _: u8) -> u64 {
        0
    }

    fn set_dr(&mut self, _: u8, _: u64) -> Reply {
        Err(Stop::Unhandled)
    }

    fn efer(&mut self) -> u64 {
        0xd01
    }

    fn read_msr(&mut self, _: u32) -> Reply<u64> {
        Err(Exception::GP0.into())
    }

    fn write_msr(&mut self, _: u32, _: u64) -> Reply {
        Err(Exception::GP0.into())
    }

    fn implied_msr(&mut self, _: u32) -> Reply<u64> {
        Err(Exception::GP0.into())
    }

    fn set_implied_msr(&mut self, _: u32, _: u64) -> Reply {
        Err(Exception::GP0.into())
    }

    fn read_pmc(&mut self, _: u32) -> Reply<u64> {
        Err(Exception::GP0.into())
    }

    fn tsc(&mut self) -> u64 {
        0
    }

    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }

    fn has(&mut self, feature: Feature) -> bool {
        native_has(feature)
    }

    fn xcr0(&mut self) -> u64 {
        if has_avx512() {
            0xe7
        } else {
            7
        }
    }

    fn set_xcr(&mut self, _: u32, _: u64) -> Reply {
        Err(Stop::Unhandled)
    }

    fn effect(&mut self, _: Effect) -> Reply {
        Err(Stop::Unhandled)
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

    fn read_mmx(&mut self, _: u8) -> Reply<u64> {
        Err(Stop::Unhandled)
    }

    fn write_mmx(&mut self, _: u8, _: u64) -> Reply {
        Err(Stop::Unhandled)
    }
}

/// Whether this machine has a feature.
pub fn native_has(feature: Feature) -> bool {
    let [ebx, ecx, edx] = native::leaf7();
    match feature {
        Feature::Movbe => is_x86_feature_detected!("movbe"),
        Feature::Popcnt => is_x86_feature_detected!("popcnt"),
        Feature::Lzcnt => is_x86_feature_detected!("lzcnt"),
        Feature::Bmi1 => is_x86_feature_detected!("bmi1"),
        Feature::Bmi2 => is_x86_feature_detected!("bmi2"),
        Feature::Adx => is_x86_feature_detected!("adx"),
        Feature::Sse42 => is_x86_feature_detected!("sse4.2"),
        Feature::Cx16 => is_x86_feature_detected!("cmpxchg16b"),
        Feature::Avx2 => is_x86_feature_detected!("avx2"),
        Feature::Avx512f | Feature::Avx512bw => has_avx512(),
        Feature::Avx512dq => is_x86_feature_detected!("avx512dq"),
        Feature::Avx512fp16 => edx >> 23 & 1 != 0,
        Feature::Avx512vl => is_x86_feature_detected!("avx512vl"),
        Feature::Clflushopt => ebx >> 23 & 1 != 0,
        Feature::Clwb => ebx >> 24 & 1 != 0,
        Feature::Movdiri => ecx >> 27 & 1 != 0,
        Feature::Movdir64b => ecx >> 28 & 1 != 0,
        _ => true,
    }
}
