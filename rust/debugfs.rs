// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/rkvm/`: a folder for each VM, named by the thread that made it and a serial number, with its
//! counters and those of its vCPUs as text. The same numbers as KVM_GET_STATS_FD.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
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
    sys::{
        debugfs::{
            File,
            Folder,
            Show, //
        },
        module_static::{
            Installed,
            ModuleStatic, //
        },
    },
    vcpu::Vcpu,
};

static ROOT: ModuleStatic<Arc<Folder>> = ModuleStatic::new();
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Keeps the module's folder.
pub(crate) struct Registration {
    _root: Installed<Arc<Folder>>,
}

impl Registration {
    /// Makes the folder. ENOMEM; without debugfs in the kernel there is none, and nothing fails.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            _root: ROOT.install(Folder::new(c"rkvm", None)?),
        })
    }
}

impl Show for Mmu {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(&self.stats, f)
    }
}

impl Show for Vcpu {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(&self.stats, f)
    }
}

/// The files of one VM; they go when it goes.
#[pin_data]
pub(crate) struct VmFiles {
    _stats: File<Mmu>,
    /// Taken inside any other lock.
    #[pin]
    vcpus: Mutex<KVec<File<Vcpu>>>,
    folder: Arc<Folder>,
}

impl VmFiles {
    /// The folder and the VM's own counters. ENOMEM.
    pub(crate) fn new(creator: i32, mmu: &Arc<Mmu>) -> impl PinInit<Self, Error> {
        let mmu = mmu.clone();
        pin_init::pin_init_scope(move || {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let name = CString::try_from_fmt(fmt!("{}-{}", creator, serial))?;
            let folder = Folder::new(&name, Some(ROOT.clone()))?;
            Ok(try_pin_init!(Self {
                _stats: File::new(c"stats", folder.clone(), mmu),
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
        let file = File::new(&name, self.folder.clone(), vcpu.clone());
        self.vcpus.lock().push(file, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }
}
