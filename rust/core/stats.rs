// SPDX-License-Identifier: GPL-2.0

//! Counters of a VM and of a vCPU, and the binary form in which user space reads them.
//!
//! api.rst "KVM_GET_STATS_FD". The names are C KVM's; a counter is here only if it means something in rkvm.

pub mod text;

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a name and of the identifying string, with their end (`KVM_STATS_NAME_SIZE`).
pub const NAME_SIZE: usize = 48;
/// Buckets of the halt-polling histograms.
pub const HISTOGRAM_BUCKETS: usize = 32;

const HEADER_SIZE: usize = 24;
const DESCRIPTOR_SIZE: usize = 16 + NAME_SIZE;

const UNIT_SECONDS: u32 = 2 << 4;
const UNIT_BOOLEAN: u32 = 4 << 4;

/// What a number is, as user space is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts up.
    Counter,
    /// A value that is true now.
    Instant,
    /// 0 or 1, true now.
    Flag,
    /// The largest value there was.
    Peak,
    /// A sum of nanoseconds.
    Nanoseconds,
    /// How often a time fell between 2^(n-1) and 2^n ns.
    NanosecondHistogram,
}

impl Kind {
    /// KVM_STATS_TYPE_* and KVM_STATS_UNIT_*, base ten.
    const fn flags(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Instant => 1,
            Self::Flag => 1 | UNIT_BOOLEAN,
            Self::Peak => 2,
            Self::Nanoseconds => UNIT_SECONDS,
            Self::NanosecondHistogram => 4 | UNIT_SECONDS,
        }
    }

    /// Power of ten of the unit.
    const fn exponent(self) -> i16 {
        match self {
            Self::Nanoseconds | Self::NanosecondHistogram => -9,
            _ => 0,
        }
    }

    /// Words of data.
    const fn words(self) -> usize {
        match self {
            Self::NanosecondHistogram => HISTOGRAM_BUCKETS,
            _ => 1,
        }
    }
}

/// One number or histogram.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its name, at most 47 bytes of ASCII.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// A number. Reading and writing are single accesses without ordering.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. For counters that one thread writes: of two, one increment may be lost.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. For counters that one thread writes.
    #[inline]
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Adds `n`, which may be negative in two's complement; for counters that several threads write.
    #[inline]
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises the value to `value` if that is larger.
    #[inline]
    pub fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often values of each order of magnitude came; one thread writes.
#[derive(Debug, Default)]
pub struct Histogram([Counter; HISTOGRAM_BUCKETS]);

impl Histogram {
    /// Counts `value` in its bucket: 0 in the first, 2^(n-1) to 2^n - 1 in bucket n, what is too large in the last.
    #[inline]
    pub fn record(&self, value: u64) {
        let bucket = (u64::BITS.wrapping_sub(value.leading_zeros()) as usize)
            .min(HISTOGRAM_BUCKETS.saturating_sub(1));
        if let Some(counter) = self.0.get(bucket) {
            counter.inc();
        }
    }
}

/// What the fields of a table have in common.
trait Words {
    fn word(&self, index: usize) -> Option<u64>;
}

impl Words for Counter {
    fn word(&self, index: usize) -> Option<u64> {
        (index == 0).then(|| self.get())
    }
}

impl Words for Histogram {
    fn word(&self, index: usize) -> Option<u64> {
        self.0.get(index).map(Counter::get)
    }
}

/// A set of counters that user space can read.
pub trait Stats {
    /// What there is, in the order of the data.
    const DESCRIPTORS: &'static [Descriptor];

    /// Word `index` of what `DESCRIPTORS[descriptor]` describes.
    fn word(&self, descriptor: usize, index: usize) -> Option<u64>;
}

macro_rules! stats {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ident $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Stats for $name {
            const DESCRIPTORS: &'static [Descriptor] =
                &[$(Descriptor { name: stringify!($field), kind: Kind::$kind }),*];

            fn word(&self, descriptor: usize, index: usize) -> Option<u64> {
                let fields: &[&dyn Words] = &[$(&self.$field),*];
                fields.get(descriptor)?.word(index)
            }
        }
    };
}

stats! {
    /// Counters of a VM. Several threads write them: [`Counter::add_shared`].
    VmStats {
        /// Flushes of the TLBs of all vCPUs.
        remote_tlb_flush: Counter Counter,
        /// Requests for such a flush.
        remote_tlb_flush_requests: Counter Counter,
        /// Table pages taken out of use.
        mmu_shadow_zapped: Counter Counter,
        /// Table pages in use.
        mmu_shadow_pages: Counter Instant,
        /// Guest memory mapped in 4 KiB pages.
        pages_4k: Counter Instant,
        /// Guest memory mapped in 2 MiB pages.
        pages_2m: Counter Instant,
        /// Guest memory mapped in 1 GiB pages.
        pages_1g: Counter Instant,
    }
}

stats! {
    /// Counters of a vCPU. Its own thread writes them.
    VcpuStats {
        /// Halts that ended while polling.
        halt_successful_poll: Counter Counter,
        /// Halts that polled.
        halt_attempted_poll: Counter Counter,
        /// Polls that ended by something that was no wake-up.
        halt_poll_invalid: Counter Counter,
        /// Wake-ups from sleep.
        halt_wakeup: Counter Counter,
        /// Time polled with success.
        halt_poll_success_ns: Counter Nanoseconds,
        /// Time polled for nothing.
        halt_poll_fail_ns: Counter Nanoseconds,
        /// Time slept.
        halt_wait_ns: Counter Nanoseconds,
        /// Times polled with success.
        halt_poll_success_hist: Histogram NanosecondHistogram,
        /// Times polled for nothing.
        halt_poll_fail_hist: Histogram NanosecondHistogram,
        /// Times slept.
        halt_wait_hist: Histogram NanosecondHistogram,
        /// Whether it sleeps now.
        blocking: Counter Flag,
        /// Page faults of the guest that came to the host.
        pf_taken: Counter Counter,
        /// Those that installed a mapping.
        pf_fixed: Counter Counter,
        /// Those that led to emulation.
        pf_emulate: Counter Counter,
        /// Those that found the mapping in place.
        pf_spurious: Counter Counter,
        /// Those solved without the lock.
        pf_fast: Counter Counter,
        /// MMIO entries made.
        pf_mmio_spte_created: Counter Counter,
        /// Those that were the guest's own.
        pf_guest: Counter Counter,
        /// TLB flushes done for this vCPU.
        tlb_flush: Counter Counter,
        /// INVLPG executed.
        invlpg: Counter Counter,
        /// All exits.
        exits: Counter Counter,
        /// Port I/O to user space.
        io_exits: Counter Counter,
        /// MMIO to user space.
        mmio_exits: Counter Counter,
        /// Returns to user space for a signal.
        signal_exits: Counter Counter,
        /// Interrupt windows.
        irq_window_exits: Counter Counter,
        /// NMI windows.
        nmi_window_exits: Counter Counter,
        /// HLT executed.
        halt_exits: Counter Counter,
        /// Returns to user space that asked for an interrupt window.
        request_irq_exits: Counter Counter,
        /// Exits for interrupts of the host.
        irq_exits: Counter Counter,
        /// Loads of the host state that the guest displaces.
        host_state_reload: Counter Counter,
        /// Loads of the guest's FPU state.
        fpu_reload: Counter Counter,
        /// Instructions emulated.
        insn_emulation: Counter Counter,
        /// Instructions that could not be emulated.
        insn_emulation_fail: Counter Counter,
        /// Hypercalls.
        hypercalls: Counter Counter,
        /// Interrupts injected.
        irq_injections: Counter Counter,
        /// NMIs injected.
        nmi_injections: Counter Counter,
        /// Entries that looked for events.
        req_event: Counter Counter,
        /// Directed yields tried.
        directed_yield_attempted: Counter Counter,
        /// Directed yields that found somebody.
        directed_yield_successful: Counter Counter,
        /// Exits of a guest that did not open an interrupt window.
        notify_window_exits: Counter Counter,
    }
}

/// Bytes of the whole file for `S`.
pub fn file_size<S: Stats>() -> usize {
    let words = S::DESCRIPTORS
        .iter()
        .fold(0usize, |sum, d| sum.wrapping_add(d.kind.words()));
    data_offset::<S>().wrapping_add(words.wrapping_mul(8))
}

fn data_offset<S: Stats>() -> usize {
    HEADER_SIZE
        .wrapping_add(NAME_SIZE)
        .wrapping_add(S::DESCRIPTORS.len().wrapping_mul(DESCRIPTOR_SIZE))
}

/// Reads the file at `offset`: header, `id` (like `kvm-1234/vcpu-0`; cut at 47 bytes), descriptors, data. Answers the
/// number of bytes written to the start of `buffer`: 0 at the end.
pub fn read_at<S: Stats>(id: &str, stats: &S, offset: u64, buffer: &mut [u8]) -> usize {
    let Ok(skip) = usize::try_from(offset) else {
        return 0;
    };
    let mut out = Window {
        skip,
        written: 0,
        buffer,
    };
    header::<S>(&mut out);
    name(&mut out, id);
    descriptors::<S>(&mut out);
    for index in 0..S::DESCRIPTORS.len() {
        let words = S::DESCRIPTORS.get(index).map_or(0, |d| d.kind.words());
        for word in 0..words {
            out.put(&stats.word(index, word).unwrap_or(0).to_le_bytes());
        }
    }
    out.written
}

/// struct kvm_stats_header.
fn header<S: Stats>(out: &mut Window<'_>) {
    let descriptor_offset = HEADER_SIZE.wrapping_add(NAME_SIZE);
    for field in [
        0,
        NAME_SIZE,
        S::DESCRIPTORS.len(),
        HEADER_SIZE,
        descriptor_offset,
        data_offset::<S>(),
    ] {
        out.put(&(field as u32).to_le_bytes());
    }
}

/// struct kvm_stats_desc, for each.
fn descriptors<S: Stats>(out: &mut Window<'_>) {
    let mut data = 0usize;
    for descriptor in S::DESCRIPTORS {
        let kind = descriptor.kind;
        out.put(&kind.flags().to_le_bytes());
        out.put(&kind.exponent().to_le_bytes());
        out.put(&(kind.words() as u16).to_le_bytes());
        out.put(&(data as u32).to_le_bytes());
        // Bucket size: logarithmic histograms have none.
        out.put(&0u32.to_le_bytes());
        name(out, descriptor.name);
        data = data.wrapping_add(kind.words().wrapping_mul(8));
    }
}

/// A string of 48 bytes that ends with a zero.
fn name(out: &mut Window<'_>, name: &str) {
    let mut bytes = [0u8; NAME_SIZE];
    if let Some(room) = bytes.get_mut(..NAME_SIZE.saturating_sub(1)) {
        copy(room, name.as_bytes());
    }
    out.put(&bytes);
}

/// The part of a longer text that was asked for.
struct Window<'a> {
    /// Bytes to leave out still.
    skip: usize,
    written: usize,
    buffer: &'a mut [u8],
}

impl Window<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip = self.skip.saturating_sub(skipped);
        let (Some(from), Some(to)) = (bytes.get(skipped..), self.buffer.get_mut(self.written..))
        else {
            return;
        };
        self.written = self.written.saturating_add(copy(to, from));
    }
}

/// Copies as much as there is room for; answers how much.
fn copy(to: &mut [u8], from: &[u8]) -> usize {
    for (to, from) in to.iter_mut().zip(from.iter()) {
        *to = *from;
    }
    to.len().min(from.len())
}

#[cfg(test)]
mod tests;
