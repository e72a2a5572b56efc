// SPDX-License-Identifier: GPL-2.0

//! The vCPUs of a VM, in order of creation: appended under the VM's set-up lock, read without any.

use core::sync::atomic::{
    AtomicUsize,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    },
};

use crate::{
    sys::cpu,
    vcpu::Vcpu, //
};

/// vCPUs in one piece of the table.
const PIECE: usize = 64;
/// Pieces of the table.
const PIECES: usize = MAX_VCPUS.div_ceil(PIECE);
/// Most vCPUs of a VM: what this kernel's C KVM is configured for.
pub(crate) const MAX_VCPUS: usize = cpu::MAX_VCPUS;
/// vCPU ids are below this: KVM_CAP_MAX_VCPU_ID, four times the number as in C KVM.
pub(crate) const MAX_VCPU_IDS: u32 = 4 * MAX_VCPUS as u32;

// As far as sets of vCPUs reach.
const _: () = assert!(MAX_VCPUS <= rkvm_core::irq::MAX_VCPUS);

type Piece = [SetOnce<Arc<Vcpu>>; PIECE];

/// A table that grows in pieces and never moves, so readers need no lock.
pub(crate) struct Vcpus {
    pieces: [SetOnce<KBox<Piece>>; PIECES],
    /// Elements that readers may look at.
    len: AtomicUsize,
}

impl Vcpus {
    pub(crate) fn new() -> Self {
        Self {
            pieces: [const { SetOnce::new() }; PIECES],
            len: AtomicUsize::new(0),
        }
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The vCPU with this index.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Arc<Vcpu>> {
        self.pieces
            .get(index / PIECE)?
            .as_ref()?
            .get(index % PIECE)?
            .as_ref()
    }

    /// All vCPUs, in order of creation.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Vcpu>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// Appends one. The caller has the VM's set-up lock. EINVAL when the table is full.
    pub(crate) fn push(&self, vcpu: Arc<Vcpu>) -> Result {
        let index = self.len();
        let piece = self.pieces.get(index / PIECE).ok_or(EINVAL)?;
        if piece.as_ref().is_none() {
            let new: KBox<Piece> =
                KBox::new([const { SetOnce::new() }; PIECE], GFP_KERNEL_ACCOUNT)?;
            piece.populate(new);
        }
        let slot = piece
            .as_ref()
            .and_then(|p| p.get(index % PIECE))
            .ok_or(EINVAL)?;
        slot.populate(vcpu);
        self.len.store(index.wrapping_add(1), Ordering::Release);
        Ok(())
    }
}
