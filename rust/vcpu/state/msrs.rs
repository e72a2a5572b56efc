// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_MSRS and KVM_SET_MSRS of a vCPU (api.rst): both answer how many were done before the first that failed.

use kernel::prelude::*;
use rkvm_core::msr::Origin;

use crate::{
    sys::uabi::UserArg,
    system::for_each_msr,
    vcpu::Running, //
};

impl Running<'_> {
    /// KVM_GET_MSRS.
    pub(crate) fn get_msrs(&mut self, arg: UserArg) -> Result<usize> {
        for_each_msr(arg, true, |entry| {
            match self.get_msr(entry.index, Origin::User) {
                Ok(value) => {
                    entry.data = value;
                    true
                }
                Err(_) => false,
            }
        })
    }

    /// KVM_SET_MSRS.
    pub(crate) fn set_msrs(&mut self, arg: UserArg) -> Result<usize> {
        for_each_msr(arg, false, |entry| {
            self.set_msr(entry.index, entry.data, Origin::User).is_ok()
        })
    }
}
