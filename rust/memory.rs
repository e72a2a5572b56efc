// SPDX-License-Identifier: GPL-2.0

//! Guest memory: slots, the EPT that maps them, and the host's changes to what they map (Documentation/mmu.rst).
//!
//! Locks, outermost first: the VM's set-up lock; `writer` (C KVM's slots_lock), for changes of the slots; SRCU, by which
//! slots are read; `lock` (C KVM's mmu_lock), a spinning reader/writer lock over the EPT. Whoever holds `lock` may wait for
//! other CPUs to flush, so nobody may wait for it with interrupts off.

mod access;
mod apic_access;
mod dirty;
mod fault;
mod mmio;
mod notifier;
mod regions;
mod slots;
mod tables;
mod walk;

use core::{
    ops::Deref,
    sync::atomic::{
        AtomicU32,
        AtomicU64, //
    },
};

use kernel::{
    c_str, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        Arc,
        Mutex, //
    },
};
use rkvm_core::{
    addr::Hpa,
    memslots::USER_MEM_SLOTS,
    mmu::{
        entry::{
            Format,
            MemoryType, //
        },
        ept::{
            Budget,
            Ept, //
        },
        invalidate::Invalidations,
        level::Level,
        memory::Pending,
        mmio::MmioFormat, //
    },
    stats::VmStats,
};

use crate::{
    host::host,
    sys::{
        mmu_notifier::{
            MmRef,
            MmuNotifier, //
        },
        page::wait_for_freed_tables,
        rwlock::RwLock,
        srcu::{
            Srcu,
            SrcuPtr, //
        },
    },
    vcpu::requests::Request,
    vm::vcpus::Vcpus,
};
use apic_access::ApicAccess;
use slots::Slots;
use tables::{
    discard_table,
    new_table,
    Tables, //
};

pub(crate) use access::Swapped;
pub(crate) use dirty::{
    INITIALLY_SET,
    MANUAL_PROTECT, //
};
pub(crate) use fault::{
    Fault,
    VcpuMmu, //
};
pub(crate) use mmio::Misconfigured;

/// KVM_CAP_NR_MEMSLOTS.
pub(crate) const USER_SLOTS: u32 = USER_MEM_SLOTS as u32;

/// Entries that an operation over many looks at before it lets others have mmu_lock.
const PORTION: Budget = Budget(4096);

/// EPTP bit 6: accessed and dirty flags (SDM, "Extended-Page-Table Pointer").
const EPTP_AD: u64 = 1 << 6;
/// EPTP bits 5:3: the levels less one.
const EPTP_LEVELS_SHIFT: u32 = 3;
/// Cacheable address bits of all client processors with L1TF, whatever CPUID says.
const L1TF_CACHE_BITS: u32 = 44;

/// An access to guest memory that no slot answers, or whose host page is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// The memory of a VM, registered for the changes of its owner's memory map. Dropping it unregisters first.
#[pin_data]
pub(crate) struct Memory {
    #[pin]
    notifier: MmuNotifier<Arc<Mmu>>,
    shared: OwnedMmu,
}

impl Memory {
    /// No slot, in the address space of the calling thread.
    pub(crate) fn new(shared: OwnedMmu) -> impl PinInit<Self, Error> {
        let mmu = shared.mmu().clone();
        try_pin_init!(Self {
            shared,
            notifier <- MmuNotifier::register(mmu, MmRef::of_current().ok_or(EIO)?),
        })
    }

    /// Whether the caller is the process that made the VM.
    #[inline]
    pub(crate) fn is_owner(&self) -> bool {
        self.notifier.mm().is_current()
    }
}

impl Deref for Memory {
    type Target = Mmu;

    #[inline]
    fn deref(&self) -> &Mmu {
        self.shared.mmu()
    }
}

/// What mmu_lock protects besides the EPT itself.
struct Guarded {
    invalidations: Invalidations,
}

/// Slots and EPT.
#[pin_data]
pub(crate) struct Mmu {
    slots: SrcuPtr<KBox<Slots>>,
    /// slots_lock, and the copy of the slots that the next change starts from. It is there whenever the lock is free.
    #[pin]
    writer: Mutex<Option<KBox<Slots>>>,
    /// mmu_lock.
    #[pin]
    lock: RwLock<Guarded>,
    /// The sample of the invalidations, for faults, which take it without the lock.
    sequence: AtomicU64,
    root: Hpa,
    format: Format,
    ept_pointer: u64,
    mmio: MmioFormat,
    apic_access: ApicAccess,
    /// 0, or how far the news of a device is (`fault.rs`), on a host where vCPUs have to know.
    devices: AtomicU32,
    /// Slots that log writes. Changed with the slots.
    logging_slots: AtomicU32,
    /// How logs are read: [`dirty::MANUAL_PROTECT`], [`dirty::INITIALLY_SET`].
    dirty_log_mode: AtomicU32,
    vcpus: Arc<Vcpus>,
    /// Counters for KVM_GET_STATS_FD.
    pub(crate) stats: VmStats,
}

impl Mmu {
    /// No slot, an empty EPT, for these vCPUs. ENOMEM.
    fn new(vcpus: Arc<Vcpus>) -> Result<Arc<Self>> {
        let srcu = Arc::pin_init(
            Srcu::new(c_str!("rkvm_srcu"), static_lock_class!()),
            GFP_KERNEL_ACCOUNT,
        )?;
        let format = format();
        let stats = VmStats::default();
        let published = KBox::new(Slots::new(), GFP_KERNEL_ACCOUNT)?;
        let spare = KBox::new(Slots::new(), GFP_KERNEL_ACCOUNT)?;
        let guarded = Guarded {
            invalidations: Invalidations::new(),
        };
        let root = new_table(&stats)?;
        let pointer = ept_pointer(root, &format);
        Arc::pin_init(
            try_pin_init!(Self {
                slots: SrcuPtr::new(srcu, published),
                writer <- new_mutex!(Some(spare)),
                lock <- RwLock::new(guarded, c_str!("mmu_lock"), static_lock_class!()),
                sequence: AtomicU64::new(0),
                root,
                format,
                ept_pointer: pointer,
                mmio: MmioFormat::new(l1tf_cache_bits()),
                apic_access: ApicAccess::new(),
                devices: AtomicU32::new(0),
                logging_slots: AtomicU32::new(0),
                dirty_log_mode: AtomicU32::new(0),
                vcpus,
                stats,
            }),
            GFP_KERNEL_ACCOUNT,
        )
        .inspect_err(|_| discard_table(root))
    }

    /// The EPT pointer for the VMCS.
    #[inline]
    pub(crate) fn ept_pointer(&self) -> u64 {
        self.ept_pointer
    }

    #[inline]
    fn tables(&self) -> Tables<'_> {
        Tables::new(&self.stats)
    }

    #[inline]
    fn ept<'a>(&'a self, tables: &'a Tables<'a>) -> Ept<'a, Tables<'a>> {
        Ept::new(tables, self.root, &self.format)
    }

    /// Has all vCPUs drop what they cache of the EPT, and waits until no CPU uses an old translation any more. Interrupts
    /// are on.
    fn flush_remote_tlbs(&self) {
        self.stats.remote_tlb_flush_requests.add_shared(1);
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(Request::TlbFlush);
        }
        for vcpu in self.vcpus.iter() {
            vcpu.requests.kick_and_wait();
        }
        self.stats.remote_tlb_flush.add_shared(1);
    }

    /// A bug of our own: the VM runs no more.
    #[cold]
    fn kill(&self, why: &str) {
        pr_err!("{}: the VM is stopped\n", why);
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(Request::VmDead);
            vcpu.requests.kick();
        }
    }
}

/// Whose drop is the end of a VM's memory, also of one that does not come to be.
pub(crate) struct OwnedMmu(Arc<Mmu>);

impl OwnedMmu {
    /// No slot, an empty EPT, for these vCPUs. ENOMEM.
    pub(crate) fn new(vcpus: Arc<Vcpus>) -> Result<Self> {
        Mmu::new(vcpus).map(Self)
    }

    /// What ends with it.
    #[inline]
    pub(crate) fn mmu(&self) -> &Arc<Mmu> {
        &self.0
    }
}

impl Drop for OwnedMmu {
    fn drop(&mut self) {
        // Nobody runs this guest any more, and the host's changes are not followed either.
        let mmu = &self.0;
        mmu.zap_all();
        let mut pending = Pending::new();
        let tables = mmu.tables();
        let retired = mmu.ept(&tables).retire(&mut pending);
        pending.flush(|| mmu.flush_remote_tlbs()).free(&tables);
        let left = mmu.stats.mmu_shadow_pages.get();
        if !retired || left != 0 {
            pr_warn!("{} page tables of a VM were not freed\n", left);
        }
    }
}

/// What this host's EPT can do.
fn format() -> Format {
    let f = &host().vmcs.features;
    Format {
        root: Level::Pml4,
        max_leaf: if f.ept_1g {
            Level::Page1G
        } else if f.ept_2m {
            Level::Page2M
        } else {
            Level::Page4K
        },
        ad: f.ept_ad,
        execute_only: f.ept_execute_only,
        small_code: host().small_code,
    }
}

fn ept_pointer(root: Hpa, format: &Format) -> u64 {
    let levels = u64::from(format.root.number()) - 1;
    let ad = if format.ad { EPTP_AD } else { 0 };
    root.0 | levels << EPTP_LEVELS_SHIFT | MemoryType::WriteBack as u64 | ad
}

/// On a processor with L1TF, the address bits that its L1 data cache looks at.
fn l1tf_cache_bits() -> Option<u32> {
    host()
        .flush_l1d
        .then(|| host().implemented.host_phys_bits.max(L1TF_CACHE_BITS))
}

/// Waits at unload until the page tables of VMs are free memory again.
pub(crate) struct FreedTables;

impl Drop for FreedTables {
    fn drop(&mut self) {
        wait_for_freed_tables();
    }
}
