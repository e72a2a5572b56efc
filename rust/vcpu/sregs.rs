// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS (api.rst).

use kernel::prelude::*;
use rkvm_core::{
    regs::{
        cr0,
        cr4,
        efer,
        SegReg, //
    },
    vmx::{
        fields::*,
        registers::SystemState,
        segment::Segment,
        Vmcs, //
    },
};

use super::{
    requests::Request,
    setup::RIP_RESET,
    state::mp_state::MpState,
    Running, //
};
use crate::sys::uabi::{
    kvm_dtable,
    kvm_regs,
    kvm_segment,
    kvm_sregs,
    kvm_sregs2,
    Abi, //
};

/// KVM_SREGS2_FLAGS_PDPTRS_VALID.
const PDPTRS_VALID: u64 = 1 << 0;

fn to_user(s: Segment) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind,
        present: s.present.into(),
        dpl: s.dpl,
        db: s.db.into(),
        s: s.s.into(),
        l: s.l.into(),
        g: s.g.into(),
        avl: s.avl.into(),
        unusable: s.unusable.into(),
        padding: 0,
    }
}

fn from_user(s: &kvm_segment) -> Segment {
    Segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        kind: s.type_ & 0xf,
        dpl: s.dpl & 3,
        present: s.present & 1 != 0,
        db: s.db & 1 != 0,
        s: s.s & 1 != 0,
        l: s.l & 1 != 0,
        g: s.g & 1 != 0,
        avl: s.avl & 1 != 0,
        unusable: s.unusable & 1 != 0,
    }
}

impl Running<'_> {
    /// KVM_GET_REGS.
    pub(crate) fn regs(&self) -> kvm_regs {
        let g = |n| self.hw.gpr(n);
        kvm_regs {
            rax: g(0),
            rbx: g(3),
            rcx: g(1),
            rdx: g(2),
            rsi: g(6),
            rdi: g(7),
            rsp: self.hw.read(GUEST_RSP),
            rbp: g(5),
            r8: g(8),
            r9: g(9),
            r10: g(10),
            r11: g(11),
            r12: g(12),
            r13: g(13),
            r14: g(14),
            r15: g(15),
            rip: self.hw.read(GUEST_RIP),
            rflags: self.rflags(),
        }
    }

    /// KVM_SET_REGS. A pending exception belongs to the old state and is dropped.
    pub(crate) fn set_regs(&mut self, r: &kvm_regs) {
        let values = [
            (0, r.rax),
            (1, r.rcx),
            (2, r.rdx),
            (3, r.rbx),
            (5, r.rbp),
            (6, r.rsi),
            (7, r.rdi),
            (8, r.r8),
            (9, r.r9),
            (10, r.r10),
            (11, r.r11),
            (12, r.r12),
            (13, r.r13),
            (14, r.r14),
            (15, r.r15),
        ];
        for (n, value) in values {
            self.hw.set_gpr(n, value);
        }
        self.hw.write(GUEST_RSP, r.rsp);
        self.hw.write(GUEST_RIP, r.rip);
        self.set_rflags(r.rflags);
        self.arch.events.exception = None;
        self.vcpu.requests.set_own(Request::Event);
    }

    fn table(base: u64, limit: u32) -> kvm_dtable {
        kvm_dtable {
            base,
            limit: limit as u16,
            padding: [0; 3],
        }
    }

    /// KVM_GET_SREGS.
    pub(crate) fn sregs(&mut self) -> kvm_sregs {
        self.deliver_payload_early();
        let segment = |reg| to_user(self.segment(reg));
        let mut s = kvm_sregs {
            cs: segment(SegReg::Cs),
            ds: segment(SegReg::Ds),
            es: segment(SegReg::Es),
            fs: segment(SegReg::Fs),
            gs: segment(SegReg::Gs),
            ss: segment(SegReg::Ss),
            tr: segment(SegReg::Tr),
            ldt: segment(SegReg::Ldtr),
            gdt: Self::table(
                self.hw.read(GUEST_GDTR_BASE),
                self.hw.read(GUEST_GDTR_LIMIT),
            ),
            idt: Self::table(
                self.hw.read(GUEST_IDTR_BASE),
                self.hw.read(GUEST_IDTR_LIMIT),
            ),
            cr0: self.read_cr0(),
            cr2: self.hw.cr2(),
            cr3: self.cr3(),
            cr4: self.read_cr4(),
            cr8: self.cr8(),
            efer: self.arch.efer,
            apic_base: self.apic_base(),
            ..kvm_sregs::zeroed()
        };
        if let Some(vector) = self.interrupt_on_its_way() {
            if let Some(word) = s.interrupt_bitmap.get_mut(usize::from(vector / 64)) {
                *word |= 1 << (vector % 64);
            }
        }
        s
    }

    /// KVM_GET_SREGS2: the PDPTEs of PAE paging instead of the interrupt bitmap.
    pub(crate) fn sregs2(&mut self) -> kvm_sregs2 {
        let s = self.sregs();
        let pae = self.pae_paging();
        kvm_sregs2 {
            cs: s.cs,
            ds: s.ds,
            es: s.es,
            fs: s.fs,
            gs: s.gs,
            ss: s.ss,
            tr: s.tr,
            ldt: s.ldt,
            gdt: s.gdt,
            idt: s.idt,
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
            flags: if pae { PDPTRS_VALID } else { 0 },
            pdptrs: if pae { self.pdptrs() } else { [0; 4] },
        }
    }

    /// KVM_SET_SREGS. EINVAL for a combination that no processor can be in; nothing changes then.
    pub(crate) fn set_sregs(&mut self, s: &kvm_sregs) -> Result {
        self.set_system_registers(s)?;
        if self.pae_paging() {
            // What can't be read now reads as not present when the guest uses it.
            let _ = self.load_pdptrs(self.cr3());
        }
        let pending = s
            .interrupt_bitmap
            .iter()
            .enumerate()
            .find(|(_, word)| **word != 0)
            .map(|(i, word)| {
                (i as u32)
                    .wrapping_mul(64)
                    .wrapping_add(word.trailing_zeros()) as u8
            });
        if let Some(vector) = pending {
            self.restore_interrupt(vector);
        }
        Ok(())
    }

    /// KVM_SET_SREGS2. EINVAL as for KVM_SET_SREGS, for flags, and for PDPTEs without PAE paging.
    pub(crate) fn set_sregs2(&mut self, new: kvm_sregs2) -> Result {
        let given = new.flags & PDPTRS_VALID != 0;
        let pae = new.cr0 & cr0::PG != 0 && new.cr4 & cr4::PAE != 0 && new.efer & efer::LMA == 0;
        if new.flags & !PDPTRS_VALID != 0 || (given && !pae) {
            return Err(EINVAL);
        }
        let sregs = kvm_sregs {
            cs: new.cs,
            ds: new.ds,
            es: new.es,
            fs: new.fs,
            gs: new.gs,
            ss: new.ss,
            tr: new.tr,
            ldt: new.ldt,
            gdt: new.gdt,
            idt: new.idt,
            cr0: new.cr0,
            cr2: new.cr2,
            cr3: new.cr3,
            cr4: new.cr4,
            cr8: new.cr8,
            efer: new.efer,
            apic_base: new.apic_base,
            interrupt_bitmap: [0; 4],
        };
        self.set_system_registers(&sregs)?;
        if given {
            self.set_pdptrs(new.pdptrs);
        } else if pae {
            let _ = self.load_pdptrs(self.cr3());
        }
        Ok(())
    }

    /// All but interrupts and PDPTEs.
    fn set_system_registers(&mut self, s: &kvm_sregs) -> Result {
        let state = SystemState {
            cr0: s.cr0,
            cr3: s.cr3,
            cr4: s.cr4,
            efer: s.efer,
            cs_l: s.cs.l != 0,
        };
        if !self.arch.rules().sregs_valid(&state) {
            return Err(EINVAL);
        }
        self.user_sets_apic_base(s.apic_base)?;
        self.hw.write(GUEST_IDTR_BASE, s.idt.base);
        self.hw.write(GUEST_IDTR_LIMIT, s.idt.limit.into());
        self.hw.write(GUEST_GDTR_BASE, s.gdt.base);
        self.hw.write(GUEST_GDTR_LIMIT, s.gdt.limit.into());
        self.hw.set_cr2(s.cr2);
        self.set_cr3(s.cr3);
        // As in C KVM reserved bits are no error here, and leave CR8 as it is.
        let _ = self.set_cr8(s.cr8);
        // CR0 before EFER's control: set_efer() looks at paging.
        self.arch.efer = 0;
        self.set_cr0(s.cr0);
        self.set_efer(s.efer);
        self.set_cr4(s.cr4);
        for (reg, value) in [
            (SegReg::Cs, &s.cs),
            (SegReg::Ds, &s.ds),
            (SegReg::Es, &s.es),
            (SegReg::Fs, &s.fs),
            (SegReg::Gs, &s.gs),
            (SegReg::Ss, &s.ss),
            (SegReg::Tr, &s.tr),
            (SegReg::Ldtr, &s.ldt),
        ] {
            self.set_segment(reg, from_user(value));
        }
        self.wake_if_reset(s);
        self.vcpu.requests.set_own(Request::TlbFlush);
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }

    /// User space older than KVM_SET_MP_STATE resets a processor that halts by its registers, RIP first.
    fn wake_if_reset(&mut self, s: &kvm_sregs) {
        if self.is_bsp()
            && self.hw.read(GUEST_RIP) == RIP_RESET
            && s.cs.selector == 0xf000
            && s.cs.base == 0xffff_0000
            && s.cr0 & cr0::PE == 0
        {
            self.forget_unhalt();
            self.arch.set_mp_state(MpState::Runnable);
        }
    }
}
