// SPDX-License-Identifier: GPL-2.0

//! What the emulator asks of the vCPU, as the processor would answer: memory, devices, registers, effects.

use rkvm_core::{
    addr::{
        Gpa,
        Gva, //
    },
    cpuid::guest::execute,
    emulate::{
        Access,
        AccessKind as Kind,
        Backing,
        Cet,
        Cr,
        Effect,
        Feature,
        IoReply,
        Mode,
        Reply,
        Segment,
        Stop,
        Swap,
        TableKind,
        TableReg,
        VcpuOps,
        X87, //
    },
    exception::Exception,
    msr::Origin,
    regs::{
        cr4,
        SegReg, //
    },
    vmx::{
        fields::*,
        segment,
        Vmcs, //
    },
};

use super::{
    features,
    fetch,
    View, //
};
use crate::{
    host::host,
    memory::Swapped,
    sys::vector,
    vcpu::requests, //
};

impl VcpuOps for View<'_, '_> {
    fn fetch(&mut self, at: Gva, buf: &mut [u8]) -> Reply<usize> {
        match fetch(self.r, at, buf) {
            Ok(0) => Err(Stop::Unhandled),
            Ok(n) => Ok(n),
            Err(e) => Err(Stop::Fault(e)),
        }
    }

    fn decoded(&mut self, single_operand: bool) {
        if !single_operand {
            self.hint = None;
        }
    }

    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Reply<Backing> {
        if let Some(gpa) = self.known_device(at) {
            return Ok(Backing::Mmio(gpa));
        }
        let gpa = self.translate(at, access)?;
        match self.r.vm.memory.read(gpa, buf) {
            Ok(()) => Ok(Backing::Ram),
            Err(_) => Ok(Backing::Mmio(gpa)),
        }
    }

    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Reply<Backing> {
        if let Some(gpa) = self.known_device(at) {
            return Ok(Backing::Mmio(gpa));
        }
        let gpa = self.translate(at, access)?;
        match self.r.vm.memory.write(gpa, data) {
            Ok(()) => Ok(Backing::Ram),
            Err(_) => Ok(Backing::Mmio(gpa)),
        }
    }

    fn probe(&mut self, at: Gva, access: Access) -> Reply<Backing> {
        let gpa = self.translate(at, access)?;
        let write = access.kind != Kind::Read;
        if self.r.vm.memory.is_backed(gpa, write) {
            Ok(Backing::Ram)
        } else {
            Ok(Backing::Mmio(gpa))
        }
    }

    fn cmpxchg(&mut self, at: Gva, bytes: u8, old: u128, new: u128, access: Access) -> Reply<Swap> {
        let gpa = self.translate(at, access)?;
        match self.r.vm.memory.compare_exchange(gpa, bytes, old, new) {
            Ok(Swapped::Done) => Ok(Swap::Done),
            Ok(Swapped::Changed) => Ok(Swap::Changed),
            Err(_) => Ok(Swap::Mmio(gpa)),
        }
    }

    fn mmio_read(&mut self, at: Gpa, buf: &mut [u8]) -> IoReply {
        if self.r.device_read(at, buf) {
            IoReply::Done
        } else {
            IoReply::User
        }
    }

    fn mmio_write(&mut self, at: Gpa, data: &[u8]) -> IoReply {
        if self.r.device_write(at, data) {
            IoReply::Done
        } else {
            IoReply::User
        }
    }

    fn pio_in(&mut self, port: u16, size: u8, buf: &mut [u8]) -> IoReply {
        let mut answered = false;
        for element in buf.chunks_mut(usize::from(size).max(1)) {
            // A device that answers once answers for all elements, unless it went away in between.
            let value = match self.r.port_read(port, size) {
                Some(value) => value,
                None if answered => u32::MAX,
                None => return IoReply::User,
            };
            answered = true;
            for (to, from) in element.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        IoReply::Done
    }

    fn pio_out(&mut self, port: u16, size: u8, data: &[u8]) -> IoReply {
        let mut taken = false;
        for element in data.chunks(usize::from(size).max(1)) {
            let mut value = [0u8; 4];
            for (to, from) in value.iter_mut().zip(element) {
                *to = *from;
            }
            if !self.r.port_write(port, size, u32::from_le_bytes(value)) && !taken {
                return IoReply::User;
            }
            taken = true;
        }
        IoReply::Done
    }

    fn mode(&mut self) -> Mode {
        self.r.code_mode()
    }

    fn cpl(&mut self) -> u8 {
        self.r.cpl()
    }

    fn segment(&mut self, which: SegReg) -> Segment {
        let s = self.r.segment(which);
        Segment {
            selector: s.selector,
            base: s.base,
            limit: s.limit,
            access: s.access_rights().0,
        }
    }

    fn segment_base(&mut self, which: SegReg) -> u64 {
        segment::base(&self.r.hw, which)
    }

    fn set_segment(&mut self, which: SegReg, value: &Segment) {
        let s = segment::Segment::from_parts(
            value.selector,
            value.base,
            value.limit,
            segment::AccessRights(value.access),
        );
        self.r.set_segment(which, s);
    }

    fn table(&mut self, which: TableKind) -> TableReg {
        let hw = self.r.hw;
        match which {
            TableKind::Gdt => TableReg {
                base: hw.read(GUEST_GDTR_BASE),
                limit: hw.read(GUEST_GDTR_LIMIT) as u16,
            },
            TableKind::Idt => TableReg {
                base: hw.read(GUEST_IDTR_BASE),
                limit: hw.read(GUEST_IDTR_LIMIT) as u16,
            },
        }
    }

    fn set_table(&mut self, which: TableKind, value: TableReg) {
        let hw = self.r.hw;
        match which {
            TableKind::Gdt => {
                hw.write(GUEST_GDTR_BASE, value.base);
                hw.write(GUEST_GDTR_LIMIT, value.limit.into());
            }
            TableKind::Idt => {
                hw.write(GUEST_IDTR_BASE, value.base);
                hw.write(GUEST_IDTR_LIMIT, value.limit.into());
                self.r.arch.real_mode.suspect();
            }
        }
    }

    fn cr(&mut self, which: Cr) -> u64 {
        match which {
            Cr::Cr0 => self.r.read_cr0(),
            Cr::Cr2 => self.r.hw.cr2(),
            Cr::Cr3 => self.r.cr3(),
            Cr::Cr4 => self.r.read_cr4(),
            Cr::Cr8 => self.r.cr8(),
        }
    }

    fn set_cr(&mut self, which: Cr, value: u64) -> Reply {
        match which {
            Cr::Cr0 => self.r.guest_sets_cr0(value)?,
            Cr::Cr2 => self.r.hw.set_cr2(value),
            Cr::Cr3 => self.r.guest_sets_cr3(value)?,
            Cr::Cr4 => self.r.guest_sets_cr4(value)?,
            Cr::Cr8 => self.r.set_cr8(value)?,
        }
        Ok(())
    }

    fn cet(&mut self) -> Reply<Option<Cet>> {
        // The guest does not own that bit: no VMREAD.
        if self.r.arch.cr4 & cr4::CET == 0 {
            return Ok(None);
        }
        // IA32_U_CET lies in the guest's XSAVE state, which is not looked into.
        if self.r.cpl() == 3 || !host().vmcs.features.cet_state {
            return Err(Stop::Unhandled);
        }
        Ok(Some(Cet {
            control: self.r.hw.read(GUEST_S_CET),
            ssp: self.r.hw.read(GUEST_SSP),
        }))
    }

    fn set_cet(&mut self, value: &Cet) {
        self.r.hw.write(GUEST_S_CET, value.control);
        self.r.hw.write(GUEST_SSP, value.ssp);
    }

    fn dr(&mut self, number: u8) -> u64 {
        self.r.debug_register(number)
    }

    fn set_dr(&mut self, number: u8, value: u64) -> Reply {
        Ok(self.r.set_debug_register(number, value)?)
    }

    fn general_detect(&mut self) -> bool {
        self.r.general_detect()
    }

    fn efer(&mut self) -> u64 {
        self.r.arch.efer
    }

    fn read_msr(&mut self, index: u32) -> Reply<u64> {
        self.r
            .get_msr(index, Origin::Guest)
            .map_err(|e| self.msr_stop(e))
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Reply {
        self.r
            .set_msr(index, value, Origin::Guest)
            .map_err(|e| self.msr_stop(e))
    }

    fn implied_msr(&mut self, index: u32) -> Reply<u64> {
        Ok(self
            .r
            .get_known_msr(index, Origin::Guest)
            .map_err(|_| Exception::GP0)?)
    }

    fn set_implied_msr(&mut self, index: u32, value: u64) -> Reply {
        Ok(self
            .r
            .set_known_msr(index, value, Origin::Guest)
            .map_err(|_| Exception::GP0)?)
    }

    fn read_pmc(&mut self, _index: u32) -> Reply<u64> {
        Err(Stop::Fault(Exception::GP0))
    }

    fn tsc(&mut self) -> u64 {
        self.r.guest_tsc()
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let c = &self.r.arch.cpuid;
        let regs = execute(&c.entries, &c.index, leaf, subleaf);
        [regs.eax, regs.ebx, regs.ecx, regs.edx]
    }

    fn cpuid_faulting(&mut self) -> bool {
        self.r.arch.msrs.cpuid_faults()
    }

    fn has(&mut self, feature: Feature) -> bool {
        features::has(&self.r.arch.caps, feature)
    }

    fn xcr0(&mut self) -> u64 {
        self.r.arch.xcr0
    }

    fn set_xcr(&mut self, index: u32, value: u64) -> Reply {
        if index != 0 || !self.r.xcr0_valid(value) {
            return Err(Stop::Fault(Exception::GP0));
        }
        self.r.set_xcr0(value);
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Reply {
        match effect {
            Effect::Halt if self.r.has_kernel_apic() => self.r.halt(),
            Effect::Halt => self.halt_exit = true,
            Effect::Invlpg(_) | Effect::Invpcid { .. } => {
                self.r.vcpu.requests.set_own(requests::Request::TlbFlush);
            }
            Effect::FlushCaches => {}
            Effect::Hypercall => self.r.hypercall_by_registers(),
            Effect::LeaveSmm => return Err(Stop::Fault(Exception::UD)),
            Effect::UnblockNmi => self.r.set_nmi_blocked(false),
        }
        Ok(())
    }

    fn read_vector(&mut self, number: u8, into: &mut [u8]) -> Reply {
        vector::read(number, into).ok_or(Stop::Unhandled)
    }

    fn write_vector(&mut self, number: u8, from: &[u8], clear_rest: bool) -> Reply {
        vector::write(number, from, clear_rest).ok_or(Stop::Unhandled)
    }

    fn read_opmask(&mut self, number: u8) -> Reply<u64> {
        vector::read_opmask(number).ok_or(Stop::Unhandled)
    }

    fn read_mmx(&mut self, number: u8) -> Reply<u64> {
        vector::read_mmx(number).ok_or(Stop::Unhandled)
    }

    fn write_mmx(&mut self, number: u8, value: u64) -> Reply {
        vector::write_mmx(number, value).ok_or(Stop::Unhandled)
    }

    fn x87(&mut self, what: X87) -> Reply<u16> {
        Ok(match what {
            X87::Init => {
                vector::init_x87();
                0
            }
            X87::ControlWord => vector::x87_control(),
            X87::StatusWord => vector::x87_status(),
        })
    }

    fn fxsave(&mut self, image: &mut [u8], wide: bool) -> Reply {
        vector::fxsave(image, wide).ok_or(Stop::Unhandled)
    }

    fn fxrstor(&mut self, image: &[u8], wide: bool) -> Reply {
        match vector::fxrstor(image, wide) {
            Some(true) => Ok(()),
            Some(false) => Err(Stop::Fault(Exception::GP0)),
            None => Err(Stop::Unhandled),
        }
    }
}
