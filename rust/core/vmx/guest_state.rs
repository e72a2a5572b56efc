// SPDX-License-Identifier: GPL-2.0

//! Whether VM entry accepts the guest's segment registers, on a processor that runs no unrestricted guest.
//!
//! SDM volume 3, "Checks on Guest Segment Registers" and "Checks on Guest Descriptor-Table Registers". A guest comes into
//! a state that fails them by its own instructions: after a switch to protected mode the registers hold what real mode
//! left there until each is loaded, and back in real mode ("unreal mode") they may keep protected mode's limits.

use super::segment::Segment;
use crate::regs::{
    is_canonical,
    SegReg, //
};

/// The rules that hold for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// RFLAGS.VM will be 1.
    Vm86,
    /// Protected mode outside IA-32e mode.
    Protected,
    /// IA-32e mode: 64-bit and compatibility mode.
    Ia32e,
}

/// Access rights of every code and data segment in virtual-8086 mode: a writable data segment of level 3.
const VM86_RIGHTS: u32 = 0xf3;
/// Bits of linear addresses whose sign extension is looked at. Addresses of five-level paging fail the check and are
/// emulated away: TR and LDTR of no system are there, and FS and GS only for a moment.
const LINEAR_BITS: u32 = 57;

/// Types of code and data segments: accessed, readable code, conforming, code.
mod kind {
    pub(super) const ACCESSED: u8 = 1 << 0;
    pub(super) const READABLE: u8 = 1 << 1;
    pub(super) const CONFORMING: u8 = 1 << 2;
    pub(super) const CODE: u8 = 1 << 3;
    pub(super) const DATA: u8 = 0x3;
    pub(super) const DATA_DOWN: u8 = 0x7;
    pub(super) const LDT: u8 = 0x2;
    pub(super) const BUSY_TSS16: u8 = 0x3;
    pub(super) const BUSY_TSS32: u8 = 0xb;
}

/// Whether all eight segment registers, as `read` finds them in the VMCS, pass.
pub fn segments_valid(rules: Rules, read: impl Fn(SegReg) -> Segment) -> bool {
    let data = [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs];
    let code_and_data = match rules {
        Rules::Vm86 => [SegReg::Cs, SegReg::Ss]
            .into_iter()
            .chain(data)
            .all(|reg| vm86_valid(&read(reg))),
        _ => {
            let (cs, ss) = (read(SegReg::Cs), read(SegReg::Ss));
            cs_valid(&cs, &ss, rules)
                && ss_valid(&ss, &cs)
                && data.into_iter().all(|reg| data_valid(reg, &read(reg)))
        }
    };
    code_and_data && tr_valid(&read(SegReg::Tr), rules) && ldtr_valid(&read(SegReg::Ldtr))
}

const fn rpl(s: &Segment) -> u8 {
    (s.selector & 3) as u8
}

const fn names_ldt(s: &Segment) -> bool {
    s.selector & 4 != 0
}

/// Granularity: a limit with low bits clear counts bytes, one with high bits set pages.
const fn limit_valid(s: &Segment) -> bool {
    if s.g {
        s.limit & 0xfff == 0xfff
    } else {
        s.limit >> 20 == 0
    }
}

const fn vm86_valid(s: &Segment) -> bool {
    s.base == (s.selector as u64) << 4 && s.limit == 0xffff && s.access_rights().0 == VM86_RIGHTS
}

fn cs_valid(cs: &Segment, ss: &Segment, rules: Rules) -> bool {
    let level = if cs.kind & kind::CONFORMING != 0 {
        cs.dpl <= ss.dpl
    } else {
        cs.dpl == ss.dpl
    };
    cs.kind & (kind::CODE | kind::ACCESSED) == kind::CODE | kind::ACCESSED
        && cs.s
        && cs.present
        && !cs.unusable
        && level
        && !(rules == Rules::Ia32e && cs.l && cs.db)
        && limit_valid(cs)
        && cs.base >> 32 == 0
}

/// The level is checked of an unusable SS, too: it is the guest's privilege level.
fn ss_valid(ss: &Segment, cs: &Segment) -> bool {
    let usable = matches!(ss.kind, kind::DATA | kind::DATA_DOWN)
        && ss.s
        && ss.present
        && limit_valid(ss)
        && ss.base >> 32 == 0;
    (ss.unusable || usable) && ss.dpl == rpl(ss) && rpl(ss) == rpl(cs)
}

fn data_valid(reg: SegReg, s: &Segment) -> bool {
    let base = match reg {
        SegReg::Fs | SegReg::Gs => is_canonical(s.base, LINEAR_BITS),
        _ => s.unusable || s.base >> 32 == 0,
    };
    let code = s.kind & kind::CODE != 0;
    let conforming = code && s.kind & kind::CONFORMING != 0;
    let usable = s.kind & kind::ACCESSED != 0
        && (!code || s.kind & kind::READABLE != 0)
        && s.s
        && s.present
        && (conforming || s.dpl >= rpl(s))
        && limit_valid(s);
    base && (s.unusable || usable)
}

fn tr_valid(tr: &Segment, rules: Rules) -> bool {
    let busy = match tr.kind {
        kind::BUSY_TSS32 => true,
        kind::BUSY_TSS16 => rules != Rules::Ia32e,
        _ => false,
    };
    busy && !tr.s
        && tr.present
        && !tr.unusable
        && !names_ldt(tr)
        && limit_valid(tr)
        && is_canonical(tr.base, LINEAR_BITS)
}

fn ldtr_valid(ldtr: &Segment) -> bool {
    ldtr.unusable
        || (ldtr.kind == kind::LDT
            && !ldtr.s
            && ldtr.present
            && !names_ldt(ldtr)
            && limit_valid(ldtr)
            && is_canonical(ldtr.base, LINEAR_BITS))
}

#[cfg(test)]
mod tests;
