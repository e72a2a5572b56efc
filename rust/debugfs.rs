// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/rkvm/`: a folder for each VM, named by the thread that made it and a serial number, with its
//! counters and those of its vCPUs as text. The same numbers as KVM_GET_STATS_FD.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    fmt, new_mutex,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    },
};
use rkvm_core::stats::text;

use crate::{
    memory::Mmu,
    sys::module_static::{
        Installed,
        ModuleStatic, //
    },
    vcpu::Vcpu,
};

static ROOT: ModuleStatic<Dir> = ModuleStatic::new();
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Keeps the module's folder.
pub(crate) struct Registration {
    _root: Installed<Dir>,
}

impl Registration {
    /// Makes the folder. Without debugfs in the kernel there is none, and nothing fails.
    pub(crate) fn new() -> Self {
        Self {
            _root: ROOT.install(Dir::new(c"rkvm")),
        }
    }
}

type Shown<T> = Pin<KBox<File<Arc<T>>>>;

/// The files of one VM; they go when it goes.
#[pin_data]
pub(crate) struct VmFiles {
    _stats: Shown<Mmu>,
    /// Taken inside any other lock.
    #[pin]
    vcpus: Mutex<KVec<Shown<Vcpu>>>,
    folder: Dir,
}

impl VmFiles {
    /// The folder and the VM's own counters. ENOMEM.
    pub(crate) fn new(creator: i32, mmu: &Arc<Mmu>) -> impl PinInit<Self, Error> {
        let mmu = mmu.clone();
        pin_init::pin_init_scope(move || {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let name = CString::try_from_fmt(fmt!("{}-{}", creator, serial))?;
            let folder = ROOT.subdir(&name);
            let stats = KBox::pin_init(
                folder.read_callback_file(
                    c"stats",
                    mmu,
                    &|mmu: &Arc<Mmu>, f: &mut fmt::Formatter<'_>| text::write(&mmu.stats, f),
                ),
                GFP_KERNEL_ACCOUNT,
            )?;
            Ok(try_pin_init!(Self {
                _stats: stats,
                vcpus <- new_mutex!(KVec::new()),
                folder,
            }? Error))
        })
    }

    /// Adds the counters of a vCPU. Those that there is no memory for are not shown, which is no reason to do without the
    /// vCPU.
    pub(crate) fn show_vcpu(&self, vcpu: &Arc<Vcpu>) {
        // debugfs itself tells nobody of its failures, either.
        let _ = self.try_show_vcpu(vcpu);
    }

    fn try_show_vcpu(&self, vcpu: &Arc<Vcpu>) -> Result {
        let name = CString::try_from_fmt(fmt!("vcpu{}", vcpu.id))?;
        let file = KBox::pin_init(
            self.folder.read_callback_file(
                &name,
                vcpu.clone(),
                &|vcpu: &Arc<Vcpu>, f: &mut fmt::Formatter<'_>| text::write(&vcpu.stats, f),
            ),
            GFP_KERNEL_ACCOUNT,
        )?;
        self.vcpus.lock().push(file, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }
}
