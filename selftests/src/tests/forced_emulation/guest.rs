// SPDX-License-Identifier: GPL-2.0

//! The guest in which an instruction is executed: descriptor tables with one descriptor of each kind, page tables with
//! one page of each kind, and a register state for each mode.
//!
//! | address | what                                                                       |
//! |---------|----------------------------------------------------------------------------|
//! | 0x00000 | real-mode vectors                                                          |
//! | 0x01000 | GDT                                                                        |
//! | 0x02000 | IDT                                                                        |
//! | 0x03000 | TSS, with an I/O bitmap that permits port 0x40 and forbids the rest        |
//! | 0x04000 | LDT                                                                        |
//! | 0x08000 | page tables                                                                |
//! | 0x10000 | code: HLT everywhere; the instruction at [`AT`], handlers from [`HANDLERS`] |
//! | 0x20000 | data: two ordinary pages, [`READ_ONLY`], [`ABSENT`], [`SUPERVISOR`]        |
//! | 0x70000 | the stack, then that of privilege level 0                                  |

use crate::errno::Errno;
use crate::ram::Ram;
use kvm_bindings::*;
use std::sync::atomic::Ordering::Relaxed;

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const LDT: u64 = 0x4000;
/// Offset of the interrupt redirection bitmap in the TSS. It overlaps what only task switches use.
pub const REDIRECTION: u64 = 0x48;
const TABLES: u64 = 0x8000;
const PAE_ROOT: u64 = 0xc000;
pub const CODE: u64 = 0x1_0000;
/// Offset of the instruction in the code page.
pub const AT: u64 = 0x100;
/// Offset of the handler of vector 0; that of each vector is one HLT.
pub const HANDLERS: u64 = 0x800;
pub const DATA: u64 = 0x2_0000;
/// Offset in the data that the pointer registers start with.
pub const POINTER: u64 = 0x100;
pub const READ_ONLY: u64 = 0x2_2000;
pub const ABSENT: u64 = 0x2_3000;
pub const SUPERVISOR: u64 = 0x2_4000;
pub const STACK: u64 = 0x7_0000;
/// Offset of the top of the stack.
pub const TOP: u64 = 0x800;
const STACK0: u64 = 0x7_1800;

/// What a run may change.
pub const REGIONS: [(u64, usize); 5] = [
    (0, 0x5000),
    (TABLES, 0x5000),
    (CODE, 0x1000),
    (DATA, 0x5000),
    (STACK, 0x2000),
];

/// Selectors of the GDT.
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const TR: u16 = 0x18;
    pub const CODE32: u16 = 0x28;
    pub const CODE16: u16 = 0x30;
    pub const DATA16: u16 = 0x38;
    pub const USER_CODE32: u16 = 0x43;
    pub const USER_DATA: u16 = 0x4b;
    pub const USER_CODE64: u16 = 0x53;
    pub const READ_ONLY: u16 = 0x58;
    pub const ABSENT: u16 = 0x60;
    pub const CONFORMING: u16 = 0x68;
    pub const EXECUTE_ONLY: u16 = 0x70;
    pub const EXPAND_DOWN: u16 = 0x78;
    pub const LDT: u16 = 0x80;
    pub const GATE: u16 = 0x90;
    pub const FREE_TSS: u16 = 0xa0;
    pub const NOT_ACCESSED: u16 = 0xb0;
    pub const ABSENT_CODE: u16 = 0xb8;
    pub const ABSENT_GATE: u16 = 0xc0;
    pub const STACK16: u16 = 0xd0;
    pub const USER_GATE: u16 = 0xe0;
    /// The data segment of the LDT.
    pub const LOCAL: u16 = 0x0c;
    pub const LIMIT: u16 = 0xff;
}

pub const CF: u64 = 1 << 0;
pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const IOPL3: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const VM: u64 = 1 << 17;
pub const VIF: u64 = 1 << 19;
pub const AC: u64 = 1 << 18;

pub const PE: u64 = 1 << 0;
pub const TS: u64 = 1 << 3;
pub const AM: u64 = 1 << 18;
pub const PG: u64 = 1 << 31;

pub const CR4_VME: u64 = 1 << 0;
pub const CR4_TSD: u64 = 1 << 2;
pub const CR4_DE: u64 = 1 << 3;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_PGE: u64 = 1 << 7;
pub const CR4_UMIP: u64 = 1 << 11;
pub const CR4_FSGSBASE: u64 = 1 << 16;

/// The modes that code runs in, each with its privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Mode {
    /// Real mode.
    Real = 1 << 0,
    /// Virtual-8086 mode.
    Vm86 = 1 << 1,
    /// 16-bit code of protected mode, level 0, segments based at their memory.
    Prot16 = 1 << 2,
    /// 32-bit code of protected mode with PAE paging, level 0, flat.
    Prot32 = 1 << 3,
    /// The same at level 3.
    User32 = 1 << 4,
    /// Compatibility mode, level 0.
    Compat = 1 << 5,
    /// Compatibility mode, level 3.
    UserCompat = 1 << 6,
    /// 64-bit mode, level 0.
    Long = 1 << 7,
    /// 64-bit mode, level 3.
    UserLong = 1 << 8,
}

impl Mode {
    pub const ALL: [Mode; 9] = [
        Mode::Real,
        Mode::Vm86,
        Mode::Prot16,
        Mode::Prot32,
        Mode::User32,
        Mode::Compat,
        Mode::UserCompat,
        Mode::Long,
        Mode::UserLong,
    ];

    /// Code size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Mode::Real | Mode::Vm86 | Mode::Prot16 => 16,
            Mode::Long | Mode::UserLong => 64,
            _ => 32,
        }
    }

    fn ia32e(self) -> bool {
        matches!(
            self,
            Mode::Compat | Mode::UserCompat | Mode::Long | Mode::UserLong
        )
    }

    pub fn user(self) -> bool {
        matches!(
            self,
            Mode::Vm86 | Mode::User32 | Mode::UserCompat | Mode::UserLong
        )
    }

    /// Segments are based at their memory, pointers are offsets.
    pub fn based(self) -> bool {
        self.bits() == 16
    }

    /// Selector of the code segment.
    pub fn cs(self) -> u16 {
        match self {
            Mode::Real | Mode::Vm86 => (CODE >> 4) as u16,
            Mode::Prot16 => sel::CODE16,
            Mode::Prot32 | Mode::Compat => sel::CODE32,
            Mode::User32 | Mode::UserCompat => sel::USER_CODE32,
            Mode::Long => sel::CODE64,
            Mode::UserLong => sel::USER_CODE64,
        }
    }
}

/// A register state and memory, in the making.
pub struct Guest<'a> {
    pub mode: Mode,
    pub ram: &'a Ram,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub debug: kvm_debugregs,
    pub xcr0: u64,
    /// x87 control word, status word above it.
    pub x87: u32,
}

impl<'a> Guest<'a> {
    /// The registers that `mode` starts with. `fresh` is the state of a new vCPU.
    pub fn new(mode: Mode, ram: &'a Ram, fresh: &kvm_sregs) -> Self {
        let mut guest = Guest {
            mode,
            ram,
            regs: kvm_regs::default(),
            sregs: *fresh,
            debug: kvm_debugregs {
                dr6: 0xffff_0ff0,
                dr7: 0x400,
                ..Default::default()
            },
            xcr0: 7,
            x87: 0x37f,
        };
        guest.registers();
        guest
    }

    /// The address of `linear` in the code segment (for `CODE`), data or stack segment, whichever it belongs to.
    pub fn offset(&self, linear: u64) -> u64 {
        match self.mode.based() {
            true => linear & 0xffff,
            false => linear,
        }
    }

    /// Writes values of `size` bytes to the stack, the first at its top.
    pub fn stack(&self, size: usize, values: &[u64]) {
        for (i, v) in values.iter().enumerate() {
            let at = STACK + TOP + (i * size) as u64;
            self.ram.write(at, &v.to_le_bytes()[..size]);
        }
    }

    /// Writes to where the pointer registers point to.
    pub fn operand(&self, bytes: &[u8]) {
        self.ram.write(DATA + POINTER, bytes);
    }

    /// Points the pointer registers to `linear`.
    pub fn point(&mut self, linear: u64) {
        let at = match self.mode.based() {
            true => linear.wrapping_sub(DATA),
            false => linear,
        };
        (self.regs.rbx, self.regs.rdi) = (at, at);
    }

    /// Turns AVX-512 on, if the machine has it.
    pub fn wide(&mut self) {
        if wide_vectors() {
            self.xcr0 = 0xe7;
        }
    }

    /// Moves the pointer registers on.
    pub fn advance(&mut self, bytes: u64) {
        self.regs.rbx += bytes;
        self.regs.rdi += bytes;
    }

    /// Writes memory as the mode starts with it, and gives it.
    pub fn image(&self) -> Image {
        let ram = self.ram;
        for (at, len) in REGIONS {
            let fill = match at {
                CODE => 0xf4f4_f4f4_f4f4_f4f4,
                DATA | STACK => 0x8a7b_0655_4c3d_1e2f,
                _ => 0,
            };
            for i in (0..len as u64).step_by(8) {
                let salt = match at {
                    DATA | STACK => i.wrapping_mul(0x0101_0503_0907_110b),
                    _ => 0,
                };
                ram.set64(at + i, fill ^ salt);
            }
        }
        self.descriptors();
        self.gates();
        self.pages();
        let io_bitmap = REDIRECTION as u8 + 32;
        if self.mode.ia32e() {
            ram.write(TSS + 4, &STACK0.to_le_bytes());
            ram.write(TSS + 0x24, &(STACK0 - 0x400).to_le_bytes());
        } else {
            ram.set32(TSS + 4, STACK0 as u32);
            ram.set32(TSS + 8, sel::DATA.into());
        }
        ram.write(TSS + 0x66, &[io_bitmap, 0]);
        ram.write(TSS + u64::from(io_bitmap), &[0xff; 0x28]);
        // Ports 0x40 to 0x47 but 0x44.
        ram.write(TSS + u64::from(io_bitmap) + 8, &[0x10]);
        Image::of(ram)
    }

    fn descriptors(&self) {
        use sel::*;
        let put = |s: u16, d: u64| self.ram.set64(GDT + u64::from(s & !7), d);
        let system = |s: u16, base: u64, limit: u64, access: u64| {
            put(s, limit | (base << 16) | (access << 40));
        };
        put(CODE64, 0x00af_9b00_0000_ffff);
        put(DATA, 0x00cf_9300_0000_ffff);
        system(TR, TSS, 0x90, 0x8b);
        put(CODE32, 0x00cf_9b00_0000_ffff);
        put(CODE16, 0x0000_9b00_0000_ffff | (CODE << 16));
        put(DATA16, 0x0000_9300_0000_ffff | (super::guest::DATA << 16));
        put(USER_CODE32, 0x00cf_fb00_0000_ffff);
        put(USER_DATA, 0x00cf_f300_0000_ffff);
        put(USER_CODE64, 0x00af_fb00_0000_ffff);
        put(READ_ONLY, 0x00cf_9000_0000_ffff);
        put(ABSENT, 0x00cf_1300_0000_ffff);
        put(CONFORMING, 0x00cf_9e00_0000_ffff);
        put(EXECUTE_ONLY, 0x00cf_9800_0000_ffff);
        put(EXPAND_DOWN, 0x0040_9700_0000_1fff);
        system(sel::LDT, super::guest::LDT, 0x17, 0x82);
        system(FREE_TSS, TSS + 0x200, 0x67, 0x89);
        put(NOT_ACCESSED, 0x00cf_9200_0000_ffff);
        put(ABSENT_CODE, 0x00cf_1b00_0000_ffff);
        put(STACK16, 0x0000_9300_0000_ffff | (STACK << 16));
        self.ram.set64(super::guest::LDT + 8, 0x00cf_9200_0000_ffff);
        let target = self.offset(CODE + 0x300);
        let code = match self.mode.bits() {
            16 => CODE16,
            _ if self.mode.ia32e() => CODE64,
            _ => CODE32,
        };
        for (s, access) in [(GATE, 0x8c), (ABSENT_GATE, 0x0c), (USER_GATE, 0xec)] {
            let gate = (target & 0xffff)
                | (u64::from(code) << 16)
                | (access << 40)
                | ((target & 0xffff_0000) << 32);
            put(s, gate);
        }
    }

    fn gates(&self) {
        for v in 0..0x60u64 {
            let handler = CODE + HANDLERS + v;
            self.ram
                .set32(v * 4, ((CODE << 12) | (handler - CODE)) as u32);
            // INT 50h is for everybody, INT 51h not present.
            let access = match v {
                0x50 | 3 | 4 => 0xee00,
                0x51 => 0x6e00,
                _ => 0x8e00,
            };
            let (code, access, handler) = match self.mode {
                // 16-bit gates.
                Mode::Prot16 => (sel::CODE16, access & !0x800, handler - CODE),
                _ if self.mode.ia32e() => (sel::CODE64, access, handler),
                _ => (sel::CODE32, access, handler),
            };
            let low = (handler & 0xffff)
                | (u64::from(code) << 16)
                | (access << 32)
                | ((handler & 0xffff_0000) << 32);
            if self.mode.ia32e() {
                self.ram.set64(IDT + v * 16, low);
                self.ram.set64(IDT + v * 16 + 8, 0);
            } else {
                self.ram.set64(IDT + v * 8, low);
            }
        }
    }

    fn pages(&self) {
        const LINK: u64 = 0x27;
        self.ram.set64(TABLES, (TABLES + 0x1000) | LINK);
        self.ram.set64(TABLES + 0x1000, (TABLES + 0x2000) | LINK);
        self.ram.set64(TABLES + 0x2000, (TABLES + 0x3000) | LINK);
        self.ram.set64(PAE_ROOT, (TABLES + 0x2000) | 1);
        for page in 0..0x100u64 {
            let entry = (page << 12) | 0x67;
            let entry = match page << 12 {
                // Dirty already: Bochs panics where a write without CR0.WP has to set that.
                READ_ONLY => entry & !2,
                ABSENT => 0,
                SUPERVISOR => entry & !4,
                _ => entry,
            };
            self.ram.set64(TABLES + 0x3000 + page * 8, entry);
        }
    }

    fn registers(&mut self) {
        let mode = self.mode;
        let pointer = match mode.based() {
            true => POINTER,
            false => DATA + POINTER,
        };
        let top = match mode.based() {
            true => TOP,
            false => STACK + TOP,
        };
        let wide = |v: u64| {
            if mode.bits() == 64 {
                v
            } else {
                v & 0xffff_ffff
            }
        };
        self.regs = kvm_regs {
            rax: wide(0x1122_3344_5566_7788),
            rbx: pointer,
            rcx: 3,
            rdx: 0x40,
            rsi: pointer + 0x80,
            rdi: pointer,
            rbp: top + 0x20,
            rsp: top,
            rip: self.offset(CODE + AT),
            rflags: 2,
            ..Default::default()
        };
        if mode.bits() == 64 {
            let r = &mut self.regs;
            (r.r8, r.r9, r.r10, r.r11) = (8, 0x9999_9999_9999, u64::MAX, 0x202);
            (r.r12, r.r13, r.r14, r.r15) = (0xcccc, DATA, 0xe, 0xffff_8000_0000_0000);
        }
        let s = &mut self.sregs;
        (s.gdt.base, s.gdt.limit) = (GDT, sel::LIMIT);
        (s.idt.base, s.idt.limit) = (IDT, if mode.ia32e() { 0x5ff } else { 0x2ff });
        s.cr0 = 0x1_0031;
        s.cr4 = 0x4_0600;
        s.cr2 = 0;
        s.efer = 0;
        let based = |base: u64, type_: u8, dpl: u8| kvm_segment {
            base,
            limit: 0xffff,
            selector: (base >> 4) as u16,
            type_,
            present: 1,
            dpl,
            s: 1,
            ..Default::default()
        };
        let flat = |selector: u16, type_: u8, long: bool| kvm_segment {
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            dpl: (selector & 3) as u8,
            db: u8::from(!long),
            s: 1,
            l: u8::from(long),
            g: 1,
            ..Default::default()
        };
        s.tr = kvm_segment {
            limit: 0x90,
            base: TSS,
            selector: sel::TR,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        s.ldt = kvm_segment {
            base: LDT,
            limit: 0x17,
            selector: sel::LDT,
            type_: 2,
            present: 1,
            ..Default::default()
        };
        match mode {
            Mode::Real => {
                s.cr0 &= !PE;
                (s.idt.base, s.idt.limit) = (0, 0x3ff);
                s.cs = based(CODE, 0xb, 0);
            }
            Mode::Vm86 => {
                s.cs = based(CODE, 3, 3);
                self.regs.rflags |= VM;
            }
            Mode::Prot16 => {
                s.cs = kvm_segment {
                    selector: sel::CODE16,
                    ..based(CODE, 0xb, 0)
                };
            }
            _ => s.cs = flat(mode.cs(), 0xb, mode.bits() == 64),
        }
        let dpl = if mode == Mode::Vm86 { 3 } else { 0 };
        let (data, stack) = match mode.based() {
            true => (based(DATA, 3, dpl), based(STACK, 3, dpl)),
            false => {
                let data = flat(
                    if mode.user() {
                        sel::USER_DATA
                    } else {
                        sel::DATA
                    },
                    3,
                    false,
                );
                (data, data)
            }
        };
        let (data, stack) = match mode {
            Mode::Prot16 => (
                kvm_segment {
                    selector: sel::DATA16,
                    ..data
                },
                kvm_segment {
                    selector: sel::STACK16,
                    ..stack
                },
            ),
            _ => (data, stack),
        };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, stack);
        if mode != Mode::Real {
            s.cr0 |= PG;
            s.cr4 |= CR4_PAE;
            s.cr3 = if mode.ia32e() { TABLES } else { PAE_ROOT };
        }
        if mode.ia32e() {
            // SCE, LME, LMA.
            s.efer = 0x501;
        }
    }
}

/// Memory as a mode starts with it: the words of all [`REGIONS`].
pub struct Image(Vec<u64>);

/// A word of memory that is not as in an [`Image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its address.
    pub at: u64,
    /// What the image has there.
    pub old: u64,
    /// What memory has there.
    pub new: u64,
}

impl Image {
    fn of(ram: &Ram) -> Self {
        let words = |(at, len)| ram.words(at, len).iter().map(|w| w.load(Relaxed));
        Image(REGIONS.into_iter().flat_map(words).collect())
    }

    /// The words that are not as in the image.
    pub fn changes(&self, ram: &Ram) -> Vec<Change> {
        let mut all = Vec::new();
        let mut image = &self.0[..];
        for (start, len) in REGIONS {
            let (region, rest) = image.split_at(len / 8);
            image = rest;
            for (n, (word, &old)) in ram.words(start, len).iter().zip(region).enumerate() {
                let new = word.load(Relaxed);
                if new != old {
                    let at = start + 8 * n as u64;
                    all.push(Change { at, old, new });
                }
            }
        }
        all
    }

    /// Writes the words that are not as in the image. Few are: a run changes little, and writing to code is dear.
    pub fn restore(&self, ram: &Ram) {
        for change in self.changes(ram) {
            ram.set64(change.at, change.old);
        }
    }
}

/// Whether the machine has AVX-512.
pub fn wide_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Loads a state.
pub fn load(vcpu: &crate::vcpu::Vcpu, guest: &Guest<'_>, xsave: &kvm_xsave) -> Result<(), Errno> {
    let fd = &vcpu.fd;
    let mut xsave = kvm_xsave {
        region: xsave.region,
        ..Default::default()
    };
    xsave.region[0] = guest.x87;
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = guest.xcr0;
    fd.set_xcrs(&xcrs)?;
    fd.set_sregs(&guest.sregs)?;
    fd.set_regs(&guest.regs)?;
    fd.set_debug_regs(&guest.debug)?;
    fd.set_vcpu_events(&kvm_vcpu_events::default())?;
    // SAFETY: the structure has the 4096 bytes that the state of a vCPU without dynamic features needs.
    unsafe { fd.set_xsave(&xsave)? };
    Ok(())
}
