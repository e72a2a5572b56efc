// SPDX-License-Identifier: GPL-2.0

//! ioctls on a VM's fd (api.rst, "VM ioctls").

use kernel::{
    fs::File,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use super::{
    ioctl_io,
    ioctl_memory,
    msr_filter::MsrFilter,
    vcpus::MAX_VCPUS,
    Vm, //
};
use crate::{
    nr,
    sys::{
        fops::{
            anon_fd,
            FileOps, //
        },
        uabi::{
            kvm_create_device,
            UserArg, //
        },
    },
    system,
    vcpu::{
        ioctl::VcpuFile,
        state::stats::StatsFile,
        Vcpu, //
    },
};

impl FileOps for Vm {
    const NAME: &'static CStr = c"kvm-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: UserArg) -> Result<usize> {
        this.check_owner()?;
        match cmd {
            nr::KVM_CHECK_EXTENSION => Ok(system::check_extension(arg.value(), Some(&this))),
            nr::KVM_CREATE_VCPU => create_vcpu(&this.into(), arg.value()),
            nr::KVM_SET_USER_MEMORY_REGION => ioctl_memory::set_user_memory_region(&this, arg),
            nr::KVM_SET_USER_MEMORY_REGION2 => ioctl_memory::set_user_memory_region2(&this, arg),
            nr::KVM_GET_DIRTY_LOG => ioctl_memory::get_dirty_log(&this, arg),
            nr::KVM_CLEAR_DIRTY_LOG => ioctl_memory::clear_dirty_log(&this, arg),
            nr::KVM_SET_TSS_ADDR => this.set_tss_address(arg.value()).map(|()| 0),
            nr::KVM_SET_IDENTITY_MAP_ADDR => this.set_identity_map_address(arg).map(|()| 0),
            nr::KVM_SET_NR_MMU_PAGES => ioctl_memory::set_nr_mmu_pages(arg.value()),
            nr::KVM_IRQFD => ioctl_io::irqfd(&this, &arg.read()?),
            nr::KVM_IOEVENTFD => ioctl_io::ioeventfd(&this, &arg.read()?),
            nr::KVM_REGISTER_COALESCED_MMIO => ioctl_io::register_coalesced(&this, &arg.read()?),
            nr::KVM_UNREGISTER_COALESCED_MMIO => {
                ioctl_io::unregister_coalesced(&this, &arg.read()?)
            }
            nr::KVM_ENABLE_CAP => this.enable_cap(&arg.read()?).map(|()| 0),
            nr::KVM_X86_SET_MSR_FILTER => this.set_msr_filter(MsrFilter::read(arg)?).map(|()| 0),
            nr::KVM_SET_BOOT_CPU_ID => this.set_boot_cpu_id(arg.value()).map(|()| 0),
            nr::KVM_GET_TSC_KHZ => Ok(this.caps.tsc_khz() as usize),
            nr::KVM_SET_TSC_KHZ => this.set_default_tsc_khz(arg.value()).map(|()| 0),
            nr::KVM_CREATE_DEVICE => {
                // Devices of this kind that x86 has: none but VFIO's, for assigned hardware.
                let _: kvm_create_device = arg.read()?;
                Err(ENODEV)
            }
            nr::KVM_GET_STATS_FD => StatsFile::open(this.into(), fmt!("kvm-{}", this.creator)),
            _ => this.irq_ioctl(cmd, arg),
        }
    }

    fn compat_ioctl(
        this: ArcBorrow<'_, Self>,
        file: &File,
        cmd: u32,
        arg: UserArg,
    ) -> Result<usize> {
        this.check_owner()?;
        match cmd {
            nr::KVM_GET_DIRTY_LOG => ioctl_memory::compat_get_dirty_log(&this, arg),
            nr::KVM_CLEAR_DIRTY_LOG => ioctl_memory::compat_clear_dirty_log(&this, arg),
            nr::KVM_X86_SET_MSR_FILTER_COMPAT => {
                let filter = MsrFilter::read_compat(arg)?;
                this.set_msr_filter(filter).map(|()| 0)
            }
            _ => Self::ioctl(this, file, cmd, arg),
        }
    }

    fn release(this: ArcBorrow<'_, Self>) {
        // As with C KVM, interrupts by eventfd end with the VM's own fd, though its vCPUs may go on.
        this.io.irqfds().end_all();
    }
}

/// KVM_CREATE_VCPU: EINVAL for an id out of range or one vCPU too many, EEXIST for an id in use.
fn create_vcpu(vm: &Arc<Vm>, id: u64) -> Result<usize> {
    let _setup = vm.setup.lock();
    vm.caps.fix_vcpu_ids();
    let id = u32::try_from(id)
        .ok()
        .filter(|id| *id < vm.caps.max_vcpu_ids())
        .ok_or(EINVAL)?;
    if vm.vcpus.len() >= MAX_VCPUS {
        return Err(EINVAL);
    }
    if vm.vcpus.iter().any(|v| v.id == id) {
        return Err(EEXIST);
    }
    vm.place_identity_map()?;
    let vcpu = Vcpu::new(vm, id, vm.vcpus.len())?;
    let file = VcpuFile::new(vm.clone(), vcpu.clone())?;
    let fd = anon_fd(file)?;
    // From here on the id is taken, so nothing after it may fail.
    if vm.has_irqchip() {
        vm.irq.add_vcpu(vcpu.clone())?;
    } else {
        vm.vcpus.push(vcpu.clone())?;
    }
    vm.compare_tscs();
    vm.debug.show_vcpu(&vcpu);
    Ok(fd.publish())
}
