// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS (api.rst): events that wait for the guest, or are half delivered.

use kernel::prelude::*;
use rkvm_core::{
    addr::Gva,
    exception::{
        Exception,
        Payload,
        Vector, //
    },
    vmx::{
        event::{
            interruptibility,
            EventInfo,
            EventType, //
        },
        fields::*,
        Vmcs, //
    },
};

use crate::{
    sys::uabi::{
        kvm_vcpu_events,
        Abi, //
    },
    vcpu::{
        events::Injected,
        requests::Request,
        Running, //
    },
};

/// `KVM_VCPUEVENT_VALID_*`.
mod valid {
    pub(super) const NMI_PENDING: u32 = 1 << 0;
    pub(super) const SIPI_VECTOR: u32 = 1 << 1;
    pub(super) const SHADOW: u32 = 1 << 2;
    pub(super) const SMM: u32 = 1 << 3;
    pub(super) const PAYLOAD: u32 = 1 << 4;
    pub(super) const TRIPLE_FAULT: u32 = 1 << 5;
    pub(super) const ALL: u32 = NMI_PENDING | SIPI_VECTOR | SHADOW | SMM | PAYLOAD | TRIPLE_FAULT;
}

/// `KVM_X86_SHADOW_INT_MOV_SS` and `KVM_X86_SHADOW_INT_STI`.
const SHADOW_MOV_SS: u8 = 1 << 0;
const SHADOW_STI: u8 = 1 << 1;
/// Bytes of INT n.
const INT_N_LENGTH: u32 = 2;

/// The exception with this number. `None` for those that no processor raises.
fn vector(nr: u8) -> Option<Vector> {
    Vector::from_number(nr).filter(|v| *v != Vector::Nmi)
}

/// The payload as a number, which for #PF is CR2 and for #DB the pending bits of DR6.
fn payload(p: Payload) -> Option<u64> {
    match p {
        Payload::None => None,
        Payload::Cr2(address) => Some(address.0),
        Payload::Dr6(bits) => Some(bits),
    }
}

impl Running<'_> {
    /// Without KVM_CAP_EXCEPTION_PAYLOAD user space may lose a payload, so it is delivered before any state that it
    /// changes is looked at.
    pub(crate) fn deliver_payload_early(&mut self) {
        if self.vm.caps.exception_payload() {
            return;
        }
        if let Some(e) = self.arch.events.exception {
            self.deliver_payload(&e);
            self.arch.events.exception = Some(Exception {
                payload: Payload::None,
                ..e
            });
        }
    }

    /// KVM_GET_VCPU_EVENTS.
    pub(crate) fn vcpu_events(&mut self) -> kvm_vcpu_events {
        self.deliver_payload_early();
        self.take_nmis();
        let mut out = kvm_vcpu_events::zeroed();
        self.report_exception(&mut out);
        if let Some(vector) = self.interrupt_on_its_way() {
            out.interrupt.injected = 1;
            out.interrupt.nr = vector;
        }
        let state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO);
        if state & interruptibility::MOV_SS != 0 {
            out.interrupt.shadow |= SHADOW_MOV_SS;
        }
        if state & interruptibility::STI != 0 {
            out.interrupt.shadow |= SHADOW_STI;
        }
        out.nmi.injected = self.injects(EventType::Nmi).into();
        out.nmi.pending = self.arch.events.nmis;
        out.nmi.masked = self.nmi_blocked().into();
        out.smi.latched_init = self.has_latched_init().into();
        out.flags = valid::NMI_PENDING | valid::SHADOW | valid::SMM;
        if self.vm.caps.exception_payload() {
            out.flags |= valid::PAYLOAD;
        }
        if self.vm.caps.triple_fault_event() {
            out.flags |= valid::TRIPLE_FAULT;
            out.triple_fault.pending = self.vcpu.requests.test(Request::TripleFault).into();
        }
        out
    }

    fn injects(&self, kind: EventType) -> bool {
        self.arch
            .events
            .injected
            .is_some_and(|i| i.info.kind() == kind)
    }

    fn report_exception(&self, out: &mut kvm_vcpu_events) {
        if let Some(e) = self.arch.events.exception {
            out.exception.nr = e.vector as u8;
            out.exception.has_error_code = e.error_code.is_some().into();
            out.exception.error_code = e.error_code.unwrap_or(0);
            out.exception_has_payload = payload(e.payload).is_some().into();
            out.exception_payload = payload(e.payload).unwrap_or(0);
            // A software exception comes again with its instruction, whose length the structure has no room for.
            if !matches!(e.vector, Vector::Bp | Vector::Of) {
                out.exception.pending = 1;
                out.exception.injected = (!self.vm.caps.exception_payload()).into();
            }
        } else if let Some(i) = self.arch.events.injected {
            if i.info.kind() == EventType::HardwareException {
                out.exception.nr = i.info.vector();
                out.exception.has_error_code = i.info.has_error_code().into();
                out.exception.error_code = i.error_code;
                out.exception.injected = 1;
            }
        }
    }

    /// KVM_SET_VCPU_EVENTS. EINVAL for flags and events that there are not.
    pub(crate) fn set_vcpu_events(&mut self, new: &kvm_vcpu_events) -> Result {
        let flagged = |bit| new.flags & bit != 0;
        let caps = &self.vm.caps;
        if new.flags & !valid::ALL != 0
            || (flagged(valid::PAYLOAD) && !caps.exception_payload())
            || (flagged(valid::TRIPLE_FAULT) && !caps.triple_fault_event())
            || (flagged(valid::SMM)
                && (new.smi.smm | new.smi.pending | new.smi.smm_inside_nmi) != 0)
        {
            return Err(EINVAL);
        }
        let pending = flagged(valid::PAYLOAD) && new.exception.pending != 0;
        let injected = new.exception.injected != 0 && !pending;
        let nr = new.exception.nr;
        if (pending || injected) && (nr > 31 || nr == Vector::Nmi as u8) {
            return Err(EINVAL);
        }
        // Those that came before are replaced by what user space says, or counted before it changes what blocks them.
        self.take_nmis();
        self.arch.events.exception = None;
        self.arch.events.injected = None;
        self.arch.events.user_interrupt = None;
        self.arch.events.taken_interrupt = None;
        if pending {
            self.restore_pending(new);
        } else if injected {
            self.arch.events.injected = Some(hardware_exception(new));
        }
        self.restore_interrupts(new);
        if flagged(valid::SHADOW) {
            self.set_interrupt_shadow(new.interrupt.shadow);
        }
        self.set_nmi_blocked(new.nmi.masked != 0);
        // No more may wait than could have come in this state.
        self.pend_nmis(0);
        if flagged(valid::SIPI_VECTOR) {
            self.user_sets_sipi_vector(new.sipi_vector as u8);
        }
        if flagged(valid::SMM) {
            self.user_sets_latched_init(new.smi.latched_init != 0);
        }
        if flagged(valid::TRIPLE_FAULT) {
            if new.triple_fault.pending != 0 {
                self.vcpu.requests.set_own(Request::TripleFault);
            } else {
                self.vcpu.requests.take(Request::TripleFault);
            }
        }
        self.vcpu.requests.set_own(Request::Event);
        Ok(())
    }

    fn restore_pending(&mut self, new: &kvm_vcpu_events) {
        let Some(vector) = vector(new.exception.nr) else {
            // Not one that can combine with others into a double fault, so it may as well be in delivery.
            self.arch.events.injected = Some(hardware_exception(new));
            return;
        };
        let value = new.exception_payload;
        let payload = match vector {
            _ if new.exception_has_payload == 0 => Payload::None,
            Vector::Pf => Payload::Cr2(Gva(value)),
            Vector::Db => Payload::Dr6(value),
            _ => Payload::None,
        };
        self.arch.events.exception = Some(Exception {
            vector,
            error_code: (new.exception.has_error_code != 0).then_some(new.exception.error_code),
            payload,
        });
    }

    /// What else was in delivery: one event at a time, in the order in which entry would take them.
    fn restore_interrupts(&mut self, new: &kvm_vcpu_events) {
        let events = &mut self.arch.events;
        if new.flags & valid::NMI_PENDING != 0 {
            events.nmis = new.nmi.pending.min(2);
        }
        if new.nmi.injected != 0 {
            if events.injected.is_none() {
                events.injected = Some(event(EventInfo::NMI));
            } else {
                events.nmis = events.nmis.saturating_add(1).min(2);
            }
        }
        if new.interrupt.injected == 0 {
            return;
        }
        let nr = new.interrupt.nr;
        if events.injected.is_some() {
            self.restore_interrupt(nr);
        } else if new.interrupt.soft != 0 {
            events.injected = Some(Injected {
                length: INT_N_LENGTH,
                ..event(EventInfo::new(nr, EventType::SoftwareInterrupt))
            });
        } else {
            events.injected = Some(event(EventInfo::interrupt(nr)));
        }
    }

    fn set_interrupt_shadow(&self, shadow: u8) {
        let clear = !(interruptibility::MOV_SS | interruptibility::STI);
        let mut state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & clear;
        // Entry allows one of them only.
        if shadow & SHADOW_MOV_SS != 0 {
            state |= interruptibility::MOV_SS;
        } else if shadow & SHADOW_STI != 0 {
            state |= interruptibility::STI;
        }
        self.hw.write(GUEST_INTERRUPTIBILITY_INFO, state);
    }
}

fn event(info: EventInfo) -> Injected {
    Injected {
        info,
        error_code: 0,
        length: 0,
    }
}

/// The exception as it is in delivery.
fn hardware_exception(new: &kvm_vcpu_events) -> Injected {
    let kind = match new.exception.nr {
        // INT3 and INTO.
        3 | 4 => EventType::SoftwareException,
        _ => EventType::HardwareException,
    };
    let info = EventInfo::new(new.exception.nr, kind);
    let length = if kind.needs_instruction_length() {
        1
    } else {
        0
    };
    if new.exception.has_error_code != 0 {
        Injected {
            info: info.with_error_code(),
            error_code: new.exception.error_code,
            length,
        }
    } else {
        Injected {
            length,
            ..event(info)
        }
    }
}
