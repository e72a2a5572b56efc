// SPDX-License-Identifier: GPL-2.0

//! KVM_X86_SETUP_MCE and KVM_X86_SET_MCE (api.rst): machine-check banks, and errors reported to them.

use kernel::prelude::*;
use rkvm_core::{
    exception::{
        Exception,
        Vector, //
    },
    msr::mce::{
        Delivery,
        Report, //
    },
    regs::cr4,
};

use crate::{
    sys::uabi::kvm_x86_mce,
    vcpu::{
        requests::Request,
        Running, //
    },
};

impl Running<'_> {
    /// KVM_X86_SETUP_MCE. EINVAL for no banks, too many, or what KVM_X86_GET_MCE_CAP_SUPPORTED does not name.
    pub(crate) fn setup_mce(&mut self, cap: u64) -> Result {
        self.arch.msrs.mce.setup(cap).map_err(|_| EINVAL)?;
        self.apic_follows_mce();
        Ok(())
    }

    /// KVM_X86_SET_MCE. EINVAL for a bank that is not there, or a status that is not valid.
    pub(crate) fn report_mce(&mut self, mce: &kvm_x86_mce) -> Result {
        let report = Report {
            bank: mce.bank,
            status: mce.status,
            addr: mce.addr,
            misc: mce.misc,
            mcg_status: mce.mcg_status,
        };
        let mce_on = self.read_cr4() & cr4::MCE != 0;
        match self
            .arch
            .msrs
            .mce
            .report(&report, mce_on)
            .map_err(|_| EINVAL)?
        {
            Delivery::Silent => {}
            Delivery::Cmci => self.deliver_cmci(),
            Delivery::Exception => self.queue_exception(Exception::plain(Vector::Mc)),
            Delivery::TripleFault => self.vcpu.requests.set_own(Request::TripleFault),
        }
        Ok(())
    }
}
