// SPDX-License-Identifier: GPL-2.0

//! KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR and KVM_SET_DEVICE_ATTR on a vCPU (Documentation/virt/kvm/devices/vcpu.rst):
//! the TSC offset, and nothing else on x86.

use kernel::prelude::*;

use crate::{
    sys::uabi::{
        kvm_device_attr,
        UserArg, //
    },
    vcpu::Running,
};

/// KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET.
const TSC_CTRL: u32 = 0;
const TSC_OFFSET: u64 = 0;

impl Running<'_> {
    /// KVM_HAS_DEVICE_ATTR: ENXIO for an attribute that a vCPU does not have.
    pub(crate) fn has_attribute(&self, attribute: &kvm_device_attr) -> Result {
        if attribute.group == TSC_CTRL && attribute.attr == TSC_OFFSET {
            Ok(())
        } else {
            Err(ENXIO)
        }
    }

    /// KVM_GET_DEVICE_ATTR.
    pub(crate) fn get_attribute(&self, attribute: &kvm_device_attr) -> Result {
        self.has_attribute(attribute)?;
        UserArg::from_address(attribute.addr).write(&self.arch.tsc.offset())
    }

    /// KVM_SET_DEVICE_ATTR.
    pub(crate) fn set_attribute(&mut self, attribute: &kvm_device_attr) -> Result {
        self.has_attribute(attribute)?;
        let offset = UserArg::from_address(attribute.addr).read()?;
        self.restore_tsc_offset(offset);
        Ok(())
    }
}
