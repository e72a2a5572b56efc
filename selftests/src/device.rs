// SPDX-License-Identifier: GPL-2.0

//! The device under test.

use crate::errno::Errno;
use crate::sys;
use kvm_ioctls::Kvm;
use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};

/// The device that is opened when nothing else is said.
pub const DEFAULT_PATH: &str = "/dev/rkvm";
/// The environment variable that names another one.
pub const ENV: &str = "RKVM_DEV";

/// An open KVM device and the path it was opened by.
pub struct Device {
    /// The typed system ioctls.
    pub kvm: Kvm,
    path: String,
}

impl Device {
    /// Opens `path`. The error says what to do when it is the module that is missing.
    pub fn open(path: &str) -> Result<Self, String> {
        let name = CString::new(path).map_err(|_| format!("{path}: a NUL in the path"))?;
        let kvm = Kvm::new_with_path(&name).map_err(|e| {
            let hint = match e.errno() {
                libc::ENOENT | libc::ENODEV | libc::ENXIO => {
                    " (is the module loaded? another device can be named by --dev or RKVM_DEV)"
                }
                libc::EACCES | libc::EPERM => " (no permission: root, or the device's group)",
                _ => "",
            };
            format!("{path}: {}{hint}", Errno::from(e))
        })?;
        Ok(Device {
            kvm,
            path: path.to_owned(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Another open file of the same device.
    pub fn reopen(&self) -> Result<Self, String> {
        Device::open(&self.path)
    }

    /// Asks KVM_CHECK_EXTENSION on the device itself.
    pub fn cap(&self, cap: u32) -> i32 {
        sys::ioctl(self.fd(), sys::KVM_CHECK_EXTENSION, u64::from(cap)).unwrap_or(0)
    }

    /// The raw descriptor, for ioctls made by hand.
    pub fn fd(&self) -> RawFd {
        self.kvm.as_raw_fd()
    }
}
