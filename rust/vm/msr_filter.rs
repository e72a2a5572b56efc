// SPDX-License-Identifier: GPL-2.0

//! KVM_X86_SET_MSR_FILTER (api.rst): which MSRs the guest may reach at all.
//!
//! A filter is never changed, only replaced. Each vCPU keeps a reference to the one that it saw last and looks again
//! when asked to, so an MSR access takes no lock.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    msr::bitmap::Direction,
    nospec, //
};

use super::Vm;
use crate::{
    sys::uabi::UserArg,
    vcpu::requests::Request, //
};

/// KVM_MSR_FILTER_DEFAULT_DENY.
const DEFAULT_DENY: u32 = 1 << 0;
/// KVM_MSR_FILTER_READ and _WRITE.
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
/// Ranges in `struct kvm_msr_filter`.
const RANGES: usize = 16;
/// `struct kvm_msr_filter` in words of 64 bits: the flags, then three words a range.
pub(crate) const WORDS: usize = 1 + 3 * RANGES;
/// The same of a 32-bit program, in words of 32 bits: the flags, then four words a range.
pub(crate) const COMPAT_WORDS: usize = 1 + 4 * RANGES;
/// KVM_MSR_FILTER_MAX_BITMAP_SIZE, bytes.
const MAX_BITMAP: usize = 0x600;
/// The x2APIC registers, which no filter reaches.
const X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// `struct kvm_msr_filter_range`.
#[derive(Clone, Copy)]
struct UserRange {
    flags: u32,
    count: u32,
    base: u32,
    bitmap: u64,
}

/// A range of MSRs with a bit for each: set means allowed.
struct Range {
    flags: u32,
    base: u32,
    count: u32,
    bitmap: KVVec<u64>,
}

impl Range {
    /// Reads the bitmap of a range that is not empty.
    fn read(range: UserRange) -> Result<Self> {
        let UserRange {
            flags,
            count,
            base,
            bitmap,
        } = range;
        let words = (count as usize).wrapping_add(63) / 64;
        if flags == 0 || flags & !(READ | WRITE) != 0 || words > MAX_BITMAP / 8 {
            return Err(EINVAL);
        }
        Ok(Self {
            flags,
            base,
            count,
            bitmap: UserArg::from_address(bitmap).read_vec(words)?,
        })
    }

    /// Whether the access is allowed; `None` if the range says nothing about it.
    fn allows(&self, msr: u32, access: u32) -> Option<bool> {
        let n = msr.checked_sub(self.base).filter(|n| *n < self.count)?;
        if self.flags & access == 0 {
            return None;
        }
        let word = nospec::get(&self.bitmap, n as usize / 64)?;
        Some(word >> (n % 64) & 1 != 0)
    }
}

/// A filter.
pub(crate) struct MsrFilter {
    deny: bool,
    ranges: KVVec<Range>,
}

impl MsrFilter {
    /// Reads `struct kvm_msr_filter`. EINVAL for flags and ranges that there are not, or one that denies everything.
    pub(super) fn read(arg: UserArg) -> Result<Self> {
        let words: KVVec<u64> = arg.read_vec(WORDS)?;
        let (flags, ranges) = words.split_first().ok_or(EINVAL)?;
        let ranges = ranges.chunks_exact(3).filter_map(|range| match *range {
            [head, base, bitmap] => Some(UserRange {
                flags: head as u32,
                count: (head >> 32) as u32,
                base: base as u32,
                bitmap,
            }),
            _ => None,
        });
        Self::new(*flags as u32, ranges)
    }

    /// The same of a 32-bit program.
    pub(super) fn read_compat(arg: UserArg) -> Result<Self> {
        let words: KVVec<u32> = arg.read_vec(COMPAT_WORDS)?;
        let (flags, ranges) = words.split_first().ok_or(EINVAL)?;
        let ranges = ranges.chunks_exact(4).filter_map(|range| match *range {
            [flags, count, base, bitmap] => Some(UserRange {
                flags,
                count,
                base,
                bitmap: bitmap.into(),
            }),
            _ => None,
        });
        Self::new(*flags, ranges)
    }

    fn new(flags: u32, user: impl Iterator<Item = UserRange>) -> Result<Self> {
        if flags & !DEFAULT_DENY != 0 {
            return Err(EINVAL);
        }
        let deny = flags & DEFAULT_DENY != 0;
        let mut ranges = KVVec::new();
        for range in user.filter(|range| range.count != 0) {
            ranges.push(Range::read(range)?, GFP_KERNEL_ACCOUNT)?;
        }
        if ranges.is_empty() && deny {
            return Err(EINVAL);
        }
        Ok(Self { deny, ranges })
    }

    /// Whether it lets everything through.
    fn is_empty(&self) -> bool {
        !self.deny && self.ranges.is_empty()
    }

    /// Whether the guest may access `msr` this way.
    pub(crate) fn allows(&self, msr: u32, direction: Direction) -> bool {
        if X2APIC.contains(&msr) {
            return true;
        }
        let access = match direction {
            Direction::Read => READ,
            Direction::Write => WRITE,
        };
        self.ranges
            .iter()
            .find_map(|r| r.allows(msr, access))
            .unwrap_or(!self.deny)
    }
}

impl Vm {
    /// The filter, if there is one.
    pub(crate) fn msr_filter(&self) -> Option<Arc<MsrFilter>> {
        self.msr_filter.lock().clone()
    }

    /// KVM_X86_SET_MSR_FILTER. When it returns, no vCPU enters the guest with the old filter.
    pub(super) fn set_msr_filter(&self, filter: MsrFilter) -> Result {
        let new = if filter.is_empty() {
            None
        } else {
            Some(Arc::new(filter, GFP_KERNEL_ACCOUNT)?)
        };
        // No vCPU is made meanwhile, with the old one.
        let _setup = self.setup.lock();
        let old = core::mem::replace(&mut *self.msr_filter.lock(), new);
        drop(old);
        for vcpu in self.vcpus.iter() {
            vcpu.requests.set(Request::RecalcIntercepts);
            vcpu.requests.kick_and_wait();
        }
        Ok(())
    }
}
