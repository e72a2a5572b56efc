// SPDX-License-Identifier: GPL-2.0

//! Real mode on a processor that runs no unrestricted guest: as a program of virtual-8086 mode, with paging on.
//!
//! SDM volume 3, "8086 Emulation", and "Emulating Real Mode" in the parts for VMM writers. The processor holds CR0.PE and
//! CR0.PG set; the guest reads its own from the shadow. What differs between the guest's state and the processor's:
//!
//! - RFLAGS.VM is set and RFLAGS.IOPL is 3, so that the guest handles its interrupt flag itself;
//! - code and data segments have level 3, and CS is a data segment;
//! - TR is a TSS of ours: it opens all ports and has INT go through the guest's vector table;
//! - CR3 is a page table of ours that maps every address to itself.
//!
//! Base, limit and selector of a segment are the guest's in the VMCS as well. If they are none that virtual-8086 mode
//! accepts, the guest is not entered ([`super::guest_state`]).

use super::segment::Segment;
use crate::exception::Vector;
use crate::regs::{
    rflags,
    SegReg, //
};

/// RFLAGS bits that are not the guest's.
const FOREIGN_FLAGS: u64 = rflags::VM | rflags::IOPL;

/// The RFLAGS that run a guest with these flags.
#[inline]
pub const fn hw_rflags(guest: u64) -> u64 {
    guest | FOREIGN_FLAGS
}

/// The guest's flags, from the processor's and what the guest had before in the bits that are not its own.
#[inline]
pub const fn guest_rflags(hw: u64, before: u64) -> u64 {
    (hw & !FOREIGN_FLAGS) | (before & FOREIGN_FLAGS)
}

/// The segment registers as the guest has them, but for base and selector, which the VMCS has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments([Segment; 8]);

impl Segments {
    /// Whether this register is kept here at all: LDTR goes to the processor as it is.
    #[inline]
    pub const fn holds(reg: SegReg) -> bool {
        !matches!(reg, SegReg::Ldtr)
    }

    /// A register, with what the guest's instructions have loaded into the VMCS since it was set. TR is not loaded in
    /// real mode, and its selector and base in the VMCS are ours.
    #[inline]
    pub fn get(&self, reg: SegReg, vmcs: &Segment) -> Segment {
        let kept = self.0.get(reg as usize).copied().unwrap_or_default();
        match reg {
            SegReg::Tr => kept,
            _ => Segment {
                base: vmcs.base,
                selector: vmcs.selector,
                ..kept
            },
        }
    }

    /// Keeps a register; what the VMCS gets for it.
    #[inline]
    pub fn set(&mut self, reg: SegReg, value: Segment, tss: u64) -> Segment {
        if let Some(kept) = self.0.get_mut(reg as usize) {
            *kept = value;
        }
        match reg {
            SegReg::Tr => tss_segment(tss),
            reg => vm86_form(reg, value),
        }
    }
}

/// A code or data segment of real mode as virtual-8086 mode has it. Limit and the remaining rights stay, so that a
/// segment which is not of this mode can be told.
const fn vm86_form(reg: SegReg, mut s: Segment) -> Segment {
    s.dpl = 3;
    if matches!(reg, SegReg::Cs) {
        s.kind = 3;
    }
    s
}

/// TR for the TSS at `base`.
const fn tss_segment(base: u64) -> Segment {
    Segment {
        base,
        limit: tss::LIMIT,
        selector: 0,
        kind: 0xb,
        dpl: 0,
        present: true,
        db: false,
        s: false,
        l: false,
        g: false,
        avl: false,
        unusable: false,
    }
}

/// The TSS of real mode: 104 bytes that are not used, a bitmap of the interrupts that are *not* redirected to the
/// guest's vector table, a bitmap of the ports that are closed, and a byte of ones at the end.
pub mod tss {
    /// Pages of KVM_SET_TSS_ADDR.
    pub const PAGES: u64 = 3;
    /// Where the offset of the port bitmap stands (SDM, "Task-State Segment (TSS)").
    pub const IO_MAP_BASE_AT: u64 = 0x66;
    /// The offset of the port bitmap: behind the interrupt bitmap of 32 bytes.
    pub const IO_MAP_BASE: u16 = 0x68 + 32;
    /// The offset of the last byte.
    pub const LIMIT: u32 = IO_MAP_BASE as u32 + 65536 / 8;
    /// The byte there.
    pub const LAST_BYTE: u8 = 0xff;
    const _: () = assert!((LIMIT as u64) < PAGES * 4096);
}

/// The page directory that maps 4 GiB to themselves, by 4 MiB pages (SDM, "32-Bit Paging").
pub mod identity_map {
    /// Entries.
    pub const ENTRIES: u32 = 1024;
    /// Where KVM puts it if user space does not say: the frame below that of KVM_SET_TSS_ADDR in all VMMs.
    pub const DEFAULT_ADDRESS: u64 = 0xfffb_c000;
    /// Present, writable, user, accessed, dirty, 4 MiB.
    const FLAGS: u32 = 0xe7;

    /// An entry of the directory.
    #[inline]
    pub const fn entry(index: u32) -> u32 {
        index.wrapping_shl(22) | FLAGS
    }
}

/// What becomes of an exception that the processor raises while it runs real mode in virtual-8086 mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The guest's own: it goes through the guest's vector table.
    Deliver,
    /// Perhaps one that real mode does not know: the emulator does the instruction, or finds the exception again.
    Emulate,
}

impl Raised {
    /// By the vector. In virtual-8086 mode instructions of the operating system are general-protection faults, segments
    /// end at 64 KiB whatever the address size, and alignment is checked, because the level is 3.
    pub const fn by(vector: Vector) -> Self {
        match vector {
            Vector::Gp | Vector::Ss | Vector::Ac => Self::Emulate,
            _ => Self::Deliver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::guest_state::{segments_valid, Rules};

    const TSS: u64 = 0xfffb_d000;

    /// Sets all registers; answers what was kept and the VMCS.
    fn set(of: impl Fn(SegReg) -> Segment) -> (Segments, [Segment; 8]) {
        let mut kept = Segments::default();
        let mut vmcs = [Segment::default(); 8];
        for reg in SegReg::CODE_AND_DATA.into_iter().chain([SegReg::Tr]) {
            vmcs[reg as usize] = kept.set(reg, of(reg), TSS);
        }
        vmcs[SegReg::Ldtr as usize] = of(SegReg::Ldtr);
        (kept, vmcs)
    }

    fn enters(vmcs: &[Segment; 8]) -> bool {
        segments_valid(Rules::Vm86, |reg| vmcs[reg as usize])
    }

    fn after_far_jump(reg: SegReg) -> Segment {
        let s = Segment::after_reset(reg);
        match reg {
            SegReg::Cs => Segment {
                base: 0xf_0000,
                ..s
            },
            _ => s,
        }
    }

    #[test]
    fn reset_vector_is_emulated_and_what_follows_is_entered() {
        assert!(!enters(&set(Segment::after_reset).1));
        let (_, vmcs) = set(after_far_jump);
        assert!(enters(&vmcs));
        assert_eq!(vmcs[SegReg::Cs as usize].access_rights().0, 0xf3);
        let tr = vmcs[SegReg::Tr as usize];
        assert_eq!(
            (tr.base, tr.limit, tr.access_rights().0),
            (TSS, 0x2088, 0x8b)
        );
    }

    #[test]
    fn guest_gets_back_what_it_had() {
        let (kept, mut vmcs) = set(after_far_jump);
        for reg in SegReg::CODE_AND_DATA.into_iter().chain([SegReg::Tr]) {
            assert_eq!(kept.get(reg, &vmcs[reg as usize]), after_far_jump(reg));
        }
        // The guest loads DS.
        vmcs[SegReg::Ds as usize].selector = 0x40;
        vmcs[SegReg::Ds as usize].base = 0x400;
        assert!(enters(&vmcs));
        let ds = kept.get(SegReg::Ds, &vmcs[SegReg::Ds as usize]);
        assert_eq!((ds.selector, ds.base, ds.dpl), (0x40, 0x400, 0));
        assert_eq!((ds.limit, ds.kind), (0xffff, 3));
    }

    #[test]
    fn unreal_mode_is_not_entered() {
        let (kept, vmcs) = set(|reg| match reg {
            SegReg::Fs => Segment {
                limit: u32::MAX,
                g: true,
                ..after_far_jump(reg)
            },
            _ => after_far_jump(reg),
        });
        assert!(!enters(&vmcs));
        assert_eq!(
            kept.get(SegReg::Fs, &vmcs[SegReg::Fs as usize]).limit,
            u32::MAX
        );
        // Nor is a null selector that protected mode has left.
        let null = set(|reg| match reg {
            SegReg::Gs => Segment {
                unusable: true,
                ..Segment::default()
            },
            _ => after_far_jump(reg),
        });
        assert!(!enters(&null.1));
    }

    #[test]
    fn flags_of_the_guest_survive() {
        let guest = rflags::FIXED | rflags::IF | 1 << 12;
        let hw = hw_rflags(guest);
        assert_eq!(hw, guest | rflags::VM | 3 << 12);
        assert_eq!(guest_rflags(hw, guest), guest);
        // The guest clears IF itself, and can't change IOPL.
        assert_eq!(guest_rflags(hw & !rflags::IF, guest), guest & !rflags::IF);
    }

    #[test]
    fn identity_map_covers_4_gib() {
        for index in 0..identity_map::ENTRIES {
            let entry = identity_map::entry(index);
            assert_eq!(entry & 0x3ff, 0xe7);
            assert_eq!(u64::from(entry & 0xffc0_0000), u64::from(index) << 22);
        }
    }

    #[test]
    fn exceptions() {
        assert_eq!(Raised::by(Vector::Gp), Raised::Emulate);
        assert_eq!(Raised::by(Vector::Ss), Raised::Emulate);
        assert_eq!(Raised::by(Vector::De), Raised::Deliver);
        assert_eq!(Raised::by(Vector::Mf), Raised::Deliver);
    }
}
