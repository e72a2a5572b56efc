// SPDX-License-Identifier: GPL-2.0

//! Control registers and EFER as the guest sees them, and the VMCS fields that follow from them.
//!
//! The guest owns a few bits of CR0 and CR4 and changes them without an exit; all others read from a shadow and exit
//! when written. So `arch.cr0` and `arch.cr4` are right for the bits of the mask, and the VMCS for the rest.

use kernel::prelude::*;
use rkvm_core::{
    addr::Gpa,
    exception::Exception,
    mmu::walk::pdpte_is_valid,
    regs::{
        cr0,
        cr4,
        efer,
        rflags,
        SegReg, //
    },
    vmx::{
        controls::{
            Entry,
            Exit,
            Primary,
            Secondary, //
        },
        counters::GlobalCtrl,
        fields::*,
        registers::{
            self,
            Cr4Context, //
        },
        segment,
        Vmcs, //
    },
};

use super::{
    requests::Request,
    Running, //
};
use crate::{
    host::host,
    sys::vmx::UserReturnMsrs, //
};

/// Access-rights bits of a code segment.
const AR_L: u32 = 1 << 13;
const AR_DPL_SHIFT: u32 = 5;
/// The type of a busy 32- or 64-bit TSS.
const BUSY_TSS32: u8 = 0xb;

impl Running<'_> {
    /// Sets or clears a primary processor-based control.
    #[inline]
    pub(crate) fn set_primary(&mut self, bit: Primary, on: bool) {
        let new = self.arch.controls.primary.set(bit, on);
        if new != self.arch.controls.primary {
            self.arch.controls.primary = new;
            self.hw.write(CPU_BASED_VM_EXEC_CONTROL, new.bits());
        }
    }

    /// Sets or clears a secondary processor-based control.
    pub(crate) fn set_secondary(&mut self, bit: Secondary, on: bool) {
        let new = self.arch.controls.secondary.set(bit, on);
        if new != self.arch.controls.secondary {
            self.arch.controls.secondary = new;
            self.hw.write(SECONDARY_VM_EXEC_CONTROL, new.bits());
        }
    }

    /// Has entries and exits load IA32_PERF_GLOBAL_CTRL, or leave it as it is. Where the processor can't do that, the counters
    /// go on in the guest. Interrupts may be off.
    #[cold]
    pub(crate) fn switch_global_ctrl(&mut self, new: Option<GlobalCtrl>) {
        self.arch.global_ctrl = new;
        let dynamic = &host().vmcs.dynamic;
        if !dynamic.entry.has(Entry::LOAD_PERF_GLOBAL_CTRL)
            || !dynamic.exit.has(Exit::LOAD_PERF_GLOBAL_CTRL)
        {
            return;
        }
        if let Some(GlobalCtrl { host, guest }) = new {
            self.hw.write(GUEST_IA32_PERF_GLOBAL_CTRL, guest);
            self.hw.write(HOST_IA32_PERF_GLOBAL_CTRL, host);
        }
        let controls = &mut self.arch.controls;
        controls.entry = controls
            .entry
            .set(Entry::LOAD_PERF_GLOBAL_CTRL, new.is_some());
        controls.exit = controls
            .exit
            .set(Exit::LOAD_PERF_GLOBAL_CTRL, new.is_some());
        self.hw.write(VM_ENTRY_CONTROLS, controls.entry.bits());
        self.hw.write(VM_EXIT_CONTROLS, controls.exit.bits());
    }

    /// CR0 as the guest reads it.
    #[inline]
    pub(crate) fn read_cr0(&self) -> u64 {
        let mask = registers::cr0_guest_host_mask(true);
        (self.arch.cr0 & mask) | (self.hw.read(GUEST_CR0) & !mask)
    }

    /// CR4 as the guest reads it.
    #[inline]
    pub(crate) fn read_cr4(&self) -> u64 {
        let mask = self.cr4_mask();
        (self.arch.cr4 & mask) | (self.hw.read(GUEST_CR4) & !mask)
    }

    /// CR4 bits whose writes exit.
    #[inline]
    fn cr4_mask(&self) -> u64 {
        registers::cr4_guest_host_mask(true, self.arch.rules().cr4_reserved)
    }

    /// Current privilege level: the DPL of SS.
    #[inline]
    pub(crate) fn cpl(&self) -> u8 {
        if self.arch.cr0 & cr0::PE == 0 {
            return 0;
        }
        if self.hw.read(GUEST_RFLAGS) & rflags::VM != 0 {
            return 3;
        }
        ((self.hw.read(GUEST_SS_AR_BYTES) >> AR_DPL_SHIFT) & 3) as u8
    }

    /// Whether the guest runs 64-bit code.
    #[inline]
    pub(crate) fn in_64bit_code(&self) -> bool {
        self.long_mode() && self.hw.read(GUEST_CS_AR_BYTES) & AR_L != 0
    }

    /// Whether the guest's paging is on, with PAE, outside IA-32e mode: then the VMCS holds four PDPTEs.
    pub(crate) fn pae_paging(&self) -> bool {
        self.arch.cr0 & cr0::PG != 0 && self.arch.cr4 & cr4::PAE != 0 && !self.long_mode()
    }

    /// MOV to CR0 by the guest (SDM, "MOV - Move to/from Control Registers").
    pub(crate) fn guest_sets_cr0(&mut self, value: u64) -> Result<(), Exception> {
        let value = value | cr0::ET;
        if !registers::RegisterRules::cr0_valid(value) {
            return Err(Exception::GP0);
        }
        let value = value & cr0::DEFINED;
        let old = self.read_cr0();
        let turns_paging_on = value & !old & cr0::PG != 0;
        if turns_paging_on && self.arch.efer & efer::LME != 0 {
            let cs_l = self.hw.read(GUEST_CS_AR_BYTES) & AR_L != 0;
            if self.arch.cr4 & cr4::PAE == 0 || cs_l {
                return Err(Exception::GP0);
            }
        }
        let pcid = self.read_cr4() & cr4::PCIDE != 0;
        if value & cr0::PG == 0 && (pcid || self.in_64bit_code()) {
            return Err(Exception::GP0);
        }
        if value & cr0::WP == 0 && self.arch.cr4 & cr4::CET != 0 {
            return Err(Exception::GP0);
        }
        let pae = value & cr0::PG != 0
            && self.arch.cr4 & cr4::PAE != 0
            && self.arch.efer & efer::LME == 0;
        let changed = (value ^ old) & (cr0::PG | cr0::CD | cr0::NW) != 0;
        if pae && changed {
            self.load_pdptrs(self.cr3())?;
        }
        self.set_cr0(value);
        Ok(())
    }

    /// Sets CR0 without checks, and what follows from it.
    pub(crate) fn set_cr0(&mut self, value: u64) {
        let old = self.arch.cr0;
        if (old ^ value) & cr0::PG != 0 && self.arch.efer & efer::LME != 0 {
            let lma = if value & cr0::PG != 0 { efer::LMA } else { 0 };
            let efer = (self.arch.efer & !efer::LMA) | lma;
            if lma != 0 {
                self.make_tss_busy64();
            }
            self.arch.cr0 = value;
            self.set_efer(efer);
        }
        self.arch.cr0 = value;
        self.hw.write(CR0_READ_SHADOW, value);
        self.hw.write(
            GUEST_CR0,
            registers::hw_cr0(value, host().vmcs.cr0, &host().vmcs.features),
        );
        if (old ^ value) & (cr0::PG | cr0::WP) != 0 {
            self.vcpu.requests.set_own(Request::TlbFlush);
        }
        if !host().vmcs.features.unrestricted_guest {
            self.follow_cr0();
        }
    }

    /// IA-32e mode wants a busy 64-bit TSS in TR; a guest that enters it with a 16-bit one gets the right type.
    fn make_tss_busy64(&mut self) {
        let tr = self.segment(SegReg::Tr);
        if tr.kind != BUSY_TSS32 {
            self.set_segment(
                SegReg::Tr,
                segment::Segment {
                    kind: BUSY_TSS32,
                    ..tr
                },
            );
        }
    }

    /// MOV to CR4 by the guest.
    pub(crate) fn guest_sets_cr4(&mut self, value: u64) -> Result<(), Exception> {
        if !self.arch.rules().cr4_valid(value) {
            return Err(Exception::GP0);
        }
        let old = self.read_cr4();
        let paging = self.arch.cr0 & cr0::PG != 0;
        if self.long_mode() {
            if value & cr4::PAE == 0 || (value ^ old) & cr4::LA57 != 0 {
                return Err(Exception::GP0);
            }
        } else if paging
            && value & cr4::PAE != 0
            && (value ^ old) & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0
        {
            self.load_pdptrs(self.cr3())?;
        }
        if value & !old & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3() & 0xfff != 0) {
            return Err(Exception::GP0);
        }
        if value & cr4::CET != 0 && self.read_cr0() & cr0::WP == 0 {
            return Err(Exception::GP0);
        }
        self.set_cr4(value);
        Ok(())
    }

    /// Sets CR4 without checks, and what follows from it.
    pub(crate) fn set_cr4(&mut self, value: u64) {
        let old = self.read_cr4();
        self.arch.cr4 = value;
        let context = Cr4Context {
            guest_paging: self.arch.cr0 & cr0::PG != 0,
            vm86: self.arch.real_mode.is_vm86(),
        };
        self.hw.write(CR4_READ_SHADOW, value);
        self.hw.write(CR4_GUEST_HOST_MASK, self.cr4_mask());
        let hw = registers::hw_cr4(value, host().vmcs.cr4, &host().vmcs.features, &context);
        self.hw.write(GUEST_CR4, hw);
        let flushes = cr4::PAE
            | cr4::PGE
            | cr4::PSE
            | cr4::PCIDE
            | cr4::SMEP
            | cr4::SMAP
            | cr4::LA57
            | cr4::PKE;
        if (old ^ value) & flushes != 0 {
            self.vcpu.requests.set_own(Request::TlbFlush);
        }
        if (old ^ value) & (cr4::OSXSAVE | cr4::PKE) != 0 {
            self.update_dynamic_cpuid();
            self.update_xstate();
        }
    }

    /// MOV to CR3 in the emulator, or by KVM_SET_SREGS. With EPT the guest's own doesn't exit.
    pub(crate) fn guest_sets_cr3(&mut self, value: u64) -> Result<(), Exception> {
        let no_flush = 1u64 << 63;
        let pcid = self.read_cr4() & cr4::PCIDE != 0;
        let cr3 = if pcid { value & !no_flush } else { value };
        if self.long_mode() {
            if !self.arch.rules().cr3_valid(cr3) {
                return Err(Exception::GP0);
            }
        }
        if self.pae_paging() {
            self.load_pdptrs(cr3)?;
        }
        self.set_cr3(cr3);
        if !(pcid && value & no_flush != 0) {
            self.vcpu.requests.set_own(Request::TlbFlush);
        }
        Ok(())
    }

    /// Loads the four page-directory-pointer entries from where CR3 points (SDM, "PAE Paging"). #GP for reserved bits in one
    /// that is present, and where no memory is; nothing changes then.
    pub(crate) fn load_pdptrs(&mut self, cr3: u64) -> Result<(), Exception> {
        let table = Gpa(cr3 & 0xffff_ffe0);
        let no_address = self.arch.caps.reserved_gpa_bits();
        let mut entries = [0u64; 4];
        for (i, entry) in entries.iter_mut().enumerate() {
            let at = table.wrapping_add(8u64.wrapping_mul(i as u64));
            let mut bytes = [0; 8];
            if self.vm.memory.read(at, &mut bytes).is_err() {
                return Err(Exception::GP0);
            }
            *entry = u64::from_le_bytes(bytes);
            if !pdpte_is_valid(*entry, no_address) {
                return Err(Exception::GP0);
            }
        }
        self.set_pdptrs(entries);
        Ok(())
    }

    /// The four page-directory-pointer entries in use.
    pub(crate) fn pdptrs(&self) -> [u64; 4] {
        [
            self.hw.read(GUEST_PDPTR0),
            self.hw.read(GUEST_PDPTR1),
            self.hw.read(GUEST_PDPTR2),
            self.hw.read(GUEST_PDPTR3),
        ]
    }

    /// Sets them without looking at memory.
    pub(crate) fn set_pdptrs(&self, [first, second, third, fourth]: [u64; 4]) {
        self.hw.write(GUEST_PDPTR0, first);
        self.hw.write(GUEST_PDPTR1, second);
        self.hw.write(GUEST_PDPTR2, third);
        self.hw.write(GUEST_PDPTR3, fourth);
    }

    /// Sets EFER without checks, and the entry control for IA-32e mode.
    pub(crate) fn set_efer(&mut self, value: u64) {
        self.arch.efer = value;
        let entry = self
            .arch
            .controls
            .entry
            .set(Entry::IA32E_MODE, value & efer::LMA != 0);
        if entry != self.arch.controls.entry {
            self.arch.controls.entry = entry;
            self.hw.write(VM_ENTRY_CONTROLS, entry.bits());
        }
        // VM entry wants LME to be what LMA is whenever CR0.PG is set; with paging off LMA is clear and LME is free. On a
        // processor without unrestricted guest CR0.PG is always set.
        let paging = self.arch.cr0 & cr0::PG != 0 || !host().vmcs.features.unrestricted_guest;
        let hw = if value & efer::LMA == 0 && paging {
            value & !efer::LME
        } else {
            value
        };
        self.hw.write(GUEST_IA32_EFER, hw);
        self.update_user_return_msrs();
    }

    /// Which MSRs the guest can make use of without an exit: without EFER.SCE in 64-bit mode there is no SYSCALL, and
    /// without RDTSCP and RDPID nothing reads TSC_AUX.
    pub(crate) fn update_user_return_msrs(&self) {
        let syscall = efer::LMA | efer::SCE;
        self.hw.set_user_return_needed(
            UserReturnMsrs::NONE
                .with(UserReturnMsrs::SYSCALL, self.arch.efer & syscall == syscall)
                .with(UserReturnMsrs::TSC_AUX, self.arch.shape().rdtscp),
        );
    }

    /// WRMSR of EFER by the guest: LMA is not writable, and LME not while paging is on.
    pub(crate) fn guest_sets_efer(&mut self, value: u64) -> Result<(), Exception> {
        if !self.arch.rules().efer_valid(value & !efer::LMA) {
            return Err(Exception::GP0);
        }
        let old = self.arch.efer;
        if self.arch.cr0 & cr0::PG != 0 && (old ^ value) & efer::LME != 0 {
            return Err(Exception::GP0);
        }
        let value = (value & !efer::LMA) | (old & efer::LMA);
        if (old ^ value) & efer::NX != 0 {
            self.vcpu.requests.set_own(Request::TlbFlush);
        }
        self.set_efer(value);
        Ok(())
    }

    /// A segment register as the guest has it.
    #[inline]
    pub(crate) fn segment(&self, reg: SegReg) -> segment::Segment {
        let vmcs = segment::read(&self.hw, reg);
        if self.arch.real_mode.is_vm86() {
            self.arch.real_mode.segment(reg, vmcs)
        } else {
            vmcs
        }
    }

    /// Sets a segment register; VM entry wants code and data marked accessed.
    pub(crate) fn set_segment(&mut self, reg: SegReg, mut value: segment::Segment) {
        segment::fix_accessed(reg, &mut value);
        if host().vmcs.features.unrestricted_guest {
            segment::write(&self.hw, reg, &value);
        } else {
            self.set_restricted_segment(reg, value);
        }
    }
}
