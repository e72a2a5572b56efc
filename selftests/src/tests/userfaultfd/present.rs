// SPDX-License-Identifier: GPL-2.0

//! Pages that are there, and are not to be accessed as they are.

use super::*;
use std::fs::File;
use std::os::fd::FromRawFd;

pub fn run(t: &mut Tap, dev: &Device) -> Outcome {
    write_protected(t, dev)?;
    minor(t, dev)
}

/// Pages that may not be written.
fn write_protected(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = match Userfaultfd::new(0, FEATURE_WP) {
        Err(Errno(libc::EINVAL)) => {
            t.skip("write-protected pages", "this kernel has none");
            return Ok(());
        }
        other => other?,
    };
    let vm = Vm::new(dev)?;
    let window = vm.add_ram(1, WINDOW, PAGES * PAGE)?;
    uffd.register(&window, Faults::WriteProtected)?;
    let code = asm64(|a| {
        read_and_tell(a, 0)?;
        write_and_tell(a, 0, 0x90)?;
        write_and_tell(a, 1, 0x91)?;
        read_and_tell(a, 1)?;
        write_and_tell(a, 1, 0x92)
    });
    let (_ram, vcpu) = guest(&vm, &code)?;
    for page in 0..2 {
        window.set32(gpa(page), 0x80);
    }

    uffd.write_protect(fault(&window, 0, 0).address, true)?;
    let vcpu = read_protected(t, "a read", vcpu, &uffd, 0x80)?;
    let vcpu = write_to_protected(t, "a write", vcpu, (&uffd, &window, 0), (0x80, 0x90))?;

    let (vcpu, exit) = Running::start(vcpu)?.end()?;
    let told = Ok(Exit::out32(PORT, 0x91));
    t.eq("a page that the guest writes", exit, told);
    uffd.write_protect(fault(&window, 1, 0).address, true)?;
    let vcpu = read_protected(t, "a read after that", vcpu, &uffd, 0x91)?;
    let after = "a write after that";
    write_to_protected(t, after, vcpu, (&uffd, &window, 1), (0x91, 0x92))?;
    Ok(())
}

/// The guest reads a write-protected page.
fn read_protected(
    t: &mut Tap,
    what: &str,
    vcpu: Vcpu,
    uffd: &Userfaultfd,
    value: u32,
) -> Outcome<Vcpu> {
    let running = Running::start(vcpu)?;
    let none = running.fault(uffd)?;
    t.eq(format!("write-protected: {what} is not told"), none, None);
    let (vcpu, exit) = running.end()?;
    t.eq("it goes through", exit, Ok(Exit::out32(PORT, value)));
    Ok(vcpu)
}

/// The guest writes a write-protected page, which has `old`.
fn write_to_protected(
    t: &mut Tap,
    what: &str,
    vcpu: Vcpu,
    (uffd, window, page): (&Userfaultfd, &Ram, u64),
    (old, new): (u32, u32),
) -> Outcome<Vcpu> {
    let want = fault(window, page, FLAG_WRITE | FLAG_WP);
    let mut seen = 0;
    let bring = || {
        seen = window.get32(gpa(page));
        uffd.write_protect(want.address, false)
    };
    let (vcpu, exit) = run_through(t, what, vcpu, uffd, want, bring)?;
    t.eq("as long as it waits, nothing is written", seen, old);
    t.eq("then it goes on", exit, Ok(Exit::out32(PORT, new)));
    t.eq("with its write done", window.get32(gpa(page)), new);
    Ok(vcpu)
}

/// Pages that a file has and the guest's mapping of it has not.
fn minor(t: &mut Tap, dev: &Device) -> Outcome {
    let uffd = match Userfaultfd::new(0, FEATURE_MINOR_SHMEM) {
        Err(Errno(libc::EINVAL)) => {
            t.skip("minor faults", "this kernel tells none of a memfd");
            return Ok(());
        }
        other => other?,
    };
    let file = memfd(2 * PAGE)?;
    let filled = Ram::of_file(WINDOW, 2 * PAGE, &file, 0)?;
    for page in 0..2 {
        filled.set32(gpa(page), 0xa0 + page as u32);
    }
    let vm = Vm::new(dev)?;
    let window = Ram::of_file(WINDOW, 2 * PAGE, &file, 0)?;
    uffd.register(&window, Faults::Minor)?;
    vm.set_slot(1, 0, WINDOW, window.len() as u64, window.hva())?;
    let code = asm64(|a| {
        read_and_tell(a, 0)?;
        write_and_tell(a, 1, 0xb1)
    });
    let (_ram, vcpu) = guest(&vm, &code)?;

    let want = fault(&window, 0, FLAG_MINOR);
    let bring = || uffd.continue_with(want.address);
    let (vcpu, exit) = run_through(t, "a read of a page in a file", vcpu, &uffd, want, bring)?;
    let told = Ok(Exit::out32(PORT, 0xa0));
    t.eq("UFFDIO_CONTINUE: the guest reads it", exit, told);

    let want = fault(&window, 1, FLAG_WRITE | FLAG_MINOR);
    let mut seen = 0;
    let bring = || {
        seen = filled.get32(gpa(1));
        uffd.continue_with(want.address)
    };
    let (_vcpu, exit) = run_through(t, "a write to one", vcpu, &uffd, want, bring)?;
    t.eq("as long as it waits, nothing is written", seen, 0xa1);
    let told = Ok(Exit::out32(PORT, 0xb1));
    t.eq("UFFDIO_CONTINUE: the guest writes it", exit, told);
    t.eq("the file has it", filled.get32(gpa(1)), 0xb1);
    Ok(())
}

/// A file in memory, of `len` bytes.
fn memfd(len: usize) -> Outcome<File> {
    // SAFETY: a name that ends with a NUL; makes a new descriptor, nothing else.
    let fd = unsafe { libc::memfd_create(c"userfaultfd".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last().into());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file)
}
