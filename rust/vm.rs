// SPDX-License-Identifier: GPL-2.0

//! A virtual machine: its memory, its vCPUs, its interrupt controllers (api.rst, "VM ioctls").
//!
//! The VM lives as long as its fd or the fd of one of its vCPUs is open. It owns its vCPUs; they don't own it: what a
//! vCPU does takes the VM as an argument, so there is no cycle of references.

pub(crate) mod caps;
pub(crate) mod clock;
pub(crate) mod ioctl;
mod ioctl_io;
mod ioctl_irq;
mod ioctl_memory;
pub(crate) mod msr_filter;
pub(crate) mod real_mode;
pub(crate) mod vcpus;

use core::sync::atomic::AtomicBool;

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
};

use crate::{
    debugfs::VmFiles,
    io::Io,
    irq::{
        chips::{
            StormOver,
            StormTimer, //
        },
        pit::PitTimer,
        Irq, //
    },
    memory::{
        Memory,
        OwnedMmu, //
    },
    sys::page::SharedPage, //
};
use caps::Caps;
use clock::VmClock;
use msr_filter::MsrFilter;
use real_mode::RealModePages;
use rkvm_core::tsc;
use vcpus::Vcpus;

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm {
    /// Its counters in debugfs.
    #[pin]
    pub(crate) debug: VmFiles,
    /// The vCPUs, in order of creation. Grows only.
    pub(crate) vcpus: Arc<Vcpus>,
    /// Guest memory.
    #[pin]
    pub(crate) memory: Memory,
    /// What real mode needs on a processor without unrestricted guest.
    pub(crate) real_mode: RealModePages,
    /// What KVM_ENABLE_CAP has switched on.
    pub(crate) caps: Caps,
    /// What vCPUs look at when they are asked to. Taken inside any other lock.
    #[pin]
    msr_filter: Mutex<Option<Arc<MsrFilter>>>,
    /// What keeps the TSCs of the vCPUs together. Taken inside any other lock.
    #[pin]
    pub(crate) tsc: Mutex<tsc::Sync>,
    /// Whether the TSCs of all vCPUs are one. Written with `tsc` locked.
    pub(crate) tscs_agree: AtomicBool,
    /// The thread that made the VM, for the names of statistics.
    pub(crate) creator: i32,
    /// Interrupt controllers and the way to the local APICs.
    pub(crate) irq: Arc<Irq>,
    /// Gives level interrupts that stormed another chance.
    pub(crate) storm_timer: Pin<KBox<StormTimer>>,
    /// The host's timer for the interval timer.
    pub(crate) pit_timer: SetOnce<Pin<KBox<PitTimer>>>,
    /// kvmclock. Taken inside any other lock but that of the TSCs.
    #[pin]
    pub(crate) clock: Mutex<VmClock>,
    /// ioeventfds, irqfds, coalesced MMIO.
    #[pin]
    pub(crate) io: Io,
    /// Taken by whatever changes the VM's set-up: creation of vCPUs and devices. Outermost lock of the VM.
    #[pin]
    pub(crate) setup: Mutex<()>,
}

impl Vm {
    /// A VM without memory and vCPUs. `kind` is the argument of KVM_CREATE_VM: 0 is the only one on VMX.
    pub(crate) fn new(kind: u64) -> Result<Arc<Self>> {
        if kind != 0 {
            return Err(EINVAL);
        }
        let vcpus = Arc::new(Vcpus::new(), GFP_KERNEL_ACCOUNT)?;
        let mmu = OwnedMmu::new(vcpus.clone())?;
        let irq = Irq::new(vcpus.clone())?;
        Arc::pin_init(
            try_pin_init!(Self {
                debug <- VmFiles::new(kernel::current!().pid(), mmu.mmu()),
                vcpus,
                memory <- Memory::new(mmu),
                real_mode: RealModePages::new(),
                caps: Caps::new(),
                msr_filter <- new_mutex!(None),
                tsc <- new_mutex!(tsc::Sync::NEW),
                tscs_agree: AtomicBool::new(false),
                creator: kernel::current!().pid(),
                storm_timer: StormOver::timer(irq.clone())?,
                pit_timer: SetOnce::new(),
                irq,
                clock <- new_mutex!(VmClock::new()),
                io <- Io::new(),
                setup <- new_mutex!(()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// EIO unless the caller is the process that made the VM: guest memory is that of its address space.
    #[inline]
    pub(crate) fn check_owner(&self) -> Result {
        if self.memory.is_owner() {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// The ring of coalesced MMIO.
    pub(crate) fn coalesced_ring(&self) -> Option<&SharedPage> {
        Some(self.io.ring_page())
    }
}
