// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_run` and the PIO page: the memory that a vCPU shares with its VMM (api.rst, "The kvm_run structure").
//!
//! User space may write to it at any time. What is read is read once and checked afterwards.

use core::mem::offset_of;

use kernel::prelude::*;
use rkvm_core::addr::Gpa;

use crate::sys::{
    page::SharedPage,
    uabi::{
        kvm_regs,
        kvm_run,
        kvm_sregs,
        kvm_sync_regs,
        kvm_vcpu_events, //
    },
};

/// Pages of the mapping of a vCPU: `kvm_run`, PIO data, the VM's ring of coalesced MMIO.
pub(crate) const MMAP_PAGES: usize = 3;
/// Place of the last one.
pub(crate) const COALESCED_PAGE: usize = 2;
/// Where PIO data lies in the mapping, in bytes.
const PIO_OFFSET: u64 = SharedPage::SIZE as u64;

const REQUEST_INTERRUPT_WINDOW: usize = offset_of!(kvm_run, request_interrupt_window);
const IMMEDIATE_EXIT: usize = offset_of!(kvm_run, immediate_exit__unsafe);
const EXIT_REASON: usize = offset_of!(kvm_run, exit_reason);
const READY_FOR_INJECTION: usize = offset_of!(kvm_run, ready_for_interrupt_injection);
const IF_FLAG: usize = offset_of!(kvm_run, if_flag);
const FLAGS: usize = offset_of!(kvm_run, flags);
const CR8: usize = offset_of!(kvm_run, cr8);
const APIC_BASE: usize = offset_of!(kvm_run, apic_base);
/// The union of what the exits tell.
const DETAIL: usize = 32;
const VALID_REGS: usize = offset_of!(kvm_run, kvm_valid_regs);
const DIRTY_REGS: usize = offset_of!(kvm_run, kvm_dirty_regs);
const REGS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, regs);
const SREGS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, sregs);
const EVENTS: usize = offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, events);

/// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`.
const FLAG_INSTRUCTION_BYTES: u64 = 1;
/// What is behind an instruction of fewer than 15 bytes.
const NOP: u8 = 0x90;

/// Exit reasons of `linux/kvm.h` that rkvm gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names are the header's, without KVM_EXIT_
pub(crate) enum UserExit {
    Unknown = 0,
    Io = 2,
    Debug = 4,
    Hlt = 5,
    Mmio = 6,
    IrqWindowOpen = 7,
    Shutdown = 8,
    FailEntry = 9,
    Intr = 10,
    SetTpr = 11,
    TprAccess = 12,
    InternalError = 17,
    IoapicEoi = 26,
    X86Rdmsr = 29,
    X86Wrmsr = 30,
}

/// `KVM_INTERNAL_ERROR_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names are the header's
pub(crate) enum InternalError {
    Emulation = 1,
    SimulEx = 2,
    DeliveryEv = 3,
    UnexpectedExitReason = 4,
}

/// What `kvm_run` tells at every return to user space.
#[derive(Clone, Copy, Default)]
pub(crate) struct Status {
    pub(crate) ready_for_injection: bool,
    pub(crate) if_flag: bool,
    pub(crate) flags: u16,
    pub(crate) cr8: u64,
    pub(crate) apic_base: u64,
}

/// The two pages.
pub(crate) struct RunPage {
    run: SharedPage,
    pio: SharedPage,
}

impl RunPage {
    /// Both zeroed. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            run: SharedPage::new()?,
            pio: SharedPage::new()?,
        })
    }

    /// The page at `index` of the mapping, below 2.
    pub(crate) fn page(&self, index: usize) -> Option<&SharedPage> {
        match index {
            0 => Some(&self.run),
            1 => Some(&self.pio),
            _ => None,
        }
    }

    /// User space wants an exit as soon as an interrupt can be injected.
    #[inline]
    pub(crate) fn wants_interrupt_window(&self) -> bool {
        self.run.read::<u8, REQUEST_INTERRUPT_WINDOW>() != 0
    }

    /// KVM_CAP_IMMEDIATE_EXIT: return at once.
    #[inline]
    pub(crate) fn immediate_exit(&self) -> bool {
        self.run.read::<u8, IMMEDIATE_EXIT>() != 0
    }

    /// CR8 as user space left it, for VMs without an APIC in the kernel.
    pub(crate) fn cr8(&self) -> u64 {
        self.run.read::<u64, CR8>()
    }

    /// The sets of registers that user space wants to find here after KVM_RUN.
    #[inline]
    pub(crate) fn valid_regs(&self) -> u64 {
        self.run.read::<u64, VALID_REGS>()
    }

    /// The sets of registers that user space has put here.
    #[inline]
    pub(crate) fn dirty_regs(&self) -> u64 {
        self.run.read::<u64, DIRTY_REGS>()
    }

    /// These sets have been taken.
    pub(crate) fn clear_dirty_regs(&self, taken: u64) {
        self.run
            .write::<u64, DIRTY_REGS>(self.dirty_regs() & !taken);
    }

    /// The registers that user space has put here.
    pub(crate) fn regs(&self) -> kvm_regs {
        self.run.read::<kvm_regs, REGS>()
    }

    /// As [`RunPage::regs`].
    pub(crate) fn sregs(&self) -> kvm_sregs {
        self.run.read::<kvm_sregs, SREGS>()
    }

    /// As [`RunPage::regs`].
    pub(crate) fn events(&self) -> kvm_vcpu_events {
        self.run.read::<kvm_vcpu_events, EVENTS>()
    }

    /// What user space finds after KVM_RUN.
    pub(crate) fn set_regs(&self, regs: kvm_regs) {
        self.run.write::<kvm_regs, REGS>(regs);
    }

    /// As [`RunPage::set_regs`].
    pub(crate) fn set_sregs(&self, sregs: kvm_sregs) {
        self.run.write::<kvm_sregs, SREGS>(sregs);
    }

    /// As [`RunPage::set_regs`].
    pub(crate) fn set_events(&self, events: kvm_vcpu_events) {
        self.run.write::<kvm_vcpu_events, EVENTS>(events);
    }

    /// Why the ioctl returns.
    #[inline]
    pub(crate) fn set_reason(&self, reason: UserExit) {
        self.run.write::<u32, EXIT_REASON>(reason as u32);
    }

    /// The state that every return tells.
    #[inline]
    pub(crate) fn set_status(&self, s: Status) {
        self.run
            .write::<u8, READY_FOR_INJECTION>(u8::from(s.ready_for_injection));
        self.run.write::<u8, IF_FLAG>(u8::from(s.if_flag));
        self.run.write::<u16, FLAGS>(s.flags);
        self.run.write::<u64, CR8>(s.cr8);
        self.run.write::<u64, APIC_BASE>(s.apic_base);
    }

    /// KVM_EXIT_FAIL_ENTRY.
    pub(crate) fn set_fail_entry(&self, hardware: u32, cpu: u32) {
        self.set_reason(UserExit::FailEntry);
        self.run.write::<u64, DETAIL>(u64::from(hardware));
        self.run.write::<u32, { DETAIL + 8 }>(cpu);
    }

    /// KVM_EXIT_IO: `count` elements of `size` bytes at `port`, in the PIO page.
    pub(crate) fn set_io(&self, output: bool, size: u8, port: u16, count: u32) {
        self.set_reason(UserExit::Io);
        self.run.write::<u8, DETAIL>(u8::from(output));
        self.run.write::<u8, { DETAIL + 1 }>(size);
        self.run.write::<u16, { DETAIL + 2 }>(port);
        self.run.write::<u32, { DETAIL + 4 }>(count);
        self.run.write::<u64, { DETAIL + 8 }>(PIO_OFFSET);
    }

    /// The data of a PIO exit.
    pub(crate) fn pio(&self) -> &SharedPage {
        &self.pio
    }

    /// One element of PIO data as KVM_EXIT_IO lays it out, little-endian.
    #[inline]
    pub(crate) fn set_pio_value(&self, size: u8, value: u32) {
        match size {
            1 => self.pio.write::<u8, 0>(value as u8),
            2 => self.pio.write::<u16, 0>(value as u16),
            _ => self.pio.write::<u32, 0>(value),
        }
    }

    /// The first element of PIO data.
    #[inline]
    pub(crate) fn pio_value(&self, size: u8) -> u32 {
        match size {
            1 => self.pio.read::<u8, 0>().into(),
            2 => self.pio.read::<u16, 0>().into(),
            _ => self.pio.read::<u32, 0>(),
        }
    }

    /// KVM_EXIT_MMIO of up to 8 bytes.
    pub(crate) fn set_mmio(&self, gpa: Gpa, data: u64, len: u32, write: bool) {
        self.set_reason(UserExit::Mmio);
        self.run.write::<u64, DETAIL>(gpa.0);
        self.run.write::<u64, { DETAIL + 8 }>(data);
        self.run.write::<u32, { DETAIL + 16 }>(len);
        self.run.write::<u8, { DETAIL + 20 }>(u8::from(write));
    }

    /// What user space answered to an MMIO read, 8 bytes, little-endian.
    #[inline]
    pub(crate) fn mmio_data(&self) -> u64 {
        self.run.read::<u64, { DETAIL + 8 }>()
    }

    /// KVM_EXIT_INTERNAL_ERROR with up to 16 words of data.
    pub(crate) fn set_internal_error(&self, error: InternalError, data: &[u64]) {
        self.set_reason(UserExit::InternalError);
        self.run.write::<u32, DETAIL>(error as u32);
        let n = data.len().min(16);
        self.run.write::<u32, { DETAIL + 4 }>(n as u32);
        for (i, word) in data.iter().take(n).enumerate() {
            let at = DETAIL.wrapping_add(8).wrapping_add(i.wrapping_mul(8));
            // In bounds: 16 words fit behind the header of a page.
            let _ = self.run.copy_to(at, &word.to_le_bytes());
        }
    }

    /// KVM_INTERNAL_ERROR_EMULATION: flags, the instruction if there is one, its length before it and NOPs behind, and what
    /// the exit told.
    pub(crate) fn set_emulation_failure(&self, instruction: &[u8], exit: &[u64; 5]) {
        let mut told = [NOP; 16];
        let room = told.iter_mut().skip(1);
        room.zip(instruction).for_each(|(to, from)| *to = *from);
        if let Some(length) = told.first_mut() {
            *length = instruction.len() as u8;
        }
        let told = u128::from_le_bytes(told);
        let [reason, info1, info2, interruption, code] = *exit;
        let words = [
            FLAG_INSTRUCTION_BYTES,
            told as u64,
            (told >> 64) as u64,
            reason,
            info1,
            info2,
            interruption,
            code,
        ];
        if instruction.is_empty() {
            let without = [0, reason, info1, info2, interruption, code];
            self.set_internal_error(InternalError::Emulation, &without);
        } else {
            self.set_internal_error(InternalError::Emulation, &words);
        }
    }

    /// KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR.
    pub(crate) fn set_msr(&self, write: bool, reason: u32, index: u32, data: u64) {
        self.set_reason(if write {
            UserExit::X86Wrmsr
        } else {
            UserExit::X86Rdmsr
        });
        self.run.write::<u64, DETAIL>(0);
        self.run.write::<u32, { DETAIL + 8 }>(reason);
        self.run.write::<u32, { DETAIL + 12 }>(index);
        self.run.write::<u64, { DETAIL + 16 }>(data);
    }

    /// The answer to it: whether user space wants #GP, and the data.
    pub(crate) fn msr_answer(&self) -> (bool, u64) {
        (
            self.run.read::<u8, DETAIL>() != 0,
            self.run.read::<u64, { DETAIL + 16 }>(),
        )
    }

    /// KVM_EXIT_TPR_ACCESS by the instruction at `rip`.
    pub(crate) fn set_tpr_access(&self, rip: u64, write: bool) {
        self.set_reason(UserExit::TprAccess);
        self.run.write::<u64, DETAIL>(rip);
        self.run.write::<u32, { DETAIL + 8 }>(write.into());
    }

    /// KVM_EXIT_IOAPIC_EOI.
    pub(crate) fn set_ioapic_eoi(&self, vector: u8) {
        self.set_reason(UserExit::IoapicEoi);
        self.run.write::<u8, DETAIL>(vector);
    }

    /// KVM_EXIT_DEBUG.
    pub(crate) fn set_debug(&self, exception: u32, pc: u64, dr6: u64, dr7: u64) {
        self.set_reason(UserExit::Debug);
        self.run.write::<u32, DETAIL>(exception);
        self.run.write::<u64, { DETAIL + 8 }>(pc);
        self.run.write::<u64, { DETAIL + 16 }>(dr6);
        self.run.write::<u64, { DETAIL + 24 }>(dr7);
    }
}
