// SPDX-License-Identifier: GPL-2.0

//! The local APIC of a vCPU: the half that others post to, and the half that its thread owns.
//!
//! The state machine is `rkvm_core::irq::lapic`; what it asks for in its effects is done here.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use rkvm_core::{
    addr::Gpa,
    cpuid::{
        features,
        guest::GuestCaps, //
    },
    irq::{
        lapic::{
            Config,
            Effects,
            Eoi,
            Events,
            Lapic,
            LapicState,
            Lvt,
            Posted, //
        },
        map::Entry,
        DeliveryMode,
        DestMode,
        Interrupt,
        Shorthand,
        Trigger,
        VcpuIndex, //
    },
    msr::mce::MCG_CMCI_P,
};

use super::timer::ApicTimer;
use crate::{
    irq::{
        Irq,
        Irqchip, //
    },
    sys::apic_page::ApicPages,
    vcpu::{
        requests::{
            Request,
            Requests, //
        },
        Running,
        Vcpu, //
    },
};

/// Bytes of the register page.
const PAGE_BYTES: u64 = 0x1000;

/// What the vCPU's thread owns of its APIC.
pub(crate) struct Apic {
    pub(crate) lapic: Lapic<ApicPages>,
    pub(super) timer: ApicTimer,
    /// What is in the VMCS's field, if there is a TPR shadow.
    pub(super) tpr_threshold: u8,
    /// The VM's memory knows that the registers are not at their default place.
    pub(super) away: bool,
}

impl Apic {
    /// The APIC of a new vCPU. ENOMEM.
    pub(crate) fn new(
        pages: &ApicPages,
        requests: Arc<Requests>,
        config: Config,
        caps: &GuestCaps,
        irq: &Irq,
    ) -> Result<Self> {
        let config = as_it_is(config, caps, irq);
        Ok(Self {
            lapic: Lapic::new(pages.clone(), config),
            timer: ApicTimer::new(requests, pages.clone())?,
            tpr_threshold: 0,
            away: false,
        })
    }
}

/// The part of the configuration that the guest's CPUID and KVM_CAP_X2APIC_API say.
fn as_it_is(config: Config, caps: &GuestCaps, irq: &Irq) -> Config {
    Config {
        x2apic: caps.has(features::X2APIC),
        tsc_deadline: caps.has(features::TSC_DEADLINE_TIMER),
        suppress_eoi: irq.offers_eoi_suppression(),
        x2apic_format: irq.x2apic_api().has_32bit_ids(),
        ..config
    }
}

impl Vcpu {
    /// Hands an interrupt message to this vCPU's APIC; answers whether that took it. Any context but NMI.
    #[inline]
    pub(crate) fn post(&self, irq: &Interrupt) -> bool {
        self.apic
            .as_ref()
            .is_some_and(|apic| self.posted(apic.post(irq)))
    }

    #[inline]
    fn posted(&self, posted: Posted) -> bool {
        if posted.kicks() {
            self.notify_apic();
        }
        posted.is_taken()
    }

    /// The thread is to look at the APIC's inbox and at the PIC. What is in there was written before.
    #[inline]
    pub(crate) fn notify_apic(&self) {
        self.requests.set(Request::Apic);
        self.requests.kick();
    }

    /// Whether this vCPU takes the PIC's interrupts.
    #[inline]
    pub(crate) fn accepts_pic(&self) -> bool {
        self.apic.as_ref().is_some_and(|apic| apic.accepts_pic())
    }

    /// A tick of the interval timer, for a guest whose NMI watchdog hangs on it.
    pub(crate) fn pit_watchdog(&self) {
        if let Some(apic) = self.apic.as_ref().filter(|a| a.lint0_is_nmi()) {
            self.posted(apic.pit_watchdog());
        }
    }

    /// Whether `vector` waits for delivery or for its EOI here.
    pub(crate) fn has_pending_vector(&self, vector: u8) -> bool {
        self.apic
            .as_ref()
            .is_some_and(|apic| apic.is_pending_or_in_service(vector))
    }

    /// What the map of APICs has to know of this one.
    pub(crate) fn apic_identity(&self) -> Entry {
        self.apic
            .as_ref()
            .map(|apic| apic.identity())
            .unwrap_or_default()
    }
}

impl Running<'_> {
    /// Whether the APIC of this vCPU is in the kernel.
    #[inline]
    pub(crate) fn has_kernel_apic(&self) -> bool {
        self.arch.apic.is_some()
    }

    /// Whether the PIC is in the kernel, too.
    pub(crate) fn has_kernel_pic(&self) -> bool {
        self.has_kernel_apic() && self.vm.irq.irqchip() == Irqchip::Full
    }

    /// The guest's CPUID has changed, or KVM_CAP_X2APIC_API may have: what the APIC offers follows.
    pub(crate) fn apic_follows_cpuid(&mut self) {
        if let Some(apic) = &mut self.arch.apic {
            let config = as_it_is(*apic.lapic.config(), &self.arch.caps, &self.vm.irq);
            apic.lapic.reconfigure(config);
        }
    }

    /// KVM_X86_SETUP_MCE: whether LVT CMCI exists.
    pub(crate) fn apic_follows_mce(&mut self) {
        let cmci = self.arch.msrs.mce.cap() & MCG_CMCI_P != 0;
        if let Some(apic) = &mut self.arch.apic {
            let config = Config {
                cmci,
                ..*apic.lapic.config()
            };
            apic.lapic.reconfigure(config);
        }
    }

    /// INIT: the registers of the APIC, but not its base, are those of reset.
    pub(super) fn reset_apic(&mut self) {
        if let Some(apic) = &mut self.arch.apic {
            apic.lapic.reset(true);
            self.arch.tpr.forget_vapic();
            self.arm_timer();
            self.rebuild_destinations();
        }
    }

    /// Works out anew where messages go. If there is no memory for it, KVM_RUN tries again and says so.
    pub(super) fn rebuild_destinations(&self) {
        if self.vm.irq.rebuild_destinations().is_err() {
            self.vcpu.requests.set_own(Request::Apic);
        }
    }

    /// Does what an access to the APIC asks for. May sleep if the identity of the APIC changed.
    pub(super) fn apply_apic_effects(&mut self, effects: Effects) {
        if effects.map {
            self.rebuild_destinations();
        }
        if effects.mode {
            self.update_dynamic_cpuid();
        }
        if effects.place {
            self.virtual_apic_follows_place();
        }
        self.apply_atomic_apic_effects(&effects);
    }

    /// As [`Self::apply_apic_effects`], for accesses that do not change who the APIC is. Interrupts may be off.
    #[inline]
    pub(super) fn apply_atomic_apic_effects(&mut self, effects: &Effects) {
        if let Some(ipi) = &effects.ipi {
            self.send_ipi(ipi);
        }
        if let Some(eoi) = effects.eoi {
            self.ended(eoi);
        }
        if effects.timer {
            self.arm_timer();
        }
        if effects.recheck {
            self.recheck_interrupts();
        }
    }

    /// The guest has written the EOI register, with whatever value. Interrupts may be off.
    #[inline]
    pub(crate) fn end_interrupt(&mut self) {
        let ended = self.arch.apic.as_mut().and_then(|apic| apic.lapic.eoi());
        if let Some(eoi) = ended {
            self.ended(eoi);
        }
        self.recheck_interrupts();
    }

    fn send_ipi(&self, ipi: &Interrupt) {
        if let Ok(index) = u16::try_from(self.vcpu.index) {
            self.vm.irq.deliver(ipi, Some(VcpuIndex(index)), None);
        }
    }

    /// KVM_HC_KICK_CPU: the processor with this APIC id need not wait in HLT any longer.
    pub(crate) fn kick_processor(&self, apic_id: u32) {
        self.send_ipi(&Interrupt {
            dest: apic_id,
            vector: 0,
            mode: DeliveryMode::RemoteRead,
            dest_mode: DestMode::Physical,
            trigger: Trigger::Edge,
            assert: true,
            shorthand: Shorthand::None,
            redirect_hint: false,
        });
    }

    /// The guest has ended an interrupt: the I/O APIC hears of it, or user space that has it.
    fn ended(&mut self, eoi: Eoi) {
        let eoi = self.vm.irq.heard(eoi);
        match self.vm.irq.irqchip() {
            Irqchip::Full => self.vm.ioapic_eoi(self.vcpu.index, eoi),
            Irqchip::Split if self.vm.irq.user_hears(&eoi) => {
                self.arch.ended_vector = eoi.vector;
                self.vcpu.requests.set_own(Request::IoapicEoi);
            }
            Irqchip::Split | Irqchip::None => {}
        }
    }

    /// A corrected machine check has been injected: LVT_CMCI fires.
    pub(crate) fn deliver_cmci(&mut self) {
        if let Some(apic) = &mut self.arch.apic {
            let _ = apic.lapic.fire(Lvt::Cmci);
            self.vcpu.requests.set_own(Request::Event);
        }
    }

    /// Whether the APIC, if it is in the kernel, lets the interrupts of user space's PIC through.
    pub(crate) fn accepts_user_interrupt(&self) -> bool {
        self.arch
            .apic
            .as_ref()
            .is_none_or(|apic| apic.lapic.accepts_pic())
    }

    /// An interrupt of the PIC, or of user space's PIC, that this vCPU takes.
    fn pic_waits(&self, apic: &Apic) -> bool {
        let waits = match self.vm.irq.chips() {
            Some(chips) => chips.pic_output(),
            None => self.arch.events.user_interrupt.is_some(),
        };
        waits && apic.lapic.accepts_pic()
    }

    /// Whether an interrupt waits that the task priority lets through.
    #[inline]
    pub(crate) fn has_interrupt(&mut self) -> bool {
        if self.arch.events.taken_interrupt.is_some() {
            return true;
        }
        match &self.arch.apic {
            None => return self.arch.events.user_interrupt.is_some(),
            Some(apic) if self.pic_waits(apic) => return true,
            Some(_) => {}
        }
        self.arch
            .apic
            .as_mut()
            .is_some_and(|a| a.lapic.deliverable().is_some())
    }

    /// Takes the vector of the interrupt that waits: one that was taken before, then that of the PIC.
    pub(crate) fn take_interrupt(&mut self) -> Option<u8> {
        if let Some(vector) = self.arch.events.taken_interrupt.take() {
            return Some(vector);
        }
        match &self.arch.apic {
            None => return self.arch.events.user_interrupt.take(),
            Some(apic) if self.pic_waits(apic) => {
                return match self.vm.irq.chips() {
                    Some(_) => self.vm.irq.pic_vector(),
                    None => self.arch.events.user_interrupt.take(),
                };
            }
            Some(_) => {}
        }
        let apic = self.arch.apic.as_mut()?;
        let vector = apic.lapic.deliverable()?;
        apic.lapic.accept(vector);
        Some(vector)
    }

    /// A read of the APIC's page; false if the address is not in it.
    pub(crate) fn apic_mmio_read(&mut self, gpa: Gpa, data: &mut [u8]) -> bool {
        let Some((apic, clock)) = self.arch.apic_and_clock() else {
            return false;
        };
        let Some(offset) = offset_in_page(apic, gpa) else {
            return false;
        };
        let value = if apic.lapic.mmio_base().is_some() {
            let value = apic.lapic.mmio_read(offset, data.len() as u32, &clock);
            if apic.lapic.shared().inbox.has_vectors() {
                // Perhaps that of LVT_ERROR, for a register that there is not.
                self.vcpu.requests.set_own(Request::Event);
            }
            self.tpr_may_be_accessed(offset, data.len(), false);
            value
        } else {
            // KVM_X86_QUIRK_LAPIC_MMIO_HOLE: nothing answers.
            u64::MAX
        };
        if let Ok(register) = <&mut [u8; 4]>::try_from(&mut *data) {
            // Nearly all accesses: a loop over the bytes would be a measurable part of the exit.
            *register = (value as u32).to_le_bytes();
        } else {
            for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        true
    }

    /// A write to the APIC's page; false if the address is not in it.
    pub(crate) fn apic_mmio_write(&mut self, gpa: Gpa, data: &[u8]) -> bool {
        let Some((apic, clock)) = self.arch.apic_and_clock() else {
            return false;
        };
        let Some(offset) = offset_in_page(apic, gpa) else {
            return false;
        };
        // Of other lengths, the value does not count.
        let bytes = data.try_into().unwrap_or([0; 4]);
        if apic.lapic.mmio_base().is_some() {
            let effects =
                apic.lapic
                    .mmio_write(offset, data.len() as u32, u32::from_le_bytes(bytes), &clock);
            self.apply_apic_effects(effects);
            self.tpr_may_be_accessed(offset, data.len(), true);
        }
        true
    }

    /// Whether a write to `gpa` may change who the APIC is, so that [`Self::apic_mmio_write`] may sleep.
    #[inline]
    pub(crate) fn changes_apic_identity(&self, gpa: Gpa) -> bool {
        self.arch.apic.as_ref().is_some_and(|apic| {
            offset_in_page(apic, gpa).is_some_and(rkvm_core::irq::lapic::is_identity)
        })
    }

    /// KVM_GET_LAPIC. EINVAL without an APIC in the kernel.
    pub(crate) fn lapic_state(&mut self) -> Result<KBox<LapicState>> {
        let mut state = KBox::new(LapicState::default(), GFP_KERNEL_ACCOUNT)?;
        let (apic, clock) = self.arch.apic_and_clock().ok_or(EINVAL)?;
        apic.lapic
            .use_32bit_ids(self.vm.irq.x2apic_api().has_32bit_ids());
        apic.lapic.get_state(&mut state, &clock);
        Ok(state)
    }

    /// KVM_SET_LAPIC. EINVAL without an APIC in the kernel, or for an id that is not this vCPU's.
    pub(crate) fn set_lapic_state(&mut self, state: &LapicState) -> Result {
        self.apic_follows_cpuid();
        let (apic, clock) = self.arch.apic_and_clock().ok_or(EINVAL)?;
        let effects = apic.lapic.set_state(state, &clock).map_err(|_| EINVAL)?;
        self.apply_apic_effects(effects);
        let vcpu = self.vcpu;
        self.vm
            .irq
            .restore_rtc(vcpu.index, |vector| vcpu.has_pending_vector(vector));
        Ok(())
    }

    /// A SIPI as KVM_SET_MP_STATE and KVM_SET_VCPU_EVENTS restore it: with the vector that is there.
    pub(crate) fn pend_sipi(&mut self) {
        if let Some(apic) = &self.arch.apic {
            let _ = apic.lapic.shared().inbox.post_sipi(self.arch.sipi_vector);
            self.vcpu.requests.set_own(Request::Apic);
        }
    }

    /// The vector that the next restored SIPI has.
    pub(crate) fn user_sets_sipi_vector(&mut self, vector: u8) {
        self.arch.sipi_vector = vector;
        if let Some(apic) = &self.arch.apic {
            let inbox = &apic.lapic.shared().inbox;
            if inbox.events().has(Events::SIPI) {
                let _ = inbox.post_sipi(vector);
            }
        }
    }

    /// Whether an INIT waits until the vCPU can take it.
    pub(crate) fn has_latched_init(&self) -> bool {
        let apic = self.arch.apic.as_ref();
        apic.is_some_and(|apic| apic.lapic.shared().inbox.events().has(Events::INIT))
    }

    /// Sets or clears that INIT.
    pub(crate) fn user_sets_latched_init(&mut self, waits: bool) {
        let Some(apic) = &self.arch.apic else {
            return;
        };
        let inbox = &apic.lapic.shared().inbox;
        if waits {
            let _ = inbox.post_init();
            self.vcpu.requests.set_own(Request::Apic);
        } else {
            inbox.take_events(Events::INIT);
        }
    }
}

/// Where in the APIC's page an address is; the page is where its base says, also while it is switched off.
fn offset_in_page(apic: &Apic, gpa: Gpa) -> Option<u32> {
    let base = apic.lapic.base() & rkvm_core::irq::lapic::apic_base::ADDRESS;
    let offset = gpa.0.wrapping_sub(base);
    (offset < PAGE_BYTES).then_some(offset as u32)
}
