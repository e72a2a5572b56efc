// SPDX-License-Identifier: GPL-2.0

//! Events on their way into the guest: exceptions, NMIs, interrupts, and what an exit interrupted on its way.
//!
//! At most one event is *injected*: written to the VMCS, and given back by the next exit if its delivery did not
//! finish. Behind it wait at most one *pending* exception, NMIs, and whatever interrupts the APIC or user space has.
//! SDM volume 3, "Event Injection", "Information for VM Exits That Occur During Event Delivery".

use rkvm_core::{
    exception::{
        Exception,
        Payload,
        Vector, //
    },
    regs::{
        cr0,
        rflags, //
    },
    vmx::{
        controls::Primary,
        event::{
            interruptibility,
            pending_debug,
            ActivityState,
            EventInfo,
            EventType, //
        },
        fields::*,
        Vmcs, //
    },
};

use super::{
    requests::Request,
    Running, //
};
use crate::sys::trace;

const UD: u32 = 1 << 6;
const DB: u32 = 1 << 1;
const AC: u32 = 1 << 17;
const MC: u32 = 1 << 18;
/// Exceptions that always exit: #UD for emulation, #DB and #AC because their delivery can loop for ever inside the
/// guest, #MC because it is the host's.
pub(crate) const EXCEPTION_BITMAP_BASE: u32 = UD | DB | AC | MC;

/// An event as VM entry takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Injected {
    pub(crate) info: EventInfo,
    pub(crate) error_code: u32,
    /// Bytes of the instruction, for software events.
    pub(crate) length: u32,
}

/// The events of one vCPU.
#[derive(Default)]
pub(crate) struct Events {
    /// In delivery.
    pub(crate) injected: Option<Injected>,
    /// Raised, not yet in delivery.
    pub(crate) exception: Option<Exception>,
    /// NMIs that wait, at most two.
    pub(crate) nmis: u8,
    /// An interrupt from KVM_INTERRUPT (no APIC in the kernel).
    pub(crate) user_interrupt: Option<u8>,
    /// An interrupt that was taken from where it came from, and that waits again: an exception went first, or user space has
    /// restored it.
    pub(crate) taken_interrupt: Option<u8>,
}

impl Events {
    /// Whether an exception is in delivery.
    pub(crate) fn injects_exception(&self) -> bool {
        self.injected.is_some_and(|i| {
            matches!(
                i.info.kind(),
                EventType::HardwareException | EventType::SoftwareException
            )
        })
    }

    /// An exception that waits belongs to the instruction before the one at which an interrupt or an NMI was taken, so these
    /// go back and come behind it.
    fn let_exception_pass(&mut self) {
        match self.injected.map(|i| (i.info.kind(), i.info.vector())) {
            Some((EventType::ExternalInterrupt, vector)) => self.taken_interrupt = Some(vector),
            Some((EventType::Nmi, _)) => self.nmis = self.nmis.saturating_add(1).min(2),
            _ => return,
        }
        self.injected = None;
    }
}

impl Running<'_> {
    /// Raises an exception; together with one that is already there it may become a double or a triple fault
    /// (SDM, "Interrupt 8 - Double Fault Exception").
    pub(crate) fn queue_exception(&mut self, e: Exception) {
        self.vcpu.requests.set_own(Request::Event);
        let first = match (&self.arch.events.exception, &self.arch.events.injected) {
            (Some(p), _) => Some(p.vector as u8),
            (None, Some(i)) if i.info.kind() == EventType::HardwareException => {
                Some(i.info.vector())
            }
            _ => None,
        };
        let Some(first) = first else {
            self.arch.events.exception = Some(e);
            return;
        };
        if first == Vector::Df as u8 {
            self.vcpu.requests.set_own(Request::TripleFault);
            return;
        }
        let double = (is_contributory(first) && is_contributory(e.vector as u8))
            || (first == Vector::Pf as u8
                && (is_contributory(e.vector as u8) || e.vector == Vector::Pf));
        if double {
            self.arch.events.injected = None;
            self.arch.events.exception = Some(Exception::with_code(Vector::Df, 0));
        } else {
            // The second one is delivered; the first comes again when its instruction does.
            self.arch.events.injected = None;
            self.arch.events.exception = Some(e);
        }
    }

    /// After an exit: what was injected is delivered, unless the exit says that it interrupted the delivery.
    #[inline]
    pub(crate) fn complete_injection(&mut self) {
        let vectoring = EventInfo(self.hw.read(IDT_VECTORING_INFO_FIELD));
        if !vectoring.valid() {
            self.arch.events.injected = None;
            return;
        }
        self.requeue(vectoring);
    }

    #[cold]
    fn requeue(&mut self, vectoring: EventInfo) {
        self.vcpu.requests.set_own(Request::Event);
        if vectoring.kind() == EventType::Nmi {
            // The NMI is not delivered, so it does not block the next one: it is the next one.
            self.set_nmi_blocked(false);
        }
        self.arch.events.injected = Some(Injected {
            info: vectoring.for_reinjection(),
            error_code: if vectoring.has_error_code() {
                self.hw.read(IDT_VECTORING_ERROR_CODE)
            } else {
                0
            },
            length: if vectoring.kind().needs_instruction_length() {
                self.hw.read(VM_EXIT_INSTRUCTION_LEN)
            } else {
                0
            },
        });
    }

    /// Writes the event for the next entry, or opens the windows through which those that wait will come. NMIs and
    /// interrupts that a debugger holds back wait without a window: it would stay open, and the guest would never run.
    pub(crate) fn inject_events(&mut self) {
        if self.events_wait() {
            self.vcpu.requests.set_own(Request::Event);
            return;
        }
        let held_back = self.arch.guest_debug.blocks_interrupts();
        if self.arch.events.exception.is_some() {
            self.arch.events.let_exception_pass();
        }
        if let Some(event) = self.arch.events.injected {
            self.write_event(event);
        } else if let Some(e) = self.arch.events.exception.take() {
            self.inject_exception(e);
        } else if !held_back {
            self.inject_interrupt();
        }
        let nmi_waits = !held_back && self.arch.events.nmis > 0;
        // The shadow of STI holds NMIs back, but need not hold their window shut: the guest would exit again and again
        // without a step. That of interrupts opens behind the shadow, as IF is set there.
        let behind_sti =
            nmi_waits && self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & interruptibility::STI != 0;
        self.set_primary(Primary::NMI_WINDOW_EXITING, nmi_waits && !behind_sti);
        let interrupt_waits = !held_back && self.has_interrupt() || self.user_wants_window();
        self.set_primary(Primary::INTR_WINDOW_EXITING, interrupt_waits || behind_sti);
        self.update_tpr_threshold();
        if self.has_vapic() {
            self.write_vapic();
        }
    }

    /// Writes an NMI, or else an interrupt, if one waits and the guest takes it now.
    fn inject_interrupt(&mut self) {
        if self.arch.events.nmis > 0 && self.nmi_allowed() {
            self.arch.events.nmis = self.arch.events.nmis.saturating_sub(1);
            self.vcpu.stats.nmi_injections.inc();
            self.set_event(EventInfo::NMI);
        } else if self.has_interrupt() && self.interrupt_allowed() {
            if let Some(vector) = self.take_interrupt() {
                self.vcpu.stats.irq_injections.inc();
                trace::inj_virq(vector, false, false);
                self.set_event(EventInfo::interrupt(vector));
            }
        }
    }

    /// After an entry that did not take place: the event stays in its slot, and is written again at the next entry unless user
    /// space has dropped it until then.
    #[cold]
    pub(crate) fn take_event_back(&mut self) {
        self.hw.write(VM_ENTRY_INTR_INFO_FIELD, 0);
        self.vcpu.requests.set_own(Request::Event);
    }

    fn set_event(&mut self, info: EventInfo) {
        let event = Injected {
            info,
            error_code: 0,
            length: 0,
        };
        self.arch.events.injected = Some(event);
        self.write_event(event);
    }

    fn write_event(&mut self, event: Injected) {
        if self.arch.hlt_in_guest {
            // The event ends a HLT that did not exit.
            self.hw
                .write(GUEST_ACTIVITY_STATE, ActivityState::Active as u32);
        }
        if self.arch.real_mode.is_vm86() {
            return self.deliver_in_real_mode(event);
        }
        if event.info.is_exception(Vector::Db) {
            self.mark_step_in_shadow();
        }
        let mut info = event.info;
        if info.has_error_code() {
            // User space may have restored it, or changed CR0 since.
            let code;
            (info, code) = info.for_entry(event.error_code, self.arch.cr0 & cr0::PE != 0);
            self.hw.write(VM_ENTRY_EXCEPTION_ERROR_CODE, code);
        }
        if info.kind().needs_instruction_length() {
            self.hw.write(VM_ENTRY_INSTRUCTION_LEN, event.length);
        }
        self.hw.write(VM_ENTRY_INTR_INFO_FIELD, info.0);
    }

    /// In an interrupt shadow with TF set, entry insists that a step is pending, as neither STI nor MOV SS can have set TF.
    /// It does not see that the step is the very #DB that is injected.
    #[cold]
    fn mark_step_in_shadow(&self) {
        let shadow = interruptibility::STI | interruptibility::MOV_SS;
        if self.hw.read(GUEST_RFLAGS) & rflags::TF != 0
            && self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & shadow != 0
        {
            let pending = self.hw.read(GUEST_PENDING_DBG_EXCEPTIONS);
            self.hw
                .write(GUEST_PENDING_DBG_EXCEPTIONS, pending | pending_debug::BS);
        }
    }

    fn inject_exception(&mut self, e: Exception) {
        self.deliver_payload(&e);
        if e.vector == Vector::Db {
            self.end_general_detect();
        }
        // Faults set RF so that the instruction can go on past an instruction breakpoint; #DB decides by its cause.
        if !matches!(e.vector, Vector::Db | Vector::Bp | Vector::Of) {
            let flags = self.hw.read(GUEST_RFLAGS);
            self.hw.write(GUEST_RFLAGS, flags | rflags::RF);
        }
        let (info, error_code) = EventInfo::exception(&e, self.arch.cr0 & cr0::PE != 0);
        let length = if info.kind().needs_instruction_length() {
            1
        } else {
            0
        };
        let event = Injected {
            info,
            error_code,
            length,
        };
        self.arch.events.injected = Some(event);
        self.write_event(event);
    }

    /// The interrupt that is on its way into the guest, as KVM_GET_SREGS and KVM_GET_VCPU_EVENTS tell it. What user space has
    /// handed to an APIC in the kernel is not: it waits until that lets it through.
    pub(crate) fn interrupt_on_its_way(&self) -> Option<u8> {
        let events = &self.arch.events;
        match events.injected {
            Some(i) if i.info.kind() == EventType::ExternalInterrupt => Some(i.info.vector()),
            _ if events.taken_interrupt.is_some() => events.taken_interrupt,
            _ if self.has_kernel_apic() => None,
            _ => events.user_interrupt,
        }
    }

    /// Whether an exception waits, or the shutdown that came of several.
    pub(crate) fn exception_waits(&self) -> bool {
        self.arch.events.exception.is_some() || self.vcpu.requests.test(Request::TripleFault)
    }

    /// KVM_SET_SREGS with an interrupt that was on its way. If there is one already, it is the same, read by KVM_GET_SREGS.
    pub(crate) fn restore_interrupt(&mut self, vector: u8) {
        let events = &mut self.arch.events;
        match &mut events.injected {
            Some(i) if i.info.kind() == EventType::ExternalInterrupt => {
                i.info = EventInfo::interrupt(vector);
            }
            _ if self.arch.apic.is_some() => events.taken_interrupt = Some(vector),
            _ => events.user_interrupt = Some(vector),
        }
    }

    /// CR2 or DR6 as the exception leaves them (api.rst, KVM_CAP_EXCEPTION_PAYLOAD).
    pub(crate) fn deliver_payload(&mut self, e: &Exception) {
        match e.payload {
            Payload::None => {}
            Payload::Cr2(address) => self.hw.set_cr2(address.0),
            Payload::Dr6(bits) => self.arch.debug.raise(bits),
        }
    }

    /// Whether NMIs are blocked until the next IRET.
    pub(crate) fn nmi_blocked(&self) -> bool {
        self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & interruptibility::NMI != 0
    }

    pub(crate) fn set_nmi_blocked(&self, blocked: bool) {
        let state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & !interruptibility::NMI;
        let bit = if blocked { interruptibility::NMI } else { 0 };
        self.hw.write(GUEST_INTERRUPTIBILITY_INFO, state | bit);
    }

    /// So many NMIs have come. One can wait while another is handled; without one in the works there may be two, of which
    /// the first is on its way: hardware would have taken it already.
    pub(crate) fn pend_nmis(&mut self, count: u8) {
        let injected = self.arch.events.injected;
        let busy = self.nmi_blocked() || injected.is_some_and(|i| i.info.kind() == EventType::Nmi);
        let limit = if busy { 1 } else { 2 };
        self.arch.events.nmis = self.arch.events.nmis.saturating_add(count).min(limit);
    }

    fn nmi_allowed(&self) -> bool {
        let blocking = interruptibility::NMI | interruptibility::STI | interruptibility::MOV_SS;
        self.arch.events.injected.is_none()
            && self.hw.read(GUEST_INTERRUPTIBILITY_INFO) & blocking == 0
    }

    /// Whether the guest takes interrupts now: IF is set and no shadow is over the next instruction.
    pub(crate) fn interrupt_allowed(&self) -> bool {
        self.arch.events.injected.is_none()
            && self.hw.read(GUEST_RFLAGS) & rflags::IF != 0
            && self.hw.read(GUEST_INTERRUPTIBILITY_INFO)
                & (interruptibility::STI | interruptibility::MOV_SS)
                == 0
    }

    /// Ends the shadow of STI or MOV SS, as every completed instruction does.
    #[inline]
    pub(crate) fn clear_interrupt_shadow(&self) {
        let state = self.hw.read(GUEST_INTERRUPTIBILITY_INFO);
        let shadow = interruptibility::STI | interruptibility::MOV_SS;
        if state & shadow != 0 {
            self.hw.write(GUEST_INTERRUPTIBILITY_INFO, state & !shadow);
        }
    }

    /// Moves RIP past the instruction that exited. With TF set the single-step trap follows.
    #[inline]
    pub(crate) fn skip_instruction(&mut self) {
        self.skip_bytes(self.hw.read(VM_EXIT_INSTRUCTION_LEN));
    }

    /// As [`Self::skip_instruction`], for an instruction of `length` bytes. RF, which an exit for a fault has set, ends
    /// with it: the next instruction may have a breakpoint.
    #[inline]
    pub(crate) fn skip_bytes(&mut self, length: u32) {
        let rip = self.hw.read(GUEST_RIP).wrapping_add(u64::from(length));
        self.set_rip_after_instruction(rip);
        self.clear_interrupt_shadow();
        let flags = self.hw.read(GUEST_RFLAGS);
        if flags & rflags::RF != 0 {
            self.hw.write(GUEST_RFLAGS, flags & !rflags::RF);
        }
        if flags & rflags::TF != 0 {
            self.trap_after_instruction();
        }
    }

    /// RIP wraps at 4 GiB outside 64-bit code.
    #[inline]
    fn set_rip_after_instruction(&self, rip: u64) {
        let wrapped = if rip >> 32 != 0 && !self.in_64bit_code() {
            rip & 0xffff_ffff
        } else {
            rip
        };
        self.hw.write(GUEST_RIP, wrapped);
    }

    #[cold]
    pub(crate) fn single_step(&mut self) {
        self.queue_exception(Exception::db(pending_debug::BS));
    }
}

/// Exceptions that make a double fault of each other.
fn is_contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13 | 21)
}
