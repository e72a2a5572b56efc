// SPDX-License-Identifier: GPL-2.0

//! What an emulation keeps between its steps, and across user exits: staged registers, finished device reads, device
//! writes for user space, and one buffer for port I/O.
//!
//! All of it lies in the vCPU, never on the stack, and is not cleared between instructions: counts say what is valid.

use crate::addr::Gpa;

/// The most device fragments (8 bytes or less) of one instruction: a 64-byte operand that crosses a page and is
/// not aligned is 10, and a string instruction has two operands.
pub(super) const MAX_FRAGMENTS: usize = 20;

/// Iterations of a string instruction before the glue looks for events again.
pub(super) const BUDGET: u64 = 1024;

/// Bytes of port data that one user exit can carry.
pub const DATA_BYTES: usize = 1024;

/// A device access of at most 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) gpa: Gpa,
    pub(super) len: u8,
    pub(super) data: [u8; 8],
}

impl Fragment {
    const EMPTY: Self = Self {
        gpa: Gpa(0),
        len: 0,
        data: [0; 8],
    };
}

/// A list of fragments in order, with a position.
#[derive(Debug)]
pub(super) struct Fragments {
    list: [Fragment; MAX_FRAGMENTS],
    count: u8,
    next: u8,
}

impl Fragments {
    const fn new() -> Self {
        Self {
            list: [Fragment::EMPTY; MAX_FRAGMENTS],
            count: 0,
            next: 0,
        }
    }

    /// Forgets all.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.next = 0;
    }

    /// Starts from the first again.
    #[inline]
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Whether nothing was added since the last `clear()`.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends one; `false` if there is no room.
    pub(super) fn push(&mut self, gpa: Gpa, data: &[u8]) -> bool {
        let Some(slot) = self.list.get_mut(usize::from(self.count)) else {
            return false;
        };
        let Some(to) = slot.data.get_mut(..data.len()) else {
            return false;
        };
        to.copy_from_slice(data);
        slot.gpa = gpa;
        slot.len = data.len() as u8;
        self.count = self.count.wrapping_add(1);
        true
    }

    /// The next one, passing it.
    pub(super) fn pop(&mut self) -> Option<Fragment> {
        if self.next >= self.count {
            return None;
        }
        let f = self.list.get(usize::from(self.next)).copied();
        self.next = self.next.wrapping_add(1);
        f
    }

    /// Passes the next one if it is for this access, and copies its data.
    pub(super) fn take(&mut self, gpa: Gpa, into: &mut [u8]) -> bool {
        if self.next >= self.count {
            return false;
        }
        let Some(f) = self.list.get(usize::from(self.next)) else {
            return false;
        };
        if f.gpa != gpa || usize::from(f.len) != into.len() {
            return false;
        }
        let Some(from) = f.data.get(..into.len()) else {
            return false;
        };
        into.copy_from_slice(from);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Appends a finished read and passes it.
    pub(super) fn record(&mut self, gpa: Gpa, data: &[u8]) -> bool {
        // Entries that no longer fit the accesses are from before a change of the guest's mappings.
        self.count = self.next;
        let ok = self.push(gpa, data);
        self.next = self.count;
        ok
    }
}

/// A port access that user space has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) port: u16,
    pub(super) size: u8,
    pub(super) count: u32,
}

/// What user space is asked for, while the instruction is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Mmio { gpa: Gpa, len: u8 },
    Port(Port),
    ReadMsr(u32),
    WriteMsr(u32, u64),
}

/// What user space has answered to something that is not MMIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    None,
    /// The data of a port read are in `data`.
    Port(Port),
    /// An MSR read gave this.
    ReadMsr(u32, u64),
    /// An MSR write was done.
    WriteMsr(u32),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Work {
    /// New values of the general registers in `dirty`.
    pub(super) gpr: [u64; 16],
    /// The registers that have a staged value, a bit each.
    pub(super) dirty: u16,
    /// Device reads of the current instruction.
    pub(super) reads: Fragments,
    /// Device writes of the current instruction that only user space can do.
    pub(super) writes: Fragments,
    /// A port write for user space.
    pub(super) port_out: Option<Port>,
    /// What an uncommitted exit asks for.
    pub(super) wanted: Wanted,
    /// Iterations of a string instruction that may still be done before the glue looks for events, user exits in
    /// between or not.
    pub(super) budget: u64,
    /// The answer to the last exit, for the replay.
    pub(super) answer: Answer,
    /// Port data, MMIO and MSR data on their way from user space.
    pub(super) data: [u8; DATA_BYTES],
}

impl Work {
    pub(super) const fn new() -> Self {
        Self {
            gpr: [0; 16],
            dirty: 0,
            reads: Fragments::new(),
            writes: Fragments::new(),
            port_out: None,
            wanted: Wanted::Nothing,
            budget: BUDGET,
            answer: Answer::None,
            data: [0; DATA_BYTES],
        }
    }
}
