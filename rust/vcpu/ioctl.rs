// SPDX-License-Identifier: GPL-2.0

//! ioctls on a vCPU's fd (api.rst, "vCPU ioctls").

use core::mem::size_of;

use kernel::{
    fs::File,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        ArcBorrow, //
    },
};
use rkvm_core::cpuid::CpuidEntry;

use super::{
    run_page::COALESCED_PAGE,
    state::stats::StatsFile,
    Running,
    Vcpu, //
};
use crate::{
    nr,
    sys::{
        cpu::SignalMask,
        fops::FileOps,
        page::SharedPage,
        uabi::{
            kvm_cpuid2,
            kvm_enable_cap,
            kvm_mp_state,
            UserArg,
            KVM_CAP_ENFORCE_PV_FEATURE_CPUID, //
        },
    },
    vm::Vm,
};

/// What a vCPU's fd holds: the vCPU, and its VM, which lives at least as long.
pub(crate) struct VcpuFile {
    vm: Arc<Vm>,
    vcpu: Arc<Vcpu>,
}

impl VcpuFile {
    pub(crate) fn new(vm: Arc<Vm>, vcpu: Arc<Vcpu>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { vm, vcpu }, GFP_KERNEL_ACCOUNT)?)
    }

    /// All but KVM_RUN.
    #[inline(never)]
    fn other_ioctl(&self, cmd: u32, arg: UserArg) -> Result<usize> {
        if cmd == nr::KVM_GET_STATS_FD {
            let (creator, id) = (self.vm.creator, self.vcpu.id);
            return StatsFile::open(self.vcpu.clone(), fmt!("kvm-{creator}/vcpu-{id}"));
        }
        self.vcpu.with(&self.vm, |mut r| r.ioctl(cmd, arg))
    }
}

impl FileOps for VcpuFile {
    const NAME: &'static CStr = c"kvm-vcpu";

    fn number(&self) -> Option<u32> {
        Some(self.vcpu.id)
    }

    #[inline]
    fn ioctl(this: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: UserArg) -> Result<usize> {
        this.vm.check_owner()?;
        if cmd == nr::KVM_RUN {
            this.vcpu.with(&this.vm, |mut r| r.user_runs(arg))?;
            return Ok(0);
        }
        this.other_ioctl(cmd, arg)
    }

    const HAS_PAGES: bool = true;

    fn page(&self, index: usize) -> Option<&SharedPage> {
        match index {
            COALESCED_PAGE => self.vm.coalesced_ring(),
            n => self.vcpu.run.page(n),
        }
    }
}

/// `struct kvm_cpuid_entry`: function, EAX, EBX, ECX, EDX, padding.
type OldCpuidEntry = [u32; 6];

/// An entry of KVM_SET_CPUID, which knows no subleaves.
fn from_old([function, eax, ebx, ecx, edx, _]: OldCpuidEntry) -> CpuidEntry {
    CpuidEntry {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..CpuidEntry::default()
    }
}

/// The number of entries after a `struct kvm_cpuid` or `kvm_cpuid2` for the vCPU. E2BIG for too many.
fn cpuid_count(arg: UserArg) -> Result<usize> {
    let count = arg.read::<kvm_cpuid2>()?.nent as usize;
    if count > rkvm_core::cpuid::MAX_ENTRIES {
        return Err(E2BIG);
    }
    Ok(count)
}

/// The table of KVM_SET_CPUID2.
fn read_cpuid2(arg: UserArg) -> Result<KVVec<CpuidEntry>> {
    let count = cpuid_count(arg)?;
    arg.offset(size_of::<kvm_cpuid2>()).read_vec(count)
}

/// The table of KVM_SET_CPUID.
fn read_cpuid(arg: UserArg) -> Result<KVVec<CpuidEntry>> {
    let count = cpuid_count(arg)?;
    let mut entries = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    for n in 0..count {
        let at = arg
            .offset(size_of::<kvm_cpuid2>())
            .offset(n.wrapping_mul(size_of::<OldCpuidEntry>()));
        entries.push(from_old(at.read()?), GFP_KERNEL_ACCOUNT)?;
    }
    Ok(entries)
}

/// The answer of KVM_GET_CPUID2. E2BIG if there is no room for all entries.
fn write_cpuid2(entries: &[CpuidEntry], arg: UserArg) -> Result {
    let mut head: kvm_cpuid2 = arg.read()?;
    if (head.nent as usize) < entries.len() {
        return Err(E2BIG);
    }
    head.nent = entries.len() as u32;
    arg.offset(size_of::<kvm_cpuid2>()).write_slice(entries)?;
    arg.write(&head)
}

impl Running<'_> {
    /// KVM_RUN.
    #[inline]
    fn user_runs(&mut self, arg: UserArg) -> Result {
        if arg.value() != 0 {
            return Err(EINVAL);
        }
        let _mask = self.arch.signal_mask.as_ref().map(SignalMask::activate);
        self.run()
    }

    /// All others.
    fn ioctl(&mut self, cmd: u32, arg: UserArg) -> Result<usize> {
        match cmd {
            nr::KVM_GET_REGS => arg.write(&self.regs()).map(|()| 0),
            nr::KVM_SET_REGS => {
                let regs = arg.read()?;
                self.set_regs(&regs);
                Ok(0)
            }
            nr::KVM_GET_SREGS => arg.write(&self.sregs()).map(|()| 0),
            nr::KVM_SET_SREGS => {
                let sregs = arg.read_boxed()?;
                self.set_sregs(&sregs).map(|()| 0)
            }
            nr::KVM_TRANSLATE => {
                let mut t = arg.read()?;
                self.translate_for_user(&mut t);
                arg.write(&t).map(|()| 0)
            }
            nr::KVM_SET_CPUID2 => self.set_cpuid(read_cpuid2(arg)?).map(|()| 0),
            nr::KVM_SET_CPUID => self.set_cpuid(read_cpuid(arg)?).map(|()| 0),
            nr::KVM_GET_CPUID2 => write_cpuid2(&self.arch.cpuid.entries, arg).map(|()| 0),
            nr::KVM_GET_SREGS2 => {
                let sregs = self.sregs2();
                arg.write(&sregs).map(|()| 0)
            }
            nr::KVM_SET_SREGS2 => {
                let sregs = arg.read()?;
                self.set_sregs2(sregs).map(|()| 0)
            }
            _ => self.state_ioctl(cmd, arg),
        }
    }

    /// The ioctls of [`super::state`].
    fn state_ioctl(&mut self, cmd: u32, arg: UserArg) -> Result<usize> {
        match cmd {
            nr::KVM_GET_MSRS => return self.get_msrs(arg),
            nr::KVM_SET_MSRS => return self.set_msrs(arg),
            nr::KVM_GET_FPU => arg.write(&self.get_fpu()?)?,
            nr::KVM_SET_FPU => self.set_fpu(&arg.read()?)?,
            nr::KVM_GET_XSAVE => return self.get_xsave(arg),
            nr::KVM_GET_XSAVE2 => return self.get_xsave2(arg),
            nr::KVM_SET_XSAVE => return self.user_sets_xsave(arg),
            nr::KVM_GET_XCRS => arg.write(&self.xcrs())?,
            nr::KVM_SET_XCRS => self.set_xcrs(&arg.read()?)?,
            nr::KVM_GET_DEBUGREGS => arg.write(&self.debugregs())?,
            nr::KVM_SET_DEBUGREGS => self.set_debugregs(&arg.read()?)?,
            nr::KVM_SET_GUEST_DEBUG => self.set_guest_debug(&arg.read()?)?,
            nr::KVM_GET_VCPU_EVENTS => arg.write(&self.vcpu_events())?,
            nr::KVM_SET_VCPU_EVENTS => self.set_vcpu_events(&arg.read()?)?,
            nr::KVM_GET_MP_STATE => {
                let mp_state = self.mp_state_for_user() as u32;
                arg.write(&kvm_mp_state { mp_state })?;
            }
            nr::KVM_SET_MP_STATE => {
                self.user_sets_mp_state(arg.read::<kvm_mp_state>()?.mp_state)?
            }
            nr::KVM_INTERRUPT => self.user_interrupt(&arg.read()?)?,
            nr::KVM_GET_LAPIC => arg.write(&*self.lapic_state()?)?,
            nr::KVM_SET_LAPIC => self.set_lapic_state(&*arg.read_boxed()?)?,
            nr::KVM_KVMCLOCK_CTRL => self.guest_was_stopped()?,
            nr::KVM_NMI => self.user_nmi(),
            nr::KVM_SET_SIGNAL_MASK => self.set_signal_mask(arg)?,
            nr::KVM_X86_SETUP_MCE => self.setup_mce(arg.read()?)?,
            nr::KVM_X86_SET_MCE => self.report_mce(&arg.read()?)?,
            nr::KVM_GET_TSC_KHZ => return Ok(self.arch.tsc.khz() as usize),
            nr::KVM_SET_TSC_KHZ => self.set_tsc_khz(arg.value())?,
            nr::KVM_HAS_DEVICE_ATTR => self.has_attribute(&arg.read()?)?,
            nr::KVM_GET_DEVICE_ATTR => self.get_attribute(&arg.read()?)?,
            nr::KVM_SET_DEVICE_ATTR => self.set_attribute(&arg.read()?)?,
            nr::KVM_ENABLE_CAP => {
                let request: kvm_enable_cap = arg.read()?;
                if request.flags != 0 || request.cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID {
                    return Err(EINVAL);
                }
                self.arch.pv_enforced = request.args.first().is_some_and(|value| *value != 0);
            }
            nr::KVM_SET_VAPIC_ADDR => self.set_vapic_address(arg)?,
            nr::KVM_TPR_ACCESS_REPORTING => self.set_tpr_reporting(arg)?,
            // What C KVM answers here.
            _ => return Err(EINVAL),
        }
        Ok(0)
    }
}
