// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_STATS_FD (api.rst): counters as a file, for a VM and for a vCPU.

use kernel::{
    fmt,
    fs::File,
    prelude::*,
    str::{
        CStr,
        CString, //
    },
    sync::{
        Arc,
        ArcBorrow, //
    },
};
use rkvm_core::stats::{
    file_size,
    read_at,
    Stats,
    VcpuStats,
    VmStats, //
};

use crate::{
    sys::{
        fops::{
            anon_fd,
            FileOps, //
        },
        uabi::UserArg, //
    },
    vcpu::Vcpu,
    vm::Vm,
};

/// Something that has counters.
pub(crate) trait Counted: Send + Sync + 'static {
    /// Which ones.
    type Stats: Stats;
    /// The file's name.
    const NAME: &'static CStr;

    /// The counters.
    fn stats(&self) -> &Self::Stats;

    /// Which one of its kind it is.
    fn number(&self) -> Option<u32> {
        None
    }
}

impl Counted for Vm {
    type Stats = VmStats;
    const NAME: &'static CStr = c"kvm-vm-stats";

    fn stats(&self) -> &VmStats {
        &self.memory.stats
    }
}

impl Counted for Vcpu {
    type Stats = VcpuStats;
    const NAME: &'static CStr = c"kvm-vcpu-stats";

    fn stats(&self) -> &VcpuStats {
        &self.stats
    }

    fn number(&self) -> Option<u32> {
        Some(self.id)
    }
}

/// The open file.
pub(crate) struct StatsFile<T> {
    owner: Arc<T>,
    /// The id in the file, like `kvm-1234/vcpu-0`.
    id: CString,
}

impl<T: Counted> StatsFile<T> {
    /// A new descriptor. EMFILE or ENOMEM when there is no room.
    pub(crate) fn open(owner: Arc<T>, id: fmt::Arguments<'_>) -> Result<usize> {
        let id = CString::try_from_fmt(id)?;
        let file = Arc::new(Self { owner, id }, GFP_KERNEL_ACCOUNT)?;
        Ok(anon_fd(file)?.publish())
    }
}

impl<T: Counted> FileOps for StatsFile<T> {
    const NAME: &'static CStr = T::NAME;

    fn number(&self) -> Option<u32> {
        self.owner.number()
    }

    const READ_ONLY: bool = true;

    fn ioctl(_this: ArcBorrow<'_, Self>, _file: &File, _cmd: u32, _arg: UserArg) -> Result<usize> {
        Err(ENOTTY)
    }

    fn read(this: ArcBorrow<'_, Self>, offset: usize, to: UserArg, len: usize) -> Result<usize> {
        let len = len.min(file_size::<T::Stats>());
        let mut buffer = KVVec::from_elem(0u8, len, GFP_KERNEL)?;
        let id = this.id.to_str().unwrap_or("");
        let n = read_at(id, this.owner.stats(), offset as u64, &mut buffer);
        to.write_slice(buffer.get(..n).ok_or(EINVAL)?)?;
        Ok(n)
    }
}
