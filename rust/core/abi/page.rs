// SPDX-License-Identifier: GPL-2.0

//! The page of the documentation that says how much of the ABI there is, written from the tables.

use core::fmt::{Result, Write};

use super::capabilities::{Answer, CAPABILITIES};
use super::ioctls::{FdKind, IOCTLS};
use super::Status;

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0

===================
The KVM ABI in rkvm
===================

This page is made from ``rust/core/abi``; a test compares the two. Make it anew with::

    cargo run -q -p rkvm_core --example abi_page > Documentation/abi.rst

KVM_CHECK_EXTENSION answers 0 for every capability that is not done, and ioctls that are not done fail as unknown ones
do: EINVAL on the device and on a vCPU, ENOTTY on a VM. KVM_CREATE_DEVICE fails as for an unknown kind of device: ENODEV.

";

/// Writes the page.
///
/// # Errors
///
/// Those of `out`.
pub fn write(out: &mut dyn Write) -> Result {
    out.write_str(HEAD)?;
    for (fd, title) in [
        (FdKind::System, "ioctls on the device"),
        (FdKind::Vm, "ioctls on a VM"),
        (FdKind::Vcpu, "ioctls on a vCPU"),
        (FdKind::Device, "ioctls on a device of a VM"),
    ] {
        heading(out, title)?;
        table(out, &["Name", "Number", "Status"])?;
        for ioctl in IOCTLS.iter().filter(|ioctl| ioctl.fd == fd) {
            write!(
                out,
                "   * - {}\n     - ``{:#010x}``\n",
                ioctl.name, ioctl.request
            )?;
            status(out, ioctl.status)?;
        }
        out.write_str("\n")?;
    }
    heading(out, "Capabilities")?;
    table(out, &["Name", "Number", "Answer", "Status"])?;
    for cap in CAPABILITIES {
        write!(out, "   * - {}\n     - {}\n     - ", cap.name, cap.number)?;
        match cap.status {
            Status::Done | Status::Differs(_) => {
                answer(out, cap.answer)?;
                out.write_char('\n')?;
                status(out, cap.status)?;
            }
            Status::Planned => {
                out.write_str("0\n     - not yet; C KVM: ")?;
                answer(out, cap.answer)?;
                out.write_char('\n')?;
            }
            Status::Excluded(_) => {
                out.write_str("0\n")?;
                status(out, cap.status)?;
            }
        }
    }
    Ok(())
}

fn answer(out: &mut dyn Write, answer: Answer) -> Result {
    match answer {
        Answer::Value(value) => write!(out, "{value}"),
        Answer::Host(_) => out.write_str("by host and parameters"),
    }
}

fn heading(out: &mut dyn Write, title: &str) -> Result {
    writeln!(out, "{title}")?;
    for _ in title.chars() {
        out.write_char('=')?;
    }
    out.write_str("\n\n")
}

fn table(out: &mut dyn Write, columns: &[&str]) -> Result {
    out.write_str(".. list-table::\n   :header-rows: 1\n\n")?;
    let mut mark = "   * -";
    for column in columns {
        writeln!(out, "{mark} {column}")?;
        mark = "     -";
    }
    Ok(())
}

fn status(out: &mut dyn Write, status: Status) -> Result {
    match status {
        Status::Done => out.write_str("     - done\n"),
        Status::Differs(how) => writeln!(out, "     - done, unlike C KVM: {how}"),
        Status::Planned => out.write_str("     - not yet\n"),
        Status::Excluded(reason) => writeln!(out, "     - no: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_page_is_up_to_date() {
        let mut page = std::string::String::new();
        super::write(&mut page).unwrap();
        let committed = include_str!("../../../Documentation/abi.rst");
        assert!(
            page == committed,
            "Documentation/abi.rst is old: see its first paragraph"
        );
    }
}
