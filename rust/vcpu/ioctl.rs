// SPDX-License-Identifier: GPL-2.0

//! ioctls on a vCPU's fd (api.rst, "vCPU ioctls").

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
    run_page::MMAP_PAGES,
    Running,
    Vcpu, //
};
use crate::{
    nr,
    sys::{
        cpu::SignalMask,
        fops::{
            FileOps,
            Mapping, //
        },
        uabi::{
            kvm_cpuid2,
            UserArg, //
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
}

impl FileOps for VcpuFile {
    const NAME: &'static CStr = c"kvm-vcpu";

    fn ioctl(this: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: UserArg) -> Result<usize> {
        this.vm.check_owner()?;
        this.vcpu.with(&this.vm, |mut r| r.ioctl(cmd, arg))
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: Mapping<'_>) -> Result {
        let first = vma.page_offset();
        let pages = vma.pages();
        if !vma.is_shared_data() || first.checked_add(pages).is_none_or(|end| end > MMAP_PAGES) {
            return Err(EINVAL);
        }
        for i in 0..pages {
            let page = match first.wrapping_add(i) {
                2 => this.vm.coalesced_ring(),
                n => this.vcpu.run.page(n),
            };
            vma.insert(i, page.ok_or(EINVAL)?)?;
        }
        Ok(())
    }
}

impl Running<'_> {
    fn ioctl(&mut self, cmd: u32, arg: UserArg) -> Result<usize> {
        match cmd {
            nr::KVM_RUN => {
                if arg.value() != 0 {
                    return Err(EINVAL);
                }
                let _mask = self.arch.signal_mask.as_ref().map(SignalMask::activate);
                self.run()
            }
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
            nr::KVM_SET_CPUID2 => {
                let head: kvm_cpuid2 = arg.read()?;
                if head.nent as usize > rkvm_core::cpuid::MAX_ENTRIES {
                    return Err(E2BIG);
                }
                let entries: KVVec<CpuidEntry> = arg.offset(8).read_vec(head.nent as usize)?;
                self.set_cpuid(entries).map(|()| 0)
            }
            nr::KVM_GET_CPUID2 => {
                let mut head: kvm_cpuid2 = arg.read()?;
                let n = self.arch.cpuid.entries.len();
                if (head.nent as usize) < n {
                    return Err(E2BIG);
                }
                head.nent = n as u32;
                arg.offset(8).write_slice(&self.arch.cpuid.entries)?;
                arg.write(&head.nent).map(|()| 0)
            }
            _ => Err(ENOTTY),
        }
    }
}
