// SPDX-License-Identifier: GPL-2.0

//! The vCPU's state reads back as it was set, and the guest sees it: REGS, SREGS, FPU, XSAVE,
//! XCRS, DEBUGREGS, VCPU_EVENTS, MP_STATE, CPUID2, TSC_KHZ.

use crate::asm::*;
use crate::device::Device;
use crate::errno::Errno;
use crate::setup::{self, Mode, DATA};
use crate::sys;
use crate::tap::Tap;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;
use crate::{Outcome, MIB};
use kvm_bindings::*;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::with_irqchip(dev)?;
    let vcpu = vm.vcpu(0)?;
    reset(t, &vcpu)?;
    general(t, &vcpu)?;
    special(t, &vcpu)?;
    reset_by_user(t, &vcpu)?;
    before_cpuid(t, &vm)?;
    fpu(t, &vcpu)?;
    xsave(t, &vcpu)?;
    debug(t, &vcpu)?;
    others(t, &vcpu)?;
    seen_by_guest(t, dev)
}

/// What a processor is like after reset.
fn reset(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let r = vcpu.regs()?;
    let s = vcpu.fd.get_sregs()?;
    t.eq("RIP and RFLAGS after reset", (r.rip, r.rflags), (0xfff0, 2));
    t.eq(
        "CS after reset",
        (s.cs.selector, s.cs.base, s.cs.limit),
        (0xf000, 0xffff_0000, 0xffff),
    );
    t.eq(
        "DS after reset",
        (s.ds.selector, s.ds.base, s.ds.limit),
        (0, 0, 0xffff),
    );
    t.eq("CR0 after reset", s.cr0, 0x6000_0010);
    t.eq(
        "CR3, CR4, EFER after reset",
        (s.cr3, s.cr4, s.efer),
        (0, 0, 0),
    );
    t.eq("IDT after reset", (s.idt.base, s.idt.limit), (0, 0xffff));
    t.eq("the APIC is on, this is the BSP", s.apic_base, 0xfee0_0900);
    let d = vcpu.fd.get_debug_regs()?;
    t.eq(
        "DR6 and DR7 after reset",
        (d.dr6, d.dr7),
        (0xffff_0ff0, 0x400),
    );
    let f = vcpu.fd.get_fpu()?;
    t.eq("FCW after reset", f.fcw, 0x37f);
    Ok(())
}

fn general(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let v = |n: u64| 0x1111_1111_1111_1111u64.wrapping_mul(n);
    let want = kvm_regs {
        rax: v(1),
        rbx: v(2),
        rcx: v(3),
        rdx: v(4),
        rsi: v(5),
        rdi: v(6),
        rsp: v(7),
        rbp: v(8),
        r8: v(9),
        r9: v(10),
        r10: v(11),
        r11: v(12),
        r12: v(13),
        r13: v(14),
        r14: v(15),
        r15: !0,
        rip: 0x1234,
        rflags: 0x8d7,
    };
    vcpu.fd.set_regs(&want)?;
    t.eq("all general registers", vcpu.regs()?, want);
    vcpu.fd.set_regs(&kvm_regs { rflags: 0, ..want })?;
    t.eq("bit 1 of RFLAGS is always set", vcpu.regs()?.rflags, 2);
    Ok(())
}

fn special(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    setup::enter(vcpu, Mode::Long, 0, 0)?;
    let mut want = vcpu.fd.get_sregs()?;
    want.fs.base = 0x7fff_1234_5000;
    want.gs.base = 0xffff_8000_0000_1000;
    want.ds.selector = 0x23;
    want.ds.dpl = 3;
    want.ldt = kvm_segment {
        base: 0x9000,
        limit: 0xfff,
        selector: 0x28,
        type_: 2,
        present: 1,
        ..Default::default()
    };
    want.gdt.base = 0xffff_8000_0000_2000;
    want.idt.limit = 0x7ff;
    want.cr2 = 0xdead_beef_0000;
    want.cr8 = 5;
    want.efer |= 1;
    vcpu.fd.set_sregs(&want)?;
    let got = vcpu.fd.get_sregs()?;
    t.eq("all special registers", got, want);

    let mut try_one = |what: &str, f: &dyn Fn(&mut kvm_sregs)| {
        let mut bad = want;
        f(&mut bad);
        t.errno(what, vcpu.fd.set_sregs(&bad), libc::EINVAL);
    };
    try_one("paging without protection", &|s| s.cr0 &= !1);
    try_one("LMA without paging", &|s| s.cr0 &= !(1 << 31));
    try_one("LMA without PAE", &|s| s.cr4 &= !(1 << 5));
    try_one("LMA without LME", &|s| s.efer &= !(1 << 8));
    try_one("reserved bits of CR0", &|s| s.cr0 |= 1 << 40);
    try_one("reserved bits of CR4", &|s| s.cr4 |= 1 << 40);
    try_one("reserved bits of EFER", &|s| s.efer |= 1 << 40);
    try_one("reserved bits of CR3", &|s| s.cr3 |= 1 << 60);
    t.eq(
        "after all of these nothing has changed",
        vcpu.fd.get_sregs()?,
        want,
    );
    t.success(
        "reserved bits of CR8 are no error",
        vcpu.fd.set_sregs(&kvm_sregs { cr8: 0x17, ..want }),
    );
    t.eq("but CR8 stays", vcpu.fd.get_sregs()?.cr8, want.cr8);
    Ok(())
}

/// User space that knows no KVM_SET_MP_STATE resets a halted processor by its registers.
fn reset_by_user(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let mut s = vcpu.fd.get_sregs()?;
    let halted = kvm_mp_state {
        mp_state: KVM_MP_STATE_HALTED,
    };
    vcpu.fd.set_mp_state(halted)?;
    vcpu.fd.set_sregs(&s)?;
    t.eq(
        "a halted processor stays so",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_HALTED,
    );
    (s.cr0, s.cr4, s.efer) = (0x6000_0010, 0, 0);
    (s.cs.selector, s.cs.base, s.cs.l) = (0xf000, 0xffff_0000, 0);
    vcpu.with_regs(|r| r.rip = 0xfff0)?;
    vcpu.fd.set_sregs(&s)?;
    t.eq(
        "with the registers of a reset it runs",
        vcpu.fd.get_mp_state()?.mp_state,
        KVM_MP_STATE_RUNNABLE,
    );
    Ok(())
}

/// KVM_SET_MSRS restores EFER before CPUID says what the guest has.
fn before_cpuid(t: &mut Tap, vm: &Vm) -> Outcome {
    const EFER: u32 = 0xc000_0080;
    const SCE_LME_NX: u64 = 1 << 0 | 1 << 8 | 1 << 11;
    let vcpu = Vcpu::new(vm.fd.create_vcpu(1)?, vm.fd.run_size());
    t.ok("EFER before CPUID", vcpu.set_msr(EFER, SCE_LME_NX)?);
    t.eq("reads back", vcpu.msr(EFER)?, Some(SCE_LME_NX));
    t.ok(
        "reserved bits of EFER before CPUID",
        !vcpu.set_msr(EFER, 1 << 40)?,
    );
    Ok(())
}

fn fpu(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let mut want = vcpu.fd.get_fpu()?;
    for (i, st) in want.fpr.iter_mut().enumerate() {
        for (j, b) in st.iter_mut().take(10).enumerate() {
            *b = (i * 16 + j) as u8;
        }
    }
    for (i, xmm) in want.xmm.iter_mut().enumerate() {
        for (j, b) in xmm.iter_mut().enumerate() {
            *b = (0x80 + i * 3 + j) as u8;
        }
    }
    want.fcw = 0x27f;
    want.fsw = 0x3800;
    want.mxcsr = 0x1fa0;
    vcpu.fd.set_fpu(&want)?;
    let got = vcpu.fd.get_fpu()?;
    t.eq("x87 registers", got.fpr, want.fpr);
    t.eq("XMM registers", got.xmm, want.xmm);
    t.eq("FCW, FSW", (got.fcw, got.fsw), (0x27f, 0x3800));
    Ok(())
}

fn xsave(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let mut want = vcpu.fd.get_xsave()?;
    // XMM0 lies at byte 160 of the legacy area; XSTATE_BV at 512.
    for (i, word) in want.region[40..44].iter_mut().enumerate() {
        *word = 0xa0a0_0000 + i as u32;
    }
    want.region[128] |= 3;
    // SAFETY: the size of the state is KVM_GET_XSAVE's: no dynamic feature was enabled.
    unsafe { vcpu.fd.set_xsave(&want) }?;
    let got = vcpu.fd.get_xsave()?;
    t.eq(
        "XMM0 through XSAVE",
        got.region[40..44].to_vec(),
        want.region[40..44].to_vec(),
    );
    t.eq(
        "XMM0 is the same in KVM_GET_FPU",
        vcpu.fd.get_fpu()?.xmm[0][..4].to_vec(),
        vec![0, 0, 0xa0, 0xa0],
    );
    let mut bad = got;
    bad.region[6] = 0xffff_ffff;
    // SAFETY: as above.
    t.errno(
        "reserved bits of MXCSR",
        unsafe { vcpu.fd.set_xsave(&bad) },
        libc::EINVAL,
    );
    let mut bad = vcpu.fd.get_xsave()?;
    bad.region[129] = 0x4000_0000;
    // SAFETY: as above.
    t.errno(
        "a state component nobody has",
        unsafe { vcpu.fd.set_xsave(&bad) },
        libc::EINVAL,
    );

    let mut xcrs = match vcpu.fd.get_xcrs() {
        Ok(x) if x.nr_xcrs > 0 => x,
        other => {
            t.skip(
                "XCR0",
                format!(
                    "this processor has no XSAVE: {:?}",
                    other.map(|x| x.nr_xcrs)
                ),
            );
            return Ok(());
        }
    };
    t.eq(
        "XCR0 after reset is x87 only",
        (xcrs.xcrs[0].xcr, xcrs.xcrs[0].value),
        (0, 1),
    );
    xcrs.xcrs[0].value = 3;
    t.success("XCR0 with SSE", vcpu.fd.set_xcrs(&xcrs));
    t.eq("reads back", vcpu.fd.get_xcrs()?.xcrs[0].value, 3);
    xcrs.xcrs[0].value = 2;
    t.errno("XCR0 without x87", vcpu.fd.set_xcrs(&xcrs), libc::EINVAL);
    xcrs.xcrs[0].value = (1 << 40) | 1;
    t.errno(
        "XCR0 with a component nobody has",
        vcpu.fd.set_xcrs(&xcrs),
        libc::EINVAL,
    );
    t.eq("the old one stays", vcpu.fd.get_xcrs()?.xcrs[0].value, 3);
    Ok(())
}

fn debug(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    let want = kvm_debugregs {
        db: [0x1000, 0xffff_8000_0000_2000, 0x3000, 0x4000],
        dr6: 0xffff_0ff1,
        dr7: 0x455,
        ..Default::default()
    };
    vcpu.fd.set_debug_regs(&want)?;
    let got = vcpu.fd.get_debug_regs()?;
    t.eq("DR0 to DR3", got.db, want.db);
    t.eq("DR6, DR7", (got.dr6, got.dr7), (want.dr6, want.dr7));
    t.errno(
        "flags that are none",
        vcpu.fd.set_debug_regs(&kvm_debugregs { flags: 1, ..want }),
        libc::EINVAL,
    );
    t.errno(
        "upper half of DR7",
        vcpu.fd.set_debug_regs(&kvm_debugregs {
            dr7: 1 << 32,
            ..want
        }),
        libc::EINVAL,
    );
    Ok(())
}

fn others(t: &mut Tap, vcpu: &Vcpu) -> Outcome {
    for state in [KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE] {
        vcpu.fd.set_mp_state(kvm_mp_state { mp_state: state })?;
        t.eq(
            format!("MP state {state}"),
            vcpu.fd.get_mp_state()?.mp_state,
            state,
        );
    }
    t.errno(
        "an MP state that is none",
        vcpu.fd.set_mp_state(kvm_mp_state { mp_state: 99 }),
        libc::EINVAL,
    );
    let mut e = vcpu.fd.get_vcpu_events()?;
    e.nmi.masked = 1;
    e.nmi.pending = 1;
    e.interrupt.shadow = KVM_X86_SHADOW_INT_STI as u8;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    vcpu.fd.set_vcpu_events(&e)?;
    let got = vcpu.fd.get_vcpu_events()?;
    t.eq(
        "NMI masked and pending",
        (got.nmi.masked, got.nmi.pending),
        (1, 1),
    );
    // AMD's hardware does not tell the two kinds of shadow apart.
    t.ok(
        "the shadow of STI",
        u32::from(got.interrupt.shadow) & KVM_X86_SHADOW_INT_STI != 0,
    );
    let khz = vcpu.fd.get_tsc_khz()?;
    t.ok("the TSC has a frequency", khz > 0);
    t.success("setting the same frequency", vcpu.fd.set_tsc_khz(khz));
    t.eq("KVM_GET_TSC_KHZ", vcpu.fd.get_tsc_khz()?, khz);
    let mut lapic = vcpu.fd.get_lapic()?;
    // The task priority register.
    lapic.regs[0x80] = 0x30;
    vcpu.fd.set_lapic(&lapic)?;
    t.eq(
        "KVM_GET_LAPIC: the task priority",
        vcpu.fd.get_lapic()?.regs[0x80],
        0x30,
    );
    t.eq("which is CR8", vcpu.fd.get_sregs()?.cr8, 3);
    Ok(())
}

/// The guest stores what was set, and what the guest sets is read.
fn seen_by_guest(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let ram = vm.add_ram(0, 0, MIB)?;
    let mut vcpu = vm.vcpu(0)?;
    let code = asm64(|a| {
        a.mov(rbx, DATA)?;
        a.mov(qword_ptr(rbx), r12)?;
        a.movups(xmmword_ptr(rbx + 0x10), xmm5)?;
        a.mov(rax, dr1)?;
        a.mov(qword_ptr(rbx + 0x20), rax)?;
        a.mov(rax, cr2)?;
        a.mov(qword_ptr(rbx + 0x28), rax)?;
        a.mov(rax, qword_ptr(0).gs())?;
        a.mov(qword_ptr(rbx + 0x30), rax)?;
        a.mov(eax, 0x1234)?;
        a.movd(xmm6, eax)?;
        a.mov(eax, 0x7000)?;
        a.mov(dr2, rax)?;
        a.mov(r13, 0x0102_0304_0506_0708u64)?;
        a.hlt()
    });
    setup::start(&vcpu, &ram, Mode::Long, &code)?;
    ram.set64(DATA + 0x100, 0x6565_6565_0101_0101);
    vcpu.with_regs(|r| r.r12 = 0xabcd_ef01_2345_6789)?;
    vcpu.with_sregs(|s| {
        s.cr2 = 0x5678_9000;
        s.gs.base = DATA + 0x100;
    })?;
    let mut x = vcpu.fd.get_xsave()?;
    // XMM5 lies at byte 240; the bit of SSE in XSTATE_BV says that it counts.
    x.region[60..64].fill(0x4242_4242);
    x.region[128] |= 2;
    // SAFETY: the size of the state is KVM_GET_XSAVE's: no dynamic feature was enabled.
    unsafe { vcpu.fd.set_xsave(&x) }?;
    let mut d = vcpu.fd.get_debug_regs()?;
    d.db[1] = 0x1_2345_6000;
    vcpu.fd.set_debug_regs(&d)?;
    t.eq("the guest runs", vcpu.run()?, Exit::Hlt);
    t.eq("R12", ram.get64(DATA), 0xabcd_ef01_2345_6789);
    t.eq("XMM5", ram.read(DATA + 0x10, 16), vec![0x42; 16]);
    t.eq("DR1", ram.get64(DATA + 0x20), 0x1_2345_6000);
    t.eq("CR2", ram.get64(DATA + 0x28), 0x5678_9000);
    t.eq(
        "the base of GS",
        ram.get64(DATA + 0x30),
        0x6565_6565_0101_0101,
    );
    t.eq(
        "XMM6 by the guest",
        vcpu.fd.get_fpu()?.xmm[6][..4].to_vec(),
        vec![0x34, 0x12, 0, 0],
    );
    t.eq("DR2 by the guest", vcpu.fd.get_debug_regs()?.db[2], 0x7000);
    t.eq("R13 by the guest", vcpu.regs()?.r13, 0x0102_0304_0506_0708);
    let r: Result<i32, Errno> = sys::ioctl_with(vcpu.raw(), sys::KVM_SET_REGS, &vcpu.regs()?);
    t.eq("setting what was read", r, Ok(0));
    Ok(())
}
