// SPDX-License-Identifier: GPL-2.0

//! Pages that are not there.

use super::*;
use crate::setup::CODE;
use crate::tests::signals;

/// How far a page's second word, that no guest writes, is from its first.
const SECOND: u64 = 4;
const VECTOR: u8 = 0x40;
const HANDLER: u64 = CODE + 0x1000;
const RFLAGS_IF: u64 = 1 << 9;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    accessed(t, dev)?;
    emulated(t, dev)?;
    interrupted(t, dev)?;
    delivery(t, dev)?;
    not_brought(t, dev)?;
    two_vcpus(t, dev)
}

/// The pages at [`WINDOW`], of which none is there; faults on them are told.
fn missing_window(vm: &Vm, uffd: &Userfaultfd) -> Outcome<Ram> {
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    uffd.register(&window, Faults::Missing)?;
    Ok(window)
}

/// A page that has `value` in each doubleword.
fn page_of(value: u32) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for word in page.chunks_exact_mut(4) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    page
}

/// Reads and writes of the guest itself.
fn accessed(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = missing_window(&vm, &uffd)?;
    let code = asm64(|a| {
        read_and_tell(a, 0)?;
        write_and_tell(a, 1, 0x21)?;
        read_and_tell(a, 2)?;
        write_and_tell(a, 3, 0x23)
    });
    let (_ram, vcpu) = guest(&vm, &code)?;

    let want = fault(&window, 0, 0);
    let bring = || uffd.copy(want.address, &page_of(0x10));
    let (vcpu, exit) = run_through(t, "a read of a missing page", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0x10));
    t.eq("UFFDIO_COPY: the guest reads it", exit, told);

    let want = fault(&window, 1, FLAG_WRITE);
    let bring = || uffd.copy(want.address, &page_of(0x11));
    let (vcpu, exit) = run_through(t, "a write to a missing page", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0x21));
    t.eq("UFFDIO_COPY: the guest writes it", exit, told);
    t.eq("this very page", window.get32(gpa(1)), 0x21);
    let beside = window.get32(gpa(1) + SECOND);
    t.eq("and it has what was copied", beside, 0x11);

    let want = fault(&window, 2, 0);
    let bring = || uffd.zero_page(want.address);
    let (vcpu, exit) = run_through(t, "another read", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0));
    t.eq("UFFDIO_ZEROPAGE: the guest reads it", exit, told);

    let want = fault(&window, 3, FLAG_WRITE);
    let bring = || uffd.zero_page(want.address);
    let (_vcpu, exit) = run_through(t, "another write", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0x23));
    t.eq("UFFDIO_ZEROPAGE: the guest writes it", exit, told);
    t.eq("and not the page of zeros", window.get32(gpa(2)), 0);
    Ok(())
}

/// Accesses that the kernel makes for the guest, as it emulates the instruction.
fn emulated(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = missing_window(&vm, &uffd)?;
    let code = asm64(|a| {
        a.mov(edx, u32::from(PORT))?;
        a.mov(rsi, gpa(0))?;
        a.outsd()?;
        a.mov(rdi, gpa(1))?;
        a.insd()?;
        read_and_tell(a, 1)
    });
    let (_ram, vcpu) = guest(&vm, &code)?;

    let want = fault(&window, 0, 0);
    let bring = || uffd.copy(want.address, &page_of(0x30));
    let (mut vcpu, exit) = run_through(t, "OUTS of a missing page", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0x30));
    t.eq("it writes to the port what was brought", exit, told);

    let asks = Exit::In {
        port: PORT,
        size: 4,
        count: 1,
    };
    t.eq("INS to a missing page", vcpu.run()?, asks);
    vcpu.reply(&0x41u32.to_le_bytes());
    let want = fault(&window, 1, FLAG_WRITE);
    let bring = || uffd.copy(want.address, &page_of(0x31));
    let (_vcpu, exit) = run_through(t, "its write", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0x41));
    t.eq("it writes to the page that was brought", exit, told);
    let beside = window.get32(gpa(1) + SECOND);
    t.eq("which has what was copied", beside, 0x31);
    Ok(())
}

/// A signal ends the wait.
fn interrupted(t: &mut Tap, dev: &Device) -> Outcome {
    signals::catch()?;
    let read = asm64(|a| read_and_tell(a, 0));
    interrupted_in(t, dev, "a read", &read, (0, 0x50))?;
    let add = asm64(|a| {
        a.add(dword_ptr(gpa(0)), 1)?;
        read_and_tell(a, 0)
    });
    interrupted_in(t, dev, "an addition", &add, (FLAG_WRITE, 0x51))
}

/// The first instruction of `code` accesses a page, with these flags. That is brought full of 0x50, and has the value then.
fn interrupted_in(
    t: &mut Tap,
    dev: &Device,
    name: &str,
    code: &[u8],
    (flags, value): (u64, u32),
) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = missing_window(&vm, &uffd)?;
    let (_ram, mut vcpu) = guest(&vm, code)?;
    let want = fault(&window, 0, flags);
    for what in ["waits for a page", "waits for it again"] {
        let running = Running::start(vcpu)?;
        let told = running.fault(&uffd)?;
        t.eq(format!("{name} {what}"), told, Some(want));
        running.signal();
        let result;
        (vcpu, result) = running.end()?;
        t.errno("a signal ends KVM_RUN", result, libc::EINTR);
        t.eq("with KVM_EXIT_INTR", vcpu.exit(), Exit::Intr);
        t.eq("before the instruction", vcpu.regs()?.rip, CODE);
    }
    uffd.copy(want.address, &page_of(0x50))?;
    t.eq(
        "the page is brought: the guest goes on",
        vcpu.run()?,
        Exit::out32(PORT, value),
    );
    t.eq(format!("{name} is made once"), window.get32(gpa(0)), value);
    Ok(())
}

/// The stack that the delivery of an interrupt writes to: a signal that ends the wait does not lose the interrupt.
fn delivery(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = missing_window(&vm, &uffd)?;
    let code = asm64(|a| {
        a.mov(eax, ebx)?;
        a.out(i32::from(PORT), eax)
    });
    let (ram, vcpu) = guest(&vm, &code)?;
    let handler = assemble(64, HANDLER, |a| {
        a.inc(ebx)?;
        a.iretq()
    });
    ram.write(HANDLER, &handler);
    setup::gate(&ram, Mode::Long, VECTOR, HANDLER);
    vcpu.with_regs(|r| {
        r.rflags |= RFLAGS_IF;
        r.rsp = gpa(1);
    })?;
    vcpu.interrupt(u32::from(VECTOR))?;

    let want = fault(&window, 0, FLAG_WRITE);
    let running = Running::start(vcpu)?;
    let told = running.fault(&uffd)?;
    t.eq("an interrupt waits for its stack", told, Some(want));
    running.signal();
    let (mut vcpu, result) = running.end()?;
    t.errno("a signal ends KVM_RUN", result, libc::EINTR);
    uffd.zero_page(want.address)?;
    t.eq(
        "the page is brought: the interrupt comes, once",
        vcpu.run()?,
        Exit::out32(PORT, 1),
    );
    Ok(())
}

/// Waits that end otherwise, and those that must not begin.
fn not_brought(t: &mut Tap, dev: &Device) -> Outcome {
    let vm = Vm::new(dev)?;
    let uffd = Userfaultfd::new(USER_MODE_ONLY, 0)?;
    let window = missing_window(&vm, &uffd)?;
    let code = asm64(|a| {
        write_and_tell(a, 0, 0x60)?;
        read_and_tell(a, 1)
    });
    let (_ram, mut vcpu) = guest(&vm, &code)?;
    t.errno(
        "a userfaultfd for user mode: KVM_RUN does not wait",
        vcpu.run(),
        libc::EFAULT,
    );
    uffd.zero_page(fault(&window, 0, 0).address)?;
    t.eq(
        "and goes on when the page is there",
        vcpu.run()?,
        Exit::out32(PORT, 0x60),
    );
    drop(uffd);

    let uffd = Userfaultfd::new(0, 0)?;
    uffd.register(&window, Faults::Missing)?;
    let want = fault(&window, 1, 0);
    let running = Running::start(vcpu)?;
    t.eq("a read is told", running.fault(&uffd)?, Some(want));
    drop(uffd);
    let (_vcpu, exit) = running.end()?;
    let told = Ok(Exit::out32(PORT, 0));
    t.eq("and the userfaultfd closed: zeros", exit, told);
    Ok(())
}

/// Two vCPUs wait at the same time; the one that came last is served first.
fn two_vcpus(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = Userfaultfd::new(0, 0)?;
    let vm = Vm::new(dev)?;
    let window = missing_window(&vm, &uffd)?;
    let code = asm64(|a| {
        a.mov(eax, dword_ptr(rbx))?;
        a.out(i32::from(PORT), eax)
    });
    let (ram, first) = guest(&vm, &code)?;
    let second = vm.vcpu(1)?;
    setup::start(&second, &ram, Mode::Long, &code)?;
    first.with_regs(|r| r.rbx = gpa(0))?;
    second.with_regs(|r| r.rbx = gpa(1))?;

    let first_runs = Running::start(first)?;
    let want = fault(&window, 0, 0);
    t.eq("the first waits", first_runs.fault(&uffd)?, Some(want));
    let second_runs = Running::start(second)?;
    let other = fault(&window, 1, 0);
    t.eq("the second, too", second_runs.fault(&uffd)?, Some(other));

    uffd.copy(other.address, &page_of(0x71))?;
    let (_second, exit) = second_runs.end()?;
    let told = Ok(Exit::out32(PORT, 0x71));
    t.eq("the second goes on with its page", exit, told);
    t.ok("the first still waits", !first_runs.has_ended());
    uffd.copy(want.address, &page_of(0x70))?;
    let (_first, exit) = first_runs.end()?;
    let told = Ok(Exit::out32(PORT, 0x70));
    t.eq("the first goes on with its own", exit, told);
    Ok(())
}
