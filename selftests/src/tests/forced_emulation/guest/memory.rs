// SPDX-License-Identifier: GPL-2.0

//! The guest's memory: descriptors, gates, page tables, and what fills the rest. What a run changes of it.

use super::*;
use std::sync::atomic::Ordering::Relaxed;

impl Guest<'_> {
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
        put(DATA16, 0x0000_9300_0000_ffff | (super::DATA << 16));
        put(USER_CODE32, 0x00cf_fb00_0000_ffff);
        put(USER_DATA, 0x00cf_f300_0000_ffff);
        put(USER_CODE64, 0x00af_fb00_0000_ffff);
        put(READ_ONLY, 0x00cf_9000_0000_ffff);
        put(ABSENT, 0x00cf_1300_0000_ffff);
        put(CONFORMING, 0x00cf_9e00_0000_ffff);
        put(EXECUTE_ONLY, 0x00cf_9800_0000_ffff);
        put(EXPAND_DOWN, 0x0040_9700_0000_1fff);
        system(sel::LDT, super::LDT, 0x17, 0x82);
        system(FREE_TSS, TSS + 0x200, 0x67, 0x89);
        put(NOT_ACCESSED, 0x00cf_9200_0000_ffff);
        put(ABSENT_CODE, 0x00cf_1b00_0000_ffff);
        put(STACK16, 0x0000_9300_0000_ffff | (STACK << 16));
        self.ram.set64(super::LDT + 8, 0x00cf_9200_0000_ffff);
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
