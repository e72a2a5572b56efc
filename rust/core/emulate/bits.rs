// SPDX-License-Identifier: GPL-2.0

//! Shifts, bit tests, bit scans, BMI1, BMI2, ADX, CRC32 and decimal adjustment.

use crate::exception::Exception;
use crate::regs::{rflags, Gpr};

use super::alu::{self, flag_if, Shift};
use super::exec::Exec;
use super::insn::Rm;
use super::muldiv;
use super::ops::{Access, Feature, Reply};
use super::state::Width;
use super::table::{Loc, Op};

/// The bits of `source`, taken from the low end, put where `mask` has ones.
const fn deposit(source: u64, mut mask: u64) -> u64 {
    let mut from = source;
    let mut result = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if from & 1 != 0 {
            result |= lowest;
        }
        from >>= 1;
        mask &= mask.wrapping_sub(1);
    }
    result
}

/// The bits of `source` where `mask` has ones, packed at the low end.
const fn extract(source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    let mut to = 1u64;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & lowest != 0 {
            result |= to;
        }
        to = to.wrapping_shl(1);
        mask &= mask.wrapping_sub(1);
    }
    result
}

/// CRC-32C of `bytes` low bytes of `data`, bit-reflected, as the CRC32 instruction computes it.
const fn crc32c(crc: u32, data: u64, bits: u32) -> u32 {
    let mut c = crc;
    let mut n = 0;
    while n < bits {
        let bit = (data.wrapping_shr(n) as u32 ^ c) & 1;
        c >>= 1;
        if bit != 0 {
            c ^= 0x82f6_3b78;
        }
        n = n.wrapping_add(1);
    }
    c
}

impl Exec<'_> {
    /// #UD unless the guest's CPUID has a feature.
    pub(super) fn need(&mut self, feature: Feature) -> Reply {
        if self.ops.has(feature) {
            Ok(())
        } else {
            Err(Exception::UD.into())
        }
    }

    /// Group 2.
    pub(super) fn shift(&mut self, op: Op) -> Reply {
        let kind = match op {
            Op::Rol => Shift::Rol,
            Op::Ror => Shift::Ror,
            Op::Rcl => Shift::Rcl,
            Op::Rcr => Shift::Rcr,
            Op::Shl => Shift::Shl,
            Op::Shr => Shift::Shr,
            _ => Shift::Sar,
        };
        let width = self.insn.width;
        let count = self.source(self.insn.entry.src, Width::B1)? as u8;
        let a = self.rm_for(width, Access::MODIFY)?;
        let (r, flags) = alu::shift(kind, a, count, width, self.rflags);
        self.set_rm(width, r)?;
        self.set_status(flags);
        Ok(())
    }

    /// SHLD and SHRD.
    pub(super) fn shift_double(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let count = self.source(self.insn.entry.src, Width::B1)? as u8;
        let a = self.rm_for(width, Access::MODIFY)?;
        let b = self.reg(self.insn.reg, width);
        let (r, flags) = alu::shift_double(op == Op::Shld, a, b, count, width, self.rflags);
        self.set_rm(width, r)?;
        self.set_status(flags);
        Ok(())
    }

    /// BT, BTS, BTR, BTC. A register bit offset reaches beyond the operand in memory.
    pub(super) fn bit_test(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        let bits = u64::from(width.bits());
        let index = self.source(self.insn.entry.src, width)?;
        let bit = 1u64.wrapping_shl((index & bits.wrapping_sub(1)) as u32);
        let change = move |a: u64| match op {
            Op::Bts => a | bit,
            Op::Btr => a & !bit,
            Op::Btc => a ^ bit,
            _ => a,
        };
        let old = if self.insn.rm == Rm::Mem {
            let far = match self.insn.entry.src {
                Loc::Reg => {
                    let signed = width.sign_extend(index) as i64;
                    let operands = signed.wrapping_shr(bits.trailing_zeros());
                    (operands as u64).wrapping_mul(u64::from(width.bytes()))
                }
                _ => 0,
            };
            self.bit_test_memory(op, width, far, &change)?
        } else {
            let a = self.rm(width)?;
            if op != Op::Bt {
                self.set_rm(width, change(a))?;
            }
            a
        };
        self.rflags = (self.rflags & !rflags::CF) | flag_if(old & bit != 0, rflags::CF);
        Ok(())
    }

    /// The memory form: the operand lies `far` bytes from the effective address.
    fn bit_test_memory(
        &mut self,
        op: Op,
        width: Width,
        far: u64,
        change: &dyn Fn(u64) -> u64,
    ) -> Reply<u64> {
        let offset = self.effective_address().wrapping_add(far) & self.insn.address.mask();
        if self.insn.lock {
            return self.exchange_at(offset, width, &mut |a| change(a));
        }
        let access = if op == Op::Bt {
            Access::READ
        } else {
            Access::MODIFY
        };
        let old = self.load(self.insn.segment, offset, width, access)?;
        if op != Op::Bt {
            self.store(self.insn.segment, offset, width, change(old))?;
        }
        Ok(old)
    }

    /// BSF, BSR, TZCNT, LZCNT, POPCNT.
    pub(super) fn bit_scan(&mut self, op: Op) -> Reply {
        let width = self.insn.width;
        // Without the feature, F3 before BSF and BSR is ignored.
        let op = match op {
            Op::Tzcnt if !self.ops.has(Feature::Bmi1) => Op::Bsf,
            Op::Lzcnt if !self.ops.has(Feature::Lzcnt) => Op::Bsr,
            Op::Popcnt => {
                self.need(Feature::Popcnt)?;
                op
            }
            _ => op,
        };
        let a = self.rm(width)?;
        let spare = 64u32.wrapping_sub(width.bits());
        let leading = a.leading_zeros().wrapping_sub(spare);
        let (r, flags) = match op {
            Op::Popcnt => (a.count_ones(), flag_if(a == 0, rflags::ZF)),
            Op::Tzcnt | Op::Lzcnt => {
                let n = if op == Op::Tzcnt {
                    a.trailing_zeros().min(width.bits())
                } else {
                    leading
                };
                let f = flag_if(a == 0, rflags::CF) | flag_if(n == 0, rflags::ZF);
                (n, f)
            }
            _ if a == 0 => {
                // The destination is unchanged on Intel, and the flags besides ZF are undefined.
                let flags = alu::logic(0, width).1;
                self.set_status(flags);
                return Ok(());
            }
            Op::Bsf => (a.trailing_zeros(), 0),
            _ => (width.bits().wrapping_sub(1).wrapping_sub(leading), 0),
        };
        self.set_reg(self.insn.reg, width, u64::from(r));
        self.set_status(flags);
        Ok(())
    }

    /// BSWAP; 16-bit operands (undefined) give 0 as on all Intel processors.
    pub(super) fn bswap(&mut self) -> Reply {
        let r = self.low3();
        let width = self.insn.width;
        let value = match width {
            Width::B8 => self.gpr(r).swap_bytes(),
            Width::B4 => u64::from((self.gpr(r) as u32).swap_bytes()),
            _ => 0,
        };
        self.set_reg(r, width, value);
        Ok(())
    }

    /// CRC32.
    pub(super) fn crc32(&mut self) -> Reply {
        self.need(Feature::Sse42)?;
        let width = match self.insn.entry.src {
            Loc::Rm8 => Width::B1,
            _ => self.insn.width,
        };
        let data = self.rm(width)?;
        let crc = self.gpr(self.insn.reg) as u32;
        let value = crc32c(crc, data, width.bits());
        self.set_gpr(self.insn.reg, u64::from(value));
        Ok(())
    }

    /// ADCX and ADOX: an addition through one flag alone.
    pub(super) fn add_carry_only(&mut self, op: Op) -> Reply {
        self.need(Feature::Adx)?;
        let width = self.insn.width;
        let flag = if op == Op::Adcx {
            rflags::CF
        } else {
            rflags::OF
        };
        let a = self.reg(self.insn.reg, width);
        let b = self.rm(width)?;
        let (r, flags) = alu::add(a, b, self.rflags & flag != 0, width);
        self.set_reg(self.insn.reg, width, r);
        self.rflags = (self.rflags & !flag) | flag_if(flags & rflags::CF != 0, flag);
        Ok(())
    }

    /// The VEX-encoded instructions of BMI1 and BMI2.
    pub(super) fn bmi(&mut self, op: Op) -> Reply {
        let first = matches!(op, Op::Andn | Op::Bextr | Op::Blsr | Op::Blsmsk | Op::Blsi);
        self.need(if first { Feature::Bmi1 } else { Feature::Bmi2 })?;
        let width = self.insn.width;
        let s = self.rm(width)?;
        let v = self.reg(self.insn.vvvv, width);
        let count = v as u32 & width.bits().wrapping_sub(1);
        let reg = self.insn.reg;
        let (to, r) = match op {
            Op::Andn => (reg, s & !v),
            Op::Bextr => (reg, bextr(s, v)),
            Op::Blsr => (self.insn.vvvv, s & s.wrapping_sub(1)),
            Op::Blsmsk => (self.insn.vvvv, s ^ s.wrapping_sub(1)),
            Op::Blsi => (self.insn.vvvv, s & s.wrapping_neg()),
            Op::Bzhi => (reg, bzhi(s, v)),
            Op::Pdep => (reg, deposit(v, s)),
            Op::Pext => (reg, extract(v, s)),
            Op::Rorx => {
                let (r, _) = alu::shift(Shift::Ror, s, self.insn.imm as u8, width, 0);
                (reg, r)
            }
            Op::Sarx => (
                reg,
                (width.sign_extend(s) as i64).wrapping_shr(count) as u64,
            ),
            Op::Shlx => (reg, s.wrapping_shl(count)),
            Op::Shrx => (reg, s.wrapping_shr(count)),
            _ => {
                let (low, high, _) = muldiv::mul(s, self.named(Gpr::Rdx, width), width);
                self.set_reg(self.insn.vvvv, width, low);
                (reg, high)
            }
        };
        let r = r & width.mask();
        self.set_reg(to, width, r);
        let (carry, flags) = match op {
            Op::Andn | Op::Bextr => (false, true),
            Op::Blsr | Op::Blsmsk => (s == 0, true),
            Op::Blsi => (s != 0, true),
            Op::Bzhi => (v & 0xff >= u64::from(width.bits()), true),
            _ => (false, false),
        };
        if flags {
            let status = alu::result_flags(r, width) & !rflags::PF;
            self.set_status(status | flag_if(carry, rflags::CF));
        }
        Ok(())
    }

    /// DAA, DAS, AAA, AAS, AAM, AAD.
    pub(super) fn decimal(&mut self, op: Op) -> Reply {
        let ax = self.named(Gpr::Rax, Width::B2);
        let (al, ah) = (ax & 0xff, ax >> 8);
        let low_digit = al & 15 > 9 || self.rflags & rflags::AF != 0;
        let base = self.insn.imm & 0xff;
        let (ax, kept) = match op {
            Op::Daa | Op::Das => {
                let high_digit = al > 0x99 || self.carry();
                let by = flag_if(low_digit, 6) | flag_if(high_digit, 0x60);
                let r = if op == Op::Daa {
                    al.wrapping_add(by)
                } else {
                    al.wrapping_sub(by)
                } & 0xff;
                let borrow = op == Op::Das && low_digit && al < 6;
                let flags =
                    flag_if(low_digit, rflags::AF) | flag_if(high_digit || borrow, rflags::CF);
                (r | ah << 8, flags)
            }
            Op::Aaa | Op::Aas => {
                let by = flag_if(low_digit, 0x106);
                let r = if op == Op::Aaa {
                    ax.wrapping_add(by)
                } else {
                    ax.wrapping_sub(by)
                } & 0xff0f;
                (r, flag_if(low_digit, rflags::AF | rflags::CF))
            }
            Op::Aam => {
                let q = al.checked_div(base).ok_or(Exception::DE)?;
                let r = al.checked_rem(base).ok_or(Exception::DE)?;
                (r | q << 8, 0)
            }
            _ => (al.wrapping_add(ah.wrapping_mul(base)) & 0xff, 0),
        };
        self.set_named(Gpr::Rax, Width::B2, ax);
        self.set_status(alu::result_flags(ax, Width::B1) | kept);
        Ok(())
    }
}

/// BEXTR: the field of `s` that bits 7:0 (start) and 15:8 (length) of `control` name.
const fn bextr(s: u64, control: u64) -> u64 {
    let start = (control & 0xff) as u32;
    let length = (control >> 8 & 0xff) as u32;
    let field = if start > 63 { 0 } else { s.wrapping_shr(start) };
    if length > 63 {
        field
    } else {
        field & 1u64.wrapping_shl(length).wrapping_sub(1)
    }
}

/// BZHI: `s` with the bits from the index in the low byte of `index` on cleared.
const fn bzhi(s: u64, index: u64) -> u64 {
    let n = (index & 0xff) as u32;
    if n > 63 {
        s
    } else {
        s & 1u64.wrapping_shl(n).wrapping_sub(1)
    }
}
