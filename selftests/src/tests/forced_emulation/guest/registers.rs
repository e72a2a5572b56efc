// SPDX-License-Identifier: GPL-2.0

//! The registers that each mode starts with.

use super::*;
use crate::errno::Errno;

impl Guest<'_> {
    /// The registers that the mode starts with.
    pub(super) fn registers(&mut self) {
        self.general_registers();
        self.control_registers();
        self.segments();
    }

    fn general_registers(&mut self) {
        let mode = self.mode;
        let (pointer, top) = match mode.based() {
            true => (POINTER, TOP),
            false => (DATA + POINTER, STACK + TOP),
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
        if mode == Mode::Vm86 {
            self.regs.rflags |= VM;
        }
        if mode.bits() == 64 {
            let r = &mut self.regs;
            (r.r8, r.r9, r.r10, r.r11) = (8, 0x9999_9999_9999, u64::MAX, 0x202);
            (r.r12, r.r13, r.r14, r.r15) = (0xcccc, DATA, 0xe, 0xffff_8000_0000_0000);
        }
    }

    fn control_registers(&mut self) {
        let mode = self.mode;
        let s = &mut self.sregs;
        (s.gdt.base, s.gdt.limit) = (GDT, sel::LIMIT);
        (s.idt.base, s.idt.limit) = match mode {
            Mode::Real => (0, 0x3ff),
            _ if mode.ia32e() => (IDT, 0x5ff),
            _ => (IDT, 0x2ff),
        };
        s.cr0 = 0x1_0031;
        s.cr4 = 0x4_0600;
        s.cr2 = 0;
        s.efer = 0;
        if mode == Mode::Real {
            s.cr0 &= !PE;
        } else {
            s.cr0 |= PG;
            s.cr4 |= CR4_PAE;
            s.cr3 = if mode.ia32e() { TABLES } else { PAE_ROOT };
        }
        if mode.ia32e() {
            // SCE, LME, LMA.
            s.efer = 0x501;
        }
    }

    fn segments(&mut self) {
        let mode = self.mode;
        let s = &mut self.sregs;
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
        s.cs = match mode {
            Mode::Real => based(CODE, 0xb, 0),
            Mode::Vm86 => based(CODE, 3, 3),
            Mode::Prot16 => kvm_segment {
                selector: sel::CODE16,
                ..based(CODE, 0xb, 0)
            },
            _ => flat(mode.cs(), 0xb, mode.bits() == 64),
        };
        let (data, stack) = data_and_stack(mode);
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, stack);
    }
}

/// The segments for data and for the stack.
fn data_and_stack(mode: Mode) -> (kvm_segment, kvm_segment) {
    match mode {
        Mode::Real => (based(DATA, 3, 0), based(STACK, 3, 0)),
        Mode::Vm86 => (based(DATA, 3, 3), based(STACK, 3, 3)),
        Mode::Prot16 => (
            kvm_segment {
                selector: sel::DATA16,
                ..based(DATA, 3, 0)
            },
            kvm_segment {
                selector: sel::STACK16,
                ..based(STACK, 3, 0)
            },
        ),
        _ => {
            let selector = if mode.user() {
                sel::USER_DATA
            } else {
                sel::DATA
            };
            let both = flat(selector, 3, false);
            (both, both)
        }
    }
}

/// A segment of 64 KiB at its memory, as in real mode.
fn based(base: u64, type_: u8, dpl: u8) -> kvm_segment {
    kvm_segment {
        base,
        limit: 0xffff,
        selector: (base >> 4) as u16,
        type_,
        present: 1,
        dpl,
        s: 1,
        ..Default::default()
    }
}

/// A segment of 4 GiB at 0.
fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
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
    }
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
