// SPDX-License-Identifier: GPL-2.0

//! A vCPU: KVM_RUN by hand, with the exit as a value that tests compare.

use crate::errno::Errno;
use crate::sys;
use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use std::os::fd::{AsRawFd, RawFd};

/// Why KVM_RUN came back, with copies of what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads `count` items of `size` bytes from a port; answer with [`Vcpu::reply`].
    In {
        /// Port number.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// Items of this exit.
        count: u32,
    },
    /// The guest wrote to a port.
    Out {
        /// Port number.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// All items in order.
        data: Vec<u8>,
    },
    /// The guest reads memory that is no RAM; answer with [`Vcpu::reply`].
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes, 1 to 8.
        len: u32,
    },
    /// The guest wrote memory that is no RAM.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes, 1 to 8.
        data: Vec<u8>,
    },
    /// HLT without an in-kernel local APIC.
    Hlt,
    /// A triple fault.
    Shutdown,
    /// An interrupt can be injected now, as asked for.
    IrqWindow,
    /// KVM_RUN was interrupted (exit reason; the call itself failed with EINTR).
    Intr,
    /// VM entry failed, with the hardware's reason.
    FailEntry(u64),
    /// KVM_EXIT_INTERNAL_ERROR with its suberror.
    InternalError(u32),
    /// KVM_EXIT_DEBUG: the exception.
    Debug(u32),
    /// Any other exit reason.
    Other(u32),
}

impl Exit {
    /// A byte written to `port`.
    pub fn out8(port: u16, value: u8) -> Self {
        Exit::Out {
            port,
            size: 1,
            data: vec![value],
        }
    }

    /// A word written to `port`.
    pub fn out16(port: u16, value: u16) -> Self {
        Exit::Out {
            port,
            size: 2,
            data: value.to_le_bytes().to_vec(),
        }
    }

    /// A doubleword written to `port`.
    pub fn out32(port: u16, value: u32) -> Self {
        Exit::Out {
            port,
            size: 4,
            data: value.to_le_bytes().to_vec(),
        }
    }

    /// Bytes written to `gpa`.
    pub fn mmio_write(gpa: u64, data: &[u8]) -> Self {
        Exit::MmioWrite {
            gpa,
            data: data.to_vec(),
        }
    }
}

/// A vCPU file descriptor and its `kvm_run`.
pub struct Vcpu {
    /// The typed vCPU ioctls.
    pub fd: VcpuFd,
    run_size: usize,
}

impl Vcpu {
    /// Wraps a vCPU whose `kvm_run` mapping has `run_size` bytes.
    pub fn new(fd: VcpuFd, run_size: usize) -> Self {
        Vcpu { fd, run_size }
    }

    /// The raw descriptor, for ioctls made by hand.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The shared page.
    pub fn shared(&mut self) -> &mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// Enters the guest until the next exit. EINTR and other failures are errors.
    pub fn run(&mut self) -> Result<Exit, Errno> {
        sys::ioctl(self.raw(), sys::KVM_RUN, 0)?;
        Ok(self.exit())
    }

    /// Runs and drops exits until one is not `Out` to `port`; what was written there is handed on.
    pub fn run_collecting(&mut self, port: u16) -> Result<(Vec<u8>, Exit), Errno> {
        let mut all = Vec::new();
        loop {
            match self.run()? {
                Exit::Out { port: p, data, .. } if p == port => all.extend(data),
                other => return Ok((all, other)),
            }
        }
    }

    /// The exit that `kvm_run` tells at the moment.
    pub fn exit(&mut self) -> Exit {
        let bytes = self.data_area();
        let run = self.shared();
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: KVM_EXIT_IO says that `io` is the valid member.
                let io = unsafe { run.__bindgen_anon_1.io };
                let len = usize::from(io.size) * io.count as usize;
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Exit::In {
                        port: io.port,
                        size: io.size,
                        count: io.count,
                    }
                } else {
                    let data = bytes.copy(io.data_offset as usize, len);
                    Exit::Out {
                        port: io.port,
                        size: io.size,
                        data,
                    }
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: KVM_EXIT_MMIO says that `mmio` is the valid member.
                let mmio = unsafe { run.__bindgen_anon_1.mmio };
                if mmio.is_write == 0 {
                    Exit::MmioRead {
                        gpa: mmio.phys_addr,
                        len: mmio.len,
                    }
                } else {
                    let len = (mmio.len as usize).min(mmio.data.len());
                    Exit::MmioWrite {
                        gpa: mmio.phys_addr,
                        data: mmio.data[..len].to_vec(),
                    }
                }
            }
            KVM_EXIT_HLT => Exit::Hlt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
            KVM_EXIT_INTR => Exit::Intr,
            // SAFETY: the exit reason says which member is valid.
            KVM_EXIT_FAIL_ENTRY => Exit::FailEntry(unsafe {
                run.__bindgen_anon_1
                    .fail_entry
                    .hardware_entry_failure_reason
            }),
            // SAFETY: as above.
            KVM_EXIT_INTERNAL_ERROR => {
                Exit::InternalError(unsafe { run.__bindgen_anon_1.internal.suberror })
            }
            // SAFETY: as above.
            KVM_EXIT_DEBUG => Exit::Debug(unsafe { run.__bindgen_anon_1.debug.arch.exception }),
            other => Exit::Other(other),
        }
    }

    /// Answers the `In` or `MmioRead` exit that is pending: completed by the next run.
    pub fn reply(&mut self, answer: &[u8]) {
        let bytes = self.data_area();
        let run = self.shared();
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: KVM_EXIT_IO says that `io` is the valid member.
                let io = unsafe { run.__bindgen_anon_1.io };
                assert_eq!(
                    answer.len(),
                    usize::from(io.size) * io.count as usize,
                    "length of the answer"
                );
                bytes.put(io.data_offset as usize, answer);
            }
            KVM_EXIT_MMIO => {
                // SAFETY: KVM_EXIT_MMIO says that `mmio` is the valid member.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                assert_eq!(answer.len(), mmio.len as usize, "length of the answer");
                mmio.data[..answer.len()].copy_from_slice(answer);
            }
            other => panic!("exit reason {other} takes no answer"),
        }
    }

    fn data_area(&mut self) -> DataArea {
        DataArea {
            base: (self.shared() as *mut kvm_run).cast(),
            len: self.run_size,
        }
    }

    /// KVM_GET_REGS.
    pub fn regs(&self) -> Result<kvm_regs, Errno> {
        Ok(self.fd.get_regs()?)
    }

    /// Changes registers in place.
    pub fn with_regs(&self, f: impl FnOnce(&mut kvm_regs)) -> Result<(), Errno> {
        let mut regs = self.fd.get_regs()?;
        f(&mut regs);
        Ok(self.fd.set_regs(&regs)?)
    }

    /// Changes special registers in place.
    pub fn with_sregs(&self, f: impl FnOnce(&mut kvm_sregs)) -> Result<(), Errno> {
        let mut sregs = self.fd.get_sregs()?;
        f(&mut sregs);
        Ok(self.fd.set_sregs(&sregs)?)
    }

    /// KVM_GET_MSRS of one register; `None` when the kernel does not know it.
    pub fn msr(&self, index: u32) -> Result<Option<u64>, Errno> {
        let mut list = Msrs::from_entries(&[kvm_msr_entry {
            index,
            ..Default::default()
        }])
        .map_err(|_| Errno(libc::ENOMEM))?;
        let n = self.fd.get_msrs(&mut list)?;
        Ok((n == 1).then(|| list.as_slice()[0].data))
    }

    /// KVM_SET_MSRS of one register; false when the kernel refused it.
    pub fn set_msr(&self, index: u32, data: u64) -> Result<bool, Errno> {
        let list = Msrs::from_entries(&[kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }])
        .map_err(|_| Errno(libc::ENOMEM))?;
        Ok(self.fd.set_msrs(&list)? == 1)
    }

    /// KVM_VCPU_TSC_OFFSET.
    pub fn tsc_offset(&self) -> Result<u64, Errno> {
        let mut offset = 0u64;
        let attribute = kvm_device_attr {
            addr: &mut offset as *mut u64 as u64,
            ..Default::default()
        };
        sys::ioctl_with(self.raw(), sys::KVM_GET_DEVICE_ATTR, &attribute)?;
        Ok(offset)
    }

    /// Sets KVM_VCPU_TSC_OFFSET.
    pub fn set_tsc_offset(&self, offset: u64) -> Result<(), Errno> {
        let attribute = kvm_device_attr {
            addr: &offset as *const u64 as u64,
            ..Default::default()
        };
        sys::ioctl_with(self.raw(), sys::KVM_SET_DEVICE_ATTR, &attribute).map(drop)
    }

    /// KVM_INTERRUPT.
    pub fn interrupt(&self, vector: u32) -> Result<(), Errno> {
        sys::ioctl_with(
            self.raw(),
            sys::KVM_INTERRUPT,
            &kvm_interrupt { irq: vector },
        )
        .map(drop)
    }
}

/// The mapping behind `kvm_run`, in which the port data lies.
#[derive(Clone, Copy)]
struct DataArea {
    base: *mut u8,
    len: usize,
}

impl DataArea {
    fn copy(self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "port data beyond the mapping");
        // SAFETY: the mapping has `self.len` bytes, as just checked; the guest is not running.
        (0..len)
            .map(|i| unsafe { self.base.add(offset + i).read_volatile() })
            .collect()
    }

    fn put(self, offset: usize, bytes: &[u8]) {
        assert!(
            offset + bytes.len() <= self.len,
            "port data beyond the mapping"
        );
        for (i, b) in bytes.iter().enumerate() {
            // SAFETY: as in `copy`.
            unsafe { self.base.add(offset + i).write_volatile(*b) };
        }
    }
}
