// SPDX-License-Identifier: GPL-2.0

//! Who answers a vCPU's access to a port or to memory without a slot, before user space is asked.
//!
//! The order is: the vCPU's own APIC, the VM's chips, ioeventfds, zones of coalesced MMIO. Nothing here sleeps, so all
//! of it may be called from the innermost loop, with interrupts off.

use rkvm_core::addr::Gpa;

use super::Space;
use crate::{
    sys::trace::{
        self,
        MmioKind, //
    },
    vcpu::Running, //
};

impl Running<'_> {
    /// IN of 1, 2 or 4 bytes from a device in the kernel.
    #[inline]
    pub(crate) fn port_read(&mut self, port: u16, size: u8) -> Option<u32> {
        let value = self.vm.chip_port_read(port, size)?;
        trace::pio(false, port, size.into(), 1, || value);
        Some(value)
    }

    /// OUT of 1, 2 or 4 bytes to a device in the kernel; false if none takes it.
    #[inline]
    pub(crate) fn port_write(&mut self, port: u16, size: u8, value: u32) -> bool {
        trace::pio(true, port, size.into(), 1, || value);
        if self.vm.chip_port_write(port, size, value) {
            return true;
        }
        let bytes = value.to_le_bytes();
        let Some(data) = bytes.get(..usize::from(size)) else {
            return false;
        };
        self.vm.io.write(Space::Ports, port.into(), data)
    }

    /// A read of up to 8 bytes of memory that a device in the kernel answers; false if none does.
    pub(crate) fn device_read(&mut self, gpa: Gpa, data: &mut [u8]) -> bool {
        let answered = self.apic_mmio_read(gpa, data) || self.vm.chip_mmio_read(gpa, data);
        let kind = if answered {
            MmioKind::Read
        } else {
            MmioKind::UnsatisfiedRead
        };
        trace_mmio(kind, gpa, data);
        answered
    }

    /// A write of up to 8 bytes of memory that a device in the kernel takes; false if none does.
    pub(crate) fn device_write(&mut self, gpa: Gpa, data: &[u8]) -> bool {
        trace_mmio(MmioKind::Write, gpa, data);
        self.apic_mmio_write(gpa, data)
            || self.vm.chip_mmio_write(gpa, data)
            || self.vm.io.write(Space::Memory, gpa.0, data)
    }

    /// An access to memory that nobody has decoded, so that only its address is known: true if there is an ioeventfd
    /// without a length, which was signalled. The instruction is then done, whatever it was: such an address is
    /// there to be written to (KVM_CAP_IOEVENTFD_NO_LENGTH).
    #[inline]
    pub(crate) fn fast_mmio_write(&mut self, gpa: Gpa) -> bool {
        self.vm.io.touch(gpa.0)
    }
}

/// `rkvm:rkvm_mmio` for the bytes of an access.
#[inline(always)]
pub(crate) fn trace_mmio(kind: MmioKind, gpa: Gpa, data: &[u8]) {
    trace::mmio(kind, data.len() as u32, gpa, || {
        let mut value = [0u8; 8];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    });
}
