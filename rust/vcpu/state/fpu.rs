// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_FPU, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS and their counterparts (api.rst).
//!
//! The kernel keeps the state in the compacted format and translates; everything here sees the standard format of
//! XSAVE: the 512 bytes of FXSAVE, the XSAVE header, the components (SDM volume 1, "Managing State Using the XSAVE
//! Feature Set").

use kernel::prelude::*;
use rkvm_core::cpuid::xstate;

use crate::{
    host::host,
    sys::uabi::{
        kvm_fpu,
        kvm_xcrs,
        Abi,
        UserArg, //
    },
    vcpu::Running,
};

/// x87 and SSE, which every vCPU has, whatever its CPUID says.
const FP_SSE: u64 = xstate::FP | xstate::SSE;
/// Where XSTATE_BV is in the area.
const XSTATE_BV: usize = 512;
/// Bytes of KVM_GET_XSAVE.
const XSAVE_BYTES: usize = 4096;

/// Copies `bytes` out of the area; zeros beyond its end.
fn get<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    area.get(at..at.wrapping_add(N))
        .and_then(|b| b.try_into().ok())
        .unwrap_or([0; N])
}

/// Copies `bytes` into the area.
fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = area.get_mut(at..at.wrapping_add(bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

impl Running<'_> {
    /// The state in the standard format. It is in the registers only within KVM_RUN.
    fn xsave_area(&mut self, bytes: usize) -> Result<KVVec<u8>> {
        let features = self.arch.caps.xcr0_allowed | FP_SSE;
        let pkru = self.hw.pkru();
        let mut area = KVVec::from_elem(0u8, bytes, GFP_KERNEL_ACCOUNT)?;
        self.fpu.copy_to_uabi(&mut area, features, pkru);
        Ok(area)
    }

    /// Takes the state from the standard format. EINVAL for components that this host has not, or reserved bits.
    fn set_xsave_area(&mut self, area: &[u8]) -> Result {
        let mut pkru = self.hw.pkru();
        self.fpu
            .copy_from_uabi(area, host().implemented.xcr0 | FP_SSE, &mut pkru)?;
        self.hw.set_pkru(pkru);
        Ok(())
    }

    /// KVM_GET_XSAVE: EINVAL if the state needs more than 4096 bytes.
    pub(crate) fn get_xsave(&mut self, arg: UserArg) -> Result<usize> {
        if self.fpu.uabi_size() > XSAVE_BYTES {
            return Err(EINVAL);
        }
        let area = self.xsave_area(XSAVE_BYTES)?;
        arg.write_slice(&area).map(|()| 0)
    }

    /// KVM_GET_XSAVE2: as many bytes as KVM_CAP_XSAVE2 says.
    pub(crate) fn get_xsave2(&mut self, arg: UserArg) -> Result<usize> {
        let size = self.fpu.uabi_size();
        let area = self.xsave_area(size)?;
        arg.write_slice(&area).map(|()| 0)
    }

    /// KVM_SET_XSAVE: of the same size.
    pub(crate) fn user_sets_xsave(&mut self, arg: UserArg) -> Result<usize> {
        let area: KVVec<u8> = arg.read_vec(self.fpu.uabi_size())?;
        self.set_xsave_area(&area).map(|()| 0)
    }

    /// KVM_GET_FPU. MXCSR is not part of it, as in C KVM.
    pub(crate) fn get_fpu(&mut self) -> Result<kvm_fpu> {
        let size = self.fpu.uabi_size();
        let area = self.xsave_area(size)?;
        let mut fpu = kvm_fpu {
            fcw: u16::from_le_bytes(get(&area, 0)),
            fsw: u16::from_le_bytes(get(&area, 2)),
            ftwx: u8::from_le_bytes(get(&area, 4)),
            last_opcode: u16::from_le_bytes(get(&area, 6)),
            last_ip: u64::from_le_bytes(get(&area, 8)),
            last_dp: u64::from_le_bytes(get(&area, 16)),
            ..kvm_fpu::zeroed()
        };
        for (register, at) in fpu.fpr.iter_mut().zip((32..).step_by(16)) {
            *register = get(&area, at);
        }
        for (register, at) in fpu.xmm.iter_mut().zip((160..).step_by(16)) {
            *register = get(&area, at);
        }
        Ok(fpu)
    }

    /// KVM_SET_FPU. All else stays.
    pub(crate) fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result {
        let size = self.fpu.uabi_size();
        let mut area = self.xsave_area(size)?;
        put(&mut area, 0, &fpu.fcw.to_le_bytes());
        put(&mut area, 2, &fpu.fsw.to_le_bytes());
        put(&mut area, 4, &[fpu.ftwx]);
        put(&mut area, 6, &fpu.last_opcode.to_le_bytes());
        put(&mut area, 8, &fpu.last_ip.to_le_bytes());
        put(&mut area, 16, &fpu.last_dp.to_le_bytes());
        for (register, at) in fpu.fpr.iter().zip((32..).step_by(16)) {
            put(&mut area, at, register);
        }
        for (register, at) in fpu.xmm.iter().zip((160..).step_by(16)) {
            put(&mut area, at, register);
        }
        // A component whose bit is clear would be taken for its initial state.
        let present = u64::from_le_bytes(get(&area, XSTATE_BV)) | FP_SSE;
        put(&mut area, XSTATE_BV, &present.to_le_bytes());
        self.set_xsave_area(&area)
    }

    /// KVM_GET_XCRS: XCR0, if the host has XSAVE.
    pub(crate) fn xcrs(&self) -> kvm_xcrs {
        let mut xcrs = kvm_xcrs::zeroed();
        if host().xstate.host_xcr0 != 0 {
            xcrs.nr_xcrs = 1;
            if let Some(first) = xcrs.xcrs.first_mut() {
                first.value = self.arch.xcr0;
            }
        }
        xcrs
    }

    /// KVM_SET_XCRS. EINVAL for a value that XSETBV would refuse.
    pub(crate) fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result {
        if host().xstate.host_xcr0 == 0
            || xcrs.flags != 0
            || xcrs.nr_xcrs as usize > xcrs.xcrs.len()
        {
            return Err(EINVAL);
        }
        // Only XCR0 exists.
        let Some(entry) = xcrs
            .xcrs
            .iter()
            .take(xcrs.nr_xcrs as usize)
            .find(|x| x.xcr == 0)
        else {
            return Ok(());
        };
        if !self.xcr0_valid(entry.value) {
            return Err(EINVAL);
        }
        self.set_xcr0(entry.value);
        Ok(())
    }
}
